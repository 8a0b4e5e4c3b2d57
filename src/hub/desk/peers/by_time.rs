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
    store::{EventRecord, LogRecord, Logged, Order, RoomRecord},
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
    let wanted = u64::from(asked.ts.0);
    let middle = first_since(hub, &room, wanted).await?;
    let from = Seq(middle.0.saturating_sub(AROUND));
    let to = Seq(middle.0.saturating_add(AROUND));
    let limit = u32::try_from(AROUND * 2 + 1).unwrap_or(u32::MAX);
    let entries = hub.store.log(room.nid, from, to, Order::Forward, limit);
    let mut best: Option<(u64, EventRecord)> = None;
    for entry in entries.await.map_err(ours)? {
        let LogRecord {
            what: Logged::Event(event),
            ..
        } = entry
        else {
            continue;
        };
        let at = time_of(&room, &event)?;
        let is_there = match asked.dir {
            Direction::Forward => at >= wanted,
            Direction::Backward => at <= wanted,
        };
        let is_nearer = best
            .as_ref()
            .is_none_or(|(so_far, _)| at.abs_diff(wanted) < so_far.abs_diff(wanted));
        if is_there && is_nearer && may_see(hub, &room, peer, &event).await? {
            best = Some((at, event));
        }
    }
    let Some((at, event)) = best else {
        let message = format!("no event of {} is nearest to that time", room.id);
        return Err(Refusal::not_found(message));
    };
    let at = MilliSecondsSinceUnixEpoch(UInt::try_from(at).unwrap_or(UInt::MAX));
    let id = event_id(event.hash);
    Ok(get_event_by_timestamp::v1::Response::new(id, at))
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
