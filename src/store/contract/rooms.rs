//! Promises about logs, names and memberships.

use std::{collections::BTreeMap, sync::Arc};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedUserId};

use super::{
    Pen, commit, commit_wrong,
    pen::{entry, hash, user},
    try_commit,
};
use crate::{
    base::{ChainHash, EventHash, Position, Seq, Timestamp},
    room::{Membership, StateKey},
    store::{
        Batch, Logged, NewLogged, Order, PolicyDecision, ReceiptRecord, RoomNid, SentBy, Store,
        TxnAnswer, TxnKey, Write,
    },
    wire::matrix::event_id,
};

pub(super) async fn a_log_is_read_back_in_order(store: &dyn Store) {
    let mut room = Pen::new(store, "log");
    let mut nids = Vec::new();
    // More than the largest statement, and not a multiple of it.
    for _ in 0..150 {
        nids.push(room.message(store));
    }
    let mut event = room.event(store, "m.room.message", None);
    event.sent_by = Some(SentBy {
        device: "PHONE".into(),
        txn: "t1".to_owned(),
    });
    let sent_by = event.sent_by.clone();
    nids.push(room.append(event));
    let done = commit(store, room.take()).await;

    let stored = store.room(&room.id).await.expect("read").expect("stored");
    assert_eq!(stored.heads, room.heads);
    assert_eq!(stored.state, room.state);
    assert_eq!(stored.position, done.position);
    assert_eq!(
        store.room_by_nid(room.nid).await.expect("read"),
        Some(stored)
    );

    let all = Seq(151);
    let log = store
        .log(room.nid, Seq::ZERO, all, Order::Forward, 1000)
        .await
        .expect("read");
    let told: Vec<_> = log
        .iter()
        .map(|entry| match &entry.what {
            Logged::Event(event) => {
                assert_eq!(event.seq, Some(entry.seq));
                (entry.seq, event.nid)
            }
            Logged::Marker(_) => panic_at("a marker"),
        })
        .collect();
    let wanted: Vec<_> = (1..).map(Seq).zip(nids.iter().copied()).collect();
    assert_eq!(told, wanted);
    assert_eq!(log.last().map(|entry| entry.chain), Some(room.heads.chain));

    let back = store
        .log(room.nid, Seq(3), Seq(9), Order::Backward, 2)
        .await
        .expect("read");
    let seqs: Vec<_> = back.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, [9, 8]);

    let last = *nids.last().expect("there are many");
    let event = store
        .event(hash(last))
        .await
        .expect("read")
        .expect("stored");
    assert_eq!((event.nid, &event.sent_by), (last, &sent_by));
    let first = *nids.first().expect("there are many");
    let missing = crate::store::EventNid(i64::MAX);
    let some = store.events(&[last, missing, first]).await.expect("read");
    let some: Vec<_> = some.iter().map(|event| event.nid).collect();
    assert_eq!(some, [last, first]);
}

#[expect(clippy::panic, reason = "the suite panics when a promise is not kept")]
fn panic_at(what: &str) -> ! {
    panic!("{what} where none was written")
}

pub(super) async fn positions_rise_by_one(store: &dyn Store) {
    assert_eq!(store.position().await.expect("read"), Position::ZERO);
    let mut room = Pen::new(store, "positions");
    for n in 1..=5 {
        room.message(store);
        let done = commit(store, room.take()).await;
        assert_eq!(done.position, Position(n));
        assert_eq!(store.position().await.expect("read"), Position(n));
    }
    let log = store
        .log(room.nid, Seq::ZERO, Seq(5), Order::Forward, 9)
        .await
        .expect("read");
    let told: Vec<_> = log.iter().map(|entry| entry.position.0).collect();
    assert_eq!(told, [1, 2, 3, 4, 5]);
    let totals = store.totals().await.expect("read");
    assert_eq!((totals.rooms, totals.events, totals.users), (1, 5, 0));
}

