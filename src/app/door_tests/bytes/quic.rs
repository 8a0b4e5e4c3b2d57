//! What a device pays by QUIC, and where each byte of it goes.

use std::{sync::mpsc, time::Duration};

use super::{
    Costs, TEXT, alias, append, assert_is_the_message, elided,
    radio::HEADERS,
    sent,
    world::{Doors, World, der, ed25519, spki},
};
use crate::{
    client::{
        Cost,
        quic::{Quic, QuicSession},
        thin::{Answer, Ask},
    },
    wire::thin::{Draft, decode_records},
};

/// Now and then QUIC skips a packet number or says how many more streams there may be: of so many times
/// the middle one counts.
const TRIES: usize = 9;

/// Exchanges after which stream ids and acknowledged packet numbers have two bytes, and for
/// 4000 exchanges no more.
const WARM: usize = 70;

/// Exchanges after each of which the hub says how many more streams there may be.
const STREAMS_ANNOUNCED: usize = 128 / 8 + 1;

/// The answer's acknowledgement states how long the hub took: no time here, where it has one byte. It has
/// another one above half a millisecond.
const DELAY_BYTE: u64 = 1;

const fn both(cost: Cost) -> u64 {
    cost.up + cost.down + HEADERS * (cost.datagrams_up + cost.datagrams_down)
}

/// Holds the clock while it lives: however long something takes on a busy machine, it takes no time.
struct Held(mpsc::Sender<()>);

impl Held {
    fn new() -> Self {
        let (held, ended) = mpsc::channel();
        tokio::time::pause();
        tokio::task::spawn_blocking(move || ended.recv()); // while it runs, time does not go by
        Self(held)
    }

