//! Rooms that other servers have a part in, over a real store: a room on a table plays them.

use std::sync::Arc;

use ruma::{
    OwnedRoomId,
    api::client::{message::get_message_events, sync::sync_events},
};

use super::{Arrival, Fate, arrive, nothing_yet, weave, weave::Weave};
use crate::{
    base::Seq,
    hub::testing::{self, Person, TestHub},
    room::{
        MemberChange, TIPS_MAX,
        testing::{ANA, BEN, Table, member, message, state},
    },
    store::{Logged, Order, SharedStore, Status, fsck, memory::Memory},
    wire::matrix::{Pdu, Version},
};

const ZOE: &str = "@zoe:hub.example";

/// A room elsewhere, and this hub in it.
struct Far {
    hub: TestHub,
    zoe: Person,
    table: Table,
    room: OwnedRoomId,
    /// How much of the table's log this hub was told.
    told: usize,
}

impl Far {
    async fn joined(version: Version) -> Self {
        let hub = testing::hub().await;
        let zoe = hub.account("zoe").await;
        let mut table = Table::busy(version);
        let state = table.stored.values().cloned().collect();
        let auth_chain = table.log.clone();
        table.take(ZOE, &member(ZOE, MemberChange::Join)).unwrap();
        let room = table.room.id().clone();
        let arrival = Arrival {
            version,
            join: Arc::clone(table.log.last().unwrap()),
            state,
            auth_chain,
        };
        let far = Self {
            told: table.log.len(),
            hub,
            zoe,
            table,
            room,
        };
        arrive(far.store(), &far.hub.hub.writer, &far.room, &arrival)
            .await
            .unwrap();
        far
    }

    fn store(&self) -> &SharedStore {
        self.hub.hub.store()
    }

    /// Tells the hub what is new on the table.
    async fn tell(&mut self) -> Vec<Fate> {
        let new: Vec<_> = self.table.log.iter().skip(self.told).cloned().collect();
        self.told = self.table.log.len();
        self.receive(&new).await
    }

    async fn receive(&self, events: &[Arc<Pdu>]) -> Vec<Fate> {
        let events: Vec<_> = events.iter().cloned().map(Into::into).collect();
        let events = events.as_slice();
        let woven = weave(self.store(), &self.hub.hub.writer, &self.room, events).await;
        woven.unwrap().0
    }

    /// Another branch, that begins where the table stands now.
    fn fork(&self) -> Table {
        Table {
            key: crate::room::testing::key("hub"),
            room: self.table.room.clone(),
            stored: self.table.stored.clone(),
            log: self.table.log.clone(),
            now: self.table.now,
        }
    }

    /// Tells the hub what is new on a branch.
    async fn tell_branch(&self, branch: &Table, from: usize) -> Vec<Fate> {
        let new: Vec<_> = branch.log.iter().skip(from).cloned().collect();
        self.receive(&new).await
    }

    async fn topic(&self) -> Option<String> {
        let record = self.store().room(&self.room).await.unwrap().unwrap();
        let key = crate::room::StateKey::new("m.room.topic", "");
        let found = self.store().current(record.nid, &[key]).await.unwrap();
        let event = found.into_iter().flatten().next()?;
        let event = event.pdu(&record).unwrap();
        Some(event.fields().content.get("topic")?.as_str()?.to_owned())
    }

    async fn must_be_whole(&self) {
        let report = fsck::fsck(&**self.store(), &mut |_| {}).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    }
}

async fn in_each_version(test: impl AsyncFn(Version)) {
    for version in [Version::V10, Version::V11, Version::V12] {
        test(version).await;
    }
}