pub(super) async fn seq_at_is_the_last_entry_of_a_position(store: &dyn Store) {
    let mut rng = StdRng::seed_from_u64(3);
    let mut room = Pen::new(store, "search");
    let mut other = Pen::new(store, "other");
    let mut model = vec![0];
    for _ in 0..40 {
        let count = rng.random_range(0..4);
        for _ in 0..count {
            room.message(store);
        }
        let writes = if count == 0 {
            other.message(store);
            other.take()
        } else {
            room.take()
        };
        commit(store, writes).await;
        model.push(room.heads.seq.0);
    }
    for (position, seq) in model.iter().enumerate() {
        let position = Position(position as u64);
        let found = store.seq_at(room.nid, position).await.expect("read");
        assert_eq!(found, Seq(*seq), "at {position}");
    }
    let late = store.seq_at(room.nid, Position(1000)).await.expect("read");
    assert_eq!(late, room.heads.seq);
    let nowhere = store.seq_at(RoomNid(99), Position(1)).await.expect("read");
    assert_eq!(nowhere, Seq::ZERO);
}

pub(super) async fn a_conflict_leaves_no_trace(store: &dyn Store) {
    let ana = user("ana");
    let mut taken = Pen::new(store, "taken");
    taken.message(store);
    taken.also(alias_write("taken", taken.nid, &ana));
    commit(store, taken.take()).await;

    let mut before = Pen::new(store, "before");
    before.message(store);
    let mut refused = Pen::new(store, "refused");
    let lost = refused.message(store);
    refused.member(store, &ana, Membership::Join);
    refused.also(alias_write("taken", refused.nid, &ana));
    let mut after = Pen::new(store, "after");
    after.message(store);
    after.also(alias_write("after", after.nid, &ana));
    let batches = [
        (&mut before, false),
        (&mut refused, true),
        (&mut after, true),
    ]
    .map(|(pen, may_conflict)| Batch {
        writes: pen.take(),
        may_conflict,
    });
    let done = store.commit(&batches).await.expect("stored");

    let outcomes: Vec<_> = done.outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(outcomes, [true, false, true]);
    let room = |pen: &Pen| (pen.id.clone(), pen.heads.clone());
    for (id, heads) in [room(&before), room(&after)] {
        let stored = store.room(&id).await.expect("read").expect("stored");
        assert_eq!(stored.heads, heads);
    }
    assert_eq!(store.room(&refused.id).await.expect("read"), None);
    assert_eq!(store.event(hash(lost)).await.expect("read"), None);
    assert_eq!(
        store.membership(&ana, refused.nid).await.expect("read"),
        None
    );
    let alias = store
        .alias(&alias("taken"))
        .await
        .expect("read")
        .expect("kept");
    assert_eq!(alias.room, taken.nid);
    let totals = store.totals().await.expect("read");
    assert_eq!((totals.rooms, totals.events), (3, 3));
}

pub(super) async fn a_commit_that_contradicts_itself_stores_nothing(store: &dyn Store) {
    let mut room = Pen::new(store, "wrong");
    room.message(store);
    commit(store, room.take()).await;

    let mut gap = room.clone();
    gap.heads.seq = Seq(2);
    gap.message(store);
    commit_wrong(store, gap.take()).await;

    let mut again = room.clone();
    again.heads.seq = Seq::ZERO;
    again.message(store);
    commit_wrong(store, again.take()).await;

    let mut unknown = Pen::new(store, "unknown");
    unknown.message(store);
    let without_room = unknown.take().split_off(1);
    commit_wrong(store, without_room).await;

    let mut headless = room.clone();
    headless.message(store);
    let mut writes = headless.take();
    writes.pop();
    commit_wrong(store, writes).await;

    let no_event = crate::store::EventNid(i64::MAX);
    let chain = ChainHash([0; 32]);
    let mut lost = room.clone();
    lost.also(entry(room.nid, Seq(2), chain, NewLogged::Event(no_event)));
    lost.heads.seq = Seq(2);
    commit_wrong(store, lost.take()).await;

    // The store works as before.
    room.message(store);
    let done = commit(store, room.take()).await;
    assert_eq!(done.position, Position(2));
}

