//! The event of a room that is nearest to a time.

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, UInt,
    api::{Direction, federation::event::get_event_by_timestamp},
};

use super::{damaged, reading::may_see, room_of};
use crate::{
    api::Refusal,
    base::Seq,
    hub::{Hub, desk::access::ours},
    store::{EventRecord, Logged, Order, RoomRecord},
    wire::matrix::event_id,
};

/// How far around the place where the time should be entries are looked at: the log is in the order
/// of arrival, and clocks differ.
const AROUND: u64 = 128;

/// See `api::PeerCommand::PeerEventByTime`.
// spec: server-server §Retrieving-events
pub(super) async fn nearest(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response, Refusal> {
    let room = room_of(hub, peer, &asked.room_id).await?;
    for (at, event) in around(hub, &room, asked.ts, asked.dir).await? {
        if may_see(hub, &room, peer, &event).await? {
            let id = event_id(event.hash);
            return Ok(get_event_by_timestamp::v1::Response::new(id, time(at)));
        }
    }
    let message = format!("no event of {} is nearest to that time", room.id);
    Err(Refusal::not_found(message))
}

pub(in crate::hub::desk) fn time(ms: u64) -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(UInt::try_from(ms).unwrap_or(UInt::MAX))
}

/// The events around a time that lie in that direction from it, the nearest first, each with its time.
pub(in crate::hub::desk) async fn around(
    hub: &Hub,
    room: &RoomRecord,
    wanted: MilliSecondsSinceUnixEpoch,
    dir: Direction,
) -> Result<Vec<(u64, EventRecord)>, Refusal> {
    let wanted = u64::from(wanted.0);
    let middle = first_since(hub, room, wanted).await?;
    let from = Seq(middle.0.saturating_sub(AROUND));
    let to = Seq(middle.0.saturating_add(AROUND));
    let limit = u32::try_from(AROUND * 2 + 1).unwrap_or(u32::MAX);
    let entries = hub.store.log(room.nid, from, to, Order::Forward, limit);
    let mut found = Vec::new();
    for entry in entries.await.map_err(ours)? {
        let Logged::Event(event) = entry.what else {
            continue;
        };
        let at = time_of(room, &event)?;
        let is_there = match dir {
            Direction::Forward => at >= wanted,
            Direction::Backward => at <= wanted,
        };
        if is_there {
            found.push((at, event));
        }
    }
    found.sort_by_key(|(at, _)| at.abs_diff(wanted));
    Ok(found)
}

/// The first entry that is not older than a time, if the log were in the order of its clocks.
async fn first_since(hub: &Hub, room: &RoomRecord, wanted: u64) -> Result<Seq, Refusal> {
    let (mut below, mut above) = (Seq::ZERO, room.heads.seq);
    while below.0 < above.0 {
        let middle = Seq(below.0.midpoint(above.0));
        let entries = hub.store.log(room.nid, middle, above, Order::Forward, 8);
        let events = entries.await.map_err(ours)?.into_iter();
        let event = events.into_iter().find_map(|entry| match entry.what {
            Logged::Event(event) => Some((entry.seq, event)),
            Logged::Marker(_) => None,
        });
        match event {
            Some((seq, event)) if time_of(room, &event)? < wanted => below = seq,
            _ => above = middle,
        }
    }
    Ok(below.next())
}

fn time_of(room: &RoomRecord, event: &EventRecord) -> Result<u64, Refusal> {
    let event = event.pdu(room).map_err(|error| damaged(&error))?;
    Ok(event.fields().at.0)
}