#[tokio::test]
async fn a_room_joined_elsewhere_is_one_of_ours_from_then_on() {
    in_each_version(async |version| {
        let mut far = Far::joined(version).await;
        let record = far.store().room(&far.room).await.unwrap().unwrap();
        assert_eq!(record.heads.seq, Seq(2), "an arrival and a join");
        assert_eq!(
            usize::try_from(record.state.size),
            Ok(far.table.stored.len())
        );
        far.table.take(BEN, &message("hello")).unwrap();
        far.table
            .take(
                ANA,
                &state("m.room.topic", serde_json::json!({ "topic": "one" })),
            )
            .unwrap();
        assert_eq!(far.tell().await, [Fate::Accepted, Fate::Accepted]);
        assert_eq!(far.topic().await.as_deref(), Some("one"));
        far.must_be_whole().await;
        let request = sync_events::v3::Request::new();
        let news = testing::ask!(far.hub, far.zoe.origin, Sync(request)).unwrap();
        let joined = &news.rooms.join[&far.room];
        assert_eq!(joined.timeline.events.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn while_a_large_room_is_judged_others_have_their_turn() {
    let mut table = Table::busy(Version::V12);
    for n in 0..300 {
        let user = format!("@n{n}:hub");
        let join = member(&user, MemberChange::Join);
        table.take(&user, &join).unwrap();
    }
    let state = table.stored.values().cloned().collect();
    let auth_chain = table.log.clone();
    table.take(ZOE, &member(ZOE, MemberChange::Join)).unwrap();
    let arrival = Arrival {
        version: Version::V12,
        join: Arc::clone(table.log.last().unwrap()),
        state,
        auth_chain,
    };
    // A store that nobody has to wait for.
    let store: SharedStore = Arc::new(Memory::new());
    let record = nothing_yet(&store, table.room.id(), Version::V12);
    let mut weave = Weave::begin(&store, &record).await.unwrap();
    let mut arriving = std::pin::pin!(weave.arrive(&arrival, true));
    let mut turns = 0;
    while futures_util::poll!(arriving.as_mut()).is_pending() {
        turns += 1;
    }
    assert!(turns >= 2, "{turns}");
}

#[tokio::test]
async fn what_is_told_twice_is_known() {
    let mut far = Far::joined(Version::V12).await;
    far.table.take(BEN, &message("hello")).unwrap();
    assert_eq!(far.tell().await, [Fate::Accepted]);
    let again = Arc::clone(far.table.log.last().unwrap());
    assert_eq!(far.receive(&[again]).await, [Fate::Known]);
}

#[tokio::test]
async fn an_event_whose_neighbours_are_unknown_waits_for_them() {
    let mut far = Far::joined(Version::V12).await;
    far.table.take(BEN, &message("one")).unwrap();
    far.table.take(BEN, &message("two")).unwrap();
    let [.., one, two] = far.table.log.as_slice() else {
        panic!("two were taken");
    };
    let (one, two) = (Arc::clone(one), Arc::clone(two));
    let lacks = Fate::Lacks {
        prev: vec![one.id().clone()],
        auth: Vec::new(),
    };
    assert_eq!(far.receive(std::slice::from_ref(&two)).await, [lacks]);
    // Told together, in whatever order, both come in.
    assert_eq!(
        far.receive(&[two, one]).await,
        [Fate::Accepted, Fate::Accepted]
    );
    far.must_be_whole().await;
}

#[tokio::test]
async fn branches_come_together_in_one_state_with_nothing_untold() {
    in_each_version(async |version| {
        let mut far = Far::joined(version).await;
        let (mut other, begun) = (far.fork(), far.told);
        far.table
            .take(
                ANA,
                &state("m.room.topic", serde_json::json!({ "topic": "one" })),
            )
            .unwrap();
        far.tell().await;
        // Ben, who may not change the topic, leaves on another branch; Ana names the room there.
        other.now.0 += 5;
        other.take(BEN, &member(BEN, MemberChange::Leave)).unwrap();
        other
            .take(
                ANA,
                &state("m.room.topic", serde_json::json!({ "topic": "two" })),
            )
            .unwrap();
        other
            .take(
                ANA,
                &state("m.room.name", serde_json::json!({ "name": "Crew" })),
            )
            .unwrap();
        let fates = far.tell_branch(&other, begun).await;
        assert_eq!(fates, [Fate::Accepted, Fate::Accepted, Fate::Accepted]);
        let record = far.store().room(&far.room).await.unwrap().unwrap();
        assert_eq!(record.heads.tips.len(), 2);
        assert_eq!(far.topic().await.as_deref(), Some("two"), "the later one");
        far.must_be_whole().await;
        // One of ours ties the branches together.
        let text = ruma::events::room::message::RoomMessageEventContent::text_plain("here");
        let request = ruma::api::client::message::send_message_event::v3::Request::new(
            far.room.clone(),
            "t".into(),
            &text,
        )
        .unwrap();
        testing::ask!(far.hub, far.zoe.origin, Send(request)).unwrap();
        let record = far.store().room(&far.room).await.unwrap().unwrap();
        assert_eq!(record.heads.tips.len(), 1);
        far.must_be_whole().await;
    })
    .await;
}

#[tokio::test]
async fn what_resolution_takes_back_is_marked_in_the_log() {
    let mut far = Far::joined(Version::V11).await;
    let (mut other, begun) = (far.fork(), far.told);
    far.table.now.0 += 5;
    far.table
        .take(
            ANA,
            &state("m.room.topic", serde_json::json!({ "topic": "later" })),
        )
        .unwrap();
    far.tell().await;
    other
        .take(
            ANA,
            &state("m.room.topic", serde_json::json!({ "topic": "earlier" })),
        )
        .unwrap();
    assert_eq!(far.tell_branch(&other, begun).await, [Fate::Accepted]);
    assert_eq!(far.topic().await.as_deref(), Some("later"));
    let record = far.store().room(&far.room).await.unwrap().unwrap();
    let log = far
        .store()
        .log(record.nid, Seq::ZERO, record.heads.seq, Order::Forward, 99)
        .await
        .unwrap();
    assert!(matches!(log.last().unwrap().what, Logged::Marker(_)));
    far.must_be_whole().await;
}

#[tokio::test]
async fn who_forks_without_end_hides_itself_and_nobody_else() {
    let mut far = Far::joined(Version::V12).await;
    let begun = far.told;
    let branches: Vec<_> = (0..=TIPS_MAX).map(|_| far.fork()).collect();
    let mut hidden = 0;
    for (number, mut branch) in branches.into_iter().enumerate() {
        branch
            .take(ANA, &message(&format!("fork {number}")))
            .unwrap();
        match far.tell_branch(&branch, begun).await.as_slice() {
            [Fate::Accepted] => {}
            [Fate::SoftFailed(_)] => hidden += 1,
            fates => panic!("{fates:?}"),
        }
    }
    assert_eq!(hidden, 1);

    // Of another server, which has heard of none of them: shown, and so is what comes after it.
    let mut other = far.fork();
    other.take(ZOE, &message("I am Zoe")).unwrap();
    other.take(ZOE, &message("still")).unwrap();
    let fates = far.tell_branch(&other, begun).await;

    assert_eq!(fates, [Fate::Accepted, Fate::Accepted]);
    let record = far.store().room(&far.room).await.unwrap().unwrap();
    assert_eq!(record.heads.tips.len(), TIPS_MAX);
    far.table.take(ZOE, &message("on")).unwrap();
    assert_eq!(far.tell().await, [Fate::Accepted]);
    far.must_be_whole().await;
}

#[tokio::test]
async fn who_was_banned_meanwhile_is_kept_and_not_shown() {
    in_each_version(async |version| {
        let mut far = Far::joined(version).await;
        let (mut other, begun) = (far.fork(), far.told);
        far.table
            .take(ANA, &member(BEN, MemberChange::Ban))
            .unwrap();
        far.tell().await;
        other.take(BEN, &message("but")).unwrap();
        let fates = far.tell_branch(&other, begun).await;
        assert!(
            matches!(fates.as_slice(), [Fate::SoftFailed(_)]),
            "{fates:?}"
        );
        let record = far.store().room(&far.room).await.unwrap().unwrap();
        assert_eq!(record.heads.tips.len(), 1);
        let request =
            get_message_events::v3::Request::new(far.room.clone(), ruma::api::Direction::Backward);
        let page = testing::ask!(far.hub, far.zoe.origin, Messages(request)).unwrap();
        let text = serde_json::to_string(&page.chunk).unwrap();
        assert!(!text.contains("but"), "{text}");
        far.must_be_whole().await;
    })
    .await;
}

#[tokio::test]
async fn what_the_rules_refuse_is_rejected_and_harms_nothing_after_it() {
    let mut far = Far::joined(Version::V12).await;
    far.table
        .take(ANA, &member(BEN, MemberChange::Ban))
        .unwrap();
    far.tell().await;
    // What Ben says as if he had never been banned.
    let before = far
        .table
        .log
        .iter()
        .rev()
        .find(|event| event.fields().sender == BEN);
    let mut fields = before.unwrap().fields().clone();
    fields.kind = "m.room.message".to_owned();
    fields.state_key = None;
    fields.prev = vec![far.table.log.last().unwrap().id().clone()];
    fields.depth += 9;
    let key = crate::room::testing::key("hub");
    let said = Arc::new(Pdu::sign(fields, Version::V12, &key).unwrap());
    let fates = far.receive(&[said]).await;
    assert!(matches!(fates.as_slice(), [Fate::Refused(_)]), "{fates:?}");
    far.table.take(ANA, &message("after")).unwrap();
    assert_eq!(far.tell().await, [Fate::Accepted]);
    far.must_be_whole().await;
}

#[tokio::test]
async fn a_redaction_from_elsewhere_takes_the_content_away() {
    let mut far = Far::joined(Version::V11).await;
    far.table.take(BEN, &message("a secret word")).unwrap();
    far.tell().await;
    let said = far.table.log.last().unwrap().id().clone();
    let part = crate::room::Part::Redact {
        target: said.clone(),
        reason: None,
    };
    far.table.take(ANA, &part).unwrap();
    assert_eq!(far.tell().await, [Fate::Accepted]);
    let hash = crate::store::hash_of(&said).unwrap();
    let event = far.store().event(hash).await.unwrap().unwrap();
    assert!(!event.json.contains("secret"), "{}", event.json);
    assert_eq!(event.status, Status::Accepted);
    assert!(event.redacted_because.is_some());
}