pub(super) async fn a_txn_gets_its_first_answer(store: &dyn Store) {
    let key = |txn: &str| TxnKey {
        user: user("ana"),
        device: "PHONE".into(),
        endpoint: "send !r m.room.message".to_owned(),
        txn: txn.to_owned(),
    };
    let mut room = Pen::new(store, "txn");
    let event = room.message(store);
    let answer = TxnAnswer::Event(event_id(hash(event)));
    room.also(Write::Txn {
        key: Arc::new(key("old")),
        answer: answer.clone(),
        at: Timestamp(10),
    });
    room.also(Write::Txn {
        key: Arc::new(key("new")),
        answer: TxnAnswer::Done,
        at: Timestamp(20),
    });
    commit(store, room.take()).await;
    assert_eq!(store.txn(&key("old")).await.expect("read"), Some(answer));
    assert_eq!(
        store.txn(&key("new")).await.expect("read"),
        Some(TxnAnswer::Done)
    );
    assert_eq!(store.txn(&key("none")).await.expect("read"), None);

    let before = Timestamp(20);
    commit(store, vec![Write::ForgetTxns { before }]).await;
    assert_eq!(store.txn(&key("old")).await.expect("read"), None);
    assert_eq!(
        store.txn(&key("new")).await.expect("read"),
        Some(TxnAnswer::Done)
    );
}

pub(super) async fn the_first_decision_on_an_event_stays_until_it_is_old(store: &dyn Store) {
    let (signed, refused) = (EventHash([1; 32]), EventHash([2; 32]));
    let decided = |event, why: Option<&str>, at| Write::PolicyDecided {
        event,
        refused: why.map(str::to_owned),
        at: Timestamp(at),
    };
    let told = async |event| store.policy_decision(event).await.expect("read");
    assert_eq!(told(signed).await, None);
    commit(
        store,
        vec![decided(signed, None, 10), decided(refused, Some("no"), 20)],
    )
    .await;
    commit(
        store,
        vec![decided(signed, Some("no"), 30), decided(refused, None, 30)],
    )
    .await;
    assert_eq!(told(signed).await, Some(PolicyDecision { refused: None }));
    let no = Some("no".to_owned());
    assert_eq!(told(refused).await, Some(PolicyDecision { refused: no }));
    let before = Timestamp(20);
    commit(store, vec![Write::ForgetPolicyDecisions { before }]).await;
    assert_eq!(told(signed).await, None);
    assert!(told(refused).await.is_some());
}

pub(super) async fn redaction_keeps_the_hash(store: &dyn Store) {
    let mut room = Pen::new(store, "redact");
    let event = room.message(store);
    commit(store, room.take()).await;
    let because = room.message(store);
    let redact = |event| Write::Redact {
        event,
        because,
        json: "{}".to_owned(),
    };
    room.also(redact(event));
    // Also one that is written in the same commit.
    let fresh = room.message(store);
    room.also(redact(fresh));
    commit(store, room.take()).await;
    for nid in [event, fresh] {
        let stored = store.event(hash(nid)).await.expect("read").expect("kept");
        assert_eq!(stored.nid, nid);
        assert_eq!(stored.redacted_because, Some(because));
        assert_eq!(&*stored.json, "{}");
    }
    commit_wrong(store, vec![redact(crate::store::EventNid(i64::MAX))]).await;
}

fn alias(name: &str) -> OwnedRoomAliasId {
    OwnedRoomAliasId::try_from(format!("#{name}:hub.example")).expect("an alias")
}

fn alias_write(name: &str, room: RoomNid, creator: &OwnedUserId) -> Write {
    Write::NewAlias {
        alias: alias(name),
        room,
        creator: creator.clone(),
    }
}

pub(super) async fn an_alias_names_one_room(store: &dyn Store) {
    let ana = user("ana");
    let mut room = Pen::new(store, "alias");
    commit(store, room.take()).await;
    assert!(try_commit(store, vec![alias_write("b", room.nid, &ana)]).await);
    assert!(try_commit(store, vec![alias_write("a", room.nid, &ana)]).await);
    assert!(!try_commit(store, vec![alias_write("a", room.nid, &ana)]).await);
    let names = store.aliases(room.nid).await.expect("read");
    let told: Vec<_> = names.iter().map(|known| known.alias.clone()).collect();
    assert_eq!(told, [alias("a"), alias("b")]);
    let known = store.alias(&alias("a")).await.expect("read").expect("kept");
    assert_eq!((known.room_id, known.creator), (room.id.clone(), ana));

    let remove = || vec![Write::RemoveAlias { alias: alias("a") }];
    assert!(try_commit(store, remove()).await);
    assert!(!try_commit(store, remove()).await);
    assert_eq!(store.alias(&alias("a")).await.expect("read"), None);
}

