//! What other servers are told, in memory.

use std::collections::BTreeSet;

use async_trait::async_trait;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{Memory, Tables};
use crate::{
    base::{Position, Seq, Timestamp},
    room::Membership,
    store::{
        DeliveryRecord, DestinationRecord, Destinations, KeysChange, Mark, OutboxWrite,
        ParcelRecord, Residency, RoomNid, StoreError,
    },
};

impl Tables {
    pub(super) fn apply_outbox(&mut self, write: &OutboxWrite) {
        match write {
            OutboxWrite::Residents {
                room,
                seq,
                servers,
                told,
            } => {
                for server in servers {
                    self.resident((*room, *seq), server, *told);
                }
            }
            OutboxWrite::Relay { room, seq } => drop(self.relays.insert((*room, *seq))),
            OutboxWrite::Destination(record) => {
                self.destinations
                    .insert(record.server.clone(), record.clone());
            }
            OutboxWrite::ParcelsSent { to, upto } => self
                .parcels
                .retain(|(server, place), _| server != to || place > upto),
            OutboxWrite::Refused {
                server,
                room,
                seq,
                reason,
                at,
            } => {
                let key = (*room, *seq, server.clone());
                self.refusals.insert(key, (reason.clone(), *at));
            }
            OutboxWrite::Expired {
                server,
                from,
                to,
                at,
            } => {
                let lapse = self.lapses.entry((server.clone(), *from));
                lapse.or_insert((*to, *at));
            }
            OutboxWrite::Withheld {
                server,
                room,
                from,
                to,
                at,
            } => {
                let known = self.withheld.entry((*room, server.clone(), *from));
                let known = known.or_insert((*to, *at));
                *known = (known.0.max(*to), *at);
            }
            OutboxWrite::ForgetFailures { before } => {
                self.withheld.retain(|_, (_, at)| *at >= *before);
                self.refusals.retain(|_, (_, at)| *at >= *before);
                self.lapses.retain(|_, (_, at)| *at >= *before);
            }
        }
    }

    pub(super) fn keep_parcel(
        &mut self,
        to: &OwnedServerName,
        position: Position,
        parcel: (String, Timestamp),
    ) {
        let of_commit = (to.clone(), (position, 0))..=(to.clone(), (position, u64::MAX));
        let last = self.parcels.range(of_commit).next_back();
        let part = last.map_or(0, |((_, (_, part)), _)| *part);
        let place = (position, part.saturating_add(1));
        self.parcels.insert((to.clone(), place), parcel);
    }

    fn resident(&mut self, (room, seq): (RoomNid, Seq), server: &OwnedServerName, told: bool) {
        let is_joined = self.memberships.iter().any(|((user, of), member)| {
            *of == room && member.membership == Membership::Join && user.server_name() == server
        });
        let key = (room, server.clone());
        let spans = self.residents.entry(key).or_default();
        let open = spans.iter().position(|span| span.until.is_none());
        let same = spans.iter().position(|span| span.since == seq);
        let close = |spans: &mut Vec<Residency>, at: usize, until| {
            if let Some(span) = spans.get_mut(at) {
                span.until = until;
            }
        };
        match (is_joined, open) {
            (true, None) => match same {
                Some(at) => close(spans, at, None),
                None => spans.push(Residency {
                    since: seq,
                    until: None,
                }),
            },
            (false, Some(at)) => close(spans, at, Some(seq)),
            (false, None) if told && same.is_none() => {
                spans.push(Residency {
                    since: seq,
                    until: Some(seq),
                });
            }
            _ => {}
        }
    }

    fn mark_of(&self, server: &ServerName) -> Mark {
        let known = self.destinations.get(server);
        known.map(|known| known.mark).unwrap_or_default()
    }

    fn rooms_with(&self, server: &ServerName) -> impl Iterator<Item = RoomNid> {
        let is_there = move |(_, of): &&(RoomNid, OwnedServerName)| *of == *server;
        let all = self.residents.iter();
        all.filter(move |(key, spans)| {
            is_there(key) && spans.iter().any(|span| span.until.is_none())
        })
        .map(|((room, _), _)| *room)
    }
}

#[async_trait]
impl Destinations for Memory {
    async fn destinations(&self) -> Result<Vec<DestinationRecord>, StoreError> {
        let tables = self.tables();
        let mut names: BTreeSet<_> = tables.destinations.keys().cloned().collect();
        let with_spans = tables
            .residents
            .iter()
            .filter(|(_, spans)| !spans.is_empty());
        names.extend(with_spans.map(|((_, server), _)| server.clone()));
        names.extend(tables.parcels.keys().map(|(server, _)| server.clone()));
        let record = |server: OwnedServerName| {
            let known = tables.destinations.get(&server).cloned();
            known.unwrap_or_else(|| DestinationRecord {
                server,
                mark: Mark::default(),
                beside: Position::ZERO,
                failing_since: None,
            })
        };
        Ok(names.into_iter().map(record).collect())
    }

    async fn backlog(
        &self,
        server: Option<&ServerName>,
    ) -> Result<Vec<(OwnedServerName, RoomNid)>, StoreError> {
        let tables = self.tables();
        let mut found = Vec::new();
        for ((room, whose), spans) in &tables.residents {
            if server.is_some_and(|server| server != whose) {
                continue;
            }
            let mark = tables.mark_of(whose);
            let known = tables.rooms.get(room);
            let is_behind = known.is_some_and(|known| {
                known.position > mark.position
                    || (known.position == mark.position && *room >= mark.room)
            });
            let concerns = spans.iter().any(|span| {
                span.until.is_none_or(|until| {
                    let entry = tables.log.get(&(*room, until));
                    entry.is_some_and(|entry| entry.position >= mark.position)
                })
            });
            if is_behind && concerns {
                found.push((whose.clone(), *room));
            }
        }
        Ok(found)
    }

