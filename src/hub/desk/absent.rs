//! What clients ask of every hub and this one does not have: presence, bridges. It says so in the
//! words they understand.

use std::collections::BTreeMap;

use ruma::{
    api::client::{
        presence::{get_presence, set_presence},
        thirdparty::get_protocols,
    },
    presence::PresenceState,
};

use super::access::{must_be, ours};
use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::Presence`: everyone who has an account is offline.
///
/// spec: client-server-accounts §Presence
pub(super) async fn presence(
    hub: &Hub,
    _caller: &Caller,
    request: get_presence::v3::Request,
) -> Result<get_presence::v3::Response, Refusal> {
    let user = hub.store.user(&request.user_id).await.map_err(ours)?;
    user.ok_or_else(|| Refusal::not_found(format!("there is no user {} here", request.user_id)))?;
    Ok(get_presence::v3::Response::new(PresenceState::Offline))
}

/// See `api::Command::SetPresence`: taken and forgotten.
pub(super) fn set_presence(
    caller: &Caller,
    request: &set_presence::v3::Request,
) -> Result<set_presence::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    Ok(set_presence::v3::Response::new())
}

/// See `api::Command::Protocols`: there are no bridges.
pub(super) fn protocols() -> get_protocols::v3::Response {
    get_protocols::v3::Response::new(BTreeMap::new())
}
