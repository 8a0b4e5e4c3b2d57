//! What became of what was for other servers: for who sent it, and for who runs the hub.

use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::{
    Outbox,
    book::{Destination, State},
    read::{Reader, Rooms, acl, is_acl, lets},
};
use crate::{
    api::{DeliveredTo, Delivery, HeldUp},
    base::Timestamp,
    hub::{
        Hub,
        housekeeping::{FAILURES, ago},
    },
    store::{DestinationRecord, LogRecord, Logged, Mark, RoomNid, StoreError},
};

/// How many waiting events are counted; more are said to be at least so many.
const COUNTED_MAX: usize = 1000;

/// What the sender is told of a message that waited until the room kept its recipient out.
const WITHHELD: &str =
    "SERVER_ACL: the room's m.room.server_acl kept the server out when its turn came";

/// What the sender is told of a message that was made while the room kept a member's server out.
const KEPT_OUT: &str =
    "SERVER_ACL: the room's m.room.server_acl kept the server out when this was sent";

/// Why a message is not told now that the room's ACL, as it is, would keep from its recipient.
const SERVER_ACL: &str = "SERVER_ACL";

/// How a destination fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub server: OwnedServerName,
    /// What it is doing.
    pub state: PeerState,
    /// How many events wait for it.
    pub waiting: usize,
    /// Whether that is all, or at least so many.
    pub is_all: bool,
    /// Since when it takes nothing.
    pub failing_since: Option<Timestamp>,
    /// Why, the last time.
    pub last_error: Option<String>,
}

/// What a destination is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It has everything.
    Idle,
    /// Its turn will come.
    Queued,
    /// It is being told.
    InFlight,
    /// It took nothing, and will be tried again then.
    Waiting(Timestamp),
    /// Nobody is told anything now: the hub does not run, or without federation.
    AtRest,
}

impl Hub {
    /// How other servers fare, in the order of their names after `after`, at most `limit`; or one.
    pub async fn peers(
        &self,
        server: Option<&ServerName>,
        after: Option<&ServerName>,
        limit: usize,
    ) -> Result<Vec<PeerStatus>, StoreError> {
        let mut found = match &self.outbox {
            Some(outbox) => outbox.known(),
            None => at_rest(self).await?,
        };
        found.retain(|(status, _)| {
            server.is_none_or(|one| status.server == *one)
                && after.is_none_or(|after| *status.server > *after)
        });
        found.truncate(limit);
        for (status, mark) in &mut found {
            if status.state == PeerState::Idle {
                continue;
            }
            let reader = Reader {
                store: &self.store,
                ours: self.key.name(),
                server: &status.server,
                mark: *mark,
                upto: self.fanout.position(),
                items_max: COUNTED_MAX,
            };
            let page = reader.page(Rooms::Any).await?;
            status.waiting = page.items.len();
            status.is_all = page.rest.is_empty();
        }
        Ok(found.into_iter().map(|(status, _)| status).collect())
    }
}

/// What the store knows while nobody tells anybody anything.
async fn at_rest(hub: &Hub) -> Result<Vec<(PeerStatus, Mark)>, StoreError> {
    let records = hub.store.destinations().await?;
    let others = records
        .into_iter()
        .filter(|one| one.server != *hub.key.name());
    let status = |record: DestinationRecord| {
        let status = PeerStatus {
            server: record.server,
            state: PeerState::AtRest,
            waiting: 0,
            is_all: true,
            failing_since: record.failing_since,
            last_error: None,
        };
        (status, record.mark)
    };
    Ok(others.map(status).collect())
}

impl Outbox {
    fn known(&self) -> Vec<(PeerStatus, Mark)> {
        let book = self.shared.book();
        let all = book.all.values();
        all.map(|known| (status(known), known.record.mark))
            .collect()
    }

