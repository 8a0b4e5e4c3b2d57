//! Tying a room's branches together after others have left more of them than one event can follow.
//!
//! Without that they would stay: an event of ours follows twenty, and a room whose branches are forty
//! hides what makes another one. Nobody has to say anything for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedRoomId, RoomId};

use super::policy;
use crate::{
    api::Refusal,
    base::Timestamp,
    hub::{
        Hub,
        desk::access::ours,
        graph::{self, Fate, GraphError},
    },
    store::RoomRecord,
    wire::matrix::Pdu,
};

/// How many events tie a room at a time: two make twenty branches of forty, and there are no more.
const KNOTS_MAX: usize = 3;

/// How many of this hub's users in the room are looked at for one who may send such an event.
const SENDERS_MAX: usize = 16;

/// How long a room is left alone after it was tied: who goes on forking must not have us work for it.
const REST: Duration = Duration::from_secs(5);

/// How many rooms are remembered as tied.
const TIED_MAX: usize = 1024;

/// Which rooms were tied, and when.
#[derive(Default)]
pub(in crate::hub::desk) struct Tied(Mutex<HashMap<OwnedRoomId, Timestamp>>);

impl Tied {
    /// Whether a room may be tied now; if so it rests from then on.
    fn is_due(&self, room: &RoomId, now: Timestamp) -> bool {
        let mut tied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tied.len() >= TIED_MAX || tied.contains_key(room) {
            tied.retain(|_, last| now.since(*last) < REST);
        }
        if tied.contains_key(room) || tied.len() >= TIED_MAX {
            return false;
        }
        tied.insert(room.to_owned(), now);
        true
    }
}

/// Ties a room's branches, if there are more than one event can follow and one of our users may.
pub(super) async fn tie(hub: &Hub, room: &RoomId) {
    match tied(hub, room).await {
        Ok(0) => {}
        Ok(knots) => tracing::info!(%room, knots, "the room's branches were tied together"),
        Err(why) => {
            tracing::warn!(%room, why = why.message, "the room's branches could not be tied");
        }
    }
}

async fn tied(hub: &Hub, room: &RoomId) -> Result<usize, Refusal> {
    let mut knots = 0;
    if loose(hub, room).await?.is_none() || !hub.desk.tied.is_due(room, hub.now()) {
        return Ok(knots);
    }
    while knots < KNOTS_MAX
        && let Some(record) = loose(hub, room).await?
        && knot(hub, &record).await?
    {
        knots += 1;
    }
    Ok(knots)
}

async fn loose(hub: &Hub, room: &RoomId) -> Result<Option<RoomRecord>, Refusal> {
    let record = hub.store.room(room).await.map_err(ours)?;
    Ok(record.filter(graph::is_loose))
}

/// Ties what one event can; whether there was anybody to do it.
async fn knot(hub: &Hub, room: &RoomRecord) -> Result<bool, Refusal> {
    let here = hub.store.joined(room.nid, Some(hub.key.name()));
    let here = here.await.map_err(ours)?;
    for user in here.iter().take(SENDERS_MAX) {
        let fields = graph::knot(&hub.store, room, user, hub.now()).await;
        let Some(fields) = fields.map_err(|error| failed(&error))? else {
            continue;
        };
        let event = Pdu::sign(fields, room.version, &hub.key).map_err(|error| failed(&error))?;
        let event: Arc<Pdu> = policy::must_be_vouched_for(hub, room, event).await?;
        let woven = graph::weave(&hub.store, &hub.writer, &room.id, &[event.into()]).await;
        let (fates, _) = match woven {
            Err(GraphError::Write(error)) => return Err(error.into()),
            woven => woven.map_err(|error| failed(&error))?,
        };
        return Ok(fates.first() == Some(&Fate::Accepted));
    }
    Ok(false)
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::warn!(error, "branches could not be tied");
    Refusal::internal()
}
