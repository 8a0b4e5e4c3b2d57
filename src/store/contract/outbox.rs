//! Promises about what other servers are told.
#![expect(
    clippy::indexing_slicing,
    reason = "a list of another length is a promise that is not kept"
)]

use ruma::{OwnedServerName, OwnedUserId};

use super::{Pen, commit, pen::user};
use crate::{
    base::{Position, Seq, Timestamp},
    room::Membership,
    store::{
        DestinationRecord, KeysChange, Mark, OutboxWrite, ReceiptRecord, Residency, RoomNid, Store,
        Write,
    },
};

fn server(name: &str) -> OwnedServerName {
    OwnedServerName::try_from(name).expect("a server name")
}

fn far(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:far.example:8448")).expect("a user id")
}

/// A member event of a user of another server, and what the hub notes with it.
fn member(store: &dyn Store, room: &mut Pen, user: &OwnedUserId, is: Membership, told: bool) {
    room.member(store, user, is);
    room.also(Write::Outbox(OutboxWrite::Residents {
        room: room.nid,
        seq: room.heads.seq,
        servers: vec![user.server_name().to_owned()],
        told,
    }));
}

async fn spans(store: &dyn Store, room: RoomNid) -> Vec<(u64, Option<u64>)> {
    let spans = store.residencies(&server("far.example:8448"), room).await;
    let of = |span: Residency| (span.since.0, span.until.map(|until| until.0));
    spans.expect("read").into_iter().map(of).collect()
}

async fn residents(store: &dyn Store, room: RoomNid) -> Vec<String> {
    let residents = store.residents(room).await.expect("read");
    residents.iter().map(ToString::to_string).collect()
}

async fn near(store: &dyn Store, name: &str, limit: u32) -> Vec<String> {
    let servers = store.neighbour_servers(&user(name), limit).await;
    let servers = servers.expect("read").into_iter();
    servers.map(|server| server.to_string()).collect()
}

/// A server is in a room from its first user's join to its last user's leave.
pub(super) async fn a_server_resides_while_it_has_users(store: &dyn Store) {
    use Membership::{Ban, Invite, Join, Leave};
    let mut room = Pen::new(store, "room");
    room.member(store, &user("ana"), Join);
    member(store, &mut room, &far("bob"), Invite, false);
    commit(store, room.take()).await;
    assert_eq!(spans(store, room.nid).await, []);

    member(store, &mut room, &far("bob"), Join, false);
    member(store, &mut room, &far("cyd"), Join, false);
    room.message(store);
    commit(store, room.take()).await;
    assert_eq!(spans(store, room.nid).await, [(3, None)]);
    assert_eq!(residents(store, room.nid).await, ["far.example:8448"]);
    assert_eq!(near(store, "ana", 9).await, ["far.example:8448"]);
    assert_eq!(near(store, "ana", 0).await, Vec::<String>::new());
    assert_eq!(near(store, "eve", 9).await, Vec::<String>::new());

    // All within one commit, and a name that ends alike is another one.
    member(store, &mut room, &far("bob"), Leave, false);
    member(store, &mut room, &far("cyd"), Ban, false);
    let other = OwnedUserId::try_from("@bob:near.far.example:8448").expect("a user id");
    member(store, &mut room, &other, Join, false);
    commit(store, room.take()).await;
    assert_eq!(spans(store, room.nid).await, [(3, Some(7))]);
    assert_eq!(residents(store, room.nid).await, ["near.far.example:8448"]);
    assert_eq!(near(store, "ana", 9).await, ["near.far.example:8448"]);

    member(store, &mut room, &far("bob"), Join, false);
    commit(store, room.take()).await;
    assert_eq!(spans(store, room.nid).await, [(3, Some(7)), (9, None)]);
}

/// One who only waited outside is told once, and does not reside.
pub(super) async fn who_waited_outside_is_told_once(store: &dyn Store) {
    let mut room = Pen::new(store, "room");
    member(store, &mut room, &far("bob"), Membership::Invite, false);
    member(store, &mut room, &far("bob"), Membership::Leave, true);
    commit(store, room.take()).await;

    assert_eq!(spans(store, room.nid).await, [(2, Some(2))]);
    assert_eq!(residents(store, room.nid).await, Vec::<String>::new());
    let backlog = store.backlog(None).await.expect("read");
    assert_eq!(backlog, [(server("far.example:8448"), room.nid)]);
}

