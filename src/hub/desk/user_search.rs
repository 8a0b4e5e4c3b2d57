//! Searching for users: among those one shares a room with and those in rooms of the directory.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, api::client::user_directory::search_users::v3};

use super::access::ours;
use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// How many users are told at once.
const FOUND_MAX: usize = 50;

/// Among how many users one search looks; of each the profile is read.
const SEARCHED_MAX: usize = 500;

/// How many rooms of the directory are searched, and how large one may be: its members are read
/// all at once.
const ROOMS_MAX: u32 = 50;
const ROOM_MEMBERS_MAX: u64 = 5000;

/// See `api::Command::SearchUsers`.
///
/// spec: client-server-accounts §User-Directory
pub(super) async fn search_users(
    hub: &Hub,
    caller: &Caller,
    request: v3::Request,
) -> Result<v3::Response, Refusal> {
    let term = request.search_term.trim().trim_start_matches('@');
    let term = term.to_lowercase();
    if term.is_empty() {
        return Ok(v3::Response::new(Vec::new(), false));
    }
    let limit = usize::try_from(u64::from(request.limit)).map_or(FOUND_MAX, |n| n.min(FOUND_MAX));
    let known = known(hub, caller).await?;
    let mut limited = known.len() > SEARCHED_MAX;
    let mut found = Vec::new();
    for user in known.into_iter().take(SEARCHED_MAX) {
        let shown = shown(hub, user).await?;
        let name = shown.display_name.as_deref().unwrap_or("");
        if !shown.user_id.as_str().contains(&term) && !name.to_lowercase().contains(&term) {
            continue;
        }
        if found.len() == limit {
            limited = true;
            break;
        }
        found.push(shown);
    }
    Ok(v3::Response::new(found, limited))
}

/// Whom the caller may find: one more than are searched when there are more.
async fn known(hub: &Hub, caller: &Caller) -> Result<BTreeSet<OwnedUserId>, Refusal> {
    let limit = u32::try_from(SEARCHED_MAX + 2).unwrap_or(u32::MAX);
    let neighbours = hub.store.neighbours(&caller.user, limit).await;
    let mut known: BTreeSet<_> = neighbours.map_err(ours)?.into_iter().collect();
    let rooms = hub.store.listed(None, ROOMS_MAX).await.map_err(ours)?;
    for room in rooms.iter().filter(|room| room.joined <= ROOM_MEMBERS_MAX) {
        if known.len() > SEARCHED_MAX {
            break;
        }
        let joined = hub.store.joined(room.room.nid, None).await;
        known.extend(joined.map_err(ours)?);
    }
    known.remove(&caller.user);
    Ok(known)
}

async fn shown(hub: &Hub, user: OwnedUserId) -> Result<v3::User, Refusal> {
    let profile = hub.store.profile(&user).await.map_err(ours)?;
    let text = |wanted: &str| -> Option<String> {
        let (_, json) = profile.iter().find(|(field, _)| field == wanted)?;
        serde_json::from_str(json).ok()
    };
    let mut shown = v3::User::new(user);
    shown.display_name = text("displayname");
    shown.avatar_url = text("avatar_url").map(Into::into);
    Ok(shown)
}
