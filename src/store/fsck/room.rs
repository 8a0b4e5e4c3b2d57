//! The check of one room.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonValue, EventId, OwnedServerName, OwnedUserId, UserId, signatures::content_hash,
};
use sha2::{Digest as _, Sha256};

use super::{Finding, Report, Wrong, or_damaged};
use crate::{
    base::{ChainHash, Position, Seq},
    room::{Membership, StateKey},
    store::{
        Change, EventNid, EventRecord, Kinds, LogRecord, Logged, Marker, Order, RoomRecord,
        StateNid, Status, Store, StoreError, hash_of,
    },
    wire::{
        chain,
        matrix::{Pdu, event_id},
    },
};

/// A membership and the event it comes from, if there is one.
type Noted = Option<(Membership, EventNid)>;

/// How many entries are read at once.
const PAGE: u32 = 256;

/// What the log has come to, entry by entry.
struct Walk<'a> {
    store: &'a dyn Store,
    room: RoomRecord,
    report: &'a mut Report,
    seq: Seq,
    /// The chain so far; unknown after an entry that is missing or cannot be read.
    chain: Option<ChainHash>,
    position: Position,
    current: BTreeMap<StateKey, EventNid>,
}

pub(super) async fn check(
    store: &dyn Store,
    room: RoomRecord,
    report: &mut Report,
) -> Result<(), StoreError> {
    let chain = chain::genesis(room.id.as_str());
    let mut walk = Walk {
        store,
        room,
        report,
        seq: Seq::ZERO,
        chain: Some(chain),
        position: Position::ZERO,
        current: BTreeMap::new(),
    };
    walk.entries().await?;
    walk.head().await?;
    let current = walk.current().await?;
    walk.state(&current).await?;
    walk.members(&current).await
}

