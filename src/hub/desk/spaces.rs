//! A space and what is in it, for a user: the rooms below it, depth first, those of this hub from its
//! own state, others as the servers tell them that the space names.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, UInt,
    api::{
        client::space::{
            SpaceHierarchyRoomsChunk,
            get_hierarchy::v1::{Request, Response},
        },
        federation::space::get_hierarchy as peer_hierarchy,
    },
    events::space::child::{HierarchySpaceChildEvent, SpaceChildOrd},
    room::{JoinRuleSummary, RoomSummary, RoomType},
    serde::Raw,
};

use super::peers::spaces::{Looker, children, here, stripped, summary};
use crate::{
    api::{Caller, PeerCommand, PeerReply, Refusal},
    base::Timestamp,
    hub::Hub,
};

/// How many rooms one answer has, and when the client does not say.
const PAGE_MAX: usize = 50;

/// How many rooms of one space are walked through for all pages.
const ROOMS_MAX: usize = 500;

/// How deep a space is walked; spaces may be in each other.
const DEPTH_MAX: u64 = 32;

/// How many questions to other servers one request costs, how many servers are asked for one room, how
/// long each may take, and all together.
const QUESTIONS_MAX: usize = 32;
const SERVERS_MAX: usize = 3;
const PATIENCE: Duration = Duration::from_secs(8);
const ASKING_MAX: Duration = Duration::from_secs(30);

/// See `api::Command::Hierarchy`. A page's token says how many rooms were told before it; each page
/// walks anew.
// spec: server-server §Spaces
pub(super) async fn hierarchy(
    hub: &Hub,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let number = |limit: UInt| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX);
    let limit = request.limit.map_or(PAGE_MAX, number).clamp(1, PAGE_MAX);
    let from = match request.from.as_deref() {
        None => 0,
        Some(token) => token.parse().map_err(|_| {
            Refusal::invalid_param(format!(
                "`from` is {token:?}, which is no token of this list"
            ))
        })?,
    };
    let to = limit.saturating_add(from).min(ROOMS_MAX);
    let mut walk = Walk {
        hub,
        caller,
        suggested_only: request.suggested_only,
        told: HashMap::new(),
        closed: HashSet::new(),
        questions: QUESTIONS_MAX,
        until: hub.now() + ASKING_MAX,
    };
    let depth = request.max_depth.map_or(DEPTH_MAX, u64::from);
    // One more, to know whether there is one.
    let all = walk.rooms(&request.room_id, depth.min(DEPTH_MAX), to + 1);
    let all = all.await?;
    if all.is_empty() {
        let message = format!("no such room that you may see: {}", request.room_id);
        return Err(Refusal::forbidden(message));
    }
    let mut reply = Response::new();
    reply.next_batch = (all.len() > to && to < ROOMS_MAX).then(|| to.to_string());
    reply.rooms = all.into_iter().take(to).skip(from).collect();
    Ok(reply)
}

/// A way through a space.
struct Walk<'a> {
    hub: &'a Hub,
    caller: &'a Caller,
    suggested_only: bool,
    /// What other servers told of rooms while they were asked for a space with them.
    told: HashMap<OwnedRoomId, RoomSummary>,
    /// What they said that this hub's users may not see.
    closed: HashSet<OwnedRoomId>,
    questions: usize,
    until: Timestamp,
}

/// A room that is to be looked at: how deep it lies, and which servers may know it.
struct Next {
    id: OwnedRoomId,
    depth: u64,
    via: Vec<OwnedServerName>,
}