    async fn residents(&self, room: RoomNid) -> Result<Vec<OwnedServerName>, StoreError> {
        let tables = self.tables();
        let all = tables.residents.iter();
        Ok(all
            .filter(|((of, _), spans)| *of == room && spans.iter().any(|span| span.until.is_none()))
            .map(|((_, server), _)| server.clone())
            .collect())
    }

    async fn neighbour_servers(
        &self,
        user: &UserId,
        limit: u32,
    ) -> Result<Vec<OwnedServerName>, StoreError> {
        let tables = self.tables();
        let rooms = tables.rooms_of(user);
        let all = tables.residents.iter();
        let near: BTreeSet<_> = all
            .filter(|((of, _), spans)| {
                rooms.contains(of) && spans.iter().any(|span| span.until.is_none())
            })
            .map(|((_, server), _)| server.clone())
            .collect();
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(near.into_iter().take(most).collect())
    }

    async fn residencies(
        &self,
        server: &ServerName,
        room: RoomNid,
    ) -> Result<Vec<Residency>, StoreError> {
        let tables = self.tables();
        let spans = tables.residents.get(&(room, server.to_owned()));
        Ok(spans.cloned().unwrap_or_default())
    }

    async fn relayed(&self, room: RoomNid, from: Seq, to: Seq) -> Result<Vec<Seq>, StoreError> {
        let tables = self.tables();
        let relays = tables.relays.range((room, from)..=(room, to));
        Ok(relays.map(|(_, seq)| *seq).collect())
    }

    async fn parcels(
        &self,
        server: &ServerName,
        after: (Position, u64),
        limit: u32,
    ) -> Result<Vec<ParcelRecord>, StoreError> {
        let tables = self.tables();
        let all = tables.parcels.iter();
        let all = all.filter(|((to, place), _)| to == server && *place > after);
        Ok(all
            .take(limit as usize)
            .map(|((_, place), (edu, at))| ParcelRecord {
                place: *place,
                at: *at,
                edu: edu.clone(),
            })
            .collect())
    }

    async fn receipt_rooms(
        &self,
        server: &ServerName,
        since: Position,
    ) -> Result<Vec<RoomNid>, StoreError> {
        let tables = self.tables();
        let has_news = |room: &RoomNid| {
            let mut all = tables.receipts.iter();
            all.any(|((of, ..), receipt)| of == room && receipt.position > since)
        };
        Ok(tables.rooms_with(server).filter(has_news).collect())
    }

    async fn devices_changed_for(
        &self,
        server: &ServerName,
        since: Position,
        to: Position,
    ) -> Result<Vec<(Position, OwnedUserId, KeysChange)>, StoreError> {
        let tables = self.tables();
        let rooms: BTreeSet<RoomNid> = tables.rooms_with(server).collect();
        let changes = tables.device_changes.iter();
        Ok(changes
            .filter(|(position, user, what)| {
                let mut joined = tables.memberships.iter();
                *position > since
                    && *position <= to
                    && !matches!(what, KeysChange::SeenBy(_))
                    && joined.any(|((whose, room), member)| {
                        whose == user
                            && member.membership == Membership::Join
                            && rooms.contains(room)
                    })
            })
            .cloned()
            .collect())
    }

    async fn deliveries(&self, room: RoomNid, seq: Seq) -> Result<Vec<DeliveryRecord>, StoreError> {
        let tables = self.tables();
        let Some(entry) = tables.log.get(&(room, seq)) else {
            return Ok(Vec::new());
        };
        let at = Mark {
            position: entry.position,
            room,
            seq,
        };
        let all = tables.residents.iter();
        let told =
            all.filter(|((of, _), spans)| *of == room && spans.iter().any(|span| span.covers(seq)));
        Ok(told
            .map(|((_, server), _)| {
                let refusal = tables.refusals.get(&(room, seq, server.clone()));
                let mut lapses = tables.lapses.iter();
                let from = (room, server.clone(), Seq::ZERO);
                let mut withheld = tables.withheld.range(from..=(room, server.clone(), seq));
                DeliveryRecord {
                    server: server.clone(),
                    mark: tables.mark_of(server),
                    refused: refusal.map(|(reason, _)| reason.clone()),
                    expired: lapses
                        .any(|((of, from), (to, _))| of == server && *from < at && *to >= at),
                    withheld: withheld.any(|(_, (to, _))| *to >= seq),
                }
            })
            .collect())
    }

    async fn lost(&self, room: RoomNid, seqs: &[Seq]) -> Result<Vec<Seq>, StoreError> {
        let tables = self.tables();
        let is_lost = |seq: &Seq| {
            let Some(entry) = tables.log.get(&(room, *seq)) else {
                return false;
            };
            let at = Mark {
                position: entry.position,
                room,
                seq: *seq,
            };
            let mut refusals = tables.refusals.keys();
            let mut withheld = tables.withheld.iter();
            let mut lapses = tables.lapses.iter();
            refusals.any(|(of, which, _)| (of, which) == (&room, seq))
                || withheld.any(|((of, _, from), (to, _))| *of == room && from <= seq && seq <= to)
                || lapses.any(|((server, from), (to, _))| {
                    let key = (room, server.clone());
                    *from < at && *to >= at && tables.residents.contains_key(&key)
                })
        };
        Ok(seqs.iter().copied().filter(is_lost).collect())
    }
}
