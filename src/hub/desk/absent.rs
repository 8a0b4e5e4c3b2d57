//! What clients ask of every hub and this one does not have: bridges. It says so in the words they
//! understand.

use std::collections::BTreeMap;

use ruma::api::client::thirdparty::get_protocols;

/// See `api::Command::Protocols`: there are no bridges.
pub(super) fn protocols() -> get_protocols::v3::Response {
    get_protocols::v3::Response::new(BTreeMap::new())
}
