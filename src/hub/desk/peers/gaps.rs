//! Gaps of rooms' graphs that stay open: events that others build on are missing here, and what was told
//! of them is not believed, or nothing was told. What follows them is not taken meanwhile, so whoever
//! operates this hub is to know it, and why.
//!
//! How a gap is closed is `transaction`'s and `past`'s. What is here is in memory, since the hub's start;
//! whether one is still open is looked up when somebody asks.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};

use super::past;
use crate::{
    api::{RequestId, Unverified, passes_when},
    base::Timestamp,
    hub::Hub,
    store::StoreError,
    wire::matrix::Pdu,
};

/// What was wrong with what another server told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct Fault {
    /// The stable reason.
    pub(in crate::hub::desk) code: &'static str,
    /// The same in words.
    pub(in crate::hub::desk) said: String,
}

impl Fault {
    pub(super) fn new(code: &'static str, mut said: String) -> Self {
        if let Some((at, _)) = said.char_indices().nth(SAID_CHARS_MAX) {
            said.truncate(at);
            said.push('…');
        }
        Self { code, said }
    }
}

/// The same of many events: the first, and how many there are.
#[derive(Debug, Default)]
pub(in crate::hub::desk) struct Faults {
    first: Option<Fault>,
    count: usize,
}

impl Faults {
    pub(super) fn note(&mut self, code: &'static str, said: String) {
        self.count += 1;
        self.first.get_or_insert_with(|| Fault::new(code, said));
    }

    /// Notes why an event is not to be believed.
    pub(super) fn note_of(&mut self, event: Option<&Pdu>, error: &Unverified) {
        self.note(error.code(), of_event(event, error.to_string()));
    }

    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
    }

    /// What was wrong with one event, of which this is all that was told.
    pub(super) fn first_or_other(self) -> Fault {
        let other = || Fault::new("PEER_ANSWER", "what was told for it is not".to_owned());
        self.first.unwrap_or_else(other)
    }

    /// Why a gap stays open although `server` was asked: what was wrong with the events that it told
    /// says more than what was then not to be had.
    pub(super) fn cause(self, server: &ServerName, closing: Option<Fault>) -> Fault {
        match (self.first, closing) {
            (Some(Fault { code, said }), _) => {
                let events = match self.count {
                    1 => "an event that is not taken".to_owned(),
                    count => format!("{count} events that are not taken; the first"),
                };
                Fault::new(code, format!("{server} told {events}: {said}"))
            }
            (None, Some(closing)) => closing,
            (None, None) => {
                let said = format!("{server} was asked for them, and did not tell them");
                Fault::new("GAP_NOT_TOLD", said)
            }
        }
    }
}

/// What is said of an event, with its id, if it has one.
pub(super) fn of_event(event: Option<&Pdu>, said: String) -> String {
    match event {
        Some(event) => format!("{}: {said}", event.id()),
        None => said,
    }
}

/// A gap that stayed open.
#[derive(Clone, Debug)]
pub struct Gap {
    /// The server that sent what follows the gap, and was asked for what is missing.
    pub server: OwnedServerName,
    /// How many events were named and are missing.
    pub missing: usize,
    /// The stable reason.
    pub code: &'static str,
    /// The same in words.
    pub cause: String,
    /// When it was first found.
    pub since: Timestamp,
    /// When it was last found.
    pub last: Timestamp,
    /// The request that brought it last, if it was another server's.
    pub request: Option<RequestId>,
    /// Some of what is missing.
    ends: Vec<OwnedEventId>,
}

/// Those of this hub, the last one of each room and server: any server of a room can name events that
/// are not there, and is not to hide by that what another one's are.
#[derive(Default)]
pub(in crate::hub::desk) struct Gaps(Mutex<Table>);

type Key = (OwnedRoomId, OwnedServerName);

#[derive(Default)]
struct Table {
    open: HashMap<Key, Gap>,
    /// When each was last warned of; also of those that are open no more or had to make room.
    warned: HashMap<Key, Timestamp>,
}

