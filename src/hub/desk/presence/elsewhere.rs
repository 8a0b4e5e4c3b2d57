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

/// What of an EDU was not taken.
pub(in crate::hub::desk) struct Left {
    /// Whether nothing of it was.
    pub(in crate::hub::desk) is_all: bool,
    /// The stable reason of the first.
    pub(in crate::hub::desk) code: &'static str,
    /// The same in words.
    pub(in crate::hub::desk) said: String,
}

/// Why an update is not taken: the stable reason, and in words.
type Not = (&'static str, String);

/// Takes the `content` of an `m.presence` EDU of a server. What is wrong in it spoils nothing beside it;
/// what of it was not taken is told.
// spec: server-server §Presence
pub(in crate::hub::desk) async fn hears(
    hub: &Hub,
    peer: &OwnedServerName,
    content: &str,
) -> Result<Option<Left>, serde_json::Error> {
    let content: Content<'_> = serde_json::from_str(content)?;
    let (all, mut taken, mut first) = (content.push.len(), 0, None);
    for update in content.push.into_iter().take(UPDATES_MAX) {
        if let Err(refusal) = hub.desk.rates().presence(peer) {
            first.get_or_insert(("EDU_TOO_MUCH", refusal.message));
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
    let too_many = || {
        let said = format!("at most {UPDATES_MAX} are looked at");
        ("EDU_TOO_MUCH", said)
    };
    let (code, first) = first.unwrap_or_else(too_many);
    let not = all - taken;
    Ok(Some(Left {
        is_all: taken == 0,
        code,
        said: format!("{not} of its {all} updates were not; the first: {first}"),
    }))
}

async fn one(hub: &Hub, peer: &OwnedServerName, update: &RawValue) -> Result<(), Not> {
    let Some(presences) = &hub.desk.presences else {
        return Ok(());
    };
    let update: Update =
        serde_json::from_str(update.get()).map_err(|_| ("EDU_FORM", odd(update)))?;
    let user = update.user_id.clone();
    if user.server_name() != peer {
        let said = format!("{peer} does not speak for {user}");
        return Err(("EDU_SENDER", said));
    }
    if !is_known(&update.presence) {
        let told: String = update
            .presence
            .as_str()
            .chars()
            .take(TOLD_CHARS_MAX)
            .collect();
        let said = format!("{told:?} is no presence; it is online, unavailable or offline");
        return Err(("EDU_FORM", said));
    }
    let now = hub.now();
    let told = shown(update, now);
    if presences.is_no_news(&user, &told, now) {
        return Ok(());
    }
    let near = hub.store.neighbours_of(&user, hub.key.name(), NEAR_MAX);
    let near = near
        .await
        .map_err(|error| ("EDU_REFUSED", ours(error).message))?;
    if near.is_empty() {
        let said = format!("{user} is in no room with anyone here");
        return Err(("EDU_NOT_JOINED", said));
    }
    if !presences.hears(&user, told, now) {
        let said = "as many users of its server as are kept are there".to_owned();
        return Err(("EDU_TOO_MUCH", said));
    }
    let near = near.into_iter().collect();
    hub.fanout
        .present(&Touched::Beside(std::sync::Arc::new(near)));
    Ok(())
}

/// What is wrong with an update that cannot be read.
fn odd(update: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        user_id: Option<&'a RawValue>,
        #[serde(borrow)]
        presence: Option<&'a RawValue>,
    }
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(update.get()) else {
        return "an update is no object, or has a field twice".to_owned();
    };
    let Some(user) = fields.user_id else {
        return "its `user_id` is missing".to_owned();
    };
    if serde_json::from_str::<OwnedUserId>(user.get()).is_err() {
        let user: String = user.get().chars().take(TOLD_CHARS_MAX).collect();
        return format!("its `user_id` is no user's id, which is like @ana:hub.example: {user}");
    }
    match fields.presence {
        None => "its `presence` is missing".to_owned(),
        Some(_) => {
            "its `presence` and `status_msg` must be texts, `last_active_ago` a whole number, \
                    `currently_active` true or false"
                .to_owned()
        }
    }
}

/// Of what is none, so many characters are told.
const TOLD_CHARS_MAX: usize = 60;

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
