//! Push rules: the default ones. Changing them comes with pushers.
#![expect(clippy::unused_async, reason = "every command is asked in one way")]

use ruma::{UserId, api::client::push, push::Ruleset};
use serde_json::json;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// The type of the account data that tells clients their rules.
pub(super) const KIND: &str = "m.push_rules";

/// The rules of a user.
pub(super) fn ruleset(user: &UserId) -> Ruleset {
    Ruleset::server_default(user)
}

/// The content of a user's `m.push_rules`, as JSON; the same at every sync.
pub(super) fn content(user: &UserId) -> Result<String, Refusal> {
    let rules = serde_json::to_value(ruleset(user)).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "push rules cannot be written"
        );
        Refusal::internal()
    })?;
    Ok(json!({ "global": rules }).to_string())
}

/// See `api::Command::PushRules`.
pub(super) async fn push_rules(
    _hub: &Hub,
    caller: &Caller,
    _request: push::get_pushrules_all::v3::Request,
) -> Result<push::get_pushrules_all::v3::Response, Refusal> {
    let rules = ruleset(&caller.user);
    Ok(push::get_pushrules_all::v3::Response::new(rules))
}

/// See `api::Command::PushRulesGlobal`.
pub(super) async fn push_rules_global(
    _hub: &Hub,
    caller: &Caller,
    _request: push::get_pushrules_global_scope::v3::Request,
) -> Result<push::get_pushrules_global_scope::v3::Response, Refusal> {
    let rules = ruleset(&caller.user);
    Ok(push::get_pushrules_global_scope::v3::Response::new(rules))
}