impl Walk<'_> {
    fn add(&mut self, seq: Option<Seq>, what: Wrong) {
        let room = self.room.id.to_string();
        self.report.add(Finding::of_room(room, seq, what));
    }

    fn add_of(&mut self, event: &EventRecord, seq: Option<Seq>, what: Wrong) {
        let room = self.room.id.to_string();
        let event = Some(event_id(event.hash));
        self.report.add(Finding {
            event,
            ..Finding::of_room(room, seq, what)
        });
    }

    fn unreadable(&mut self, seq: Option<Seq>, why: String) {
        self.add(seq, Wrong::Unreadable { why });
    }

    async fn entries(&mut self) -> Result<(), StoreError> {
        let head = self.room.heads.seq;
        while self.seq < head {
            match or_damaged(self.read(head, PAGE).await)? {
                Ok(page) if page.is_empty() => self.missing_up_to(head),
                Ok(page) => {
                    for entry in page {
                        self.entry(entry).await?;
                    }
                }
                Err(_) => self.entries_singly(head).await?,
            }
        }
        if let Some(past) = or_damaged(self.read(Seq(u64::MAX), 1).await)?
            .ok()
            .and_then(|page| page.into_iter().next())
        {
            self.add(Some(past.seq), Wrong::PastHead { head });
        }
        Ok(())
    }

    /// What comes next, up to `to`.
    async fn read(&self, to: Seq, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        let room = self.room.nid;
        self.store
            .log(room, self.seq, to, Order::Forward, limit)
            .await
    }

    /// As many as a page has, one at a time, to learn which of them cannot be read.
    async fn entries_singly(&mut self, head: Seq) -> Result<(), StoreError> {
        for _ in 0..PAGE {
            match or_damaged(self.read(head, 1).await)? {
                Ok(page) => {
                    let Some(entry) = page.into_iter().next() else {
                        self.missing_up_to(head);
                        return Ok(());
                    };
                    self.entry(entry).await?;
                }
                Err(why) => {
                    let seq = self.first_unreadable(head).await?;
                    self.missing_up_to(Seq(seq.0.saturating_sub(1)));
                    self.seq = seq;
                    self.chain = None;
                    self.unreadable(Some(seq), why);
                }
            }
        }
        Ok(())
    }

    /// Which entry it is that comes next and cannot be read: by halving, because a wrong head may
    /// be any distance away.
    async fn first_unreadable(&self, head: Seq) -> Result<Seq, StoreError> {
        let (mut none_up_to, mut found_at) = (self.seq.0, head.0);
        while found_at.saturating_sub(none_up_to) > 1 {
            let middle = none_up_to + (found_at - none_up_to) / 2;
            match or_damaged(self.read(Seq(middle), 1).await)? {
                Ok(page) if page.is_empty() => none_up_to = middle,
                _ => found_at = middle,
            }
        }
        Ok(Seq(found_at))
    }

    /// Everything up to `seq` that did not come is missing.
    fn missing_up_to(&mut self, seq: Seq) {
        if self.seq >= seq {
            return;
        }
        let first = self.seq.next();
        self.seq = seq;
        self.chain = None;
        let upto = (first < seq).then_some(seq);
        self.add(Some(first), Wrong::Missing { upto });
    }

    async fn entry(&mut self, entry: LogRecord) -> Result<(), StoreError> {
        let seq = entry.seq;
        self.missing_up_to(Seq(seq.0.saturating_sub(1)));
        self.seq = seq;
        self.report.checked.entries += 1;
        let (before, last) = (self.position, self.room.position);
        if entry.position < before || entry.position > last {
            let found = entry.position;
            let wrong = Wrong::Position {
                before,
                last,
                found,
            };
            self.add(Some(seq), wrong);
        }
        self.position = entry.position.max(before);
        let entry_id = match entry.what {
            Logged::Event(event) => self.event(seq, &event),
            Logged::Marker(bytes) => self.marker(seq, entry.state, &bytes).await?,
        };
        let found = entry.chain;
        if let Some(before) = self.chain {
            let expected = chain::link(self.room.id.as_str(), seq, before, &entry_id);
            if found != expected {
                self.add(Some(seq), Wrong::Chain { expected, found });
            }
        }
        // From what is stored: one wrong link is one finding, not one for every entry after it.
        self.chain = Some(found);
        Ok(())
    }

    /// Checks an event, and lets it change the state.
    fn event(&mut self, seq: Seq, event: &EventRecord) -> [u8; 32] {
        if event.room != self.room.nid || event.seq != Some(seq) {
            let wrong = Wrong::Misplaced {
                room: event.room,
                seq: event.seq,
            };
            self.add_of(event, Some(seq), wrong);
        }
        match Pdu::read(&event.json, self.room.version) {
            Err(error) => {
                let why = error.to_string();
                self.add_of(event, Some(seq), Wrong::Unreadable { why });
            }
            Ok(pdu) => {
                let (expected, found) = (event.hash, pdu.hash());
                if found != expected {
                    self.add_of(event, Some(seq), Wrong::EventId { expected, found });
                } else if let Some(wrong) = content(&pdu, &self.room) {
                    self.add_of(event, Some(seq), wrong);
                }
                let fields = pdu.fields();
                if let Some(key) = &fields.state_key
                    && event.status == Status::Accepted
                    && !event.soft_failed
                {
                    let key = StateKey::new(&fields.kind, key);
                    self.current.insert(key, event.nid);
                }
            }
        }
        event.hash.0
    }

    /// Lets a marker change the state.
    async fn marker(
        &mut self,
        seq: Seq,
        state: StateNid,
        bytes: &[u8],
    ) -> Result<[u8; 32], StoreError> {
        match Marker::read(bytes) {
            Err(error) => self.unreadable(Some(seq), format!("marker: {error}")),
            Ok(Marker::Arrived) => self.arrived(seq, state).await?,
            Ok(Marker::Changed(Change { key, new: None, .. })) => {
                self.current.remove(&key);
            }
            Ok(Marker::Changed(Change {
                key, new: Some(id), ..
            })) => match self.event_by(&id).await? {
                Ok(Some(event)) => {
                    self.current.insert(key, event.nid);
                }
                Ok(None) => {
                    let why = format!("the marker names {id}, which is not stored");
                    self.unreadable(Some(seq), why);
                }
                Err(why) => {
                    self.unreadable(Some(seq), format!("the marker names {id}: {why}"));
                }
            },
        }
        Ok(Sha256::digest(bytes).into())
    }

    /// From here on the state is one that others told.
    async fn arrived(&mut self, seq: Seq, state: StateNid) -> Result<(), StoreError> {
        self.current.clear();
        let kinds = Kinds::Without(&[]);
        let told = self.store.state_events(self.room.nid, state, kinds).await;
        match or_damaged(told)? {
            Err(why) => self.unreadable(Some(seq), why),
            Ok(events) => {
                for event in events {
                    if let Some(key) = self.key_of(&event) {
                        self.current.insert(key, event.nid);
                    }
                }
            }
        }
        Ok(())
    }

    /// An event by its id, if it can be read.
    async fn event_by(
        &self,
        id: &EventId,
    ) -> Result<Result<Option<EventRecord>, String>, StoreError> {
        match hash_of(id) {
            Some(hash) => or_damaged(self.store.event(hash).await),
            None => Ok(Ok(None)),
        }
    }

    async fn head(&mut self) -> Result<(), StoreError> {
        let found = self.room.heads.chain;
        if let Some(expected) = self.chain
            && expected != found
        {
            self.add(None, Wrong::HeadChain { expected, found });
        }
        let tips = self.room.heads.tips.clone();
        if tips.is_empty() && self.seq > Seq::ZERO {
            self.unreadable(None, "the room has events and no tips".to_owned());
        }
        for (id, depth) in tips {
            let why = match self.event_by(&id).await? {
                Err(why) => format!("cannot be read: {why}"),
                Ok(None) => "is not stored".to_owned(),
                Ok(Some(event)) if event.room != self.room.nid => "is another room's".to_owned(),
                Ok(Some(event)) if event.status != Status::Accepted => {
                    format!("is {:?}", event.status).to_lowercase()
                }
                Ok(Some(event)) if event.depth != depth => {
                    format!("has depth {}, it is noted with {depth}", event.depth)
                }
                Ok(Some(_)) => continue,
            };
            self.add(None, Wrong::Tip { id, why });
        }
        Ok(())
    }

    /// Compares what the log makes of the state with what is current. Gives the latter, by key.
    async fn current(&mut self) -> Result<BTreeMap<StateKey, EventRecord>, StoreError> {
        let mut stored = BTreeMap::new();
        match or_damaged(self.store.current_all(self.room.nid, None).await)? {
            Err(_) => self.current_singly(&mut stored).await?,
            Ok(events) => {
                for event in events {
                    if let Some(key) = self.key_of(&event) {
                        stored.insert(key, event);
                    }
                }
            }
        }
        let made = std::mem::take(&mut self.current);
        let keys: BTreeSet<StateKey> = made.keys().chain(stored.keys()).cloned().collect();
        for key in keys {
            let expected = made.get(&key).copied();
            let found = stored.get(&key).map(|event| event.nid);
            if expected != found {
                let wrong = Wrong::Current {
                    key,
                    expected,
                    found,
                };
                self.add(None, wrong);
            }
        }
        Ok(stored)
    }

    /// The pieces of current state that the log knows, one at a time, to learn which of them
    /// cannot be read.
    async fn current_singly(
        &mut self,
        stored: &mut BTreeMap<StateKey, EventRecord>,
    ) -> Result<(), StoreError> {
        let keys: Vec<StateKey> = self.current.keys().cloned().collect();
        for key in keys {
            let found = self
                .store
                .current(self.room.nid, std::slice::from_ref(&key));
            match or_damaged(found.await)? {
                Ok(found) => {
                    let event = found.into_iter().flatten().next();
                    stored.extend(event.map(|event| (key, event)));
                }
                Err(why) => self.unreadable(None, format!("the current {key}: {why}")),
            }
        }
        Ok(())
    }

    fn key_of(&mut self, event: &EventRecord) -> Option<StateKey> {
        let why = match event.pdu(&self.room) {
            Ok(pdu) => match &pdu.fields().state_key {
                Some(key) => return Some(StateKey::new(&pdu.fields().kind, key)),
                None => format!("current event {} is no state event", event.nid.0),
            },
            Err(error) => error.to_string(),
        };
        self.add_of(event, event.seq, Wrong::Unreadable { why });
        None
    }

    async fn state(&mut self, current: &BTreeMap<StateKey, EventRecord>) -> Result<(), StoreError> {
        let head = self.room.state;
        let coded: BTreeSet<EventNid> = match or_damaged(self.store.state(head.nid).await)? {
            Ok(events) => events.into_iter().collect(),
            Err(why) => {
                self.unreadable(None, why);
                return Ok(());
            }
        };
        let wanted: BTreeSet<EventNid> = current.values().map(|event| event.nid).collect();
        if coded != wanted {
            let wrong = Wrong::State {
                state: head.nid,
                missing: wanted.difference(&coded).copied().collect(),
                extra: coded.difference(&wanted).copied().collect(),
            };
            self.add(None, wrong);
        }
        if usize::try_from(head.size) != Ok(coded.len()) {
            let wrong = Wrong::StateSize {
                state: head.nid,
                expected: head.size,
                found: coded.len(),
            };
            self.add(None, wrong);
        }
        Ok(())
    }

    async fn members(
        &mut self,
        current: &BTreeMap<StateKey, EventRecord>,
    ) -> Result<(), StoreError> {
        let mut joined = BTreeSet::new();
        match or_damaged(self.store.joined(self.room.nid, None).await)? {
            Ok(users) => joined.extend(users),
            Err(why) => self.unreadable(None, format!("the list of members: {why}")),
        }
        self.residents(&joined).await?;
        for (key, event) in current {
            if key.kind != "m.room.member" {
                continue;
            }
            let Ok(user) = OwnedUserId::try_from(key.key.as_str()) else {
                continue;
            };
            joined.remove(&user);
            let Some(found) = self.membership(&user).await? else {
                continue;
            };
            let expected = membership_of(event, &self.room).map(|is| (is, event.nid));
            if found != expected {
                let wrong = Wrong::Membership {
                    user,
                    expected,
                    found,
                };
                self.add(event.seq, wrong);
            }
        }
        for user in joined {
            let Some(found) = self.membership(&user).await? else {
                continue;
            };
            let wrong = Wrong::Membership {
                user,
                expected: None,
                found,
            };
            self.add(None, wrong);
        }
        Ok(())
    }

    /// Whether the servers are noted that have users here. Which one is the hub's own is not known
    /// here, and that one is not noted.
    async fn residents(&mut self, joined: &BTreeSet<OwnedUserId>) -> Result<(), StoreError> {
        let servers: BTreeSet<OwnedServerName> = joined
            .iter()
            .map(|user| user.server_name().to_owned())
            .collect();
        let noted: BTreeSet<OwnedServerName> =
            match or_damaged(self.store.residents(self.room.nid).await)? {
                Ok(noted) => noted.into_iter().collect(),
                Err(why) => {
                    self.unreadable(None, format!("the list of servers: {why}"));
                    return Ok(());
                }
            };
        let missing: Vec<_> = servers.difference(&noted).cloned().collect();
        let extra: Vec<_> = noted.difference(&servers).cloned().collect();
        if missing.len() > 1 || !extra.is_empty() {
            self.add(None, Wrong::Residents { missing, extra });
        }
        Ok(())
    }

    /// What is noted of a member; nothing when that cannot be read.
    async fn membership(&mut self, user: &UserId) -> Result<Option<Noted>, StoreError> {
        let stored = self.store.membership(user, self.room.nid).await;
        match or_damaged(stored)? {
            Ok(stored) => Ok(Some(stored.map(|member| (member.membership, member.event)))),
            Err(why) => {
                self.unreadable(None, format!("the membership of {user}: {why}"));
                Ok(None)
            }
        }
    }
}

