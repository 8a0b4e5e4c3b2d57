//! The byte budget: what each operation costs a linked device on each door, on captured datagrams.
//!
//! Bytes of IPv4, with IP and UDP headers; request and answer together unless the row says up. The
//! kid and the partial IV have two bytes, the token one, the room's alias one, counters and seqs
//! two. Until groups exist, an MLS message is bytes of an MLS message's size. What is reached is in
//! the README, and a byte more (or less) fails.

mod quic;
mod radio;
mod world;

use std::{fmt::Write as _, fs, path::Path};

use self::{
    quic::over_quic,
    radio::{Device, Dtls, HEADERS, Oscore, Radio},
    world::{Doors, World, group},
};
use crate::{
    client::thin::{Answer, Ask},
    wire::thin::{Alias, Body, Draft, NameKind, Record, Shown},
};

/// A text of 22 characters.
const TEXT: &str = "Meet me at the station";

/// What comes before the ciphertext's content: the epoch's low bits and the sender data.
const ELIDED_HEAD: usize = 1 + 28;

/// What is in a ciphertext besides its text: compact content's two lengths and kind, signature, tag.
const AROUND_TEXT: usize = 1 + 2 + 64 + 16;

/// Sender and room of full MIMI content, and what else it has, beyond compact content.
const FULL_CONTENT: usize = 56 + 61;

/// A reaction in place of a text: eight bytes say to what, four are the emoji.
const REACTION: usize = 8 + 4;

/// An hour of keep-alives, one byte each: a NAT's mapping lives for 120 s.
const KEEP_ALIVES_PER_HOUR: u64 = 3600 / 120;

/// In each of them the inbox is looked at: every half an hour.
const CHECKS_PER_HOUR: u64 = 2;

/// What a device pays on one door.
#[derive(Clone, Copy, Debug)]
struct Costs {
    encrypted: u64,
    full: u64,
    push: u64,
    reaction_up: u64,
    plain: u64,
}

/// What has one way only to be done.
#[derive(Clone, Copy, Debug)]
struct Resumed {
    moved: u64,
    restarted: u64,
    idle_hour: u64,
}

/// An MLS message without what both ends know, around so many bytes of text.
fn elided(text: usize) -> Body {
    let mut bytes = vec![1; ELIDED_HEAD];
    bytes[0] = group().epoch.to_be_bytes()[7];
    bytes.extend(vec![2; AROUND_TEXT + text]);
    Body::MlsElided(bytes)
}

#[test]
fn what_stands_for_mls_messages_has_their_size() {
    let sizes = |text: usize| match elided(text) {
        Body::MlsElided(elided) => (group().rebuild(&elided).unwrap().len(), elided.len()),
        other => panic!("{other:?}"),
    };

    assert_eq!(sizes(TEXT.len()), (167, 134));
    assert_eq!(sizes(TEXT.len() + FULL_CONTENT), (223 + 61, 251));
    assert_eq!(sizes(REACTION), (157, 124));
}

fn append(room: Alias, counter: u64, body: Body) -> Ask {
    let draft = Draft {
        counter,
        target: None,
        read: None,
        body,
    };
    Ask::Append {
        room,
        draft: draft.encode().into(),
    }
}

/// What is sent: from a counter of two bytes on.
fn sent(room: Alias) -> [Ask; 4] {
    [
        append(room, 300, Body::Text(TEXT.to_owned())),
        append(room, 301, elided(TEXT.len())),
        append(room, 302, elided(TEXT.len() + FULL_CONTENT)),
        append(room, 303, elided(REACTION)),
    ]
}

fn alias(world: &World) -> Ask {
    Ask::Alias {
        kind: NameKind::Room,
        text: world.room.to_string(),
    }
}

/// A push is one message, of someone else, with all that a record has.
#[track_caller]
fn assert_is_the_message(records: &[Record]) {
    let [record] = records else {
        panic!("{records:?}")
    };
    let Shown::Entry { seq, body, .. } = &record.what else {
        panic!("{record:?}")
    };
    assert!(record.room.is_some() && *seq >= 128, "{record:?}");
    assert_eq!(*body, elided(TEXT.len()));
}

/// A device whose datagrams are all of its own making.
async fn weighed<D: Device>(radio: &mut Radio<D>, world: &mut World) -> Costs {
    radio.asks(Ask::Hello).await; // handshakes and challenges end here
    let Answer::Alias(room) = radio.asks(alias(world)).await.0 else {
        panic!("no alias")
    };
    assert_eq!(room, 0);
    let mut sends = Vec::new();
    for ask in sent(room) {
        let (answer, weighed) = radio.asks(ask).await;
        assert!(matches!(answer, Answer::Appended { seq: 128.. }));
        sends.push((weighed.of_an_exchange(), weighed.up[0]));
    }
    radio.follows().await;
    world.says(elided(TEXT.len())).await;
    let (records, push) = radio.is_told().await;
    assert_is_the_message(&records);
    Costs {
        plain: sends[0].0,
        encrypted: sends[1].0,
        full: sends[2].0,
        reaction_up: sends[3].1,
        push: push.of_an_exchange(),
    }
}

async fn over_dtls(world: &mut World, doors: &Doors) -> Costs {
    let keys = world.linked(None).await;
    let device = Dtls::new(world.clock().now(), &keys);
    let mut radio = Radio::new(device, doors.coaps, world.clock()).await;
    weighed(&mut radio, world).await
}

