//! The staged room: its heads and what is known of its current state.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedRoomId};

use crate::{
    base::{ChainHash, Seq},
    room::{Effect, StateKey},
    wire::{
        chain,
        matrix::{Pdu, Version},
    },
};

/// Where a room stands: what the next entry continues from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The number of the last entry.
    pub seq: Seq,
    /// The chain up to it.
    pub chain: ChainHash,
    /// The forward extremities with their depths, at most [`TIPS_MAX`](super::TIPS_MAX).
    pub tips: Vec<(OwnedEventId, u64)>,
}

/// A room as the next draft sees it.
#[derive(Clone, Debug)]
pub struct Room {
    id: OwnedRoomId,
    version: Version,
    heads: Heads,
    /// By type, then by state key: a look-up borrows both.
    known: BTreeMap<String, BTreeMap<String, Option<Arc<Pdu>>>>,
}

/// What a part needs before it can be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Pieces of current state that are not known yet.
    pub state: Vec<StateKey>,
    /// An event of this room, by id: what a redaction names.
    pub event: Option<OwnedEventId>,
}

/// Where an applied event stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub seq: Seq,
    /// The chain up to it.
    pub chain: ChainHash,
}

impl Room {
    /// A room with nothing in it yet.
    pub fn empty(id: OwnedRoomId, version: Version) -> Self {
        let chain = chain::genesis(id.as_str());
        Self::loaded(
            id,
            version,
            Heads {
                seq: Seq::ZERO,
                chain,
                tips: Vec::new(),
            },
        )
    }

    /// A stored room, of whose state nothing is known yet.
    pub fn loaded(id: OwnedRoomId, version: Version, heads: Heads) -> Self {
        Self {
            id,
            version,
            heads,
            known: BTreeMap::new(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &OwnedRoomId {
        &self.id
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it stands.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// A piece of current state; nothing when it is absent or was never learnt.
    pub fn state(&self, kind: &str, key: &str) -> Option<&Arc<Pdu>> {
        self.known.get(kind)?.get(key)?.as_ref()
    }

    /// Whether this piece of state has been learnt.
    pub fn knows(&self, kind: &str, key: &str) -> bool {
        self.known
            .get(kind)
            .is_some_and(|known| known.contains_key(key))
    }

    /// Takes a piece of current state as the store tells it; `None` when the room has none. What
    /// is already known stays: it may be newer than the store.
    pub fn learn(&mut self, key: StateKey, event: Option<Arc<Pdu>>) {
        let known = self.known.entry(key.kind).or_default();
        known.entry(key.key).or_insert(event);
    }

    /// How many pieces of state are held in memory.
    pub fn known_len(&self) -> usize {
        self.known.values().map(BTreeMap::len).sum()
    }

    /// Puts an effect of [`Room::decide`] in force for the drafts after it. Gives the place in the
    /// log for an `Append`.
    pub fn apply(&mut self, effect: &Effect) -> Option<Applied> {
        match effect {
            Effect::Append(pdu) => Some(self.append(pdu)),
            Effect::Redact { target, .. } => {
                self.redact(target);
                None
            }
            Effect::Already { .. } => None,
        }
    }

    fn append(&mut self, pdu: &Arc<Pdu>) -> Applied {
        let seq = self.heads.seq.next();
        let chain = chain::link(self.id.as_str(), seq, self.heads.chain, &pdu.hash().0);
        self.heads.seq = seq;
        self.heads.chain = chain;
        // It follows them all, unless they are more than one event may name: those stay.
        let prev = &pdu.fields().prev;
        self.heads.tips.retain(|(tip, _)| !prev.contains(tip));
        let tip = (pdu.id().clone(), pdu.fields().depth);
        self.heads.tips.push(tip);
        if let Some(key) = &pdu.fields().state_key {
            let known = self.known.entry(pdu.fields().kind.clone()).or_default();
            known.insert(key.clone(), Some(Arc::clone(pdu)));
        }
        Applied { seq, chain }
    }

    /// Takes an entry that other servers' events led to: its place in the log.
    pub fn receive(&mut self, entry_id: &[u8; 32]) -> Applied {
        let seq = self.heads.seq.next();
        let chain = chain::link(self.id.as_str(), seq, self.heads.chain, entry_id);
        self.heads.seq = seq;
        self.heads.chain = chain;
        Applied { seq, chain }
    }

    /// What the room is after such entries: its newest events, and the state that changed.
    pub fn settle(
        &mut self,
        tips: Vec<(OwnedEventId, u64)>,
        changes: impl IntoIterator<Item = (StateKey, Option<Arc<Pdu>>)>,
    ) {
        self.heads.tips = tips;
        for (key, event) in changes {
            let known = self.known.entry(key.kind).or_default();
            known.insert(key.key, event);
        }
    }

    /// The stored event has lost what redaction removes.
    pub fn redacted(&mut self, target: &EventId) {
        self.redact(target);
    }

    /// State stays in force when its event is redacted, with the content that is left.
    fn redact(&mut self, target: &EventId) {
        let version = self.version;
        let known = self.known.values_mut().flat_map(BTreeMap::values_mut);
        for event in known.flatten() {
            if event.id() == target
                && let Ok(redacted) = event.redacted(version)
            {
                *event = Arc::new(redacted);
            }
        }
    }
}