impl Walk<'_> {
    async fn rooms(
        &mut self,
        top: &RoomId,
        depth_max: u64,
        count: usize,
    ) -> Result<Vec<SpaceHierarchyRoomsChunk>, Refusal> {
        let (mut seen, mut rooms) = (HashSet::new(), Vec::new());
        let mut stack = vec![Next {
            id: top.to_owned(),
            depth: 0,
            via: Vec::new(),
        }];
        while let Some(next) = stack.pop() {
            if rooms.len() >= count || seen.len() >= ROOMS_MAX {
                break;
            }
            if !seen.insert(next.id.clone()) {
                continue; // a space within itself
            }
            let Some(room) = self.room(&next).await? else {
                continue;
            };
            if next.depth < depth_max {
                let below = sorted(&room.children_state).into_iter().rev();
                stack.extend(below.map(|child| Next {
                    id: child.state_key,
                    depth: next.depth + 1,
                    via: child.content.via,
                }));
            }
            rooms.push(room);
        }
        Ok(rooms)
    }

    /// A room, if the user may see it or come in.
    async fn room(&mut self, next: &Next) -> Result<Option<SpaceHierarchyRoomsChunk>, Refusal> {
        let hub = self.hub;
        if let Some(room) = here(hub, &next.id).await? {
            let looker = Looker::User(&self.caller.user);
            let Some(summary) = summary(hub, looker, &room).await? else {
                return Ok(None);
            };
            let children = if is_space(&summary) {
                children(hub, &room, self.suggested_only).await?
            } else {
                Vec::new()
            };
            let children = children.iter().map(stripped).collect();
            return Ok(Some(SpaceHierarchyRoomsChunk::new(summary, children)));
        }
        if self.closed.contains(&next.id) {
            return Ok(None);
        }
        let told = self.told.get(&next.id).filter(|told| !is_space(told));
        let chunk = match told.cloned() {
            Some(summary) => Some(SpaceHierarchyRoomsChunk::new(summary, Vec::new())),
            None => self.ask(next).await,
        };
        let Some(chunk) = chunk else {
            return Ok(None);
        };
        let may = self.may_see(&chunk.summary).await?;
        Ok(may.then_some(chunk))
    }

    /// The other server knows only that some user here may see it.
    async fn may_see(&self, room: &RoomSummary) -> Result<bool, Refusal> {
        if room.world_readable {
            return Ok(true);
        }
        let allowed = match &room.join_rule {
            JoinRuleSummary::Public
            | JoinRuleSummary::Knock
            | JoinRuleSummary::KnockRestricted(_) => {
                return Ok(true);
            }
            JoinRuleSummary::Restricted(restricted) => &restricted.allowed_room_ids,
            _ => return Ok(false),
        };
        let looker = Looker::User(&self.caller.user);
        looker.is_in_any(self.hub, allowed).await
    }

    async fn ask(&mut self, next: &Next) -> Option<SpaceHierarchyRoomsChunk> {
        let ours = self.hub.key.name();
        let via = next.via.iter().filter(|server| *server != ours);
        for server in via.take(SERVERS_MAX) {
            if self.questions == 0 || self.hub.now() >= self.until {
                return None;
            }
            self.questions -= 1;
            let mut asked = peer_hierarchy::v1::Request::new(next.id.clone());
            asked.suggested_only = self.suggested_only;
            let command = PeerCommand::PeerHierarchy(Box::new(asked));
            match self.hub.remote.ask(server, command, PATIENCE).await {
                Ok(PeerReply::PeerHierarchy(told)) if told.room.summary.room_id == next.id => {
                    let children = told.children.into_iter().take(ROOMS_MAX);
                    self.told
                        .extend(children.map(|child| (child.room_id.clone(), child)));
                    let closed = told.inaccessible_children.into_iter().take(ROOMS_MAX);
                    self.closed.extend(closed);
                    let room = told.room;
                    return Some(SpaceHierarchyRoomsChunk::new(
                        room.summary,
                        room.children_state,
                    ));
                }
                Ok(_) => tracing::info!(%server, "it told of another room than it was asked for"),
                Err(error) => tracing::debug!(%server, %error, "a space was not told"),
            }
        }
        None
    }
}

fn is_space(room: &RoomSummary) -> bool {
    room.room_type == Some(RoomType::Space)
}

/// The children as the space wants them in order; those that cannot be read are none.
fn sorted(children: &[Raw<HierarchySpaceChildEvent>]) -> Vec<HierarchySpaceChildEvent> {
    let read = children.iter().take(ROOMS_MAX);
    let mut read: Vec<_> = read.filter_map(|child| child.deserialize().ok()).collect();
    read.sort_by(SpaceChildOrd::cmp_space_child);
    read
}
