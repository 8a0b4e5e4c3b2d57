//! Commits in memory.
//!
//! What an ordinary batch can get wrong is looked for before anything is changed; a batch that
//! may conflict is tried on a copy.

use std::{collections::BTreeSet, sync::Arc};

use super::{Device, Entry, Event, Fallback, Member, Tables, check::check, remote};
use crate::{
    base::{Position, Seq},
    room::{Heads, StateKey},
    store::{
        Batch, Claimed, CommitError, Committed, Conflict, DeviceRecord, EventNid, EventRecord,
        NewEntry, NewEvent, NewLogged, NewState, OutsideRecord, ReceiptRecord, RoomRecord,
        StateHead, StateNid, StoreError, TxnKey, UserRecord, Write,
    },
    wire::chain,
};

/// Why a batch cannot go on.
pub(super) enum Stop {
    Conflict(String),
    Damaged(String),
}

pub(super) fn commit(tables: &mut Tables, batches: &[Batch]) -> Result<Committed, CommitError> {
    let failed = |what| CommitError::Failed(StoreError::Damaged { what });
    let may_fail = batches.iter().any(may_fail);
    let backup = may_fail.then(|| tables.clone());
    let position = tables.position.next();
    let mut outcomes = Vec::with_capacity(batches.len());
    let done = (|| {
        // Up to a batch that may conflict, and from there on.
        for run in batches.chunk_by(|one, next| !one.may_conflict && !next.may_conflict) {
            check(tables, run)?;
            for batch in run {
                outcomes.push(take(tables, batch, position)?);
            }
        }
        Ok(())
    })();
    match done {
        Ok(()) => {
            tables.position = position;
            Ok(Committed { position, outcomes })
        }
        Err(Stop::Damaged(what) | Stop::Conflict(what)) => {
            if let Some(backup) = backup {
                *tables = backup;
            }
            Err(failed(what))
        }
    }
}

/// Whether a batch has a write that can fail half-way. Simulations commit mostly others, and
/// copying a store for each of those would be slow.
fn may_fail(batch: &Batch) -> bool {
    batch.may_conflict
        || batch.writes.iter().any(|write| {
            matches!(
                write,
                Write::NewRoom { .. }
                    | Write::NewAlias { .. }
                    | Write::RemoveAlias { .. }
                    | Write::NewUser { .. }
                    | Write::Session { .. }
                    | Write::Redact { .. }
                    | Write::Grafted { .. }
                    | Write::Media(_)
                    | Write::Link(_)
                    | Write::Oscore { .. }
                    | Write::Reserve { .. }
                    | Write::Register(_)
                    | Write::RemoteMessage { .. }
            )
        })
}

fn take(
    tables: &mut Tables,
    batch: &Batch,
    position: Position,
) -> Result<Result<Vec<Claimed>, Conflict>, Stop> {
    let before = batch.may_conflict.then(|| tables.clone());
    let mut claimed = Vec::new();
    for (part, write) in batch.writes.iter().enumerate() {
        let part = u32::try_from(part).unwrap_or(u32::MAX);
        match tables.apply(write, position, part) {
            Ok(claim) => claimed.extend(claim),
            Err(Stop::Conflict(what)) => {
                let Some(before) = before else {
                    return Err(Stop::Conflict(what));
                };
                *tables = before;
                return Ok(Err(Conflict { what }));
            }
            Err(damaged) => return Err(damaged),
        }
    }
    Ok(Ok(claimed))
}

impl Tables {
    fn apply(
        &mut self,
        write: &Write,
        position: Position,
        part: u32,
    ) -> Result<Option<Claimed>, Stop> {
        match write {
            Write::ClaimKey {
                user,
                device,
                algorithm,
                spare,
            } => return Ok(Some(self.claim(user, device, algorithm, *spare))),
            Write::NewRoom { .. }
            | Write::Heads { .. }
            | Write::Event(_)
            | Write::Grafted { .. }
            | Write::State(_)
            | Write::Entry(_)
            | Write::Place { .. }
            | Write::Current { .. }
            | Write::Membership { .. }
            | Write::Forget { .. }
            | Write::Outside(_)
            | Write::NotOutside { .. }
            | Write::Redact { .. }
            | Write::Txn { .. }
            | Write::ForgetTxns { .. }
            | Write::PolicyDecided { .. }
            | Write::ForgetPolicyDecisions { .. }
            | Write::NewAlias { .. }
            | Write::RemoveAlias { .. }
            | Write::Listed { .. }
            | Write::Receipt { .. }
            | Write::Media(_) => self.apply_room(write, position)?,
            Write::NewUser { .. }
            | Write::Password { .. }
            | Write::Disabled { .. }
            | Write::Profile { .. }
            | Write::AccountData { .. }
            | Write::Filter { .. } => self.apply_account(write, position)?,
            Write::ThinNames { .. } => self.apply_thin(write),
            Write::PeerKeys { server, json } => {
                self.peer_keys.insert(server.clone(), json.clone());
            }
            Write::Outbox(write) => self.apply_outbox(write),
            Write::Parcel { to, edu, at } => {
                self.keep_parcel(to, position, (edu.clone(), *at));
            }
            Write::CrossSigning(write) => self.vouched.apply(write),
            Write::ForgetDeviceChanges { before } => self.forget_changes(*before),
            remote if remote::is_ours(remote) => {
                self.remote.apply(remote)?;
                if let Write::ForgetRemoteUser { user } = remote {
                    self.device_changes.retain(|(_, of, _)| of != user);
                }
            }
            _ => self.apply_device(write, position, part)?,
        }
        Ok(None)
    }

