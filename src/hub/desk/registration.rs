//! Making accounts: by whoever knows the registration token, and by the operator.
//!
//! Whether a name is taken is told only to who may register.

use std::time::Duration;

use ruma::{
    OwnedUserId, ServerName, UserId,
    api::client::{
        account::{
            self,
            register::{RegistrationKind, v3},
        },
        uiaa::{AuthData, AuthType},
    },
};

use super::{
    access::{ours, token_hash},
    accounts::{DeviceWish, NewSession, contested},
    tickets::Tickets,
    uia, words,
};
use crate::{
    api::{Code, Origin, Refusal},
    hub::{Hub, WriteError},
    store::Write,
};

/// The longest user id, in bytes, sigil and server name included.
const USER_ID_BYTES_MAX: usize = 255;

/// How long someone who passed the stage may try names.
const PASSED_LIFETIME: Duration = Duration::from_mins(10);

/// How many may be trying names at a time; each has shown the token.
const PASSED_MAX: usize = 1000;

/// Sessions that have passed the one stage of registration, and did not get their name.
pub(super) struct Passed(Tickets<()>);

impl Default for Passed {
    fn default() -> Self {
        Self(Tickets::new(PASSED_LIFETIME, PASSED_MAX))
    }
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

impl Hub {
    /// Makes an account. For the operator.
    pub async fn add_user(&self, wish: AccountWish) -> Result<OwnedUserId, Refusal> {
        let user = free_user(self, &wish.localpart).await?;
        make(self, &user, wish, None).await?;
        Ok(user)
    }
}

/// See `api::Command::Register`.
// spec: client-server-accounts §Registration
pub(super) async fn register(
    hub: &Hub,
    origin: &Origin,
    request: v3::Request,
) -> Result<v3::Response, Refusal> {
    let token = open_to(hub)?;
    if request.kind != RegistrationKind::User {
        return Err(Refusal::new(
            Code::GuestAccessForbidden,
            "there are no guest accounts here",
        ));
    }
    if request.login_type.is_some() {
        return Err(Refusal::forbidden("there are no application services here"));
    }
    if request.auth.is_some() {
        hub.desk.rates().register(origin.address)?;
    }
    let session = pass(hub, &token, request.auth.as_ref())?;
    let made = made_by(hub, request).await;
    if made.is_err() {
        let passed = &hub.desk.passed.0;
        passed.give(token_hash(&session), (), hub.now())?;
    }
    made
}

/// The token that opens registration.
fn open_to(hub: &Hub) -> Result<String, Refusal> {
    let token = hub.desk.settings().registration.token.clone();
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Refusal::forbidden("registration is closed; ask the operator"))
}

/// The session that has passed the stage, or the request to pass it.
fn pass(hub: &Hub, token: &str, auth: Option<&AuthData>) -> Result<String, Refusal> {
    let passed = match auth {
        // Hashes are compared, so the time tells nothing of the token.
        Some(AuthData::RegistrationToken(shown)) => token_hash(&shown.token) == token_hash(token),
        Some(AuthData::FallbackAcknowledgement(shown)) => {
            let passed = &hub.desk.passed.0;
            passed
                .redeem(&token_hash(&shown.session), hub.now())
                .is_some()
        }
        _ => false,
    };
    if !passed {
        return Err(uia::challenge(hub, &AuthType::RegistrationToken, auth));
    }
    let session = auth.and_then(AuthData::session);
    Ok(session.map_or_else(|| words::random::<18>(hub), ToOwned::to_owned))
}

async fn made_by(hub: &Hub, request: v3::Request) -> Result<v3::Response, Refusal> {
    let localpart = request
        .username
        .unwrap_or_else(|| hex::encode(hub.random::<6>()));
    let user = free_user(hub, &localpart).await?;
    let password = request
        .password
        .ok_or_else(|| Refusal::new(Code::MissingParam, "password: this server needs one"))?;
    let wish = AccountWish {
        localpart,
        password: Some(password),
        admin: false,
    };
    let device = DeviceWish {
        id: request.device_id,
        name: request.initial_device_display_name,
    };
    let device = (!request.inhibit_login).then_some(device);
    with_session(hub, user, wish, device).await
}