pub(super) async fn a_receipt_replaces_its_elder(store: &dyn Store) {
    let mut room = Pen::new(store, "receipts");
    commit(store, room.take()).await;
    let receipt = |name: &str, kind: &str, thread: &str, event: &str| Write::Receipt {
        room: room.nid,
        receipt: ReceiptRecord {
            user: user(name),
            kind: kind.to_owned(),
            thread: thread.to_owned(),
            event: OwnedEventId::try_from(event).expect("an event id"),
            at: Timestamp(1),
            position: Position(999), // the commit's counts, not this
        },
    };
    let first = commit(
        store,
        vec![
            receipt("ana", "m.read", "", "$one"),
            receipt("ana", "m.read", "main", "$one"),
            receipt("bob", "m.read", "", "$one"),
        ],
    )
    .await;
    let second = commit(
        store,
        vec![
            receipt("ana", "m.read", "", "$two"),
            receipt("ana", "m.read", "", "$three"),
        ],
    )
    .await;
    let new = store
        .receipts(room.nid, first.position)
        .await
        .expect("read");
    let told: Vec<_> = new
        .iter()
        .map(|receipt| (receipt.event.as_str(), receipt.position))
        .collect();
    assert_eq!(told, [("$three", second.position)]);
    assert_eq!(
        store
            .receipts(room.nid, Position::ZERO)
            .await
            .expect("read")
            .len(),
        3
    );
    let of_ana = store
        .receipts_of(room.nid, &user("ana"))
        .await
        .expect("read");
    let told: Vec<_> = of_ana
        .iter()
        .map(|receipt| (receipt.thread.as_str(), receipt.event.as_str()))
        .collect();
    assert_eq!(told, [("", "$three"), ("main", "$one")]);
}

pub(super) async fn the_directory_lists_large_rooms_first(store: &dyn Store) {
    let (ana, bob) = (user("ana"), user("bob"));
    let mut rooms: Vec<Pen> = (0..5).map(|n| Pen::new(store, &format!("d{n}"))).collect();
    for (n, room) in rooms.iter_mut().enumerate() {
        room.member(store, &ana, Membership::Join);
        if n == 2 {
            room.member(store, &bob, Membership::Join);
        } else {
            room.member(store, &bob, Membership::Invite);
        }
        commit(store, room.take()).await;
    }
    let nids: Vec<RoomNid> = rooms.iter().map(|room| room.nid).collect();
    let put = |nth: usize, listed| {
        let room = nids.get(nth).copied().expect("one of the rooms");
        vec![Write::Listed { room, listed }]
    };
    for nth in [3, 1, 2, 0, 1] {
        commit(store, put(nth, true)).await;
    }
    commit(store, put(0, false)).await;
    let empty = store.numbers().room();
    let lost = vec![Write::Listed {
        room: empty,
        listed: true,
    }];
    commit(store, lost).await;
    let mut told = Vec::new();
    let mut after = None;
    loop {
        let page = store.listed(after, 2).await.expect("read");
        let Some(end) = page.last() else { break };
        after = Some((end.joined, end.room.nid));
        told.extend(page.iter().map(|listed| (listed.room.nid, listed.joined)));
    }
    let wanted = [2, 1, 3].map(|nth| nids.get(nth).copied().expect("one of the rooms"));
    let [large, older, newer] = wanted;
    assert_eq!(told, [(large, 2), (older, 1), (newer, 1)]);
    for (nth, nid) in nids.iter().enumerate() {
        let listed = store.is_listed(*nid).await.expect("read");
        assert_eq!(listed, (1..4).contains(&nth), "{nth}");
    }
}