    fn apply_room(&mut self, write: &Write, position: Position) -> Result<(), Stop> {
        match write {
            Write::NewRoom { nid, id, version } => {
                if self.room_ids.contains_key(id) {
                    return Err(Stop::Conflict(format!("{id} is already there")));
                }
                self.room_ids.insert(id.clone(), *nid);
                let heads = Heads {
                    seq: Seq::ZERO,
                    chain: chain::genesis(id.as_str()),
                    tips: Vec::new(),
                };
                let room = RoomRecord {
                    nid: *nid,
                    id: id.clone(),
                    version: *version,
                    heads,
                    state: StateHead::default(),
                    position: Position::ZERO,
                };
                self.rooms.insert(*nid, room);
            }
            Write::Heads { room, heads, state } => {
                if let Some(known) = self.rooms.get_mut(room) {
                    known.heads = heads.clone();
                    known.state = *state;
                    known.position = position;
                }
            }
            Write::Event(event) => self.add_event(event),
            Write::Grafted {
                event,
                status,
                soft_failed,
                state_after,
            } => {
                let Some(known) = self.events.get_mut(event) else {
                    return Err(Stop::Damaged(format!("there is no event {}", event.0)));
                };
                let record = &mut Arc::make_mut(known).record;
                record.status = *status;
                record.soft_failed = *soft_failed;
                record.state_after = *state_after;
            }
            Write::State(state) => self.add_state(state),
            Write::Entry(entry) => self.add_entry(entry, position),
            Write::Place {
                room,
                anchor,
                depth,
                event,
            } => {
                self.places.insert((*room, *anchor, *depth, *event));
            }
            Write::Current { room, key, event } => {
                let current = self.current.entry(*room).or_default();
                match event {
                    Some(event) => current.insert(key.clone(), *event),
                    None => current.remove(key),
                };
            }
            Write::Membership {
                user,
                room,
                membership,
                event,
            } => {
                let member = Member {
                    membership: *membership,
                    event: *event,
                    position,
                    forgotten: false,
                };
                self.memberships.insert((user.clone(), *room), member);
            }
            Write::Forget { user, room } => {
                if let Some(member) = self.memberships.get_mut(&(user.clone(), *room)) {
                    member.forgotten = true;
                }
            }
            Write::Outside(record) => {
                let key = (record.user.clone(), record.room_id.clone());
                let record = OutsideRecord {
                    position,
                    ..(**record).clone()
                };
                self.outside.insert(key, record);
            }
            Write::NotOutside { user, room_id } => {
                self.outside.remove(&(user.clone(), room_id.clone()));
            }
            other => self.apply_names(other, position)?,
        }
        Ok(())
    }

