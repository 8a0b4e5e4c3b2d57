//! The device in the link laboratory, in virtual time.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    super::{Answer, Ask, Conduct, Event, Follow, NatTimer, Places, ThinMachine},
    hub::{Hub, ROOM_ALIAS},
    *,
};
use crate::{
    base::Timestamp,
    session::{
        lab::{Direction, Micros, Node, Ppm, Profile, Rate, Step, World, world::HUB, world::OPENS},
        oscore::Hint,
    },
    wire::thin::{Record, Shown},
};

/// The machine with its numbers stored at once.
struct Device {
    machine: ThinMachine,
    now: Timestamp,
    ceiling: u64,
}

impl Device {
    fn new(class: u8, tries_max: Option<u32>) -> Self {
        Self::with(Conduct {
            class,
            tries_max,
            keeps_alive: false,
        })
    }

    fn with(conduct: Conduct) -> Self {
        let rng = Box::new(StdRng::seed_from_u64(5));
        let places = (Places::default(), NatTimer::default());
        let mut device = Self {
            machine: ThinMachine::new(OPENS, device_context(), rng, conduct, places),
            now: OPENS,
            ceiling: 0,
        };
        device.store();
        device
    }

    fn store(&mut self) {
        while let Some(ceiling) = self.machine.reserve_wanted() {
            self.ceiling = ceiling;
            self.machine.reserved(ceiling);
        }
    }
}

impl Node for Device {
    fn handle(&mut self, now: Timestamp, _: SocketAddr, datagram: &[u8]) {
        self.now = now;
        self.machine.handle_datagram(now, datagram);
        self.store();
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.store();
        let outgoing = self.machine.poll_transmit(self.now)?;
        Some((HUB, outgoing.bytes))
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.machine.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        self.machine.handle_timeout(now);
        self.store();
    }
}

type Lab = World<Device, Hub>;

const FOR_EVER: Micros = Micros(30 * 24 * 3600 * 1_000_000);

fn radio() -> Profile {
    Profile {
        up: Rate::bits(100),
        down: Rate::bits(100),
        delay: Duration::from_millis(500),
        queue_bytes: 2000,
        ..Profile::PERFECT
    }
}

fn bad_radio() -> Profile {
    Profile {
        loss: Ppm::percent(30),
        rebind: Some(Duration::from_mins(1)),
        ..radio()
    }
}

fn lab(profile: Profile, class: u8, tries_max: Option<u32>) -> Lab {
    let hub = Hub::new(hub_context(), class);
    World::new(profile, 11, hub, vec![Device::new(class, tries_max)])
}

fn device(lab: &mut Lab) -> &mut ThinMachine {
    &mut lab.client(0).unwrap().machine
}

/// What the device was told of its room.
fn collect(lab: &mut Lab, news: &mut Vec<Record>, answers: &mut Vec<Result<Answer, String>>) {
    while let Some(event) = device(lab).poll_event() {
        match event {
            Event::News(records) => news.extend(records),
            Event::Answered { answer, .. } => {
                answers.push(answer.map_err(|error| error.to_string()));
            }
            Event::Unfollowed(error) => panic!("{error}"),
            Event::Hint(_) | Event::Silent | Event::Back => {}
        }
    }
}

fn shown(record: &Record) -> (u64, Option<u64>, String) {
    match &record.what {
        Shown::Entry {
            seq,
            counter,
            body: Body::Text(text),
            ..
        } => (*seq, *counter, text.clone()),
        other => panic!("{other:?}"),
    }
}

struct Run {
    news: Vec<Record>,
    bytes: u64,
    moves: usize,
    retries: usize,
    hours: u64,
}

const MESSAGES: u64 = 200;