pub(super) async fn memberships_since_equal_a_model(store: &dyn Store) {
    const KINDS: [Membership; 5] = [
        Membership::Join,
        Membership::Invite,
        Membership::Leave,
        Membership::Ban,
        Membership::Knock,
    ];
    let mut rng = StdRng::seed_from_u64(7);
    let users = ["ana", "bob", "cid"].map(user);
    let mut rooms: Vec<Pen> = (0..6).map(|n| Pen::new(store, &format!("m{n}"))).collect();
    for room in &mut rooms {
        commit(store, room.take()).await;
    }
    let mut model: BTreeMap<(OwnedUserId, RoomNid), (Membership, Position, bool)> = BTreeMap::new();
    let mut room_positions: BTreeMap<RoomNid, Position> = BTreeMap::new();
    for _ in 0..60 {
        let room = pick(&mut rng, &mut rooms);
        let mut who = users.clone();
        let who = pick(&mut rng, &mut who).clone();
        let next = store.position().await.expect("read").next();
        match rng.random_range(0..4) {
            0 => {
                room.message(store);
                commit(store, room.take()).await;
                room_positions.insert(room.nid, next);
            }
            1 => {
                commit(
                    store,
                    vec![Write::Forget {
                        user: who.clone(),
                        room: room.nid,
                    }],
                )
                .await;
                if let Some(known) = model.get_mut(&(who, room.nid)) {
                    known.2 = true;
                }
            }
            _ => {
                let mut kinds = KINDS;
                let membership = *pick(&mut rng, &mut kinds);
                room.member(store, &who, membership);
                commit(store, room.take()).await;
                room_positions.insert(room.nid, next);
                model.insert((who, room.nid), (membership, next, false));
            }
        }
        for user in &users {
            let last = store.position().await.expect("read").0;
            let since = Position(rng.random_range(0..=last));
            for since in [None, Some(since), Some(Position(last))] {
                let told = store.memberships(user, since).await.expect("read");
                let told: Vec<_> = told
                    .iter()
                    .map(|m| (m.room, m.membership, m.position, m.room_position))
                    .collect();
                let wanted: Vec<_> = model
                    .iter()
                    .filter(|((whose, _), _)| whose == user)
                    .filter(|((_, room), (_, position, forgotten))| match since {
                        None => !forgotten,
                        Some(since) => {
                            let of_room = room_positions.get(room).copied().unwrap_or_default();
                            *position > since || (!forgotten && of_room > since)
                        }
                    })
                    .map(|((_, room), (membership, position, _))| {
                        let told = room_positions.get(room).copied().unwrap_or_default();
                        (*room, *membership, *position, told)
                    })
                    .collect();
                assert_eq!(told, wanted, "{user} since {since:?}");
            }
        }
    }
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a mut [T]) -> &'a mut T {
    let index = rng.random_range(0..from.len());
    from.get_mut(index).expect("the index is in range")
}

pub(super) async fn sharing_a_room_makes_neighbours(store: &dyn Store) {
    let [ana, bob, cid, dan] = ["ana", "bob", "cid", "dan"].map(user);
    let far = OwnedUserId::try_from("@far:elsewhere.example").expect("a user id");
    let mut room = Pen::new(store, "n1");
    for user in [&ana, &bob, &far] {
        room.member(store, user, Membership::Join);
    }
    room.member(store, &cid, Membership::Invite);
    commit(store, room.take()).await;
    let mut other = Pen::new(store, "n2");
    other.member(store, &dan, Membership::Join);
    commit(store, other.take()).await;

    let joined = store.joined(room.nid, None).await.expect("read");
    assert_eq!(joined, [ana.clone(), bob.clone(), far.clone()]);
    let elsewhere = ruma::OwnedServerName::try_from("elsewhere.example").expect("a name");
    let joined = store
        .joined(room.nid, Some(&elsewhere))
        .await
        .expect("read");
    assert_eq!(joined, std::slice::from_ref(&far));
    let mut near = store.neighbours(&ana, 10).await.expect("read");
    near.sort();
    assert_eq!(near, [bob.clone(), far]);
    assert_eq!(store.neighbours(&ana, 1).await.expect("read").len(), 1);
    assert!(store.share_a_room(&ana, &bob).await.expect("read"));
    assert!(!store.share_a_room(&ana, &cid).await.expect("read"));
    assert!(!store.share_a_room(&ana, &dan).await.expect("read"));
    let member = StateKey::member(&cid);
    let current = store.current(room.nid, &[member]).await.expect("read");
    assert!(matches!(current.as_slice(), [Some(_)]));
}
