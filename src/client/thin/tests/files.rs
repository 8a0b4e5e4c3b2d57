//! What is on the disk, whenever the power goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    super::{Queue, Queued, StateDir, StateError, disk::Disk},
    *,
};
use crate::wire::{
    coap::{Code, Kind, Message, Options, Token},
    thin::NameKind,
};

fn begun() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    credentials().write(&file).unwrap();
    StateDir::begin(&file, &credentials()).unwrap();
    (dir, file)
}

/// What a hub saw of a device.
#[derive(Default)]
struct Seen {
    numbers: BTreeSet<u64>,
    drafts: BTreeMap<u64, Vec<u8>>,
    /// In the order of their first arrival.
    order: Vec<u64>,
}

impl Seen {
    fn take(&mut self, number: u64, counter: u64, draft: &[u8]) {
        assert!(
            self.numbers.insert(number),
            "number {number} was used twice"
        );
        if let Some(before) = self.drafts.get(&counter) {
            return assert_eq!(before, draft, "counter {counter} was used twice");
        }
        self.drafts.insert(counter, draft.to_vec());
        self.order.push(counter);
    }
}

/// One life of a device: sends what waits, then writes and sends three more, until the power goes.
fn live(
    file: &Path,
    disk: Disk,
    life: u32,
    promised: &mut Vec<Vec<u8>>,
    seen: &mut Seen,
) -> Result<(), StateError> {
    let mut state = StateDir::open_on(file, &credentials(), disk)?;
    let mut queue = Queue::open(&state)?;
    let mut context = state.context()?;
    let mut send = |state: &mut StateDir, counter, draft: &[u8]| {
        if let Some(ceiling) = context.reserve_wanted(4) {
            state.reserve(ceiling)?;
            context.reserved(ceiling);
        }
        let request = Message {
            kind: Kind::Con,
            code: Code::POST,
            id: 1,
            token: Token::EMPTY,
            options: Options::new(),
            payload: draft.to_vec(),
        };
        let (_, binding) = context.protect_request(&request).unwrap();
        seen.take(binding.piv().number(), counter, draft);
        Ok::<_, StateError>(())
    };
    let waiting: Vec<_> = queue
        .drafts()
        .map(|(n, queued)| (n, queued.clone()))
        .collect();
    for (counter, queued) in waiting {
        send(&mut state, counter, &queued.draft)?;
        queue.done(counter)?;
    }
    for nth in 0..3 {
        let counter = state.next_counter()?;
        let bytes = draft(counter, &format!("life {life}, message {nth}"));
        let queued = Queued {
            room: "!r:h".to_owned(),
            draft: bytes.clone(),
            at_ms: 0,
        };
        queue.push(counter, queued)?;
        promised.push(bytes.clone());
        send(&mut state, counter, &bytes)?;
        queue.done(counter)?;
    }
    Ok(())
}

#[test]
fn whenever_the_power_goes_no_number_is_used_twice_and_no_message_is_lost() {
    for steps in 0..70 {
        let (_dir, file) = begun();
        let (mut promised, mut seen) = (Vec::new(), Seen::default());
        let lives = [Some(steps), Some(steps / 2), Some(70 - steps), None];
        for (life, steps) in (0..).zip(lives) {
            let disk = Disk::dying_after(steps.unwrap_or(u32::MAX));
            let ended = live(&file, disk, life, &mut promised, &mut seen);
            assert!(ended.is_ok() || steps.is_some(), "{ended:?}");
        }

        assert!(seen.order.is_sorted(), "{:?}", seen.order);
        for draft in &promised {
            assert!(
                seen.drafts.values().any(|one| one == draft),
                "after {steps} steps"
            );
        }
    }
}

#[test]
fn a_second_use_at_the_same_time_is_refused() {
    let (_dir, file) = begun();
    let first = StateDir::open(&file, &credentials()).unwrap();

    let second = StateDir::open(&file, &credentials()).err().unwrap();
    assert!(matches!(second, StateError::Locked { .. }), "{second}");
    assert!(
        second.to_string().contains("in use by another process"),
        "{second}"
    );
    drop(first);
    StateDir::open(&file, &credentials()).unwrap();
}

#[test]
fn without_its_state_a_context_is_not_used() {
    let (_dir, file) = begun();
    fs::remove_dir_all(StateDir::path_of(&file)).unwrap();

    let gone = StateDir::open(&file, &credentials()).err().unwrap();

    assert!(matches!(gone, StateError::Gone { .. }), "{gone}");
    assert!(gone.to_string().contains("fresh context"), "{gone}");
}

#[test]
fn the_state_of_another_link_is_not_used_and_a_used_one_does_not_begin_again() {
    let (_dir, file) = begun();
    let mut other = credentials();
    other.oscore.as_mut().unwrap().sender_id = "0909".to_owned();

    let refused = StateDir::open(&file, &other).err().unwrap();
    assert!(matches!(refused, StateError::OtherLink { .. }), "{refused}");
    let refused = StateDir::begin(&file, &credentials()).err().unwrap();
    assert!(matches!(refused, StateError::Begun { .. }), "{refused}");
}

#[test]
fn only_its_owner_reads_the_state_and_it_shows_no_secret_in_errors() {
    let (_dir, file) = begun();
    let dir = StateDir::path_of(&file);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("state.json")), 0o600);

    fs::write(dir.join("state.json"), "{\"version\":2}").unwrap();
    let newer = StateDir::open(&file, &credentials()).err().unwrap();
    assert!(
        matches!(newer, StateError::Version { found: 2, .. }),
        "{newer}"
    );
    fs::write(dir.join("state.json"), "no json").unwrap();
    let broken = StateDir::open(&file, &credentials()).err().unwrap();
    assert!(matches!(broken, StateError::Format { .. }), "{broken}");
}

#[test]
fn a_hub_of_another_generation_voids_the_aliases_and_keeps_the_numbers() {
    let (_dir, file) = begun();
    let mut state = StateDir::open(&file, &credentials()).unwrap();
    state.met([1; 8]).unwrap();
    let name = (NameKind::Room, 7, "!r:h".to_owned());
    state.named([name]).unwrap();
    state.next_counter().unwrap();
    state.change(|state| state.inbox = Some((7, 3))).unwrap();

    state.met([1; 8]).unwrap();
    assert_eq!(state.state().alias(NameKind::Room, "!r:h"), Some(7));
    state.met([2; 8]).unwrap();

    assert_eq!(state.state().alias(NameKind::Room, "!r:h"), None);
    assert_eq!(state.state().inbox, None);
    assert_eq!(state.next_counter().unwrap(), 2);
}

#[test]
fn the_queue_has_a_ceiling() {
    let (_dir, file) = begun();
    let state = StateDir::open(&file, &credentials()).unwrap();
    let queue = Queue::open(&state).unwrap();

    assert!(queue.check(65_536).is_ok());
    let full = queue.check(65_537).unwrap_err();
    assert_eq!(full.to_string(), "a message has at most 65536 bytes");
}