    /// More than a second goes by, in which all is acknowledged. Of the clock's time, not ours.
    async fn a_while(self) {
        drop(self.0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        tokio::time::resume();
    }
}

/// What an exchange costs after a silence.
struct Exchanged {
    /// Before anything else is sent.
    request: Cost,
    whole: Cost,
    /// Acknowledgements up and down.
    acks: [u64; 2],
    /// Whether it was said how many more streams there may be.
    streams_announced: bool,
    answer: Answer,
}

async fn exchanged(session: &QuicSession, ask: &Ask) -> Exchanged {
    let frames = || {
        let stats = session.raw().stats();
        let streams = stats.frame_rx.max_streams_bidi;
        (stats.frame_tx.acks, stats.frame_rx.acks, streams)
    };
    let (before, was) = (session.cost(), frames());
    let held = Held::new();
    let response = session.exchange(&ask.request()).await.unwrap();
    let request = session.cost() - before;
    held.a_while().await;
    let is = frames();
    Exchanged {
        request,
        whole: session.cost() - before,
        acks: [is.0 - was.0, is.1 - was.1],
        streams_announced: is.2 > was.2,
        answer: ask.read(response).unwrap(),
    }
}

/// A connection that has been used.
async fn warm(world: &mut World, doors: &Doors) -> QuicSession {
    let key = ed25519();
    world.linked(Some(spki(&key))).await;
    let quic = Quic::new(doors.quic, &doors.spki, &der(&key)).unwrap();
    let session = quic.connect().await.unwrap();
    let named = session.exchange(&alias(world).request()).await.unwrap();
    assert_eq!(&named.payload[..], [0]);
    for _ in 0..WARM {
        session.exchange(&Ask::Hello.request()).await.unwrap();
    }
    Held::new().a_while().await;
    session
}

pub(super) async fn over_quic(world: &mut World, doors: &Doors) -> Costs {
    let session = warm(world, doors).await;
    let mut sends = [const { Vec::new() }; 4];
    let mut reactions = Vec::new();
    for turn in 0..TRIES {
        for (costs, ask) in sends.iter_mut().zip(sent(0)) {
            let exchanged = exchanged(&session, &again(ask, turn)).await;
            costs.push(both(exchanged.whole) + DELAY_BYTE);
            reactions.push(both(Cost {
                down: 0,
                datagrams_down: 0,
                ..exchanged.request
            }));
        }
    }
    let [plain, encrypted, full, _] = sends.map(middle);
    let reactions = reactions.into_iter().skip(3).step_by(4);

    let inbox = Ask::Inbox {
        after: None,
        bytes_max: None,
        observe: true,
    };
    let mut observed = session.observe(&inbox.request()).await.unwrap();
    let first = observed.next().await.unwrap().unwrap();
    assert!(first.observing, "{first:?}");
    Held::new().a_while().await;
    let mut pushes = Vec::new();
    for _ in 0..TRIES {
        let before = session.cost();
        let held = Held::new();
        world.says(elided(TEXT.len())).await;
        let news = observed.next().await.unwrap().unwrap();
        assert_is_the_message(&decode_records(&news.payload).unwrap());
        held.a_while().await;
        pushes.push(both(session.cost() - before));
    }
    Costs {
        plain,
        encrypted,
        full,
        reaction_up: middle(reactions.collect()),
        push: middle(pushes),
    }
}

fn middle<T: Ord + Copy>(mut costs: Vec<T>) -> T {
    costs.sort_unstable();
    costs[costs.len() / 2]
}

/// The same once more, as another draft.
fn again(ask: Ask, turn: usize) -> Ask {
    let Ask::Append { room, draft } = ask else {
        return ask;
    };
    let mut draft = Draft::decode(&draft).unwrap();
    draft.counter += 10 * u64::try_from(turn).unwrap();
    Ask::Append {
        room,
        draft: draft.encode().into(),
    }
}

/// Of each packet: its first byte, its number, the tag. Up, the hub's connection id, too.
const PACKET: u64 = 1 + 1 + 16;
const HUB_ID: u64 = 3;

/// Before a message of 64 bytes or more, and before a shorter one: type, stream id, length.
const STREAM: u64 = 1 + 2 + 2;
const SHORT_STREAM: u64 = 1 + 2 + 1;

/// An acknowledgement: type, packet number, delay, and that it is one packet.
const ACK: u64 = 1 + 2 + 2 + 2;

/// Len and TKL, code, path and marker; head byte, counter; the ciphertext.
const REQUEST: u64 = 1 + 1 + 2 + 1 + 3 + 134;

/// Len and TKL, code, marker; a seq.
const ANSWER: u64 = 1 + 1 + 1 + 2;

#[tokio::test]
async fn each_byte_of_an_exchange_has_its_use() {
    let mut world = World::new().await;
    let doors = Doors::open(&world, 10).await;
    let session = warm(&mut world, &doors).await;

    let mut all = Vec::new();
    for turn in 0..2 * STREAMS_ANNOUNCED {
        let ask = append(0, 300, elided(TEXT.len()));
        let exchanged = exchanged(&session, &again(ask, turn)).await;
        assert!(matches!(exchanged.answer, Answer::Appended { .. }));
        all.push(exchanged);
    }
    let most = |of: fn(&Exchanged) -> u64| middle(all.iter().map(of).collect());

    // a request has no acknowledgement, an answer has one, and is acknowledged by itself
    let datagrams = [
        most(|e| e.whole.datagrams_up),
        most(|e| e.whole.datagrams_down),
    ];
    assert_eq!(datagrams, [2, 1]);
    assert_eq!([most(|e| e.acks[0]), most(|e| e.acks[1])], [1, 1]);
    let request = PACKET + HUB_ID + STREAM + REQUEST;
    assert_eq!(most(|e| e.request.up), request);
    assert_eq!(most(|e| e.whole.up), request + PACKET + HUB_ID + ACK);
    let answer = PACKET + ACK - DELAY_BYTE + SHORT_STREAM + ANSWER;
    assert_eq!(most(|e| e.whole.down), answer);

    // a word on streams now and then does not break the budget
    let often = u64::try_from(STREAMS_ANNOUNCED).unwrap();
    let announced = all.iter().filter(|e| e.streams_announced);
    assert_eq!(announced.clone().count(), 2);
    let announced = announced.map(|e| both(e.whole)).min().unwrap();
    let sum = (often - 1) * most(|e| both(e.whole)) + announced + often * DELAY_BYTE;
    println!(
        "with a word on streams {announced} bytes, {} on average",
        sum / often
    );
    assert!(sum <= often * 322, "{sum} bytes in {often} exchanges");
}
