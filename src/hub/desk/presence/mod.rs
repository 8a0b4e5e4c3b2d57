//! Who is there, where the operator wants that shown ([`Settings::presence`]): set and read by
//! clients, told in syncs and to other servers, and taken from these.
//!
//! Only ordinary clients, over HTTPS, take part: a device on a thin link is told nothing of it, for
//! every byte there is somebody's, and shows nothing by what it does. Where presence is off everyone
//! is offline, what a client sets is taken and forgotten, and nothing here costs anything.
//!
//! What is known is on the [`board`]; syncs read it in [`crate::hub::desk::sync`], and what other
//! servers say comes through [`elsewhere`]. A change wakes the users here who share a room with its
//! user, on the way that typing takes; doors that push are not told.
//!
//! [`Settings::presence`]: crate::hub::Settings

mod board;
pub(super) mod elsewhere;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_board;

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState,
};
use serde_json::{Map, Value, json};

pub(super) use self::board::{Candidates, Presences, Shown, Standing};
use super::{
    access::{must_be, ours},
    receipts::TypingBoard,
};
use crate::{
    api::{Caller, Code, Door, Refusal},
    base::{Clock, Timestamp},
    hub::{
        Hub,
        fanout::Touched,
        outbox::{Present, Servers},
    },
    store::RoomNid,
};

/// The longest thing that a user says of themselves, in bytes: a line on a screen, and what is kept
/// of a full board is bounded by it.
const STATUS_BYTES_MAX: usize = 512;

/// How often there is a look at the clock for all users together, and so how long other servers wait
/// at most to be told of a change.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How many users are woken by a change, and how many of those someone shares rooms with are looked
/// at; who shares rooms with more is not shown all of them.
pub(super) const NEAR_MAX: u32 = 10_000;

/// How many other servers are told of a user.
const SERVERS_MAX: u32 = 2000;

/// Where typing and presence count together: from a number that no earlier run has reached, so that
/// a token from before a restart is known to be one. Without presence, as ever.
pub(super) fn versions(enabled: bool, clock: &dyn Clock) -> TypingBoard {
    TypingBoard::from(if enabled { clock.now().0 } else { 0 })
}

/// A client that is there for as long as it syncs.
pub(super) struct Syncing<'a> {
    hub: &'a Hub,
    user: OwnedUserId,
    device: OwnedDeviceId,
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        if let Some(presences) = &self.hub.desk.presences {
            presences.sync_ends(&self.user, &self.device, self.hub.now());
        }
    }
}

/// What there is of presence for requests that came through this door.
pub(super) fn through(hub: &Hub, door: Door) -> Option<&Presences> {
    let presences = hub.desk.presences.as_ref()?;
    match door {
        Door::Https | Door::Local => Some(presences),
        Door::Coap | Door::Oscore | Door::Coaps | Door::Quic | Door::WebSocket => None,
    }
}

/// See `api::Command::Presence`.
///
/// spec: client-server-accounts §Presence
pub(super) async fn presence(
    hub: &Hub,
    caller: &Caller,
    request: get_presence::v3::Request,
) -> Result<get_presence::v3::Response, Refusal> {
    let user = request.user_id;
    let Some(presences) = &hub.desk.presences else {
        let record = hub.store.user(&user).await.map_err(ours)?;
        record.ok_or_else(|| Refusal::not_found(format!("there is no user {user} here")))?;
        return Ok(get_presence::v3::Response::new(PresenceState::Offline));
    };
    if !sees(hub, &caller.user, &user).await? {
        return Err(Refusal::forbidden(format!(
            "{user} is in no room with you: you cannot see whether they are there"
        )));
    }
    let Some(shown) = presences.shown(&user) else {
        return Ok(get_presence::v3::Response::new(PresenceState::Offline));
    };
    let mut response = get_presence::v3::Response::new(shown.state);
    response.last_active_ago = shown.active.map(|active| hub.now().since(active));
    response.currently_active = Some(shown.currently);
    response.status_msg = shown.status;
    Ok(response)
}

/// See `api::Command::SetPresence`.
///
/// spec: client-server-accounts §Presence
pub(super) async fn set_presence(
    hub: &Hub,
    door: Door,
    caller: &Caller,
    request: set_presence::v3::Request,
) -> Result<set_presence::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let Some(presences) = through(hub, door) else {
        return Ok(set_presence::v3::Response::new());
    };
    let (state, status) = (request.presence, request.status_msg);
    if !is_known(&state) {
        let message = format!("`presence` cannot be {:?}", state.as_str());
        return Err(Refusal::invalid_param(message));
    }
    if let Some(status) = &status
        && status.len() > STATUS_BYTES_MAX
    {
        let message = format!(
            "`status_msg` has {} bytes where {STATUS_BYTES_MAX} are the most",
            status.len()
        );
        return Err(Refusal::new(Code::TooLarge, message).with_status(400));
    }
    let status = status.filter(|status| !status.is_empty());
    let device = (&*caller.user, &*caller.device);
    let changed = presences.says(device, &state, status, hub.now());
    if changed.unwrap_or(false) {
        changed_by(hub, caller).await;
    }
    Ok(set_presence::v3::Response::new())
}

