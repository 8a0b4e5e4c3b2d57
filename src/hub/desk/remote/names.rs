//! What aliases and users of other servers are: asked there, and remembered for a short while.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId,
    api::federation::query::get_room_information,
};

use super::{ANSWER_PATIENCE, odd};
use crate::{
    api::{PeerCommand, PeerReply, Refusal},
    base::Timestamp,
    hub::Hub,
};

/// How long an answer is good for: long enough for the two or three requests of one action.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How many aliases are remembered.
const ALIASES_MAX: usize = 512;

/// How many of the servers in an answer are kept.
const SERVERS_KEPT: usize = 20;

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
