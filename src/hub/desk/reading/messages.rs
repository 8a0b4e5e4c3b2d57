//! A page of a room's log, in either direction, and the history from before it.

use ruma::api::{
    Direction,
    client::message::get_message_events::v3::{Request, Response},
};

use crate::{
    api::{Caller, Refusal},
    base::Seq,
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{
                at_most, members_of,
                page::{self, Page, Seen, Span},
                standing, viewer,
                visibility::{Sight, Standing},
            },
            sync::{
                filter::{is_lazy, wants_any, wants_event},
                token::{Point, RoomToken},
                view,
            },
        },
    },
    store::EventRecord,
};

/// How many events one page holds.
///
/// At about a kilobyte each this is a quarter of a megabyte, what a client shows in many screens.
const PAGE_MAX: usize = 250;

/// How many events from before the first entry of a log are looked through.
const PLACES_MAX: u32 = 4096;

/// A page, and where the next one begins if there is one.
struct Found {
    seen: Vec<Seen>,
    end: Option<RoomToken>,
}

/// See `api::Command::Messages`.
///
/// spec: client-server-rooms §Getting-events-for-a-room
pub(in crate::hub::desk) async fn messages(
    hub: &Hub,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    let ceiling = standing.horizon(&hub.store).await?.seq(&standing);
    let from = match &request.from {
        Some(token) => point(hub, &standing, token).await?,
        None if request.dir == Direction::Forward => RoomToken::after(Seq::ZERO),
        None => RoomToken::after(ceiling),
    };
    let to = match &request.to {
        Some(token) => Some(point(hub, &standing, token).await?),
        None => None,
    };
    let found = if request.dir == Direction::Forward {
        forward(hub, &standing, &request, from, to, ceiling).await?
    } else {
        backward(hub, &standing, &request, from, to).await?
    };

    let viewer = viewer(hub, caller, &standing);
    let mut response = Response::new();
    response.start = request.from.clone().unwrap_or_else(|| from.to_string());
    response.end = found.end.map(|token| token.to_string());
    response.chunk = view::show(&hub.store, viewer, &found.seen)
        .await
        .map_err(ours)?;
    if is_lazy(&request.filter) {
        let members = members(hub, &standing, &found.seen).await?;
        response.state = view::show_state(&hub.store, viewer, &members)
            .await
            .map_err(ours)?;
    }
    Ok(response)
}

/// The point of the log a token names; a sync token names where the room stood then.
pub(super) async fn point(
    hub: &Hub,
    standing: &Standing,
    token: &str,
) -> Result<RoomToken, Refusal> {
    let head = standing.room.heads.seq;
    let token = match token.parse::<Point>()? {
        Point::Room(token) => token,
        Point::Sync(position) => {
            let seq = hub.store.seq_at(standing.room.nid, position).await;
            RoomToken::after(seq.map_err(ours)?)
        }
    };
    Ok(RoomToken {
        seq: token.seq.min(head),
        ..token
    })
}

async fn forward(
    hub: &Hub,
    standing: &Standing,
    request: &Request,
    from: RoomToken,
    to: Option<RoomToken>,
    ceiling: Seq,
) -> Result<Found, Refusal> {
    let top = to.map_or(ceiling, |to| to.seq.min(ceiling));
    let span = Span {
        from: from.seq,
        to: top,
    };
    let wanted = |event: &EventRecord| wants_event(&request.filter, event);
    let page = if wants_any(&request.filter, &request.room_id) {
        page::newer(&hub.store, standing, span, want(request), &wanted)
            .await
            .map_err(ours)?
    } else {
        nothing(top)
    };
    Ok(Found {
        end: (page.reached < ceiling).then(|| RoomToken::after(page.reached)),
        seen: page.seen,
    })
}

async fn backward(
    hub: &Hub,
    standing: &Standing,
    request: &Request,
    from: RoomToken,
    to: Option<RoomToken>,
) -> Result<Found, Refusal> {
    let bottom = to.map_or(Seq::ZERO, |to| to.seq);
    let span = Span {
        from: bottom,
        to: from.seq,
    };
    let wanted = |event: &EventRecord| wants_event(&request.filter, event);
    let Page { mut seen, reached } = if wants_any(&request.filter, &request.room_id) {
        page::older(&hub.store, standing, span, want(request), &wanted)
            .await
            .map_err(ours)?
    } else {
        nothing(bottom.min(from.seq))
    };
    if reached > Seq::ZERO || to.is_some() {
        let end = (reached > Seq::ZERO).then(|| RoomToken::after(reached));
        return Ok(Found { seen, end });
    }
    let room = want(request) - seen.len();
    let (old, end) = places(hub, standing, from.skip, room, &wanted).await?;
    seen.extend(old);
    Ok(Found { seen, end })
}

/// History from before the first entry, newest first, from the one after the first `skip`.
async fn places(
    hub: &Hub,
    standing: &Standing,
    skip: u32,
    want: usize,
    wanted: page::Wanted<'_>,
) -> Result<(Vec<Seen>, Option<RoomToken>), Refusal> {
    let store = &hub.store;
    let first = Seq::ZERO.next();
    let old = store
        .places(standing.room.nid, first, PLACES_MAX)
        .await
        .map_err(ours)?;
    let skipped = usize::try_from(skip).unwrap_or(usize::MAX);
    let mut seen = Vec::new();
    let mut read = skip;
    let all = old.len();
    for event in old.into_iter().skip(skipped) {
        if seen.len() == want {
            break;
        }
        read += 1;
        // Places fork and have gaps: each is looked up by its own state.
        let state = event.state_after;
        let mut sight = Sight::at(store, standing, state).await.map_err(ours)?;
        let visible = sight.pass(store, state, &event).await.map_err(ours)?;
        if visible && wanted(&event) {
            seen.push(Seen {
                before: state,
                membership: sight.membership(),
                event,
            });
        }
    }
    let more = usize::try_from(read).unwrap_or(usize::MAX) < all;
    let end = more.then_some(RoomToken {
        seq: Seq::ZERO,
        skip: read,
    });
    Ok((seen, end))
}

/// The member events of those who sent something on a page, as of its newest event.
async fn members(
    hub: &Hub,
    standing: &Standing,
    seen: &[Seen],
) -> Result<Vec<EventRecord>, Refusal> {
    let newest = seen.iter().max_by_key(|seen| seen.event.seq);
    let Some(newest) = newest else {
        return Ok(Vec::new());
    };
    let state = newest.event.state_after;
    members_of(&hub.store, &standing.room, state, page::senders(seen))
        .await
        .map_err(ours)
}

fn want(request: &Request) -> usize {
    let limit = request
        .filter
        .limit
        .map_or(request.limit, |limit| limit.min(request.limit));
    at_most(limit, PAGE_MAX).max(1)
}

const fn nothing(reached: Seq) -> Page {
    Page {
        seen: Vec::new(),
        reached,
    }
}