/// Ana sends, Bob sends, and Ana follows the room.
fn talk(profile: Profile) -> Run {
    let mut lab = lab(profile, 1, None);
    let (mut news, mut answers) = (Vec::new(), Vec::new());
    let now = lab.now();
    device(&mut lab).follow(now, Follow::Room(ROOM_ALIAS));
    for counter in 1..=MESSAGES {
        let draft = draft(counter, &format!("ana {counter}")).into();
        let room = ROOM_ALIAS;
        device(&mut lab).ask(now, Ask::Append { room, draft });
    }
    for said in 1..=MESSAGES {
        let until = Micros(said * 90_000_000);
        while lab.step(until) == Step::Moved {
            collect(&mut lab, &mut news, &mut answers);
        }
        let now = lab.now();
        lab.hub().say(now, format!("bob {said}"));
    }
    while news.len() < 2 * usize::try_from(MESSAGES).unwrap() || answers.len() < 200 {
        let reached = lab.step(FOR_EVER);
        assert_eq!(reached, Step::Moved, "{} {}", news.len(), answers.len());
        collect(&mut lab, &mut news, &mut answers);
    }
    let seqs = answers.iter().map(|answer| match answer {
        Ok(Answer::Appended { seq }) => *seq,
        other => panic!("{other:?}"),
    });
    assert!(seqs.is_sorted_by(|one, other| one < other));
    let log: Vec<_> = lab.hub().log.iter().map(|said| said.text.clone()).collect();
    for who in ["ana", "bob"] {
        let said: Vec<_> = log.iter().filter(|text| text.starts_with(who)).collect();
        let wanted: Vec<_> = (1..=MESSAGES).map(|n| format!("{who} {n}")).collect();
        assert_eq!(said, wanted.iter().collect::<Vec<_>>());
    }
    let stats = |way| lab.link().stats(way).offered.bytes;
    Run {
        bytes: stats(Direction::Up) + stats(Direction::Down),
        hours: lab.elapsed().0 / 3_600_000_000,
        moves: lab.hub().moves,
        retries: lab.hub().retries,
        news,
    }
}

#[test]
fn two_hundred_messages_each_way_arrive_once_and_in_order_over_a_radio_that_loses_a_third() {
    let bad = talk(bad_radio());
    let good = talk(radio());

    for run in [&bad, &good] {
        let seqs: Vec<_> = run.news.iter().map(|record| shown(record).0).collect();
        assert_eq!(seqs, (1..=2 * MESSAGES).collect::<Vec<_>>());
        println!(
            "{} bytes, {} address changes, {} h",
            run.bytes, run.moves, run.hours
        );
    }
    assert!(bad.moves > 20, "{}", bad.moves);
    assert!(
        bad.retries > 0,
        "some answer was lost for good, and its draft sent again"
    );
    assert_eq!(good.retries, 0);
    assert!(
        bad.bytes < 4 * good.bytes,
        "{} and {}",
        bad.bytes,
        good.bytes
    );
}

/// Lets things happen until the device has so many answers.
fn until_answered(lab: &mut Lab, wanted: usize) -> (Vec<Record>, Vec<Result<Answer, String>>) {
    let (mut news, mut answers) = (Vec::new(), Vec::new());
    while answers.len() < wanted {
        assert_eq!(lab.step(FOR_EVER), Step::Moved);
        collect(lab, &mut news, &mut answers);
    }
    (news, answers)
}

