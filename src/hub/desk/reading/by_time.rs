//! The event of a room that is nearest to a time, for a user: among what this hub has, and where that
//! begins only later, among what the room's other servers have.

use std::time::Duration;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId,
    api::{
        client::room::get_event_by_timestamp::v1::{Request, Response},
        federation::event::get_event_by_timestamp as peer_by_time,
    },
};

use super::{standing, visibility::Standing};
use crate::{
    api::{Caller, PeerCommand, PeerReply, Refusal},
    base::Seq,
    hub::{
        Hub,
        desk::{
            access::ours,
            peers::{
                by_time::{around, time},
                past,
            },
        },
    },
    room::Membership,
    store::{LogRecord, Logged, Marker, Order, hash_of},
    wire::matrix::event_id,
};

/// How many other servers are asked at most.
const SERVERS_MAX: usize = 3;

/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many pages of history are asked for to reach an event that another server named.
const PAGES_MAX: usize = 3;

/// See `api::Command::EventByTime`.
// spec: server-server §Retrieving-events
pub(in crate::hub::desk) async fn event_by_time(
    hub: &Hub,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    let mut best = None;
    for (at, event) in around(hub, &standing.room, request.ts, request.dir).await? {
        let sees = standing.sees(&hub.store, &event).await.map_err(ours)?;
        if sees.is_some() {
            best = Some((event_id(event.hash), time(at)));
            break;
        }
    }
    if standing.now == Membership::Join
        && let Some(arrived) = arrived_after(hub, &standing, request.ts).await?
        && let Some((id, at)) = elsewhere(hub, &standing, &request).await?
        && best.as_ref().is_none_or(|(_, so_far)| {
            let apart =
                |at: &MilliSecondsSinceUnixEpoch| u64::from(at.0).abs_diff(u64::from(request.ts.0));
            apart(&at) < apart(so_far)
        })
    {
        come_to(hub, &standing, arrived, &id).await?;
        best = Some((id, at));
    }
    let (id, at) = best.ok_or_else(|| {
        Refusal::not_found(format!(
            "no event of {} that you may see is nearest to that time",
            standing.room.id
        ))
    })?;
    Ok(Response::new(id, at))
}

/// Where this hub came into the room, if that was after a time: what was before is known elsewhere.
async fn arrived_after(
    hub: &Hub,
    standing: &Standing,
    wanted: MilliSecondsSinceUnixEpoch,
) -> Result<Option<Seq>, Refusal> {
    let room = &standing.room;
    let log = hub
        .store
        .log(room.nid, Seq::ZERO, room.heads.seq, Order::Forward, 2);
    let log = log.await.map_err(ours)?;
    let [
        LogRecord {
            what: Logged::Marker(marker),
            seq,
            ..
        },
        LogRecord {
            what: Logged::Event(join),
            ..
        },
    ] = log.as_slice()
    else {
        return Ok(None);
    };
    if !matches!(Marker::read(marker), Ok(Marker::Arrived)) {
        return Ok(None);
    }
    let join = join.pdu(room).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a stored event is damaged"
        );
        Refusal::internal()
    })?;
    Ok((u64::from(wanted.0) < join.fields().at.0).then_some(*seq))
}

async fn elsewhere(
    hub: &Hub,
    standing: &Standing,
    request: &Request,
) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, Refusal> {
    let servers = past::servers(hub, &standing.room).await.map_err(ours)?;
    for server in servers.into_iter().take(SERVERS_MAX) {
        let asked =
            peer_by_time::v1::Request::new(standing.room.id.clone(), request.ts, request.dir);
        let command = PeerCommand::PeerEventByTime(Box::new(asked));
        match hub.remote.ask(&server, command, PATIENCE).await {
            Ok(PeerReply::PeerEventByTime(told)) => {
                return Ok(Some((told.event_id, told.origin_server_ts)));
            }
            Ok(_) => return Err(Refusal::internal()),
            Err(error) => {
                tracing::info!(%server, %error, "the event nearest to a time is not told");
            }
        }
    }
    Ok(None)
}

/// Fetches history until the event is here, or that takes too long: whoever was told its id asks for
/// what is around it next.
async fn come_to(
    hub: &Hub,
    standing: &Standing,
    arrived: Seq,
    id: &OwnedEventId,
) -> Result<(), Refusal> {
    let Some(hash) = hash_of(id) else {
        return Ok(());
    };
    for _ in 0..PAGES_MAX {
        let event = hub.store.event(hash).await.map_err(ours)?;
        let is_here = event.is_some_and(|event| event.room == standing.room.nid);
        if is_here || !past::fetch(hub, &standing.room, arrived).await {
            break;
        }
    }
    Ok(())
}
