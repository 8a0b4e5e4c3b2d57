//! What other servers say of whether their users are there: taken of users who share a room with
//! someone here, passed over of all others, and never stored.

use ruma::{OwnedServerName, OwnedUserId, presence::PresenceState};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{NEAR_MAX, STATUS_BYTES_MAX, Shown, is_known};
use crate::{
    base::Timestamp,
    hub::{Hub, desk::access::ours, fanout::Touched},
};

/// How many users of one EDU are looked at; Synapse puts at most 50 into one.
const UPDATES_MAX: usize = 500;

/// The longest time ago that is believed, in milliseconds: a year.
const AGO_MS_MAX: u64 = 1000 * 60 * 60 * 24 * 366;

#[derive(Deserialize)]
struct Edu<'a> {
    #[serde(borrow)]
    content: Content<'a>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    push: Vec<&'a RawValue>,
}

/// One user's. Ruma's type would lose all of an EDU by one that has no `last_active_ago`, which
/// Synapse leaves out of those who were never active.
#[derive(Deserialize)]
struct Update {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
    last_active_ago: Option<u64>,
    #[serde(default)]
    currently_active: bool,
}

/// Takes an `m.presence` EDU of a server. What is wrong in it spoils nothing beside it; what of it was
/// not taken is given in words.
// spec: server-server §Presence
pub(in crate::hub::desk) async fn hears(
    hub: &Hub,
    peer: &OwnedServerName,
    edu: &str,
) -> Result<Option<String>, serde_json::Error> {
    let edu: Edu<'_> = serde_json::from_str(edu)?;
    let (all, mut taken, mut first) = (edu.content.push.len(), 0, None);
    for update in edu.content.push.into_iter().take(UPDATES_MAX) {
        if let Err(refusal) = hub.desk.rates().presence(peer) {
            first.get_or_insert(refusal.message);
            break;
        }
        match one(hub, peer, update).await {
            Ok(()) => taken += 1,
            Err(why) => {
                first.get_or_insert(why);
            }
        }
    }
    if taken == all {
        return Ok(None);
    }
    let first = first.unwrap_or_else(|| format!("at most {UPDATES_MAX} are looked at"));
    let not = all - taken;
    Ok(Some(format!(
        "{not} of its {all} updates were not; the first: {first}"
    )))
}

async fn one(hub: &Hub, peer: &OwnedServerName, update: &RawValue) -> Result<(), String> {
    let Some(presences) = &hub.desk.presences else {
        return Ok(());
    };
    let update: Update = serde_json::from_str(update.get())
        .map_err(|_| "its `user_id` or `presence` is missing or none".to_owned())?;
    let user = update.user_id.clone();
    if user.server_name() != peer {
        return Err(format!("{peer} does not speak for {user}"));
    }
    if !is_known(&update.presence) {
        return Err(format!("{:?} is no presence", update.presence.as_str()));
    }
    let now = hub.now();
    let told = shown(update, now);
    if presences.is_no_news(&user, &told, now) {
        return Ok(());
    }
    let near = hub.store.neighbours_of(&user, hub.key.name(), NEAR_MAX);
    let near = near.await.map_err(|error| ours(error).message)?;
    if near.is_empty() {
        return Err(format!("{user} is in no room with anyone here"));
    }
    if !presences.hears(&user, told, now) {
        return Err("as many as are kept are there".to_owned());
    }
    let near = near.into_iter().collect();
    hub.fanout
        .present(&Touched::Beside(std::sync::Arc::new(near)));
    Ok(())
}

fn shown(update: Update, now: Timestamp) -> Shown {
    let ago = update.last_active_ago.map(|ago| ago.min(AGO_MS_MAX));
    let currently = update.currently_active && update.presence == PresenceState::Online;
    Shown {
        active: ago.map(|ago| Timestamp(now.0.saturating_sub(ago))),
        status: update
            .status_msg
            .as_deref()
            .map(cut)
            .filter(|status| !status.is_empty()),
        state: update.presence,
        currently,
    }
}

/// As much of a text as is kept.
fn cut(text: &str) -> String {
    let fits = |(at, char): &(usize, char)| at + char.len_utf8() <= STATUS_BYTES_MAX;
    text.char_indices()
        .take_while(fits)
        .map(|(_, char)| char)
        .collect()
}