async fn over_oscore(mut world: World, doors: Doors) -> (Costs, Resumed) {
    let keys = world.linked(None).await;
    let device = Oscore::new(world.clock().now(), &keys);
    let mut radio = Radio::new(device, doors.coap, world.clock()).await;
    let costs = weighed(&mut radio, &mut world).await;

    let (_, check) = radio.asks(radio.device.check()).await;
    radio.moves(doors.coap).await;
    let (_, moved) = radio.asks(radio.device.check()).await;

    doors.close().await;
    let world = world.restarted().await;
    let doors = Doors::open(&world, 20).await;
    radio.moves(doors.coap).await;
    let (_, restarted) = radio.asks(radio.device.check()).await;
    assert_eq!((restarted.up.len(), restarted.down.len()), (2, 2));
    let resumed = Resumed {
        moved: moved.of_an_exchange(),
        restarted: restarted.all(),
        idle_hour: KEEP_ALIVES_PER_HOUR * (HEADERS + 1) + CHECKS_PER_HOUR * check.of_an_exchange(),
    };
    (costs, resumed)
}

/// A row of the table: what is done, what it costs by OSCORE, DTLS and QUIC, each with its ceiling,
/// and what it costs elsewhere: by lb (low-bandwidth Matrix, MSC3079, over DTLS 1.2 with GCM) and by
/// HTTP/2 and JSON through TLS 1.3 (a homeserver's answers behind a stock server, by a coalescing
/// client and by curl). Both were captured once on loopback, when the budget was made; messages were
/// Megolm's, an idle hour is 120 long-polls of 30 s, and resuming by lb begins with a DTLS handshake.
#[derive(Debug)]
struct Row {
    what: &'static str,
    here: [Option<(u64, u64)>; 3],
    elsewhere: [&'static str; 2],
}

fn rows(oscore: Costs, resumed: Resumed, dtls: Costs, quic: Costs) -> Vec<Row> {
    let three = |what, cost: fn(&Costs) -> u64, ceilings: [u64; 3], elsewhere| {
        let [one, two, three] = ceilings;
        let here = [(oscore, one), (dtls, two), (quic, three)];
        Row {
            what,
            here: here.map(|(door, ceiling)| Some((cost(&door), ceiling))),
            elsewhere,
        }
    };
    let one = |what, cost: u64, ceiling: u64, elsewhere| Row {
        what,
        here: [Some((cost, ceiling)), None, None],
        elsewhere,
    };
    vec![
        three(
            "E2EE text of 22 characters, send and ack, compact content",
            |door| door.encrypted,
            [238, 269, 322],
            ["706", "1073–1417"],
        ),
        three(
            "the same with full MIMI content",
            |door| door.full,
            [354, 385, 438],
            ["–", "–"],
        ),
        three(
            "E2EE text received by push, and ack",
            |door| door.push,
            [223, 268, 263],
            ["1094–1181", "1495–1906"],
        ),
        three(
            "E2EE reaction, up",
            |door| door.reaction_up,
            [179, 192, 186],
            ["–", "–"],
        ),
        three(
            "plain text of 22 characters, send and ack",
            |door| door.plain,
            [125, 156, 210],
            ["307", "872"],
        ),
        one(
            "resume at a new address: is there anything new?",
            resumed.moved,
            111,
            ["1353 and more", "a new TLS handshake"],
        ),
        one(
            "resume after a restart of the hub",
            resumed.restarted,
            235,
            ["1353 and more", "a new TLS handshake"],
        ),
        one(
            "idle for an hour, NAT timer 120 s, a look each 30 min",
            resumed.idle_hour,
            1080,
            ["59 400", "85 320–128 000"],
        ),
    ]
}

const HEAD: &str = "\
| operation | OSCORE | DTLS PSK | QUIC | lb, measured | HTTP/2 JSON, measured |
|---|---|---|---|---|---|
";

fn table(rows: &[Row]) -> String {
    let mut table = HEAD.to_owned();
    for row in rows {
        let number = |cell: Option<(u64, u64)>| match cell {
            Some((cost, _)) => cost.to_string(),
            None => "–".to_owned(),
        };
        let [oscore, dtls, quic] = row.here.map(number);
        let [lb, http] = row.elsewhere;
        let what = row.what;
        writeln!(
            table,
            "| {what} | {oscore} | {dtls} | {quic} | {lb} | {http} |"
        )
        .unwrap();
    }
    table
}

/// What the README has between its markers.
fn published() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let after = readme.split_once("<!-- bytes -->\n");
    let table = after.and_then(|(_, rest)| rest.split_once("<!-- /bytes -->"));
    table.expect("README.md has both markers").0.to_owned()
}

#[tokio::test]
async fn each_operation_costs_what_the_readme_says_and_no_more_than_its_budget() {
    let mut world = World::new().await;
    let doors = Doors::open(&world, 10).await;
    let dtls = over_dtls(&mut world, &doors).await;
    let quic = over_quic(&mut world, &doors).await;
    let (oscore, resumed) = over_oscore(world, doors).await;

    let rows = rows(oscore, resumed, dtls, quic);
    println!("{}", table(&rows));
    for row in &rows {
        let mut cells = row.here.iter().flatten();
        assert!(cells.all(|(cost, ceiling)| cost <= ceiling), "{row:?}");
    }

    let (published, measured) = (published(), table(&rows));
    assert!(
        published == measured,
        "README.md says otherwise between <!-- bytes --> and <!-- /bytes -->; paste:\n{measured}"
    );
}