/// A client begins to sync. It is there until what this gives is dropped, and a little longer.
pub(super) async fn syncs<'a>(
    hub: &'a Hub,
    door: Door,
    caller: &Caller,
    state: &PresenceState,
) -> Option<Syncing<'a>> {
    let presences = through(hub, door)?;
    let is_idle = match state {
        PresenceState::Online => false,
        PresenceState::Unavailable => true,
        _ => return None,
    };
    let device = (&*caller.user, &*caller.device);
    let changed = presences.sync_begins(device, is_idle, hub.now())?;
    let syncing = Syncing {
        hub,
        user: caller.user.clone(),
        device: caller.device.clone(),
    };
    if changed {
        changed_by(hub, caller).await;
    }
    Some(syncing)
}

/// Someone does something in a room.
pub(super) async fn acts(hub: &Hub, door: Door, caller: &Caller) {
    if let Some(presences) = through(hub, door)
        && presences.acts(&caller.user, &caller.device, hub.now())
    {
        changed_by(hub, caller).await;
    }
}

/// Someone here has come into a room: those who were there before learn whether they are there.
pub(super) async fn appears(hub: &Hub, door: Door, caller: &Caller) {
    if let Some(presences) = through(hub, door)
        && presences.appears(&caller.user, hub.now())
    {
        changed_by(hub, caller).await;
    }
}

/// A user of another server has come into a room: their server learns who is there of ours.
pub(super) async fn meets(hub: &Hub, room: RoomNid) {
    let Some(presences) = &hub.desk.presences else {
        return;
    };
    match hub.store.joined(room, Some(hub.key.name())).await {
        Ok(users) => presences.tell_again(users.iter()),
        Err(error) => drop(ours(error)), // it is told of them when they next change
    }
}

/// Whether someone may see whether a user is there: who shares a room with them.
async fn sees(hub: &Hub, viewer: &UserId, user: &UserId) -> Result<bool, Refusal> {
    if viewer == user {
        return Ok(true);
    }
    hub.store.share_a_room(viewer, user).await.map_err(ours)
}

/// Wakes those who see that the caller shows something else, unless that is too often.
async fn changed_by(hub: &Hub, caller: &Caller) {
    if hub.desk.rates().shown(caller).is_ok() {
        wake(hub, [&caller.user]).await;
    }
}

/// Wakes those who may see these users and wait for news. What changed stands on the board already:
/// who begins to wait now finds it.
async fn wake(hub: &Hub, changed: impl IntoIterator<Item = &OwnedUserId>) {
    if hub.fanout.waiting_len() == 0 {
        return;
    }
    let mut near = BTreeSet::new();
    for user in changed {
        let found = hub.store.neighbours_of(user, hub.key.name(), NEAR_MAX);
        match found.await {
            Ok(found) => near.extend(found),
            Err(error) => drop(ours(error)), // they find it with whatever is new next
        }
        near.insert(user.clone());
    }
    hub.fanout.present(&Touched::Beside(Arc::new(near)));
}

/// Looks at the clock from time to time until the hub is gone.
pub(in crate::hub) fn begin(hub: &Arc<Hub>) {
    // Tests look when they want: the task would now and then be before them.
    if hub.desk.presences.is_some() && cfg!(not(test)) {
        tokio::spawn(keep(Arc::downgrade(hub)));
    }
}

async fn keep(hub: Weak<Hub>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(hub) = hub.upgrade() else { return };
        look(&hub).await;
    }
}

/// One look: who went away is told here, and who changed to other servers.
pub(in crate::hub) async fn look(hub: &Hub) {
    let Some(presences) = &hub.desk.presences else {
        return;
    };
    let now = hub.now();
    let look = presences.look(now);
    if !look.changed.is_empty() {
        wake(hub, &look.changed).await;
    }
    if hub.outbox.is_none() {
        return;
    }
    for (user, shown) in look.tell {
        let servers = match hub.store.neighbour_servers(&user, SERVERS_MAX).await {
            Ok(servers) => servers,
            Err(error) => {
                drop(ours(error)); // they are told when the user next changes
                continue;
            }
        };
        let servers: BTreeSet<_> = servers.into_iter().collect();
        if !servers.is_empty() {
            let update = Arc::new(update(&user, &shown, now));
            let servers: Servers = Arc::new(servers);
            hub.fanout
                .present_elsewhere(servers, Present { user, update });
        }
    }
}

/// What other servers are told of a user.
// spec: server-server §Presence
fn update(user: &UserId, shown: &Shown, now: Timestamp) -> Value {
    let mut update = content(shown, now);
    update.insert("user_id".to_owned(), json!(user));
    Value::Object(update)
}

/// What a user shows, as it is told.
pub(super) fn content(shown: &Shown, now: Timestamp) -> Map<String, Value> {
    let mut content = Map::new();
    content.insert("presence".to_owned(), json!(shown.state));
    content.insert("currently_active".to_owned(), json!(shown.currently));
    if let Some(active) = shown.active {
        let ago = u64::try_from(now.since(active).as_millis()).unwrap_or(u64::MAX);
        content.insert("last_active_ago".to_owned(), json!(ago));
    }
    if let Some(status) = &shown.status {
        content.insert("status_msg".to_owned(), json!(status));
    }
    content
}

fn is_known(state: &PresenceState) -> bool {
    matches!(
        state,
        PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline
    )
}
