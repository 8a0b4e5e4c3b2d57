//! What this hub is, for clients that ask.
#![expect(clippy::unused_async, reason = "every command is asked in one way")]

use ruma::api::client::discovery::{
    get_capabilities::v3::{
        self, Capabilities, ChangePasswordCapability, ProfileFieldsCapability,
        RoomVersionStability, RoomVersionsCapability, ThirdPartyIdChangesCapability,
    },
    get_supported_versions,
};

use crate::{
    api::{Caller, Origin, Refusal},
    hub::Hub,
    wire::matrix::Version,
};

/// The versions of the specification whose requests we answer, as far as we have them.
///
/// 1.11 brought authenticated media, which we have. Later ones are left out until what they added
/// is here, since some clients then stop asking in the older way.
// spec: client-server-accounts §Versions
const VERSIONS: [&str; 11] = [
    "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
];

/// Parts of later versions that are here already: custom profile fields (1.16).
const FEATURES: [&str; 1] = ["uk.tcpip.msc4133.stable"];

/// See `api::Command::Versions`.
pub(super) async fn versions(
    _hub: &Hub,
    _origin: &Origin,
    _request: get_supported_versions::Request,
) -> Result<get_supported_versions::Response, Refusal> {
    let versions = VERSIONS.map(ToOwned::to_owned).to_vec();
    let mut reply = get_supported_versions::Response::new(versions);
    reply.unstable_features = FEATURES.map(|name| (name.to_owned(), true)).into();
    Ok(reply)
}

/// See `api::Command::Capabilities`.
// spec: client-server-accounts §Capabilities
pub(super) async fn capabilities(
    _hub: &Hub,
    _caller: &Caller,
    _request: v3::Request,
) -> Result<v3::Response, Refusal> {
    let stable = Version::ALL.map(|version| (version.id(), RoomVersionStability::Stable));
    let mut told = Capabilities::new();
    told.room_versions = RoomVersionsCapability::new(Version::DEFAULT.id(), stable.into());
    told.change_password = ChangePasswordCapability::new(true);
    told.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(false);
    told.profile_fields = Some(ProfileFieldsCapability::new(true));
    Ok(v3::Response::new(told))
}
