//! How a shard takes events of other servers, which were judged outside it.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId};
use sha2::{Digest as _, Sha256};

use super::{Shard, Staging, stage::ours};
use crate::{
    base::{Position, Seq},
    hub::{
        fanout::Touched,
        writer::{
            Submitted, WriteError,
            admission::{Admission, Admitted, Anchor, Entry, Onto, Piece, Spot},
            hot::{Hot, hashes, membership_of},
        },
    },
    room::{Membership, Room, StateKey, tips_after},
    store::{Marker, NewEntry, NewEvent, NewLogged, OutboxWrite, StateNid, Write},
};

impl Shard {
    /// Stages an admission, if the room is still what it rests on.
    pub(super) async fn admit(
        &mut self,
        id: &OwnedRoomId,
        admission: Admission,
        staging: &mut Staging,
    ) -> Result<Submitted, WriteError> {
        self.stand(id, &admission, staging).await?;
        let hot = self.rooms.get(id).expect("stand() put the room there");
        let mut after = hot.clone();
        let mark = staging.mark();
        match after.take(&admission, self.key.name(), staging) {
            Ok(events) => {
                self.rooms.insert(id.clone(), after);
                Ok(Submitted {
                    room: id.clone(),
                    position: Position::ZERO,
                    events,
                    replayed: false,
                })
            }
            Err(error) => {
                staging.back_to(mark);
                if matches!(
                    admission.onto,
                    Onto::Arrival {
                        version: Some(_),
                        ..
                    }
                ) {
                    self.rooms.remove(id);
                }
                Err(error)
            }
        }
    }

    /// Makes sure the room is in memory, and is the one that was judged.
    async fn stand(
        &mut self,
        id: &OwnedRoomId,
        admission: &Admission,
        staging: &mut Staging,
    ) -> Result<(), WriteError> {
        let Onto::Arrival {
            version: Some(version),
            ..
        } = admission.onto
        else {
            self.warm(id).await?;
            let hot = self.rooms.get(id).expect("warm() put the room there");
            return match admission.onto {
                Onto::Room(state) if hot.state.nid != state => Err(WriteError::Moved),
                _ if hot.nid != admission.room => Err(WriteError::Moved),
                _ => Ok(()),
            };
        };
        if self.rooms.contains_key(id) || self.store.room(id).await.map_err(ours)?.is_some() {
            return Err(WriteError::Moved);
        }
        self.tick += 1;
        staging.writes.push(Write::NewRoom {
            nid: admission.room,
            id: id.clone(),
            version,
        });
        let room = Room::empty(id.clone(), version);
        let hot = Hot::new(room, admission.room, self.tick);
        self.rooms.insert(id.clone(), hot);
        Ok(())
    }
}

impl Hot {
    fn take(
        &mut self,
        admission: &Admission,
        ours: &ServerName,
        staging: &mut Staging,
    ) -> Result<Vec<(OwnedEventId, Option<Seq>)>, WriteError> {
        let states = admission.states.iter().cloned().map(Write::State);
        staging.writes.extend(states);
        if let Onto::Arrival { base, .. } = admission.onto {
            self.is_whole = true;
            self.room.settle(Vec::new(), []);
            self.branches.clear();
            let marker = self.marker(&Marker::Arrived, base);
            staging.writes.push(marker);
        }
        let mut events = Vec::new();
        for admitted in &admission.events {
            staging.writes.push(self.row(admitted));
            match &admitted.spot {
                Spot::Nowhere => {}
                Spot::Place(anchor) => staging.writes.push(self.late(admitted, *anchor)),
                Spot::Entry(entry) => {
                    let seq = self.enter(admitted, entry, &mut staging.writes)?;
                    if admission.relayed {
                        let room = self.nid;
                        let relay = Write::Outbox(OutboxWrite::Relay { room, seq });
                        staging.writes.push(relay);
                    }
                    // Ours can come this way too: an invite that the other server has signed.
                    let is_ours = admitted.event.fields().sender.server_name() == ours;
                    if admission.relayed || is_ours {
                        staging.tell(self.room.id(), seq);
                    }
                    events.push((admitted.event.id().clone(), Some(seq)));
                }
            }
        }
        self.change(admission, ours, staging);
        Ok(events)
    }

    fn row(&self, admitted: &Admitted) -> Write {
        let Admitted {
            event,
            nid,
            status,
            soft_failed,
            state_after,
            ..
        } = admitted;
        if admitted.is_stored {
            return Write::Grafted {
                event: *nid,
                status: *status,
                soft_failed: *soft_failed,
                state_after: *state_after,
            };
        }
        let fields = event.fields();
        Write::Event(NewEvent {
            nid: *nid,
            room: self.nid,
            hash: event.hash(),
            kind: fields.kind.clone(),
            state_key: fields.state_key.clone(),
            depth: fields.depth,
            status: *status,
            soft_failed: *soft_failed,
            state_after: *state_after,
            prev: hashes(&fields.prev),
            auth: hashes(&fields.auth),
            sent_by: None,
            json: Arc::clone(event.json()),
        })
    }