/// Makes an account and, when a device is wanted, its first session with it.
pub(super) async fn with_session(
    hub: &Hub,
    user: OwnedUserId,
    wish: AccountWish,
    device: Option<DeviceWish>,
) -> Result<v3::Response, Refusal> {
    let session = device
        .map(|device| NewSession::of(hub, device))
        .transpose()?;
    make(hub, &user, wish, session.as_ref()).await?;
    let mut reply = v3::Response::new(user);
    if let Some(session) = session {
        reply.access_token = Some(session.token);
        reply.device_id = Some(session.device);
    }
    Ok(reply)
}

async fn make(
    hub: &Hub,
    user: &UserId,
    wish: AccountWish,
    session: Option<&NewSession>,
) -> Result<(), Refusal> {
    let password = match wish.password {
        Some(password) => Some(hub.desk.passwords.hash(&password, hub.random()).await?),
        None => None,
    };
    let mut writes = vec![Write::NewUser {
        user: user.to_owned(),
        password,
        admin: wish.admin,
        at: hub.now(),
    }];
    writes.extend(session.map(|session| session.write(hub, user)));
    match hub.writer.write(contested(writes), Vec::new()).await {
        Ok(_) => Ok(()),
        Err(WriteError::Conflict(_)) => Err(taken(user)),
        Err(error) => Err(error.into()),
    }
}

/// See `api::Command::UsernameAvailable`.
pub(super) async fn username_available(
    hub: &Hub,
    origin: &Origin,
    request: account::get_username_availability::v3::Request,
) -> Result<account::get_username_availability::v3::Response, Refusal> {
    open_to(hub)?;
    hub.desk.rates().probe(origin.address)?;
    free_user(hub, &request.username).await?;
    Ok(account::get_username_availability::v3::Response::new(true))
}

/// The user id of a localpart that is well formed and, as far as we know, free.
pub(super) async fn free_user(hub: &Hub, localpart: &str) -> Result<OwnedUserId, Refusal> {
    let user = user_id(hub.key.name(), localpart)?;
    match hub.store.user(&user).await.map_err(ours)? {
        Some(_) => Err(taken(&user)),
        None => Ok(user),
    }
}

// spec: client-server-accounts §User-identifiers
fn user_id(server: &ServerName, localpart: &str) -> Result<OwnedUserId, Refusal> {
    let invalid = |why: &str| {
        Err(Refusal::new(
            Code::InvalidUsername,
            format!("username: {why}"),
        ))
    };
    if localpart.is_empty() {
        return invalid("must not be empty");
    }
    if localpart.starts_with('_') {
        return invalid("names that begin with `_` are kept for bridges");
    }
    let is_plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '=' | '-' | '/' | '+');
    if let Some(odd) = localpart.chars().find(|c| !is_plain(*c)) {
        return invalid(&format!("{odd:?} is none of a-z 0-9 . _ = - / +"));
    }
    let id = format!("@{localpart}:{server}");
    if id.len() > USER_ID_BYTES_MAX {
        let length = id.len();
        return invalid(&format!(
            "the user id would have {length} bytes, at most {USER_ID_BYTES_MAX} are allowed"
        ));
    }
    OwnedUserId::try_from(id).or_else(|_| invalid("it makes no user id"))
}

fn taken(user: &UserId) -> Refusal {
    Refusal::new(Code::UserInUse, format!("{user} is taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_localpart_is_lower_case_short_and_not_a_bridges() {
        let server = ServerName::parse("hub.example").unwrap();
        let id = |localpart: &str| user_id(&server, localpart);

        assert_eq!(id("ana.b-c_1=/+").unwrap().localpart(), "ana.b-c_1=/+");
        assert!(id(&"a".repeat(255 - 13)).is_ok());
        let long = "a".repeat(256 - 13);
        for bad in ["", "Ana", "_irc", "a:b", "ä", "a b", "@ana", "a\0", &long] {
            assert_eq!(id(bad).unwrap_err().code, Code::InvalidUsername, "{bad}");
        }
    }
}
