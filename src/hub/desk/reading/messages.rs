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
            peers::past,
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
    store::{EventRecord, Order},
};

/// How many events one page holds.
///
/// At about a kilobyte each this is a quarter of a megabyte, what a client shows in many screens.
const PAGE_MAX: usize = 250;

/// How many of the events that came late are read at once.
const PLACES_CHUNK: u32 = 64;

/// How often other servers are asked for history for one page.
const FETCHES_MAX: u32 = 3;

/// How many points where events came late one page passes.
const ANCHORS_MAX: u32 = 64;

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
        Some(token) => point(hub, &standing, ("from", token)).await?,
        None if request.dir == Direction::Forward => RoomToken::after(Seq::ZERO),
        None => RoomToken::after(ceiling),
    };
    let to = match &request.to {
        Some(token) => Some(point(hub, &standing, ("to", token)).await?),
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

/// The point of the log that a parameter names; a sync token names where the room stood then.
pub(super) async fn point(
    hub: &Hub,
    standing: &Standing,
    (name, token): (&str, &str),
) -> Result<RoomToken, Refusal> {
    let head = standing.room.heads.seq;
    let token = token.parse::<Point>();
    let token = match token.map_err(|error| error.refused_as(name))? {
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

/// Walks back through the log, and at each anchor through what came late there. Where that ends at
/// a point before which the room was elsewhere, other servers are asked for more.
async fn backward(
    hub: &Hub,
    standing: &Standing,
    request: &Request,
    from: RoomToken,
    to: Option<RoomToken>,
) -> Result<Found, Refusal> {
    let bottom = to.map_or(Seq::ZERO, |to| to.seq);
    let wanted = |event: &EventRecord| wants_event(&request.filter, event);
    if !wants_any(&request.filter, &request.room_id) {
        let reached = bottom.min(from.seq);
        let end = (reached > Seq::ZERO).then(|| RoomToken::after(reached));
        return Ok(Found {
            seen: Vec::new(),
            end,
        });
    }
    let want = want(request);
    let room = standing.room.nid;
    let anchors = hub
        .store
        .anchors(room, bottom, from.seq.next(), ANCHORS_MAX);
    let anchors = anchors.await.map_err(ours)?;
    let (mut seen, mut at) = (Vec::new(), from);
    loop {
        let anchor = at.seq.next();
        let is_begin = at.seq == Seq::ZERO && to.is_none();
        if is_begin || at.skip > 0 || anchors.contains(&anchor) {
            let more = places(hub, standing, at, want - seen.len(), &wanted).await?;
            seen.extend(more.seen);
            if more.end.is_some() {
                return Ok(Found {
                    seen,
                    end: more.end,
                });
            }
        }
        if at.seq <= bottom || seen.len() == want {
            break;
        }
        let next = anchors.iter().find(|anchor| **anchor <= at.seq);
        let floor = next.map_or(bottom, |anchor| Seq(anchor.0.saturating_sub(1)));
        let span = Span {
            from: floor,
            to: at.seq,
        };
        let left = want - seen.len();
        let page = page::older(&hub.store, standing, span, left, &wanted).await;
        let page = page.map_err(ours)?;
        at = RoomToken::after(page.reached);
        seen.extend(page.seen);
        if page.reached > floor {
            break; // enough was found, or looked through
        }
    }
    Ok(Found {
        seen,
        end: (at.seq > Seq::ZERO).then_some(at),
    })
}

/// What came late and stands just after a point of the log, newest first, from the one after the
/// first `skip`; where there is no more of it, none is said to follow.
async fn places(
    hub: &Hub,
    standing: &Standing,
    at: RoomToken,
    want: usize,
    wanted: page::Wanted<'_>,
) -> Result<Found, Refusal> {
    let store = &hub.store;
    let (room, anchor) = (standing.room.nid, at.seq.next());
    let mut found = Found {
        seen: Vec::new(),
        end: Some(at),
    };
    let mut at = at;
    let mut asked = 0;
    let mut looked = 0;
    while looked < page::SCAN_MAX {
        let chunk = store.places(room, anchor, Order::Backward, at.skip, PLACES_CHUNK);
        let chunk = chunk.await.map_err(ours)?;
        if chunk.is_empty() {
            if asked == FETCHES_MAX {
                break;
            }
            asked += 1;
            if past::fetch(hub, &standing.room, anchor).await {
                continue;
            }
            found.end = None;
            return Ok(found);
        }
        for event in chunk {
            if found.seen.len() == want {
                found.end = Some(at);
                return Ok(found);
            }
            looked += 1;
            at.skip += 1;
            // Places fork and have gaps: each is looked up by its own state.
            let state = event.state_after;
            let mut sight = Sight::at(store, standing, state).await.map_err(ours)?;
            let visible = sight.pass(store, state, &event).await.map_err(ours)?;
            if visible && wanted(&event) {
                found.seen.push(Seen {
                    before: state,
                    membership: sight.membership(),
                    event,
                });
            }
        }
    }
    found.end = Some(at);
    Ok(found)
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
