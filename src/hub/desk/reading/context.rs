//! An event and what stands around it.

use ruma::api::client::context::get_context::v3::{Request, Response};

use crate::{
    api::{Caller, Refusal},
    base::Seq,
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{
                at_most,
                event::visible,
                members_of,
                page::{self, Seen, Span},
                standing, state_events, viewer,
                visibility::Standing,
            },
            sync::{
                filter::{is_lazy, wants_event},
                token::RoomToken,
                view::{self, Stored},
            },
        },
    },
    store::{EventRecord, StateNid},
};

/// How many events stand around one, before and after together.
///
/// Clients ask for tens; each brings a state lookup with it.
const CONTEXT_MAX: usize = 100;

/// See `api::Command::Context`.
pub(in crate::hub::desk) async fn context(
    hub: &Hub,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    let seen = visible(hub, &standing, &request.event_id).await?;
    let store = &hub.store;
    let wanted = |event: &EventRecord| wants_event(&request.filter, event);
    let limit = at_most(request.limit, CONTEXT_MAX);
    let at = seen.event.seq.unwrap_or(Seq::ZERO);
    let before = Span {
        from: Seq::ZERO,
        to: Seq(at.0.saturating_sub(1)),
    };
    let after = Span {
        from: at,
        to: standing.room.heads.seq,
    };
    let older = page::older(store, &standing, before, limit / 2, &wanted)
        .await
        .map_err(ours)?;
    let newer = page::newer(store, &standing, after, limit - limit / 2, &wanted)
        .await
        .map_err(ours)?;
    let last = newer.seen.last().unwrap_or(&seen).event.state_after;
    let around: Vec<&Seen> = older
        .seen
        .iter()
        .chain([&seen])
        .chain(&newer.seen)
        .collect();
    let state = state(hub, &standing, &request, last, &around).await?;

    let viewer = viewer(hub, caller, &standing);
    let mut response = Response::new();
    response.start = Some(RoomToken::after(older.reached).to_string());
    response.end = Some(RoomToken::after(newer.reached).to_string());
    response.events_before = view::show(store, viewer, &older.seen).await.map_err(ours)?;
    response.events_after = view::show(store, viewer, &newer.seen).await.map_err(ours)?;
    response.state = view::show_state(store, viewer, &state)
        .await
        .map_err(ours)?;
    let event = view::show(store, viewer, &[seen]).await.map_err(ours)?;
    response.event = event.into_iter().next();
    Ok(response)
}

/// The state at the last event; of members only the senders, when that is what the filter wants.
async fn state(
    hub: &Hub,
    standing: &Standing,
    request: &Request,
    last: StateNid,
    around: &[&Seen],
) -> Result<Vec<EventRecord>, Refusal> {
    let lazy = is_lazy(&request.filter);
    let wanted = |event: &EventRecord| {
        wants_event(&request.filter, event)
            && !(lazy && Stored::read(event).is_some_and(|event| event.kind == "m.room.member"))
    };
    let mut state = state_events(&hub.store, last, &wanted)
        .await
        .map_err(ours)?;
    if lazy {
        let around: Vec<Seen> = around.iter().map(|seen| (*seen).clone()).collect();
        let senders = page::senders(&around);
        let members = members_of(&hub.store, &standing.room, last, senders).await;
        state.extend(members.map_err(ours)?);
    }
    Ok(state)
}
