//! Push rules.

use ruma::api::client::push;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::PushRules`.
pub(super) async fn push_rules(
    hub: &Hub,
    caller: &Caller,
    request: push::get_pushrules_all::v3::Request,
) -> Result<push::get_pushrules_all::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::PushRulesGlobal`.
pub(super) async fn push_rules_global(
    hub: &Hub,
    caller: &Caller,
    request: push::get_pushrules_global_scope::v3::Request,
) -> Result<push::get_pushrules_global_scope::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
