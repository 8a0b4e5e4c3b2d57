//! What aliases and users of other servers are: asked there, and remembered for a short while.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    RoomAliasId, UserId,
    api::federation::query::{get_profile_information, get_room_information},
    profile::ProfileFieldName,
};
use serde_json::Value;

use super::{ANSWER_PATIENCE, odd};
use crate::{
    api::{PeerCommand, PeerReply, Refusal},
    base::Timestamp,
    hub::Hub,
};

/// How long an answer is good for: long enough for the two or three requests of one action.
const REMEMBERED: Duration = Duration::from_mins(1);

/// How many aliases are remembered.
const ALIASES_MAX: usize = 512;

/// How many of the servers in an answer are kept.
const SERVERS_KEPT: usize = 20;

/// How many fields of a profile are passed on.
const FIELDS_MAX: usize = 64;

/// The longest name or picture that goes into an event, in bytes.
const SHOWN_FIELD_BYTES_MAX: usize = 1024;

/// What an alias of another server names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct Aliased {
    /// The room.
    pub(in crate::hub::desk) room: OwnedRoomId,
    /// Servers in it.
    pub(in crate::hub::desk) servers: Vec<OwnedServerName>,
}

/// What was answered lately.
#[derive(Default)]
pub(super) struct Names {
    aliases: Mutex<BTreeMap<OwnedRoomAliasId, (Timestamp, Aliased)>>,
}

/// The room that an alias of another server names, as that server says.
pub(in crate::hub::desk) async fn alias(
    hub: &Hub,
    alias: &RoomAliasId,
) -> Result<Aliased, Refusal> {
    let names = &hub.desk.elsewhere.names;
    if let Some(known) = names.known(alias, hub.now()) {
        return Ok(known);
    }
    let server = alias.server_name().to_owned();
    let asked = get_room_information::v1::Request::new(alias.to_owned());
    let command = PeerCommand::PeerAlias(Box::new(asked));
    let answer = hub.remote.ask(&server, command, ANSWER_PATIENCE).await?;
    let PeerReply::PeerAlias(told) = answer else {
        return Err(odd(&server).into());
    };
    let mut servers = told.servers;
    servers.truncate(SERVERS_KEPT);
    if servers.is_empty() {
        servers.push(server);
    }
    let told = Aliased {
        room: told.room_id,
        servers,
    };
    names.remember(alias, &told, hub.now());
    Ok(told)
}

/// What a user of another server says of themselves, as that server tells it; all of it, or one
/// field.
pub(in crate::hub::desk) async fn profile(
    hub: &Hub,
    user: &UserId,
    field: Option<ProfileFieldName>,
) -> Result<Vec<(String, Value)>, Refusal> {
    let server = user.server_name().to_owned();
    let mut asked = get_profile_information::v1::Request::new(user.to_owned());
    asked.field = field;
    let command = PeerCommand::PeerProfile(Box::new(asked));
    let answer = hub.remote.ask(&server, command, ANSWER_PATIENCE).await?;
    let PeerReply::PeerProfile(told) = answer else {
        return Err(odd(&server).into());
    };
    Ok(told.into_iter().take(FIELDS_MAX).collect())
}

/// Name and picture of a user of another server for an invite, where that server tells them: an
/// invite without them is one all the same.
pub(in crate::hub::desk) async fn shown_profile(hub: &Hub, user: &UserId) -> CanonicalJsonObject {
    let told = match profile(hub, user, None).await {
        Ok(told) => told,
        Err(refusal) => {
            tracing::debug!(%user, why = refusal.message, "a profile is not told");
            return CanonicalJsonObject::new();
        }
    };
    let shown = told.into_iter().filter_map(|(field, value)| match value {
        Value::String(text)
            if matches!(field.as_str(), "displayname" | "avatar_url")
                && text.len() <= SHOWN_FIELD_BYTES_MAX =>
        {
            Some((field, CanonicalJsonValue::String(text)))
        }
        _ => None,
    });
    shown.collect()
}

impl Names {
    fn known(&self, alias: &RoomAliasId, now: Timestamp) -> Option<Aliased> {
        let aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, known) = aliases.get(alias)?;
        (now < *at + REMEMBERED).then(|| known.clone())
    }

    fn remember(&self, alias: &RoomAliasId, told: &Aliased, now: Timestamp) {
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        if aliases.len() >= ALIASES_MAX {
            aliases.retain(|_, (at, _)| now < *at + REMEMBERED);
        }
        if aliases.len() >= ALIASES_MAX {
            aliases.pop_first();
        }
        aliases.insert(alias.to_owned(), (now, told.clone()));
    }
}