/// Many servers that come at once are noted like one after the other.
pub(super) async fn many_servers_come_at_once(store: &dyn Store) {
    let mut room = Pen::new(store, "room");
    let users: Vec<_> = (0..5)
        .map(|n| OwnedUserId::try_from(format!("@u:s{n}.example")).expect("a user id"))
        .collect();
    for user in &users[..4] {
        room.member(store, user, Membership::Join);
    }
    room.member(store, &users[4], Membership::Leave);
    room.also(Write::Outbox(OutboxWrite::Residents {
        room: room.nid,
        seq: Seq(6),
        servers: users
            .iter()
            .map(|user| user.server_name().to_owned())
            .collect(),
        told: false,
    }));
    commit(store, room.take()).await;

    let wanted = ["s0.example", "s1.example", "s2.example", "s3.example"];
    assert_eq!(residents(store, room.nid).await, wanted);
    let span = store.residencies(&server("s1.example"), room.nid).await;
    assert_eq!(
        span.expect("read"),
        [Residency {
            since: Seq(6),
            until: None
        }]
    );
}

/// Where a destination is behind is told from its mark; what it refused and what expired as well.
pub(super) async fn a_mark_tells_what_was_told(store: &dyn Store) {
    let mut room = Pen::new(store, "room");
    let mut quiet = Pen::new(store, "quiet");
    for room in [&mut room, &mut quiet] {
        member(store, room, &far("bob"), Membership::Join, false);
    }
    let mut writes = room.take();
    writes.extend(quiet.take());
    commit(store, writes).await;
    room.message(store);
    room.message(store);
    let position = commit(store, room.take()).await.position;
    let name = server("far.example:8448");

    let all = store.destinations().await.expect("read");
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].server, all[0].mark), (&name, Mark::default()));
    let behind = store.backlog(Some(&name)).await.expect("read");
    assert_eq!(behind.len(), 2);

    let mark = |seq| Mark {
        position,
        room: room.nid,
        seq: Seq(seq),
    };
    let record = DestinationRecord {
        server: name.clone(),
        mark: mark(2),
        beside: Position(7),
        failing_since: Some(Timestamp(9)),
    };
    commit(
        store,
        vec![Write::Outbox(OutboxWrite::Destination(record.clone()))],
    )
    .await;
    assert_eq!(
        store.destinations().await.expect("read"),
        std::slice::from_ref(&record)
    );
    let behind = store.backlog(Some(&name)).await.expect("read");
    assert_eq!(behind, [(name.clone(), room.nid)]);
    assert_eq!(store.backlog(Some(&server("x"))).await.expect("read"), []);

    let refused = OutboxWrite::Refused {
        server: name.clone(),
        room: room.nid,
        seq: Seq(2),
        reason: "no".to_owned(),
        at: Timestamp(5),
    };
    let expired = OutboxWrite::Expired {
        server: name.clone(),
        from: mark(2),
        to: mark(3),
        at: Timestamp(5),
    };
    let passed = OutboxWrite::Destination(DestinationRecord {
        mark: Mark::after(position),
        ..record
    });
    let writes = [refused, expired, passed].map(Write::Outbox);
    commit(store, writes.to_vec()).await;
    assert_eq!(store.backlog(None).await.expect("read"), []);
    let withheld = |from, to| {
        Write::Outbox(OutboxWrite::Withheld {
            server: name.clone(),
            room: room.nid,
            from: Seq(from),
            to: Seq(to),
            at: Timestamp(5),
        })
    };
    let is_withheld = async |seq| {
        let found = store.deliveries(room.nid, Seq(seq)).await.expect("read");
        found[0].withheld
    };
    commit(store, vec![withheld(2, 2)]).await;
    assert!(!is_withheld(1).await && is_withheld(2).await && !is_withheld(3).await);
    commit(store, vec![withheld(2, 3)]).await;
    commit(store, vec![withheld(2, 2)]).await;
    assert!(!is_withheld(1).await && is_withheld(2).await && is_withheld(3).await);
    let tell = async |seq| {
        let found = store.deliveries(room.nid, Seq(seq)).await.expect("read");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].mark, Mark::after(position));
        (found[0].refused.clone(), found[0].expired)
    };
    assert_eq!(tell(1).await, (None, false));
    assert_eq!(tell(2).await, (Some("no".to_owned()), false));
    assert_eq!(tell(3).await, (None, true));
    assert_eq!(lost(store, room.nid).await, [2, 3].map(Seq));

    let before = Timestamp(6);
    let forget = OutboxWrite::ForgetFailures { before };
    commit(store, vec![Write::Outbox(forget)]).await;
    assert_eq!(tell(2).await, (None, false));
    assert_eq!(tell(3).await, (None, false));
    assert!(!is_withheld(2).await);
    assert_eq!(lost(store, room.nid).await, []);
}