/// The id covers only what redaction keeps; the rest of an event that was not redacted must fit
/// its content hash.
fn content(pdu: &Pdu, room: &RoomRecord) -> Option<Wrong> {
    let object = pdu.object();
    let found = content_hash(&object).map_or_else(|error| error.to_string(), |hash| hash.encode());
    let expected = match object.get("hashes") {
        Some(CanonicalJsonValue::Object(hashes)) => match hashes.get("sha256") {
            Some(CanonicalJsonValue::String(hash)) => Some(hash.clone()),
            _ => None,
        },
        _ => None,
    };
    let redacted = || {
        pdu.redacted_json(room.version)
            .is_ok_and(|json| json == **pdu.json())
    };
    (expected.as_ref() != Some(&found) && !redacted()).then_some(Wrong::Content { expected, found })
}

fn membership_of(event: &EventRecord, room: &RoomRecord) -> Option<Membership> {
    let pdu = event.pdu(room).ok()?;
    let Some(CanonicalJsonValue::String(word)) = pdu.fields().content.get("membership") else {
        return None;
    };
    Some(match word.as_str() {
        "join" => Membership::Join,
        "invite" => Membership::Invite,
        "leave" => Membership::Leave,
        "ban" => Membership::Ban,
        "knock" => Membership::Knock,
        _ => return None,
    })
}
