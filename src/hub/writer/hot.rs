//! A room in memory: the staged room beside the row numbers its next writes need.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, ServerName};

use crate::{
    base::{EventHash, Seq},
    room::{Applied, Membership, Room, StateKey},
    store::{
        EventNid, NewEntry, NewEvent, NewLogged, NewState, Numbers, OutboxWrite, RoomNid, SentBy,
        StateHead, StateNid, Status, Write, hash_of,
    },
    wire::matrix::Pdu,
};

/// A staged room and its rows.
#[derive(Clone)]
pub(super) struct Hot {
    pub(super) room: Room,
    pub(super) nid: RoomNid,
    pub(super) state: StateHead,
    /// Row numbers of the known state.
    pub(super) nids: HashMap<StateKey, EventNid>,
    /// Local users who are told of news here: joined, invited or knocking.
    pub(super) audience: Arc<BTreeSet<OwnedUserId>>,
    /// Other servers with users here; one whose last has gone may still be among them.
    pub(super) servers: Arc<BTreeSet<OwnedServerName>>,
    /// The room's newest events with the states after them.
    pub(super) branches: HashMap<OwnedEventId, StateNid>,
    /// The tick at which it was last used.
    pub(super) used: u64,
    /// Whether it holds the whole state of a room that was joined elsewhere, as it has to until that
    /// is stored. An event needs a few pieces of it, and each one copies what is held.
    pub(super) is_whole: bool,
}

/// What an event's store has to know besides: this hub, and what the member that the event is about
/// was before it.
#[derive(Clone, Copy)]
pub(super) struct Standing<'a> {
    pub(super) ours: &'a ServerName,
    pub(super) membership: Membership,
}

impl Hot {
    /// A room with nothing in it yet.
    pub(super) fn new(room: Room, nid: RoomNid, used: u64) -> Self {
        Self {
            room,
            nid,
            state: StateHead::default(),
            nids: HashMap::new(),
            audience: Arc::default(),
            servers: Arc::default(),
            branches: HashMap::new(),
            used,
            is_whole: false,
        }
    }

    /// Whether it is better read anew, piece by piece, than kept once it is stored: it holds too much,
    /// or nobody here is told of the room any more.
    pub(super) fn is_spent(&self) -> bool {
        self.is_whole || self.audience.is_empty()
    }

    /// The writes that store an applied event, and keep the rows in step with it.
    pub(super) fn store(
        &mut self,
        pdu: &Arc<Pdu>,
        applied: Applied,
        was: Standing<'_>,
        numbers: &Numbers,
        sent_by: Option<SentBy>,
        out: &mut Vec<Write>,
    ) -> EventNid {
        let nid = numbers.event();
        let fields = pdu.fields();
        if let Some(key) = &fields.state_key {
            self.change_state(StateKey::new(&fields.kind, key), nid, numbers, out);
        }
        let tips = &self.room.heads().tips;
        self.branches
            .retain(|id, _| tips.iter().any(|(tip, _)| tip == id));
        // Where it does not follow all branches, the state that is noted after it is still that of
        // all: resolved once more with those that are left, it is the same.
        self.branches.insert(pdu.id().clone(), self.state.nid);
        out.push(Write::Event(NewEvent {
            nid,
            room: self.nid,
            hash: pdu.hash(),
            kind: fields.kind.clone(),
            state_key: fields.state_key.clone(),
            depth: fields.depth,
            status: Status::Accepted,
            soft_failed: false,
            state_after: self.state.nid,
            prev: hashes(&fields.prev),
            auth: hashes(&fields.auth),
            sent_by,
            json: Arc::clone(pdu.json()),
        }));
        out.push(Write::Entry(NewEntry {
            room: self.nid,
            seq: applied.seq,
            chain: applied.chain,
            state: None,
            what: NewLogged::Event(nid),
        }));
        if fields.kind == "m.room.member" {
            self.change_membership(pdu, (nid, applied.seq), was, out);
        }
        nid
    }

    fn change_state(
        &mut self,
        key: StateKey,
        nid: EventNid,
        numbers: &Numbers,
        out: &mut Vec<Write>,
    ) {
        let before = self.nids.insert(key.clone(), nid);
        let snapshot = self.state.snapshot_due();
        let parent = self.state.nid;
        self.state = StateHead {
            nid: numbers.state(),
            size: self.state.size + u32::from(before.is_none()),
            deltas: if snapshot { 0 } else { self.state.deltas + 1 },
        };
        out.push(Write::State(NewState {
            nid: self.state.nid,
            room: self.nid,
            parent,
            added: vec![nid],
            removed: before.into_iter().collect(),
            snapshot,
        }));
        out.push(Write::Current {
            room: self.nid,
            key,
            event: Some(nid),
        });
    }

    fn change_membership(
        &mut self,
        pdu: &Pdu,
        (nid, seq): (EventNid, Seq),
        was: Standing<'_>,
        out: &mut Vec<Write>,
    ) {
        let fields = pdu.fields();
        let Some(user) = fields
            .state_key
            .as_deref()
            .and_then(|key| OwnedUserId::try_from(key).ok())
        else {
            return;
        };
        let membership = membership_of(pdu);
        let server = user.server_name().to_owned();
        self.listens(&user, membership);
        out.push(Write::Membership {
            user,
            room: self.nid,
            membership,
            event: nid,
        });
        if server == was.ours {
            return;
        }
        // Whoever waited outside hears that it was in vain.
        let waited = matches!(was.membership, Membership::Invite | Membership::Knock);
        let told = waited && matches!(membership, Membership::Leave | Membership::Ban);
        if told || membership == Membership::Join {
            Arc::make_mut(&mut self.servers).insert(server.clone());
        }
        out.push(Write::Outbox(OutboxWrite::Residents {
            room: self.nid,
            seq,
            servers: vec![server],
            told,
        }));
    }

    /// Where the room now stands, written once for all that a batch did to it.
    pub(super) fn heads(&self) -> Write {
        Write::Heads {
            room: self.nid,
            heads: self.room.heads().clone(),
            state: self.state,
        }
    }
}

/// The `membership` of a member event; `leave` when it has none.
pub(super) fn membership_of(pdu: &Pdu) -> Membership {
    match pdu.fields().content.get("membership") {
        Some(ruma::CanonicalJsonValue::String(word)) => word.parse().unwrap_or_default(),
        _ => Membership::default(),
    }
}

pub(super) fn hashes(ids: &[OwnedEventId]) -> Vec<EventHash> {
    ids.iter()
        .map(|id| hash_of(id).expect("the rules of versions 10 to 12 know only hash ids"))
        .collect()
}