    /// Gives an event that came late its place.
    fn late(&self, admitted: &Admitted, anchor: Anchor) -> Write {
        Write::Place {
            room: self.nid,
            anchor: match anchor {
                Anchor::Before(seq) => seq,
                Anchor::Next => self.room.heads().seq.next(),
            },
            depth: admitted.event.fields().depth,
            event: admitted.nid,
        }
    }

    /// Gives an event its place in the log, and the markers after it theirs.
    fn enter(
        &mut self,
        admitted: &Admitted,
        entry: &Entry,
        out: &mut Vec<Write>,
    ) -> Result<Seq, WriteError> {
        let (event, after) = (&admitted.event, admitted.state_after);
        let tips = tips_after(&self.room.heads().tips, event, &entry.hidden);
        let tips = tips.ok_or(WriteError::Moved)?;
        self.branches.insert(event.id().clone(), after);
        self.branches
            .retain(|id, _| tips.iter().any(|(tip, _)| tip == id));
        let branches: BTreeSet<_> = self.branches.values().copied().collect();
        if branches != entry.branches {
            return Err(WriteError::Moved);
        }
        self.room.settle(tips, []);
        let place = self.room.receive(&event.hash().0);
        out.push(Write::Entry(NewEntry {
            room: self.nid,
            seq: place.seq,
            chain: place.chain,
            state: (entry.line != after).then_some(entry.line),
            what: NewLogged::Event(admitted.nid),
        }));
        for marker in &entry.markers {
            let marker = self.marker(marker, entry.line);
            out.push(marker);
        }
        Ok(place.seq)
    }

    /// Gives a marker its place in the log.
    fn marker(&mut self, marker: &Marker, line: StateNid) -> Write {
        let bytes = marker.to_bytes();
        let place = self.room.receive(&Sha256::digest(&bytes).into());
        Write::Entry(NewEntry {
            room: self.nid,
            seq: place.seq,
            chain: place.chain,
            state: Some(line),
            what: NewLogged::Marker(bytes),
        })
    }

    /// Puts what is current afterwards in force.
    fn change(&mut self, admission: &Admission, ours: &ServerName, staging: &mut Staging) {
        self.state = admission.state;
        for (key, event) in &admission.changes {
            match event {
                Some((nid, _)) => drop(self.nids.insert(key.clone(), *nid)),
                None => drop(self.nids.remove(key)),
            }
            staging.writes.push(Write::Current {
                room: self.nid,
                key: key.clone(),
                event: event.as_ref().map(|(nid, _)| *nid),
            });
            self.member(key, event.as_ref(), ours, staging);
        }
        self.residents(admission, ours, staging);
        let changes = admission.changes.iter().map(|(key, event)| {
            let event = event.as_ref().map(|(_, event)| Arc::clone(event));
            (key.clone(), event)
        });
        let tips = self.room.heads().tips.clone();
        self.room.settle(tips, changes);
        for redacted in &admission.redactions {
            self.room.redacted(&redacted.target);
            staging.writes.push(Write::Redact {
                event: redacted.event,
                because: redacted.because,
                json: redacted.json.clone(),
            });
        }
    }

    fn member(
        &mut self,
        key: &StateKey,
        event: Option<&Piece>,
        ours: &ServerName,
        staging: &mut Staging,
    ) {
        let Some(user) = (key.kind == "m.room.member")
            .then(|| OwnedUserId::try_from(key.key.as_str()).ok())
            .flatten()
        else {
            return;
        };
        let Some((nid, event)) = event else {
            return; // resolution took it away: the row keeps what it last was
        };
        let membership = membership_of(event);
        if user.server_name() == ours {
            self.listens(&user, membership);
            staging.touched.push(Touched::One(user.clone()));
        }
        staging.writes.push(Write::Membership {
            user,
            room: self.nid,
            membership,
            event: *nid,
        });
    }

    /// Which other servers the changed memberships are of.
    fn residents(&mut self, admission: &Admission, ours: &ServerName, staging: &mut Staging) {
        let members = admission.changes.iter().filter_map(|(key, _)| {
            let user = (key.kind == "m.room.member").then_some(key.key.as_str())?;
            Some(<&UserId>::try_from(user).ok()?.server_name().to_owned())
        });
        let servers: BTreeSet<OwnedServerName> = members.filter(|of| of != ours).collect();
        if servers.is_empty() {
            return;
        }
        let last = self.room.heads().seq;
        let seq = match admission.onto {
            Onto::Room(_) => last,
            // Our own join: the server that took it has told the others.
            Onto::Arrival { .. } => last.next(),
        };
        Arc::make_mut(&mut self.servers).extend(servers.iter().cloned());
        staging.writes.push(Write::Outbox(OutboxWrite::Residents {
            room: self.nid,
            seq,
            servers: servers.into_iter().collect(),
            told: false,
        }));
    }

    /// Whether a user is told of news here from now on.
    pub(in crate::hub::writer) fn listens(&mut self, user: &UserId, membership: Membership) {
        let listens = matches!(
            membership,
            Membership::Join | Membership::Invite | Membership::Knock
        );
        if listens != self.audience.contains(user) {
            let audience = Arc::make_mut(&mut self.audience);
            if listens {
                audience.insert(user.to_owned());
            } else {
                audience.remove(user);
            }
        }
    }
}
