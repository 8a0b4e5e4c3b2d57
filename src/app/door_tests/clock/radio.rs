//! 100 bit/s, three datagrams in ten lost, a new address every minute; and whoever forges.

use std::{net::SocketAddr, time::Duration};

use super::device::{Lab, all_came_once_and_in_order, ben_says, bytes, device, lab};
use crate::{
    session::lab::{Direction, Micros, Node as _, Ppm, Profile, Rate, Step},
    wire::{
        coap::{Code, Kind, Message, Options, Token, options::number},
        thin::{encode_numbers, number::segment},
    },
};

const MESSAGES: u64 = 200;

/// Too late: without loss it takes a quarter of a day.
const LATE: Micros = Micros(30 * 24 * 3600 * 1_000_000);

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

struct Run {
    bytes: u64,
    moves: usize,
    lost: u64,
    minutes: u64,
}

/// `ana` and `ben` both talk; `ana` says what she has read.
fn talk(profile: Profile) -> Run {
    let mut lab = lab(profile, 1);
    let head = lab.hub().place.head();
    device(&mut lab).reads = true;
    device(&mut lab).follow();
    for number in 1..=MESSAGES {
        device(&mut lab).says(number, format!("ana {number}"));
    }
    for number in 1..=MESSAGES {
        let until = Micros(number * 90_000_000);
        while lab.step(until) == Step::Moved {}
        ben_says(&mut lab, format!("ben {number}"));
    }
    let last = head + 2 * MESSAGES;
    loop {
        let ana = device(&mut lab);
        let (told, answered) = (ana.news.len() as u64, ana.appended.len() as u64);
        if (told, answered) == (2 * MESSAGES, MESSAGES) && ana.read == last && ana.is_read() {
            break;
        }
        let read = ana.read - head;
        assert_eq!(
            lab.step(LATE),
            Step::Moved,
            "{told} told, {answered} answered, {read} read"
        );
    }

    all_came_once_and_in_order(&mut lab, head, MESSAGES);
    assert_eq!(lab.hub().place.read_by_ana(), Some(last));
    let lost = |way| lab.link().stats(way).lost.datagrams();
    Run {
        bytes: bytes(&lab),
        lost: lost(Direction::Up) + lost(Direction::Down),
        minutes: lab.elapsed().0 / 60_000_000,
        moves: lab.hub().moves,
    }
}

#[test]
fn two_hundred_messages_each_way_come_once_and_in_order_and_so_does_what_was_read() {
    let (good, bad) = (talk(radio()), talk(bad_radio()));

    for (name, run) in [("without loss", &good), ("30 % lost", &bad)] {
        println!(
            "100 bit/s, {name}: {} bytes, {} datagrams lost, {} addresses left, {} min",
            run.bytes, run.lost, run.moves, run.minutes
        );
    }
    assert_eq!((good.lost, good.moves), (0, 0));
    assert!(
        bad.lost > 300 && bad.moves > 100,
        "{} {}",
        bad.lost,
        bad.moves
    );
    assert!(bad.bytes < 12 * good.bytes, "{} {}", bad.bytes, good.bytes);
}

/// Lets the laboratory go on until nothing is under way, for a while at most.
fn settle(lab: &mut Lab) {
    let until = Micros(lab.elapsed().0 + 10_000_000);
    while lab.step(until) == Step::Moved {}
}

/// Puts a datagram before the hub as if it came from there.
fn forge(lab: &mut Lab, from: SocketAddr, datagram: &[u8]) {
    let now = lab.now();
    lab.hub().handle(now, from, datagram);
    settle(lab);
}

#[test]
fn receipts_move_by_protected_bytes_alone_and_a_forged_acknowledgement_loses_nothing() {
    let mut lab = lab(Profile::PERFECT, 6);
    let head = lab.hub().place.head();
    device(&mut lab).follow();
    for number in 1..=3 {
        ben_says(&mut lab, format!("ben {number}"));
        settle(&mut lab);
    }
    device(&mut lab).has_read(head + 2);
    settle(&mut lab);
    assert_eq!(lab.hub().place.read_by_ana(), Some(head + 2));
    let at = lab.hub().at.unwrap();

    // A receipt in clear, from her own address and from another.
    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 4000));
    let room = segment(device(&mut lab).room);
    for (id, (from, kind)) in
        (0x7000..).zip([(at, Kind::Con), (at, Kind::Non), (elsewhere, Kind::Con)])
    {
        let forged = Message {
            kind,
            code: Code::PUT,
            id,
            token: Token::EMPTY,
            options: Options::new().with(number::URI_PATH, room.as_str()),
            payload: encode_numbers(&[head + 3]),
        };
        forge(&mut lab, from, &forged.encode().unwrap());
    }
    // Her own receipt, once more after a later one, and with each of its bytes changed.
    let receipt = device(&mut lab).sent.last().unwrap().to_vec();
    device(&mut lab).has_read(head + 3);
    settle(&mut lab);
    forge(&mut lab, elsewhere, &receipt);
    for place in 0..receipt.len() {
        let mut changed = receipt.clone();
        changed[place] ^= 1;
        forge(&mut lab, at, &changed);
    }
    assert_eq!(lab.hub().place.read_by_ana(), Some(head + 3));
    assert_eq!(lab.hub().at, Some(at));

    // A push is taken on its way, and acknowledged in her name.
    lab.hub().stolen = Some(Vec::new());
    ben_says(&mut lab, "ben 4".to_owned());
    settle(&mut lab);
    let stolen = lab.hub().stolen.take().unwrap();
    let push = Message::decode(stolen.first().unwrap()).unwrap();
    let forged = Message::empty(Kind::Ack, push.id);
    forge(&mut lab, at, &forged.encode().unwrap());
    assert_eq!(device(&mut lab).news.len(), 3);
    assert_eq!(lab.hub().place.read_by_ana(), Some(head + 3));
    ben_says(&mut lab, "ben 5".to_owned());
    settle(&mut lab);

    all_came_once_and_in_order_from_ben(&mut lab, head, 5);
    assert_eq!(lab.hub().place.read_by_ana(), Some(head + 3));
}

fn all_came_once_and_in_order_from_ben(lab: &mut Lab, head: u64, count: u64) {
    let told: Vec<_> = device(lab).news.iter().map(|(_, seq, _)| *seq).collect();
    assert_eq!(told, (head + 1..=head + count).collect::<Vec<_>>());
}
