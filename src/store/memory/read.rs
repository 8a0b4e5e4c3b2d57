//! Reads in memory: most walk a whole table, which is small in a test.

use std::{cmp::Reverse, collections::BTreeSet};

use async_trait::async_trait;
use ruma::{DeviceId, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};

use super::{Memory, Tables};
use crate::{
    base::{EventHash, Position, Seq},
    room::{Membership, StateKey},
    store::{
        AliasRecord, EventNid, EventRecord, Kinds, ListedRecord, LogRecord, Logged, MediaIndex,
        MediaRecord, MediaRow, MembershipRecord, NewLogged, Order, OutsideRecord, PolicyDecision,
        ReceiptRecord, RoomNid, RoomRecord, Rooms, StateNid, StoreError, Totals, TxnAnswer, TxnKey,
    },
};

impl Tables {
    fn event(&self, nid: EventNid) -> Option<EventRecord> {
        self.events.get(&nid).map(|event| event.record.clone())
    }

    fn member(&self, user: &UserId, room: RoomNid) -> Option<MembershipRecord> {
        let member = self.memberships.get(&(user.to_owned(), room))?;
        let known = self.rooms.get(&room)?;
        Some(MembershipRecord {
            user: user.to_owned(),
            room,
            room_id: known.id.clone(),
            membership: member.membership,
            event: member.event,
            position: member.position,
            room_position: known.position,
            forgotten: member.forgotten,
        })
    }

    /// The rooms a user is joined to.
    pub(super) fn rooms_of(&self, user: &UserId) -> BTreeSet<RoomNid> {
        self.memberships
            .range((user.to_owned(), RoomNid(i64::MIN))..)
            .take_while(|((whose, _), _)| whose == user)
            .filter(|(_, member)| member.membership == Membership::Join)
            .map(|((_, room), _)| *room)
            .collect()
    }

    fn joined(&self, room: RoomNid) -> impl Iterator<Item = &OwnedUserId> {
        self.memberships
            .iter()
            .filter(move |((_, of), member)| *of == room && member.membership == Membership::Join)
            .map(|((user, _), _)| user)
    }

    pub(super) fn neighbours(&self, user: &UserId) -> BTreeSet<OwnedUserId> {
        let rooms = self.rooms_of(user);
        self.memberships
            .iter()
            .filter(|((whose, room), member)| {
                whose != user && member.membership == Membership::Join && rooms.contains(room)
            })
            .map(|((whose, _), _)| whose.clone())
            .collect()
    }

    fn logged(&self, room: RoomNid, seq: Seq) -> Option<LogRecord> {
        let entry = self.log.get(&(room, seq))?;
        let (own, what) = match &entry.what {
            NewLogged::Event(nid) => {
                let event = self.event(*nid)?;
                (event.state_after, Logged::Event(event))
            }
            NewLogged::Marker(bytes) => (StateNid::default(), Logged::Marker(bytes.clone())),
        };
        Some(LogRecord {
            seq,
            position: entry.position,
            chain: entry.chain,
            state: entry.state.unwrap_or(own),
            what,
        })
    }

    fn alias(&self, alias: &RoomAliasId) -> Option<AliasRecord> {
        let (room, creator) = self.aliases.get(alias)?;
        Some(AliasRecord {
            alias: alias.to_owned(),
            room: *room,
            room_id: self.rooms.get(room)?.id.clone(),
            creator: creator.clone(),
        })
    }
}

