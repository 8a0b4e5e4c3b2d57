//! How a shard decides a draft: reads what it needs, asks the rules, stages what follows.
//!
//! Nothing is stored or answered here; that is the shard's, once the whole batch is decided.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedEventId, OwnedRoomId};

use super::{Founded, Shard, Staging};
use crate::{
    base::{Position, Seq},
    hub::{
        fanout::Touched,
        writer::{
            Submission, Submitted, Unvouched, WriteError,
            hot::{Hot, Standing},
        },
    },
    room::{Applied, Effect, Evidence, Part, PolicyServer, Room, StateKey},
    store::{
        Conflict, EventNid, RoomRecord, SentBy, SharedStore, StateNid, StoreError, TxnAnswer,
        TxnKey, Write, hash_of,
    },
    wire::matrix::Pdu,
};

/// What a redaction names.
struct Target {
    nid: EventNid,
    pdu: Pdu,
    redacted: String,
}

impl Shard {
    pub(super) async fn append(
        &mut self,
        id: &OwnedRoomId,
        txn: Option<&TxnKey>,
        (submission, vouched): (&Submission, Option<&Arc<Pdu>>),
        staging: &mut Staging,
    ) -> Result<Submitted, WriteError> {
        if let Some(key) = txn
            && let Some(TxnAnswer::Event(event)) =
                self.txns.answer(&self.store, key).await.map_err(ours)?
        {
            return Ok(replayed(id, event));
        }
        self.warm(id).await?;
        let Submission { draft, sent_by, .. } = submission;
        // One part is decided before it changes anything; several need a way back.
        let undo = (draft.parts.len() > 1)
            .then(|| self.rooms.get(id).cloned())
            .flatten();
        let mark = staging.mark();
        let mut events = Vec::with_capacity(draft.parts.len());
        for part in &draft.parts {
            match self
                .part(id, (&draft.sender, part), vouched, sent_by.clone(), staging)
                .await
            {
                Ok(event) => events.extend(event),
                Err(error) => {
                    if let Some(hot) = undo {
                        self.rooms.insert(id.clone(), hot);
                    }
                    staging.back_to(mark);
                    return Err(error);
                }
            }
        }
        Ok(Submitted {
            room: id.clone(),
            position: Position::ZERO,
            events,
            replayed: false,
        })
    }

    pub(super) async fn found(
        &mut self,
        id: &OwnedRoomId,
        founded: Founded,
        staging: &mut Staging,
    ) -> Result<Submitted, WriteError> {
        let Founded {
            room,
            create,
            nid,
            parts,
        } = founded;
        if self.rooms.contains_key(id) || self.store.room(id).await.map_err(ours)?.is_some() {
            return Err(WriteError::Conflict(Conflict {
                what: format!("the room {id} exists"),
            }));
        }
        self.tick += 1;
        let mark = staging.mark();
        let creator = create.fields().sender.clone();
        staging.writes.push(Write::NewRoom {
            nid,
            id: id.clone(),
            version: room.version(),
        });
        let mut hot = Hot::new(room, nid, self.tick);
        let effect = Effect::Append(create);
        let mut events: Vec<_> = self
            .stage_effect(&mut hot, &effect, None, None, staging)
            .into_iter()
            .collect();
        self.rooms.insert(id.clone(), hot);
        for part in &parts {
            match self.part(id, (&creator, part), None, None, staging).await {
                Ok(event) => events.extend(event),
                Err(error) => {
                    self.rooms.remove(id);
                    staging.back_to(mark);
                    return Err(error);
                }
            }
        }
        Ok(Submitted {
            room: id.clone(),
            position: Position::ZERO,
            events,
            replayed: false,
        })
    }

