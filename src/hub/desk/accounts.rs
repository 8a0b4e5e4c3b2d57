//! Accounts.

use ruma::api::client::{account, session};

use crate::{
    api::{Caller, Origin, Refusal},
    hub::Hub,
};

/// See `api::Command::LoginTypes`.
pub(super) async fn login_types(
    hub: &Hub,
    origin: &Origin,
    request: session::get_login_types::v3::Request,
) -> Result<session::get_login_types::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}

/// See `api::Command::Login`.
pub(super) async fn login(
    hub: &Hub,
    origin: &Origin,
    request: session::login::v3::Request,
) -> Result<session::login::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}

/// See `api::Command::Logout`.
pub(super) async fn logout(
    hub: &Hub,
    caller: &Caller,
    request: session::logout::v3::Request,
) -> Result<session::logout::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::LogoutAll`.
pub(super) async fn logout_all(
    hub: &Hub,
    caller: &Caller,
    request: session::logout_all::v3::Request,
) -> Result<session::logout_all::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Register`.
pub(super) async fn register(
    hub: &Hub,
    origin: &Origin,
    request: account::register::v3::Request,
) -> Result<account::register::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}

/// See `api::Command::UsernameAvailable`.
pub(super) async fn username_available(
    hub: &Hub,
    origin: &Origin,
    request: account::get_username_availability::v3::Request,
) -> Result<account::get_username_availability::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}

/// See `api::Command::Whoami`.
pub(super) async fn whoami(
    hub: &Hub,
    caller: &Caller,
    request: account::whoami::v3::Request,
) -> Result<account::whoami::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// An account an operator or a registration wants made.
pub struct AccountWish {
    /// Its localpart.
    pub localpart: String,
    /// Its password.
    pub password: Option<String>,
    /// Whether it is an operator's.
    pub admin: bool,
}