impl Gaps {
    /// A gap stays open. Whether it is to be warned of: not again within the hour.
    fn note(&self, room: &RoomId, found: Gap) -> bool {
        let mut table = self.table();
        let key = (room.to_owned(), found.server.clone());
        let is_due = table.is_due(&key, found.last);
        let known = table.open.get(&key).map(|known| known.since);
        if known.is_none() {
            table.make_room(room);
        }
        let since = known.unwrap_or(found.since);
        table.open.insert(key, Gap { since, ..found });
        is_due
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn is_due(&mut self, key: &Key, now: Timestamp) -> bool {
        let is_recent = |warned: &Timestamp| now.since(*warned) < WARN_EVERY;
        if self.warned.get(key).is_some_and(is_recent) {
            return false;
        }
        if self.warned.len() >= WARNED_MAX {
            self.warned.retain(|_, warned| is_recent(warned));
        }
        if self.warned.len() >= WARNED_MAX {
            return false;
        }
        self.warned.insert(key.clone(), now);
        true
    }

    /// Makes room for one more of a room: first the room's own which nothing ran into for the longest,
    /// then such a one of the server that has most, whatever rooms they are of.
    fn make_room(&mut self, room: &RoomId) {
        let of_room = self.open.iter().filter(|((of, _), _)| of == room);
        let goes = if of_room.clone().count() >= SERVERS_PER_ROOM_MAX {
            of_room.min_by_key(|(_, gap)| gap.last)
        } else if self.open.len() >= GAPS_MAX {
            let mut counts: HashMap<&ServerName, usize> = HashMap::new();
            for (_, server) in self.open.keys() {
                *counts.entry(server).or_default() += 1;
            }
            let count = |server: &ServerName| counts.get(server).copied();
            let all = self.open.iter();
            all.max_by_key(|((_, server), gap)| (count(server), Reverse(gap.last)))
        } else {
            None
        };
        if let Some(goes) = goes.map(|(key, _)| key.clone()) {
            self.open.remove(&goes);
        }
    }
}

/// Events of a room were named that are missing, and were not to be had of `server`: tells the log, not
/// too often, and remembers it.
pub(super) fn stays_open(
    hub: &Hub,
    (room, server): (&RoomId, &OwnedServerName),
    ends: &past::OpenEnds,
    request: Option<RequestId>,
    fault: &Fault,
) {
    let now = hub.now();
    // What an event leans on and is not told is found with the event itself.
    let missing = ends.prev.iter().chain(&ends.leaning);
    let gap = Gap {
        server: server.clone(),
        missing: missing.clone().count(),
        code: fault.code,
        cause: fault.said.clone(),
        since: now,
        last: now,
        request,
        ends: missing.take(ENDS_KEPT_MAX).cloned().collect(),
    };
    let missing = gap.missing;
    let (reason, cause) = (fault.code, &fault.said);
    if !hub.desk.gaps.note(room, gap) {
        tracing::debug!(%room, peer = %server, missing, reason, cause, "a gap stays open");
        return;
    }
    let passes = passes_when(reason);
    tracing::warn!(
        code = "GAP_OPEN", %room, peer = %server, missing, reason, cause,
        "events of this room are missing here, which the other server builds on, and what it says after \
         them is not taken; this ends when: {passes} (`tramline doctor --peer {server}`)"
    );
}

impl Hub {
    /// The gaps of rooms' graphs that are known to be open, those found last first: of each server one,
    /// then of each a second one, so that none hides the others by having many.
    pub async fn open_gaps(&self) -> Result<Vec<(OwnedRoomId, Gap)>, StoreError> {
        let now = self.now();
        let known: Vec<_> = {
            let mut table = self.desk.gaps.table();
            table.open.retain(|_, gap| now.since(gap.last) < KEPT_FOR);
            let gaps = table.open.iter();
            gaps.map(|((room, _), gap)| (room.clone(), gap.clone()))
                .collect()
        };
        let mut open = Vec::new();
        for (room, gap) in known {
            let mut is_open = false;
            for id in &gap.ends {
                if !past::is_known(self, id).await? {
                    is_open = true;
                    break;
                }
            }
            if is_open {
                open.push((room, gap));
                continue;
            }
            let mut table = self.desk.gaps.table();
            let (last, key) = (gap.last, (room, gap.server));
            // unless another one was found meanwhile
            if table.open.get(&key).is_some_and(|now| now.last == last) {
                table.open.remove(&key);
            }
        }
        Ok(in_turn(open))
    }
}

/// The latest first, and the first of each server before the second of any.
fn in_turn(mut open: Vec<(OwnedRoomId, Gap)>) -> Vec<(OwnedRoomId, Gap)> {
    open.sort_by(|(one, first), (other, second)| {
        let latest = second.last.cmp(&first.last);
        latest.then_with(|| (one, &first.server).cmp(&(other, &second.server)))
    });
    let mut counts: HashMap<OwnedServerName, usize> = HashMap::new();
    let ranked = open.into_iter().map(|one| {
        let count = counts.entry(one.1.server.clone()).or_default();
        *count += 1;
        (*count, one)
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank); // keeps the order among equals
    ranked.into_iter().map(|(_, one)| one).collect()
}

/// Gaps that are remembered: at seven kilobytes each at most, a few megabytes.
const GAPS_MAX: usize = 1024;

/// Servers of a room of which a gap is remembered: each has the same missing events, or its own.
const SERVERS_PER_ROOM_MAX: usize = 4;

/// Gaps of which it is remembered that they were warned of, at half a kilobyte each at most. Where there
/// are more in an hour, the log has told enough.
const WARNED_MAX: usize = 4096;

/// The longest text of what was wrong, in characters: it may quote what another server wrote.
const SAID_CHARS_MAX: usize = 500;

/// Events of a gap that are looked up to see whether it is still open.
const ENDS_KEPT_MAX: usize = 20;

/// How often an open gap of a room and server is warned of at most.
const WARN_EVERY: Duration = Duration::from_hours(1);

/// How long a gap is told of that nothing ran into any more: the room may have gone on without it.
const KEPT_FOR: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(at: Timestamp) -> Gap {
        gap_of("far", at)
    }

    fn gap_of(server: &str, at: Timestamp) -> Gap {
        Gap {
            server: server.try_into().unwrap(),
            missing: 1,
            code: "EVENT_SIGNATURE",
            cause: "it is forged".to_owned(),
            since: at,
            last: at,
            request: None,
            ends: Vec::new(),
        }
    }

    #[test]
    fn a_rooms_gap_is_warned_of_once_an_hour_however_often_it_is_run_into() {
        let gaps = Gaps::default();
        let (one, other) = (ruma::room_id!("!a:far"), ruma::room_id!("!b:far"));
        let start = Timestamp(1_000_000);
        assert!(gaps.note(one, gap(start)));
        assert!(gaps.note(other, gap(start)));
        for minute in 1..60 {
            let now = start + Duration::from_mins(minute);
            assert!(!gaps.note(one, gap(now)), "minute {minute}");
        }
        assert!(gaps.note(one, gap(start + Duration::from_hours(1))));
        assert!(!gaps.note(one, gap(start + Duration::from_mins(61))));
        let key = (one.to_owned(), ruma::owned_server_name!("far"));
        assert_eq!(gaps.table().open[&key].since, start);
    }

    #[test]
    fn the_table_of_gaps_has_a_ceiling_and_the_oldest_goes() {
        let gaps = Gaps::default();
        for number in 0..=GAPS_MAX {
            let room = OwnedRoomId::try_from(format!("!{number}:far")).unwrap();
            gaps.note(&room, gap(Timestamp(number as u64)));
        }
        assert_eq!(gaps.table().open.len(), GAPS_MAX);
        assert!(!has(&gaps, "!0:far", "far"));
    }

    fn has(gaps: &Gaps, room: &str, server: &str) -> bool {
        let key = (room.try_into().unwrap(), server.try_into().unwrap());
        gaps.table().open.contains_key(&key)
    }

    #[test]
    fn a_server_that_names_what_is_not_there_hides_no_other_servers_gap() {
        let gaps = Gaps::default();
        let room = ruma::room_id!("!a:far");
        assert!(gaps.note(room, gap_of("true", Timestamp(0))));
        for number in 1..=2 * GAPS_MAX {
            let at = Timestamp(number as u64);
            gaps.note(room, gap_of("evil", at));
            let another = OwnedRoomId::try_from(format!("!{number}:far")).unwrap();
            gaps.note(&another, gap_of("evil", at));
        }
        assert!(has(&gaps, "!a:far", "true"));
        assert_eq!(gaps.table().open.len(), GAPS_MAX);

        let open = gaps.table().open.clone().into_iter();
        let told = in_turn(open.map(|((room, _), gap)| (room, gap)).collect());
        let first: Vec<_> = told.iter().take(2).map(|(_, gap)| &gap.server).collect();
        assert_eq!(first, ["evil", "true"]);
    }

    #[test]
    fn what_had_to_make_room_is_not_warned_of_again_within_the_hour() {
        let gaps = Gaps::default();
        let room = ruma::room_id!("!a:far");
        let servers = ["a", "b", "c", "d", "e"];
        for (number, server) in servers.into_iter().enumerate() {
            let at = Timestamp(number as u64);
            assert!(gaps.note(room, gap_of(server, at)), "{server}");
        }
        assert_eq!(gaps.table().open.len(), SERVERS_PER_ROOM_MAX);
        assert!(
            !has(&gaps, "!a:far", "a"),
            "it was run into before the others"
        );
        for server in servers {
            assert!(!gaps.note(room, gap_of(server, Timestamp(9))), "{server}");
        }
        for number in 0..2 * WARNED_MAX {
            let room = OwnedRoomId::try_from(format!("!{number}:far")).unwrap();
            gaps.note(&room, gap_of("far", Timestamp(10)));
        }
        assert_eq!(gaps.table().warned.len(), WARNED_MAX);
        let later = Timestamp(10) + WARN_EVERY;
        assert!(gaps.note(room, gap_of("a", later)));
    }

    #[test]
    fn what_was_wrong_is_kept_up_to_a_length() {
        let long = Fault::new("EVENT_FORM", "é".repeat(SAID_CHARS_MAX + 1));
        assert_eq!(long.said, "é".repeat(SAID_CHARS_MAX) + "…");
        let mut faults = Faults::default();
        faults.note("EVENT_FORM", "x".repeat(100_000));
        let cause = faults.cause(ruma::server_name!("far"), None);
        assert!(cause.said.chars().count() <= SAID_CHARS_MAX + 1);
    }

    #[test]
    fn what_was_wrong_with_a_told_event_is_the_cause_before_what_was_not_to_be_had() {
        let far = ruma::server_name!("far");
        let mut faults = Faults::default();
        faults.note("EVENT_SIGNATURE", "$a: forged".to_owned());
        faults.note("EVENT_FORM", "$b: large".to_owned());
        let closing = Fault::new("PEER_HAS_NOT", "404".to_owned());

        let cause = faults.cause(far, Some(closing.clone()));

        assert_eq!(cause.code, "EVENT_SIGNATURE");
        assert!(
            cause.said.contains("far told 2 events") && cause.said.contains("$a: forged"),
            "{cause:?}"
        );
        assert_eq!(
            Faults::default().cause(far, Some(closing)).code,
            "PEER_HAS_NOT"
        );
        assert_eq!(Faults::default().cause(far, None).code, "GAP_NOT_TOLD");
    }
}