    /// Decides one part and stages its effects. Everything that can fail comes before anything
    /// changes.
    async fn part(
        &mut self,
        id: &OwnedRoomId,
        (sender, part): (&ruma::UserId, &Part),
        vouched: Option<&Arc<Pdu>>,
        sent_by: Option<SentBy>,
        staging: &mut Staging,
    ) -> Result<Vec<(OwnedEventId, Option<Seq>)>, WriteError> {
        let target = self.gather(id, sender, part).await?;
        let hot = self.rooms.get(id).expect("warm() put the room there");
        let evidence = Evidence {
            now: self.clock.now(),
            key: &self.key,
            target: target.as_ref().map(|target| &target.pdu),
        };
        let mut effects = hot.room.decide(sender, part, &evidence)?;
        self.vouch(hot, &mut effects, vouched).await?;
        let mut hot = self.rooms.remove(id).expect("it was there a line ago");
        let events = effects
            .iter()
            .filter_map(|effect| {
                self.stage_effect(&mut hot, effect, target.as_ref(), sent_by.clone(), staging)
            })
            .collect();
        self.rooms.insert(id.clone(), hot);
        Ok(events)
    }

    /// Has the room's policy server vouch for what is appended, if it has one.
    async fn vouch(
        &self,
        hot: &Hot,
        effects: &mut [Effect],
        vouched: Option<&Arc<Pdu>>,
    ) -> Result<(), WriteError> {
        let Some(server) = hot.room.policy_server() else {
            return Ok(());
        };
        let there = self.store.joined(hot.nid, Some(&server.via)).await;
        if there.map_err(ours)?.is_empty() {
            return Ok(());
        }
        let version = hot.room.version();
        for effect in effects {
            let Effect::Append(event) = effect else {
                continue;
            };
            if !PolicyServer::is_asked_about(event) {
                continue;
            }
            if self.policing.is_ours(&server) {
                let signed = self.policing.vouch(event, version, self.clock.now());
                *event = Arc::new(signed.map_err(WriteError::Policy)?);
            } else if let Some(vouched) = vouched.filter(|vouched| is_same_draft(vouched, event)) {
                *event = Arc::clone(vouched);
            } else {
                return Err(WriteError::Unvouched(Box::new(Unvouched {
                    server,
                    event: Arc::clone(event),
                    version,
                    submission: None,
                })));
            }
        }
        Ok(())
    }

    /// Reads what the part needs and is not known.
    async fn gather(
        &mut self,
        id: &OwnedRoomId,
        sender: &ruma::UserId,
        part: &Part,
    ) -> Result<Option<Target>, WriteError> {
        let hot = self.rooms.get_mut(id).expect("warm() put the room there");
        let needs = hot.room.needs(sender, part);
        if !needs.state.is_empty() {
            learn(&self.store, hot, &needs.state).await.map_err(ours)?;
        }
        let Some(hash) = needs.event.as_deref().and_then(hash_of) else {
            return Ok(None);
        };
        let stored = self.store.event(hash).await.map_err(ours)?;
        let Some(record) = stored.filter(|record| record.room == hot.nid) else {
            return Ok(None);
        };
        let version = hot.room.version();
        let target = Pdu::stored(hash, id, Arc::clone(&record.json), version).and_then(|pdu| {
            let redacted = pdu.redacted_json(version)?;
            Ok(Target {
                nid: record.nid,
                pdu,
                redacted,
            })
        });
        target
            .map(Some)
            .map_err(|error| ours(damaged(&error.to_string())))
    }

    /// Applies one effect to the staged room and writes it down.
    fn stage_effect(
        &self,
        hot: &mut Hot,
        effect: &Effect,
        target: Option<&Target>,
        sent_by: Option<SentBy>,
        staging: &mut Staging,
    ) -> Option<(OwnedEventId, Option<Seq>)> {
        let member = match effect {
            Effect::Append(pdu) => member_named(pdu),
            _ => None,
        };
        let was = Standing {
            ours: self.key.name(),
            membership: member
                .as_deref()
                .map(|user| hot.room.membership(user))
                .unwrap_or_default(),
        };
        let applied = hot.room.apply(effect);
        match effect {
            Effect::Append(pdu) => {
                let applied: Applied = applied.expect("an Append has a place in the log");
                if let Some(user) = member {
                    staging.touched.push(Touched::One(user)); // who just left hears of it too
                }
                staging.tell(hot.room.id(), applied.seq);
                hot.store(
                    pdu,
                    applied,
                    was,
                    self.store.numbers(),
                    sent_by,
                    &mut staging.writes,
                );
                Some((pdu.id().clone(), Some(applied.seq)))
            }
            Effect::Redact { because, .. } => {
                let target = target.expect("decide() redacts only what gather() found");
                let because = hash_of(because)
                    .and_then(|hash| staged_nid(&staging.writes, hash))
                    .expect("the redaction was appended just before");
                let json = target.redacted.clone();
                staging.writes.push(Write::Redact {
                    event: target.nid,
                    because,
                    json,
                });
                None
            }
            Effect::Already { event, .. } => event.clone().map(|event| (event, None)),
        }
    }

