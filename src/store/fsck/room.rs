//! The check of one room.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{CanonicalJsonValue, OwnedUserId, signatures::content_hash};
use sha2::{Digest as _, Sha256};

use super::{Finding, Report, Wrong};
use crate::{
    base::{ChainHash, Position, Seq},
    room::{Membership, StateKey},
    store::{
        EventNid, EventRecord, LogRecord, Logged, Marker, Order, RoomRecord, Status, Store,
        StoreError, hash_of,
    },
    wire::{chain, matrix::Pdu},
};

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

/// Damage is a finding; only a failing backend ends the check.
fn or_damaged<T>(read: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(StoreError::Damaged { what }) => Ok(Err(what)),
        Err(error @ StoreError::Backend(_)) => Err(error),
    }
}

impl Walk<'_> {
    fn add(&mut self, seq: Option<Seq>, what: Wrong) {
        self.report.add(Finding {
            room: self.room.id.to_string(),
            seq,
            what,
        });
    }

    fn unreadable(&mut self, seq: Option<Seq>, why: String) {
        self.add(seq, Wrong::Unreadable { why });
    }

    async fn entries(&mut self) -> Result<(), StoreError> {
        let head = self.room.heads.seq;
        while self.seq < head {
            let (from, to) = (self.seq, Seq(head.0.min(self.seq.0 + u64::from(PAGE))));
            match or_damaged(self.read(from, to).await)? {
                Ok(page) => {
                    for entry in page {
                        self.entry(entry).await?;
                    }
                }
                Err(_) => self.entries_singly(from, to).await?,
            }
            self.skip_to(to);
        }
        if let Some(past) = or_damaged(self.read(head, Seq(u64::MAX)).await)?
            .ok()
            .and_then(|page| page.into_iter().next())
        {
            self.add(Some(past.seq), Wrong::PastHead { head });
        }
        Ok(())
    }

    async fn read(&self, from: Seq, to: Seq) -> Result<Vec<LogRecord>, StoreError> {
        let room = self.room.nid;
        self.store.log(room, from, to, Order::Forward, PAGE).await
    }

    /// One entry at a time, to learn which of them cannot be read.
    async fn entries_singly(&mut self, from: Seq, to: Seq) -> Result<(), StoreError> {
        for n in from.0..to.0 {
            match or_damaged(self.read(Seq(n), Seq(n + 1)).await)? {
                Ok(page) => {
                    for entry in page {
                        self.entry(entry).await?;
                    }
                }
                Err(why) => {
                    self.skip_to(Seq(n));
                    self.seq = Seq(n + 1);
                    self.chain = None;
                    self.unreadable(Some(self.seq), why);
                }
            }
        }
        Ok(())
    }

    /// Everything up to `seq` that did not come is missing.
    fn skip_to(&mut self, seq: Seq) {
        while self.seq < seq {
            self.seq = self.seq.next();
            self.chain = None;
            self.add(Some(self.seq), Wrong::Missing);
        }
    }

    async fn entry(&mut self, entry: LogRecord) -> Result<(), StoreError> {
        let seq = entry.seq;
        self.skip_to(Seq(seq.0.saturating_sub(1)));
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
            Logged::Marker(bytes) => self.marker(seq, &bytes).await?,
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
            self.add(Some(seq), wrong);
        }
        match Pdu::read(&event.json, self.room.version) {
            Err(error) => self.unreadable(Some(seq), error.to_string()),
            Ok(pdu) => {
                let (expected, found) = (event.hash, pdu.hash());
                if found != expected {
                    self.add(Some(seq), Wrong::EventId { expected, found });
                } else if let Some(wrong) = content(&pdu, &self.room) {
                    self.add(Some(seq), wrong);
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
    async fn marker(&mut self, seq: Seq, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
        match Marker::read(bytes) {
            Err(error) => self.unreadable(Some(seq), format!("marker: {error}")),
            Ok(Marker { key, new: None, .. }) => {
                self.current.remove(&key);
            }
            Ok(Marker {
                key, new: Some(id), ..
            }) => {
                let known = match hash_of(&id) {
                    Some(hash) => self.store.event(hash).await?,
                    None => None,
                };
                match known {
                    Some(event) => {
                        self.current.insert(key, event.nid);
                    }
                    None => self.unreadable(Some(seq), format!("the marker names {id}")),
                }
            }
        }
        Ok(Sha256::digest(bytes).into())
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
            let event = match hash_of(&id) {
                Some(hash) => self.store.event(hash).await?,
                None => None,
            };
            let why = match event {
                None => "is not stored".to_owned(),
                Some(event) if event.room != self.room.nid => "is another room's".to_owned(),
                Some(event) if event.status != Status::Accepted => {
                    format!("is {:?}", event.status).to_lowercase()
                }
                Some(event) if event.depth != depth => {
                    format!("has depth {}, it is noted with {depth}", event.depth)
                }
                Some(_) => continue,
            };
            self.add(None, Wrong::Tip { id, why });
        }
        Ok(())
    }

    /// Compares what the log makes of the state with what is current. Gives the latter, by key.
    async fn current(&mut self) -> Result<BTreeMap<StateKey, EventRecord>, StoreError> {
        let mut stored = BTreeMap::new();
        match or_damaged(self.store.current_all(self.room.nid, None).await)? {
            Err(why) => self.unreadable(None, why),
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

    fn key_of(&mut self, event: &EventRecord) -> Option<StateKey> {
        let why = match event.pdu(&self.room) {
            Ok(pdu) => match &pdu.fields().state_key {
                Some(key) => return Some(StateKey::new(&pdu.fields().kind, key)),
                None => format!("current event {} is no state event", event.nid.0),
            },
            Err(error) => error.to_string(),
        };
        self.unreadable(event.seq, why);
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
        let joined = self.store.joined(self.room.nid, None).await?;
        let mut joined: BTreeSet<OwnedUserId> = joined.into_iter().collect();
        for (key, event) in current {
            if key.kind != "m.room.member" {
                continue;
            }
            let Ok(user) = OwnedUserId::try_from(key.key.as_str()) else {
                continue;
            };
            joined.remove(&user);
            let stored = self.store.membership(&user, self.room.nid).await?;
            let found = stored.map(|member| (member.membership, member.event));
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
            let stored = self.store.membership(&user, self.room.nid).await?;
            let wrong = Wrong::Membership {
                user,
                expected: None,
                found: stored.map(|member| (member.membership, member.event)),
            };
            self.add(None, wrong);
        }
        Ok(())
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