    /// What became of an entry, for each server that it is for. Of one that is older than failures are
    /// remembered, only what went wrong or is still to come is known.
    pub async fn deliveries(
        &self,
        room: RoomNid,
        entry: &LogRecord,
    ) -> Result<Vec<DeliveredTo>, StoreError> {
        let store = &self.shared.parts.store;
        let at = Mark {
            position: entry.position,
            room,
            seq: entry.seq,
        };
        // What was not for a server then is not sent to it later, and what it has it keeps. What was
        // for it and waited until its room kept it out was passed over, whatever the ACL says now.
        let (then, now) = (
            acl(store, room, Some(entry.state)).await?,
            acl(store, room, None).await?,
        );
        let records = store.deliveries(room, entry.seq).await?;
        let remembered = ago(self.shared.parts.clock.now(), FAILURES);
        let is_old = said_at(entry).is_none_or(|at| at < remembered);
        let lets_now = |server: &ServerName| lets(now.as_ref(), server) || is_acl(entry);
        let book = self.shared.book();
        let mut found = Vec::new();
        for record in records {
            if record.server == self.shared.parts.ours {
                continue;
            }
            let known = book.all.get(&record.server);
            let delivery = if let Some(reason) = record.refused {
                Delivery::Refused(reason)
            } else if record.expired {
                Delivery::Expired
            } else if !lets(then.as_ref(), &record.server) && !is_acl(entry) {
                // Somebody there is joined all the same, and whoever sent it believes that they have it.
                Delivery::Refused(KEPT_OUT.to_owned())
            } else if record.withheld && !is_acl(entry) {
                Delivery::Refused(WITHHELD.to_owned())
            } else if record.mark >= at {
                if is_old {
                    continue; // that it was not taken may have been forgotten
                }
                Delivery::Acked
            } else if lets_now(&record.server)
                && known.is_some_and(|known| known.under_way.is_some_and(|upto| upto >= at))
            {
                Delivery::InFlight
            } else {
                Delivery::Queued
            };
            let held_up = match delivery {
                // When its turn comes it is withheld, unless the ACL is another one by then.
                Delivery::Queued if !lets_now(&record.server) => Some(HeldUp {
                    reason: SERVER_ACL,
                    next_try: None,
                }),
                Delivery::Queued => known.and_then(held_up),
                _ => None,
            };
            found.push(DeliveredTo {
                server: record.server,
                delivery,
                held_up,
            });
        }
        Ok(found)
    }
}

/// When an entry's event was made.
fn said_at(entry: &LogRecord) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Said {
        origin_server_ts: u64,
    }
    let Logged::Event(event) = &entry.what else {
        return None;
    };
    let said: Said = serde_json::from_str(&event.json).ok()?;
    Some(Timestamp(said.origin_server_ts))
}

/// Why a server is not told anything now; nothing where its turn will come.
fn held_up(known: &Destination) -> Option<HeldUp> {
    let reason = match (&known.last_error, known.record.failing_since) {
        (Some(error), _) => error.code,
        (None, Some(_)) => FAILING_BEFORE,
        (None, None) => return None,
    };
    let next_try = match known.state {
        State::Alone(until) => Some(until),
        State::Idle | State::Ready | State::AtWork { .. } => None,
    };
    Some(HeldUp { reason, next_try })
}

/// What went wrong the last time, as far as this hub was there.
fn why(error: Option<&str>, failing_since: Option<Timestamp>) -> Option<String> {
    let before = || format!("failing since before this hub was started ({FAILING_BEFORE})");
    match error {
        Some(error) => Some(error.to_owned()),
        None => failing_since.map(|_| before()),
    }
}

/// It failed before this hub was started again, and has not been tried since.
const FAILING_BEFORE: &str = "PEER_FAILING";

fn status(known: &Destination) -> PeerStatus {
    PeerStatus {
        server: known.record.server.clone(),
        state: match known.state {
            State::Idle => PeerState::Idle,
            State::Ready => PeerState::Queued,
            State::AtWork { .. } => PeerState::InFlight,
            State::Alone(until) => PeerState::Waiting(until),
        },
        waiting: 0,
        is_all: true,
        failing_since: known.record.failing_since,
        last_error: why(
            known.last_error.as_ref().map(|error| error.text.as_str()),
            known.record.failing_since,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_since_before_the_start_has_a_reason_until_it_is_tried() {
        let since = Some(Timestamp(1));

        let before = why(None, since).unwrap();

        assert!(before.contains("before this hub was started (PEER_FAILING)"));
        assert_eq!(why(Some("no answer"), since).unwrap(), "no answer");
        assert_eq!(why(None, None), None);
    }
}