pub(super) fn many(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[async_trait]
impl Rooms for Memory {
    async fn room(&self, id: &RoomId) -> Result<Option<RoomRecord>, StoreError> {
        let tables = self.tables();
        let nid = tables.room_ids.get(id);
        Ok(nid.and_then(|nid| tables.rooms.get(nid)).cloned())
    }

    async fn room_by_nid(&self, nid: RoomNid) -> Result<Option<RoomRecord>, StoreError> {
        Ok(self.tables().rooms.get(&nid).cloned())
    }

    async fn rooms(&self, after: RoomNid, limit: u32) -> Result<Vec<RoomRecord>, StoreError> {
        let tables = self.tables();
        let rooms = tables.rooms.values().filter(|room| room.nid > after);
        Ok(rooms.take(many(limit)).cloned().collect())
    }

    async fn room_numbers(&self, after: RoomNid, limit: u32) -> Result<Vec<RoomNid>, StoreError> {
        let tables = self.tables();
        let numbers = tables.rooms.keys().filter(|nid| **nid > after);
        Ok(numbers.take(many(limit)).copied().collect())
    }

    async fn event(&self, id: EventHash) -> Result<Option<EventRecord>, StoreError> {
        let tables = self.tables();
        let nid = tables.hashes.get(&id).copied();
        Ok(nid.and_then(|nid| tables.event(nid)))
    }

    async fn events(&self, nids: &[EventNid]) -> Result<Vec<EventRecord>, StoreError> {
        let tables = self.tables();
        Ok(nids.iter().filter_map(|nid| tables.event(*nid)).collect())
    }

    async fn numbered(&self, ids: &[EventHash]) -> Result<Vec<(EventHash, EventNid)>, StoreError> {
        let tables = self.tables();
        let number = |id: &EventHash| Some((*id, *tables.hashes.get(id)?));
        Ok(ids.iter().filter_map(number).collect())
    }

    async fn current(
        &self,
        room: RoomNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError> {
        let tables = self.tables();
        let current = tables.current.get(&room);
        let nid = |key| current.and_then(|current| current.get(key)).copied();
        let event = |key| nid(key).and_then(|nid| tables.event(nid));
        Ok(keys.iter().map(event).collect())
    }

    async fn current_all(
        &self,
        room: RoomNid,
        kind: Option<&str>,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let tables = self.tables();
        let current = tables.current.get(&room).into_iter().flatten();
        Ok(current
            .filter(|(key, _)| kind.is_none_or(|kind| key.kind == kind))
            .filter_map(|(_, nid)| tables.event(*nid))
            .collect())
    }

    async fn state(&self, state: StateNid) -> Result<Vec<EventNid>, StoreError> {
        Ok(self.tables().state_set(state).iter().copied().collect())
    }

    async fn in_state(
        &self,
        state: StateNid,
        events: &[EventNid],
    ) -> Result<Vec<EventNid>, StoreError> {
        let tables = self.tables();
        let state = tables.state_set(state);
        let present = events.iter().filter(|nid| state.contains(nid));
        Ok(present.copied().collect())
    }

    async fn state_events(
        &self,
        room: RoomNid,
        state: StateNid,
        kinds: Kinds<'_>,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let tables = self.tables();
        let state = tables.state_set(state);
        let events = state.iter().filter_map(|nid| tables.events.get(nid));
        let wanted = events.filter(|event| {
            let kind = event.key.as_ref().map(|key| key.kind.as_str());
            event.record.room == room && kind.is_some_and(|kind| kinds.want(kind))
        });
        Ok(wanted.map(|event| event.record.clone()).collect())
    }

    async fn state_entries(
        &self,
        room: RoomNid,
        state: StateNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError> {
        let tables = self.tables();
        let state = tables.state_set(state);
        let find = |wanted: &StateKey| {
            state
                .iter()
                .filter_map(|nid| tables.events.get(nid))
                .find(|event| event.record.room == room && event.key.as_ref() == Some(wanted))
                .map(|event| event.record.clone())
        };
        Ok(keys.iter().map(find).collect())
    }

    async fn log(
        &self,
        room: RoomNid,
        from: Seq,
        to: Seq,
        order: Order,
        limit: u32,
    ) -> Result<Vec<LogRecord>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let tables = self.tables();
        let seqs = tables
            .log
            .range((room, from.next())..=(room, to))
            .map(|((_, seq), _)| *seq);
        let found = |seq| tables.logged(room, seq);
        Ok(match order {
            Order::Forward => seqs.take(many(limit)).filter_map(found).collect(),
            Order::Backward => seqs.rev().take(many(limit)).filter_map(found).collect(),
        })
    }

    async fn seq_at(&self, room: RoomNid, position: Position) -> Result<Seq, StoreError> {
        let tables = self.tables();
        let range = tables.log.range((room, Seq::ZERO)..=(room, Seq(u64::MAX)));
        let last = range.rev().find(|(_, entry)| entry.position <= position);
        Ok(last.map_or(Seq::ZERO, |((_, seq), _)| *seq))
    }

    async fn places(
        &self,
        room: RoomNid,
        anchor: Seq,
        order: Order,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let tables = self.tables();
        let all = tables.places.iter();
        let here = all.filter(|place| (place.0, place.1) == (room, anchor));
        let mut here: Vec<_> = here.map(|place| place.3).collect();
        if order == Order::Backward {
            here.reverse();
        }
        let page = here.into_iter().skip(many(skip)).take(many(limit));
        Ok(page.filter_map(|nid| tables.event(nid)).collect())
    }

    async fn anchors(
        &self,
        room: RoomNid,
        from: Seq,
        to: Seq,
        limit: u32,
    ) -> Result<Vec<Seq>, StoreError> {
        let tables = self.tables();
        let here = tables.places.iter().rev();
        let mut anchors: Vec<Seq> = here
            .filter(|place| place.0 == room && place.1 > from && place.1 <= to)
            .map(|place| place.1)
            .collect();
        anchors.dedup();
        anchors.truncate(many(limit));
        Ok(anchors)
    }

    async fn membership(
        &self,
        user: &UserId,
        room: RoomNid,
    ) -> Result<Option<MembershipRecord>, StoreError> {
        Ok(self.tables().member(user, room))
    }

    async fn memberships(
        &self,
        user: &UserId,
        since: Option<Position>,
    ) -> Result<Vec<MembershipRecord>, StoreError> {
        let tables = self.tables();
        let mine = tables
            .memberships
            .range((user.to_owned(), RoomNid(i64::MIN))..)
            .take_while(|((whose, _), _)| whose == user);
        let wanted = |member: &MembershipRecord| match since {
            None => !member.forgotten,
            Some(since) => {
                member.position > since || (!member.forgotten && member.room_position > since)
            }
        };
        Ok(mine
            .filter_map(|((_, room), _)| tables.member(user, *room))
            .filter(wanted)
            .collect())
    }

    async fn joined(
        &self,
        room: RoomNid,
        server: Option<&ServerName>,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let tables = self.tables();
        let here = |user: &&OwnedUserId| server.is_none_or(|name| user.server_name() == name);
        Ok(tables.joined(room).filter(here).cloned().collect())
    }

    async fn audience(
        &self,
        room: RoomNid,
        server: &ServerName,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let tables = self.tables();
        let told = tables.memberships.iter().filter(|((user, of), member)| {
            let listens = matches!(
                member.membership,
                Membership::Join | Membership::Invite | Membership::Knock
            );
            *of == room && listens && user.server_name() == server
        });
        Ok(told.map(|((user, _), _)| user.clone()).collect())
    }

    async fn neighbours(&self, user: &UserId, limit: u32) -> Result<Vec<OwnedUserId>, StoreError> {
        let near = self.tables().neighbours(user);
        Ok(near.into_iter().take(many(limit)).collect())
    }

    async fn share_a_room(&self, one: &UserId, other: &UserId) -> Result<bool, StoreError> {
        let tables = self.tables();
        let shared = !tables.rooms_of(one).is_disjoint(&tables.rooms_of(other));
        Ok(shared)
    }

    async fn txn(&self, key: &TxnKey) -> Result<Option<TxnAnswer>, StoreError> {
        let tables = self.tables();
        Ok(tables.txns.get(key).map(|(answer, _)| answer.clone()))
    }

    async fn txns(
        &self,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let tables = self.tables();
        let mine = tables
            .txns
            .keys()
            .filter(|key| key.user == user && key.device == device);
        Ok(mine
            .map(|key| (key.endpoint.clone(), key.txn.clone()))
            .collect())
    }

    async fn policy_decision(
        &self,
        event: EventHash,
    ) -> Result<Option<PolicyDecision>, StoreError> {
        let tables = self.tables();
        let found = tables.policy_decisions.get(&event);
        Ok(found.map(|(refused, _)| PolicyDecision {
            refused: refused.clone(),
        }))
    }

    async fn alias(&self, alias: &RoomAliasId) -> Result<Option<AliasRecord>, StoreError> {
        Ok(self.tables().alias(alias))
    }

    async fn aliases(&self, room: RoomNid) -> Result<Vec<AliasRecord>, StoreError> {
        let tables = self.tables();
        let named = tables.aliases.iter().filter(|(_, (of, _))| *of == room);
        Ok(named.filter_map(|(alias, _)| tables.alias(alias)).collect())
    }

    async fn outside(
        &self,
        user: &UserId,
        since: Position,
    ) -> Result<Vec<OutsideRecord>, StoreError> {
        let tables = self.tables();
        let all = tables.outside.values();
        let new = all.filter(|record| record.user == user && record.position > since);
        Ok(new.cloned().collect())
    }

    async fn outside_of(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<OutsideRecord>, StoreError> {
        let key = (user.to_owned(), room.to_owned());
        Ok(self.tables().outside.get(&key).cloned())
    }

    async fn is_listed(&self, room: RoomNid) -> Result<bool, StoreError> {
        Ok(self.tables().directory.contains(&room))
    }

    async fn listed(
        &self,
        after: Option<(u64, RoomNid)>,
        limit: u32,
    ) -> Result<Vec<ListedRecord>, StoreError> {
        let tables = self.tables();
        let mut listed: Vec<_> = tables
            .directory
            .iter()
            .filter_map(|nid| tables.rooms.get(nid))
            .map(|room| ListedRecord {
                joined: tables.joined(room.nid).map(|_| 1).sum(),
                room: room.clone(),
            })
            .filter(|record| record.joined > 0)
            .collect();
        let place = |record: &ListedRecord| (Reverse(record.joined), record.room.nid);
        listed.sort_by_key(place);
        if let Some((joined, nid)) = after {
            listed.retain(|record| place(record) > (Reverse(joined), nid));
        }
        listed.truncate(many(limit));
        Ok(listed)
    }

    async fn receipts(
        &self,
        room: RoomNid,
        since: Position,
    ) -> Result<Vec<ReceiptRecord>, StoreError> {
        let tables = self.tables();
        let new = |((of, ..), receipt): &(&(RoomNid, _, _, _), &ReceiptRecord)| {
            *of == room && receipt.position > since
        };
        let mut found: Vec<ReceiptRecord> = tables
            .receipts
            .iter()
            .filter(new)
            .map(|(_, receipt)| receipt.clone())
            .collect();
        found.sort_by_key(|receipt| receipt.position);
        Ok(found)
    }

    async fn receipts_of(
        &self,
        room: RoomNid,
        user: &UserId,
    ) -> Result<Vec<ReceiptRecord>, StoreError> {
        let tables = self.tables();
        let mine = tables
            .receipts
            .iter()
            .filter(|((of, whose, ..), _)| *of == room && whose == user);
        Ok(mine.map(|(_, receipt)| receipt.clone()).collect())
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        let tables = self.tables();
        Ok(Totals {
            rooms: tables.rooms.len() as u64,
            events: tables.events.len() as u64,
            users: tables.users.len() as u64,
        })
    }
}

#[async_trait]
impl MediaIndex for Memory {
    async fn media(&self, id: &str) -> Result<Option<MediaRecord>, StoreError> {
        Ok(self.tables().media.get(id).cloned())
    }

    async fn media_rows(&self, after: &[u8], limit: u32) -> Result<Vec<MediaRow>, StoreError> {
        let tables = self.tables();
        let files = tables.media.values();
        let later = files.filter(|file| file.id.as_bytes() > after);
        let rows = later.take(many(limit)).map(|file| MediaRow {
            key: file.id.clone().into_bytes(),
            record: Ok(file.clone()),
        });
        Ok(rows.collect())
    }

    async fn media_used(&self, user: &UserId) -> Result<u64, StoreError> {
        let tables = self.tables();
        let mine = tables.media.values().filter(|media| media.user == user);
        Ok(mine.map(|media| media.size).sum())
    }
}
