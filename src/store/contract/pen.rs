//! Writes rooms the way the hub does: events, states, entries and heads that fit each other.
//!
//! The events are not signed and their hashes are of their numbers: a store does not look.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedRoomId, OwnedUserId};
use sha2::{Digest as _, Sha256};

use crate::{
    base::{ChainHash, EventHash, Seq},
    room::{Heads, Membership, StateKey},
    store::{
        EventNid, NewEntry, NewEvent, NewLogged, NewState, RoomNid, SNAPSHOT_DELTAS_MIN, StateHead,
        Status, Store, Write,
    },
    wire::{
        chain,
        matrix::{Version, event_id},
    },
};

/// A room being written.
#[derive(Clone, Debug)]
pub struct Pen {
    /// Its number.
    pub nid: RoomNid,
    /// Its id.
    pub id: OwnedRoomId,
    /// Where it stands.
    pub heads: Heads,
    /// Its current state.
    pub state: StateHead,
    /// What its current state should be.
    pub model: BTreeMap<StateKey, EventNid>,
    /// What was written since the last [`Pen::take`].
    writes: Vec<Write>,
}

impl Pen {
    /// A new room.
    ///
    /// # Panics
    /// When `name` cannot be part of a room id.
    pub fn new(store: &dyn Store, name: &str) -> Self {
        let id = OwnedRoomId::try_from(format!("!{name}:hub.example")).expect("a room id");
        let nid = store.numbers().room();
        Self {
            nid,
            heads: Heads {
                seq: Seq::ZERO,
                chain: chain::genesis(id.as_str()),
                tips: Vec::new(),
            },
            state: StateHead::default(),
            model: BTreeMap::new(),
            writes: vec![Write::NewRoom {
                nid,
                id: id.clone(),
                version: Version::V11,
            }],
            id,
        }
    }

    /// What has been written, the heads last.
    pub fn take(&mut self) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.writes);
        writes.push(Write::Heads {
            room: self.nid,
            heads: self.heads.clone(),
            state: self.state,
        });
        writes
    }

    /// Adds any other write.
    pub fn also(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// An event of this room, in no log yet.
    pub fn event(&self, store: &dyn Store, kind: &str, state_key: Option<&str>) -> NewEvent {
        let nid = store.numbers().event();
        let depth = self.heads.tips.iter().map(|(_, depth)| *depth).max();
        NewEvent {
            nid,
            room: self.nid,
            hash: hash(nid),
            kind: kind.to_owned(),
            state_key: state_key.map(str::to_owned),
            depth: depth.unwrap_or(0) + 1,
            status: Status::Accepted,
            soft_failed: false,
            state_after: self.state.nid,
            prev: Vec::new(),
            auth: Vec::new(),
            sent_by: None,
            json: Arc::from(format!(r#"{{"type":"{kind}","n":{}}}"#, nid.0)),
        }
    }

    /// Appends a message.
    pub fn message(&mut self, store: &dyn Store) -> EventNid {
        let event = self.event(store, "m.room.message", None);
        self.append(event)
    }

    /// Appends a state event.
    pub fn state(&mut self, store: &dyn Store, key: &StateKey) -> EventNid {
        let mut event = self.event(store, &key.kind, Some(&key.key));
        let removed = self.model.insert(key.clone(), event.nid);
        event.state_after =
            self.change_state(store, vec![event.nid], removed.into_iter().collect());
        self.also(Write::Current {
            room: self.nid,
            key: key.clone(),
            event: Some(event.nid),
        });
        self.append(event)
    }

    /// Appends a member event and notes the membership.
    pub fn member(&mut self, store: &dyn Store, user: &OwnedUserId, membership: Membership) {
        let event = self.state(store, &StateKey::member(user));
        self.also(Write::Membership {
            user: user.clone(),
            room: self.nid,
            membership,
            event,
        });
    }

    /// Writes a new current state.
    pub fn change_state(
        &mut self,
        store: &dyn Store,
        added: Vec<EventNid>,
        removed: Vec<EventNid>,
    ) -> crate::store::StateNid {
        let nid = store.numbers().state();
        let snapshot = self.state.deltas >= self.state.size.max(SNAPSHOT_DELTAS_MIN);
        let parent = self.state.nid;
        let size = u32::try_from(self.model.len()).unwrap_or(u32::MAX);
        self.state = StateHead {
            nid,
            size,
            deltas: if snapshot { 0 } else { self.state.deltas + 1 },
        };
        self.also(Write::State(NewState {
            nid,
            room: self.nid,
            parent,
            added,
            removed,
            snapshot,
        }));
        nid
    }

    /// Appends an event: its tip replaces the others.
    pub fn append(&mut self, event: NewEvent) -> EventNid {
        let nid = event.nid;
        let tip = (event_id(event.hash), event.depth);
        let entry_id = event.hash.0;
        self.also(Write::Event(event));
        self.heads.tips = vec![tip];
        self.entry(NewLogged::Event(nid), &entry_id);
        nid
    }

    /// Appends an entry with the chain over it.
    pub fn entry(&mut self, what: NewLogged, entry_id: &[u8; 32]) {
        let seq = self.heads.seq.next();
        let chain = chain::link(self.id.as_str(), seq, self.heads.chain, entry_id);
        self.heads.seq = seq;
        self.heads.chain = chain;
        let mut entry = entry(self.nid, seq, chain, what);
        if let Write::Entry(NewEntry {
            state,
            what: NewLogged::Marker(_),
            ..
        }) = &mut entry
        {
            *state = Some(self.state.nid);
        }
        self.also(entry);
    }
}

/// An entry as given, right or wrong.
pub(super) fn entry(room: RoomNid, seq: Seq, chain: ChainHash, what: NewLogged) -> Write {
    Write::Entry(NewEntry {
        room,
        seq,
        chain,
        state: None,
        what,
    })
}

/// The hash of an event written here.
pub(super) fn hash(nid: EventNid) -> EventHash {
    EventHash(Sha256::digest(nid.0.to_be_bytes()).into())
}

/// `@name:hub.example`.
pub(super) fn user(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:hub.example")).expect("a user id")
}