    /// Makes sure the room is in memory.
    pub(super) async fn warm(&mut self, id: &OwnedRoomId) -> Result<(), WriteError> {
        self.tick += 1;
        if let Some(hot) = self.rooms.get_mut(id) {
            hot.used = self.tick;
            return Ok(());
        }
        let record = self.store.room(id).await.map_err(ours)?;
        let record = record.ok_or_else(|| WriteError::NoSuchRoom(id.clone()))?;
        let audience = self
            .store
            .audience(record.nid, self.key.name())
            .await
            .map_err(ours)?;
        let servers = self.store.residents(record.nid).await.map_err(ours)?;
        let branches = branches(&self.store, &record).await.map_err(ours)?;
        let room = Room::loaded(id.clone(), record.version, record.heads);
        let hot = Hot {
            state: record.state,
            audience: Arc::new(audience.into_iter().collect()),
            servers: Arc::new(servers.into_iter().collect()),
            branches,
            ..Hot::new(room, record.nid, self.tick)
        };
        self.rooms.insert(id.clone(), hot);
        Ok(())
    }
}

/// Whether two events say the same at the same place; the time they were made may differ.
fn is_same_draft(one: &Pdu, other: &Pdu) -> bool {
    let mut fields = one.fields().clone();
    fields.at = other.fields().at;
    fields == *other.fields()
}

/// The states after a room's newest events.
async fn branches(
    store: &SharedStore,
    room: &RoomRecord,
) -> Result<HashMap<OwnedEventId, StateNid>, StoreError> {
    if let [(tip, _)] = room.heads.tips.as_slice() {
        return Ok(HashMap::from([(tip.clone(), room.state.nid)]));
    }
    let mut branches = HashMap::new();
    for (tip, _) in &room.heads.tips {
        let hash = hash_of(tip).ok_or_else(|| damaged("a tip has no hash"))?;
        let event = store.event(hash).await?;
        let event = event.ok_or_else(|| damaged("a tip is not stored"))?;
        branches.insert(tip.clone(), event.state_after);
    }
    Ok(branches)
}

async fn learn(store: &SharedStore, hot: &mut Hot, keys: &[StateKey]) -> Result<(), StoreError> {
    let found = store.current(hot.nid, keys).await?;
    for (key, record) in keys.iter().zip(found) {
        let event = match record {
            None => None,
            Some(record) => {
                hot.nids.insert(key.clone(), record.nid);
                let pdu = Pdu::stored(record.hash, hot.room.id(), record.json, hot.room.version());
                Some(Arc::new(pdu.map_err(|error| damaged(&error.to_string()))?))
            }
        };
        hot.room.learn(key.clone(), event);
    }
    Ok(())
}

/// The row number of an event of this batch.
fn staged_nid(writes: &[Write], hash: crate::base::EventHash) -> Option<EventNid> {
    writes.iter().rev().find_map(|write| match write {
        Write::Event(event) if event.hash == hash => Some(event.nid),
        _ => None,
    })
}

/// Whose membership an event is about.
fn member_named(pdu: &Pdu) -> Option<ruma::OwnedUserId> {
    let key = pdu
        .fields()
        .state_key
        .as_deref()
        .filter(|_| pdu.fields().kind == "m.room.member")?;
    ruma::OwnedUserId::try_from(key).ok()
}

fn replayed(room: &OwnedRoomId, event: OwnedEventId) -> Submitted {
    Submitted {
        room: room.clone(),
        position: Position::ZERO,
        events: vec![(event, None)],
        replayed: true,
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged {
        what: what.to_owned(),
    }
}

pub(super) fn ours(error: StoreError) -> WriteError {
    WriteError::Store(Arc::new(error))
}
