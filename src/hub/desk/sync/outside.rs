//! Rooms that are on other servers only: those one is invited to or knocks on, and those one is out
//! of again.

use ruma::{
    api::client::sync::sync_events::v3::{
        InviteState, InvitedRoom, KnockState, KnockedRoom, LeftRoom, Response,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    api::Refusal,
    base::Position,
    hub::desk::{
        remote,
        sync::{Round, filter::wants_room, view::out_of_room},
    },
    room::Membership,
    store::OutsideRecord,
};

/// Adds what is new.
pub(super) async fn fill(round: &Round<'_>, response: &mut Response) -> Result<(), Refusal> {
    let since = round.since.filter(|_| !round.full_state);
    let since = since.map_or(Position::ZERO, |since| since.position);
    let new = remote::standings(round.hub, &round.caller.user, since).await?;
    for record in new {
        let is_told = record.position <= round.now.position;
        if is_told && wants_room(&round.filter.room, &record.room_id) {
            place(round, record, response);
        }
    }
    Ok(())
}

fn place(round: &Round<'_>, record: OutsideRecord, response: &mut Response) {
    let rooms = &mut response.rooms;
    let id = record.room_id.clone();
    match record.membership {
        Membership::Invite => {
            let mut state = InviteState::new();
            state.events = stripped(&record);
            rooms.leave.remove(&id); // left when we were in it, and invited since
            rooms.invite.insert(id, InvitedRoom::from(state));
        }
        Membership::Knock => {
            let mut state = KnockState::new();
            state.events = stripped(&record);
            rooms.leave.remove(&id);
            rooms.knock.insert(id, KnockedRoom::from(state));
        }
        Membership::Leave | Membership::Ban => {
            // Once, to devices that may still show it.
            if round
                .since
                .is_some_and(|since| record.position > since.position)
            {
                let mut section = LeftRoom::new();
                section.timeline.events =
                    out_of_room(&record, round.hub.now()).into_iter().collect();
                rooms.leave.insert(id, section);
            }
        }
        Membership::Join => {}
    }
}

fn stripped<T>(record: &OutsideRecord) -> Vec<Raw<T>> {
    let pieces: Vec<Box<RawValue>> = serde_json::from_str(&record.state).unwrap_or_else(|error| {
        tracing::error!(%error, room = %record.room_id, "what a room shows of itself is damaged");
        Vec::new()
    });
    pieces.into_iter().map(Raw::from_json).collect()
}