#[test]
fn a_forged_refusal_is_a_hint_and_the_message_arrives_all_the_same() {
    let mut lab = lab(Profile::PERFECT, 6, None);
    lab.hub().is_lost = true;
    let now = lab.now();
    let (room, draft) = (ROOM_ALIAS, draft(1, "hello").into());
    device(&mut lab).ask(now, Ask::Append { room, draft });

    let mut hints = Vec::new();
    while hints.len() < 3 {
        assert_eq!(lab.step(FOR_EVER), Step::Moved);
        while let Some(event) = device(&mut lab).poll_event() {
            match event {
                Event::Hint(hint) => hints.push(hint),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(hints, [const { Hint::ContextNotFound }; 3]);
    lab.hub().is_lost = false;

    let (_, answers) = until_answered(&mut lab, 1);
    assert_eq!(answers, [Ok(Answer::Appended { seq: 1 })]);
    assert_eq!(lab.hub().log.len(), 1);
}

#[test]
fn who_asks_once_is_told_that_nobody_answers() {
    let mut lab = lab(Profile::PERFECT, 6, Some(1));
    lab.hub().is_lost = true;
    let now = lab.now();
    device(&mut lab).ask(now, Ask::Hello);

    let (_, answers) = until_answered(&mut lab, 1);

    assert!(
        answers[0]
            .as_ref()
            .is_err_and(|said| said.contains("no answer")),
        "{answers:?}"
    );
}

#[test]
fn a_device_that_is_started_again_goes_on_where_it_was() {
    let mut lab = lab(Profile::PERFECT, 6, None);
    let now = lab.now();
    device(&mut lab).follow(now, Follow::Room(ROOM_ALIAS));
    let room = ROOM_ALIAS;
    let (first, second) = (draft(1, "one"), draft(2, "two"));
    device(&mut lab).ask(
        now,
        Ask::Append {
            room,
            draft: first.clone().into(),
        },
    );
    let (mut news, mut answers) = until_answered(&mut lab, 1);
    while news.is_empty() {
        assert_eq!(lab.step(FOR_EVER), Step::Moved);
        collect(&mut lab, &mut news, &mut answers);
    }
    assert_eq!(news.len(), 1);

    // It stops before it has noted the answer; its ceiling and its place it had noted.
    let old = lab.client(0).unwrap();
    let (ceiling, through) = (old.ceiling, old.machine.places().through());
    let parameters = Parameters::new(&SECRET, id(&[1, 2]), id(&[]));
    let context = SecurityContext::resumed(&parameters, ceiling).unwrap();
    let conduct = Conduct {
        class: 6,
        tries_max: None,
        keeps_alive: false,
    };
    let rng = Box::new(StdRng::seed_from_u64(6));
    let places = (Places::new(&through, None), NatTimer::default());
    let now = lab.now();
    let device_again = lab.client(0).unwrap();
    device_again.machine = ThinMachine::new(now, context, rng, conduct, places);
    device_again.store();
    lab.hub().say(now, "three".to_owned());
    for draft in [first, second] {
        let draft = draft.into();
        device(&mut lab).ask(now, Ask::Append { room, draft });
    }
    let now = lab.now();
    device(&mut lab).follow(now, Follow::Room(ROOM_ALIAS));
    let (mut later, mut answers) = until_answered(&mut lab, 2);
    while later.len() < 2 {
        assert_eq!(lab.step(FOR_EVER), Step::Moved);
        collect(&mut lab, &mut later, &mut answers);
    }

    assert_eq!(
        answers,
        [
            Ok(Answer::Appended { seq: 1 }),
            Ok(Answer::Appended { seq: 3 })
        ]
    );
    let texts: Vec<_> = later.iter().map(|record| shown(record).2).collect();
    assert_eq!(texts, ["three", "two"]);
    assert_eq!((lab.hub().log.len(), lab.hub().retries), (3, 1));
    assert!(lab.hub().numbers.is_sorted_by(|one, other| one < other));
}

#[test]
fn a_refusal_is_told_in_the_hubs_words() {
    let mut lab = lab(Profile::PERFECT, 6, None);
    let now = lab.now();
    device(&mut lab).ask(now, Ask::Entry { room: 1, seq: 2 });

    let (_, answers) = until_answered(&mut lab, 1);

    assert_eq!(
        answers,
        [Err("M_NOT_FOUND: no such room (4.04)".to_owned())]
    );
}

/// Four hours of following a room in which nothing is said, behind a NAT that forgets.
fn silent_hours(nat_timeout: Duration) -> Lab {
    let profile = Profile {
        nat_timeout: Some(nat_timeout),
        ..Profile::PERFECT
    };
    let keeps_open = Device::with(Conduct {
        class: 6,
        tries_max: None,
        keeps_alive: true,
    });
    let mut lab = World::new(profile, 11, Hub::new(hub_context(), 6), vec![keeps_open]);
    let now = lab.now();
    device(&mut lab).follow(now, Follow::Room(ROOM_ALIAS));
    let end = Micros(4 * 3600 * 1_000_000);
    while lab.step(end) == Step::Moved {
        while device(&mut lab).poll_event().is_some() {}
    }
    lab
}

#[test]
fn a_device_that_is_told_nothing_finds_the_nats_timer_by_asking_and_is_reached_ever_after() {
    for seconds in [45, 120, 200] {
        let mut lab = silent_hours(Duration::from_secs(seconds));
        let nat = device(&mut lab).nat();
        let known = nat.known().as_secs();
        assert!(
            known < seconds && known + 15 >= seconds,
            "{known} of {seconds}"
        );
        assert_eq!(nat.probe(), None, "it has found out");
        let hours = 4 * 3600 / seconds;
        let stats = |way| lab.link().stats(way).offered.datagrams;
        let (up, down) = (stats(Direction::Up), stats(Direction::Down));
        assert!(up < 2 * hours + 200 && down < 200, "{up} up, {down} down");

        let now = lab.now();
        lab.hub().say(now, "still there?".to_owned());
        let mut news = Vec::new();
        while news.is_empty() {
            assert_eq!(lab.step(FOR_EVER), Step::Moved);
            collect(&mut lab, &mut news, &mut Vec::new());
        }
        assert!(lab.now().since(now) < Duration::from_secs(2));
    }
}