async fn lost(store: &dyn Store, room: RoomNid) -> Vec<Seq> {
    assert_eq!(store.lost(room, &[]).await.expect("read"), []);
    let seqs = [1, 2, 3, 99].map(Seq);
    store.lost(room, &seqs).await.expect("read")
}

/// Parcels are kept in order until they are told.
pub(super) async fn parcels_wait_in_order(store: &dyn Store) {
    let to = server("far.example");
    let parcel = |text: &str| Write::Parcel {
        to: to.clone(),
        edu: format!("\"{text}\""),
        at: Timestamp(4),
    };
    commit(store, vec![parcel("b"), parcel("a")]).await;
    commit(store, vec![parcel("c")]).await;
    let other = Write::Parcel {
        to: server("other"),
        edu: "1".to_owned(),
        at: Timestamp(4),
    };
    commit(store, vec![other]).await;

    let start = (Position::ZERO, 0);
    let waiting = store.parcels(&to, start, 9).await.expect("read");
    let texts: Vec<_> = waiting.iter().map(|one| one.edu.as_str()).collect();
    assert_eq!(texts, ["\"b\"", "\"a\"", "\"c\""]);
    assert_eq!(waiting[0].at, Timestamp(4));
    let second = waiting[1].place;
    let rest = store.parcels(&to, second, 9).await.expect("read");
    assert_eq!(rest, [waiting[2].clone()]);
    assert_eq!(store.parcels(&to, start, 1).await.expect("read").len(), 1);
    assert_eq!(store.destinations().await.expect("read").len(), 2);

    let sent = OutboxWrite::ParcelsSent {
        to: to.clone(),
        upto: second,
    };
    commit(store, vec![Write::Outbox(sent)]).await;
    assert_eq!(store.parcels(&to, start, 9).await.expect("read"), rest);
}

/// Relays, receipts and changed devices are found by those they are for.
pub(super) async fn what_is_beside_the_logs_is_found(store: &dyn Store) {
    let ana = user("ana");
    let mut room = Pen::new(store, "room");
    let mut own = Pen::new(store, "own");
    member(store, &mut room, &far("bob"), Membership::Join, false);
    room.member(store, &ana, Membership::Join);
    own.member(store, &user("cyd"), Membership::Join);
    for seq in [1, 3] {
        let seq = Seq(seq);
        let relay = OutboxWrite::Relay {
            room: room.nid,
            seq,
        };
        room.also(Write::Outbox(relay));
    }
    let mut writes = room.take();
    writes.extend(own.take());
    let first = commit(store, writes).await.position;
    let relayed = store.relayed(room.nid, Seq(1), Seq(2)).await.expect("read");
    assert_eq!(relayed, [Seq(1)]);

    let changed = |user: OwnedUserId| Write::DevicesChanged {
        user,
        what: KeysChange::Device("PHONE".into()),
    };
    let receipt = Write::Receipt {
        room: room.nid,
        receipt: ReceiptRecord {
            user: ana.clone(),
            kind: "m.read".to_owned(),
            thread: String::new(),
            event: ruma::owned_event_id!("$event"),
            at: Timestamp(1),
            position: Position::ZERO,
        },
    };
    let writes = vec![changed(ana.clone()), changed(user("cyd")), receipt];
    let second = commit(store, writes).await.position;
    let name = server("far.example:8448");
    let devices = store.devices_changed_for(&name, first, second).await;
    let phone = KeysChange::Device("PHONE".into());
    assert_eq!(devices.expect("read"), [(second, ana, phone)]);
    let none = store.devices_changed_for(&name, second, second).await;
    assert_eq!(none.expect("read"), []);
    let rooms = store.receipt_rooms(&name, first).await.expect("read");
    assert_eq!(rooms, [room.nid]);
    let rooms = store.receipt_rooms(&name, second).await.expect("read");
    assert_eq!(rooms, []);
}