    fn apply_names(&mut self, write: &Write, position: Position) -> Result<(), Stop> {
        match write {
            Write::Redact {
                event,
                because,
                json,
            } => {
                let Some(known) = self.events.get_mut(event) else {
                    return Err(Stop::Damaged(format!("there is no event {}", event.0)));
                };
                let record = &mut Arc::make_mut(known).record;
                record.json = Arc::from(json.as_str());
                record.redacted_because = Some(*because);
            }
            Write::Txn { key, .. } if self.txns.contains_key(&**key) => {
                return Err(Stop::Conflict(format!("{} is already there", key.txn)));
            }
            Write::Txn { key, answer, at } => {
                self.txns.insert(TxnKey::clone(key), (answer.clone(), *at));
            }
            Write::ForgetTxns { before } => self
                .txns
                .retain(|key, (_, at)| *at >= *before || key.endpoint == "thin"),
            Write::PolicyDecided { event, refused, at } => {
                let decided = self.policy_decisions.entry(*event);
                decided.or_insert_with(|| (refused.clone(), *at));
            }
            Write::ForgetPolicyDecisions { before } => {
                self.policy_decisions.retain(|_, (_, at)| *at >= *before);
            }
            Write::NewAlias {
                alias,
                room,
                creator,
            } => {
                if self.aliases.contains_key(alias) {
                    return Err(Stop::Conflict(format!("{alias} is already there")));
                }
                self.aliases.insert(alias.clone(), (*room, creator.clone()));
            }
            Write::RemoveAlias { alias } => {
                let known = self.aliases.remove(alias);
                known.ok_or_else(|| Stop::Conflict(format!("{alias} is not there")))?;
            }
            Write::Listed { room, listed: true } => drop(self.directory.insert(*room)),
            Write::Listed { room, .. } => drop(self.directory.remove(room)),
            Write::Receipt { room, receipt } => {
                let key = (
                    *room,
                    receipt.user.clone(),
                    receipt.kind.clone(),
                    receipt.thread.clone(),
                );
                let receipt = ReceiptRecord {
                    position,
                    ..receipt.clone()
                };
                self.receipts.insert(key, receipt);
            }
            Write::Media(media) => {
                if self.media.contains_key(&media.id) {
                    return Err(Stop::Conflict(format!("{} is already there", media.id)));
                }
                self.media.insert(media.id.clone(), media.clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn add_event(&mut self, new: &NewEvent) {
        let key = new.state_key.as_ref();
        let event = Event {
            key: key.map(|key| StateKey::new(&new.kind, key)),
            record: EventRecord {
                nid: new.nid,
                room: new.room,
                hash: new.hash,
                seq: None,
                status: new.status,
                soft_failed: new.soft_failed,
                depth: new.depth,
                state_after: new.state_after,
                redacted_because: None,
                sent_by: new.sent_by.clone(),
                json: Arc::clone(&new.json),
            },
        };
        self.hashes.insert(new.hash, new.nid);
        self.events.insert(new.nid, Arc::new(event));
    }

    fn add_state(&mut self, new: &NewState) {
        let mut events = self.state_set(new.parent).as_ref().clone();
        for nid in &new.removed {
            events.remove(nid);
        }
        events.extend(&new.added);
        self.states.insert(new.nid, Arc::new(events));
    }

    pub(super) fn state_set(&self, nid: StateNid) -> Arc<BTreeSet<EventNid>> {
        self.states.get(&nid).cloned().unwrap_or_default()
    }

    fn add_entry(&mut self, new: &NewEntry, position: Position) {
        if let NewLogged::Event(nid) = new.what
            && let Some(event) = self.events.get_mut(&nid)
        {
            Arc::make_mut(event).record.seq = Some(new.seq);
        }
        let entry = Entry {
            position,
            chain: new.chain,
            state: new.state,
            what: new.what.clone(),
        };
        self.log.insert((new.room, new.seq), Arc::new(entry));
    }

    fn apply_account(&mut self, write: &Write, position: Position) -> Result<(), Stop> {
        match write {
            Write::NewUser {
                user,
                password,
                admin,
                at,
            } => {
                if self.users.contains_key(user) {
                    return Err(Stop::Conflict(format!("{user} is already there")));
                }
                let record = UserRecord {
                    user: user.clone(),
                    password: password.clone(),
                    admin: *admin,
                    disabled: false,
                    created: *at,
                };
                self.users.insert(user.clone(), record);
            }
            Write::Password { user, password } => {
                if let Some(known) = self.users.get_mut(user) {
                    known.password = Some(password.clone());
                }
            }
            Write::Disabled { user, disabled } => {
                if let Some(known) = self.users.get_mut(user) {
                    known.disabled = *disabled;
                }
            }
            Write::Profile { user, field, json } => {
                let key = (user.clone(), field.clone());
                match json {
                    Some(json) => self.profiles.insert(key, json.clone()),
                    None => self.profiles.remove(&key),
                };
            }
            Write::AccountData {
                user,
                room,
                kind,
                json,
            } => {
                let key = (user.clone(), room.clone(), kind.clone());
                self.account_data.insert(key, (json.clone(), position));
            }
            Write::Filter { user, id, json } => {
                self.filters.insert((user.clone(), *id), json.clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn apply_device(&mut self, write: &Write, position: Position, part: u32) -> Result<(), Stop> {
        match write {
            Write::Session {
                user,
                device,
                token,
                name,
                at,
            } => {
                let key = (user.clone(), device.clone());
                let taken = self
                    .devices
                    .iter()
                    .any(|(other, known)| *other != key && known.token == *token);
                if taken {
                    return Err(Stop::Conflict("the token is another device's".to_owned()));
                }
                let known = self.devices.entry(key).or_insert_with(|| Device {
                    token: *token,
                    record: DeviceRecord {
                        device: device.clone(),
                        name: None,
                        seen: None,
                        seen_at: None,
                    },
                });
                known.token = *token;
                known.record.seen = Some(*at);
                if name.is_some() {
                    known.record.name.clone_from(name);
                }
            }
            Write::DeviceName { user, device, name } => {
                if let Some(known) = self.devices.get_mut(&(user.clone(), device.clone())) {
                    known.record.name.clone_from(name);
                }
            }
            Write::DeviceSeen {
                user,
                device,
                at,
                from,
            } => {
                if let Some(known) = self.devices.get_mut(&(user.clone(), device.clone())) {
                    known.record.seen = Some(*at);
                    known.record.seen_at.clone_from(from);
                }
            }
            Write::RemoveDevice { user, device } => {
                let gone = (user.clone(), device.clone());
                self.devices.remove(&gone);
                self.unlink(&gone);
                self.vouched.forget_device(&gone);
                self.device_keys.remove(&gone);
                self.one_time_keys.retain(|(key, ..), _| *key != gone);
                self.fallback_keys.retain(|(key, _), _| *key != gone);
                self.mail.retain(|(key, ..), _| *key != gone);
                self.forget_thin(&gone);
                self.txns
                    .retain(|key, _| (&key.user, &key.device) != (user, device));
            }
            Write::Link(_)
            | Write::Oscore { .. }
            | Write::Reserve { .. }
            | Write::Register(_)
            | Write::Deregister { .. }
            | Write::LinkProfile { .. }
            | Write::WakeUrl { .. } => self.apply_links(write, position)?,
            other => self.apply_keys(other, position, part),
        }
        Ok(())
    }

    fn apply_keys(&mut self, write: &Write, position: Position, part: u32) {
        match write {
            Write::DeviceKeys { user, device, json } => {
                let key = (user.clone(), device.clone());
                self.device_keys.insert(key, json.clone());
            }
            Write::OneTimeKey {
                user,
                device,
                key_id,
                json,
            } => {
                let key = (user.clone(), device.clone());
                let key = (key, algorithm_of(key_id), key_id.clone());
                self.one_time_keys.insert(key, json.clone());
            }
            Write::FallbackKey {
                user,
                device,
                key_id,
                json,
            } => {
                let key = (user.clone(), device.clone());
                let fallback = Fallback {
                    key_id: key_id.clone(),
                    json: json.clone(),
                    used: false,
                };
                self.fallback_keys
                    .insert((key, algorithm_of(key_id)), fallback);
            }
            Write::DevicesChanged { user, what } => {
                let change = (position, user.clone(), what.clone());
                self.device_changes.insert(change);
            }
            Write::Mail {
                user,
                device,
                origin,
                json,
            } => {
                let key = (user.clone(), device.clone());
                if self.devices.contains_key(&key) {
                    // Batches of one commit follow each other: the next free part.
                    let mut part = part;
                    while self.mail.contains_key(&(key.clone(), position, part)) {
                        part = part.saturating_add(1);
                    }
                    let letter = (origin.clone(), json.clone());
                    self.mail.insert((key, position, part), letter);
                }
            }
            Write::MailRead { user, device, to } => {
                self.mail.retain(|((whose, which), position, _), _| {
                    (whose, which) != (user, device) || position > to
                });
            }
            _ => {}
        }
    }

    fn claim(
        &mut self,
        user: &ruma::OwnedUserId,
        device: &ruma::OwnedDeviceId,
        algorithm: &str,
        spare: bool,
    ) -> Claimed {
        let whose = (user.clone(), device.clone());
        let first = self
            .one_time_keys
            .keys()
            .find(|(key, kind, _)| *key == whose && kind == algorithm && !spare)
            .cloned();
        let one_time =
            first.and_then(|key| Some((key.2.clone(), self.one_time_keys.remove(&key)?)));
        let key = one_time.or_else(|| {
            let fallback = self.fallback_keys.get_mut(&(whose, algorithm.to_owned()))?;
            fallback.used = true;
            Some((fallback.key_id.clone(), fallback.json.clone()))
        });
        Claimed {
            user: user.clone(),
            device: device.clone(),
            key,
        }
    }
}

pub(super) fn algorithm_of(key_id: &str) -> String {
    let algorithm = key_id.split_once(':').map(|(algorithm, _)| algorithm);
    algorithm.unwrap_or(key_id).to_owned()
}
