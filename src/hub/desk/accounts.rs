//! Logging in and out.
//!
//! Whether an account exists shows in none of these answers, nor in the time they take. For making
//! accounts see [`super::registration`].
#![expect(clippy::unused_async, reason = "every command is asked in one way")]

use std::time::Duration;

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::client::{
        account,
        session::{
            self,
            get_login_types::v3::{LoginType, PasswordLoginType, TokenLoginType},
            login::v3::{LoginInfo, Password},
        },
        uiaa::UserIdentifier,
    },
};

use super::{
    access::{end_sessions, log_as, ours, token_hash, turn_of_sessions},
    devices,
    tickets::Tickets,
    words,
};
use crate::{
    api::{Caller, Code, Origin, Refusal, Why},
    hub::Hub,
    store::{Batch, Write},
};

/// How many devices an account may have. People have a dozen; what logs in anew each time shows
/// here.
const DEVICES_MAX: usize = 500;

/// The longest device id, in bytes: as long as the longest user id.
pub(super) const DEVICE_ID_BYTES_MAX: usize = 255;

/// The longest name of a device, in bytes.
pub(super) const DEVICE_NAME_BYTES_MAX: usize = 400;

/// How long a login token lives: the time the specification gives as the default.
const LOGIN_TOKEN_LIFETIME: Duration = Duration::from_mins(2);

/// How many login tokens may be out at a time; only operators make them.
const LOGIN_TOKENS_MAX: usize = 1000;

/// Login tokens given out, and for whom.
pub(super) struct LoginTokens(Tickets<OwnedUserId>);

impl Default for LoginTokens {
    fn default() -> Self {
        Self(Tickets::new(LOGIN_TOKEN_LIFETIME, LOGIN_TOKENS_MAX))
    }
}

impl LoginTokens {
    /// Voids what was given to a user.
    pub(super) fn forget(&self, user: &UserId) {
        self.0.void(|given| given == user);
    }
}

/// See `api::Command::LoginTypes`.
pub(super) async fn login_types(
    _hub: &Hub,
    _origin: &Origin,
    _request: session::get_login_types::v3::Request,
) -> Result<session::get_login_types::v3::Response, Refusal> {
    let flows = vec![
        LoginType::Password(PasswordLoginType::new()),
        LoginType::Token(TokenLoginType::new()),
    ];
    Ok(session::get_login_types::v3::Response::new(flows))
}

/// See `api::Command::Login`.
// spec: client-server-accounts §Login
pub(super) async fn login(
    hub: &Hub,
    origin: &Origin,
    request: session::login::v3::Request,
) -> Result<session::login::v3::Response, Refusal> {
    let mut proved_by = None;
    let user = match &request.login_info {
        LoginInfo::Password(shown) => {
            let (user, password) = by_password(hub, origin, shown).await?;
            proved_by = Some(password);
            user
        }
        LoginInfo::Token(shown) => {
            hub.desk.rates().login_from(origin.address)?;
            let tokens = &hub.desk.login_tokens.0;
            let user = tokens
                .redeem(&token_hash(&shown.token), hub.now())
                .ok_or_else(|| Refusal::forbidden("this login token is not valid (any more)"))?;
            must_be_enabled(hub, &user).await?;
            user
        }
        other => {
            let kind = other.login_type();
            let message = format!("the login type {kind:?} is not served here");
            return Err(Refusal::new(Code::Unknown, message).with_status(400));
        }
    };
    log_as(&user);
    let wish = DeviceWish {
        id: request.device_id,
        name: request.initial_device_display_name,
    };
    let mut session = NewSession::of(hub, wish)?;
    let turn = turn_of_sessions(hub, &user).await;
    if let Some(password) = &proved_by {
        must_still_be(hub, &user, password).await?;
    }
    let devices = devices::ids(hub, &user).await?;
    if devices.contains(&session.device) {
        session.name = None; // only for a new device
    } else {
        must_fit_in(&devices)?;
    }
    // The device's earlier token, if it had one, is replaced.
    let device = std::slice::from_ref(&session.device);
    let write = session.write(hub, &user);
    end_sessions(hub, &user, device, vec![write], Vec::new(), Some(turn)).await?;
    Ok(session::login::v3::Response::new(
        user,
        session.token,
        session.device,
    ))
}

/// Who has this password, and what is stored of it.
async fn by_password(
    hub: &Hub,
    origin: &Origin,
    shown: &Password,
) -> Result<(OwnedUserId, String), Refusal> {
    let user = UserId::parse_with_server_name(named(shown)?, hub.key.name()).ok();
    let (mut stored, mut disabled) = (None, false);
    match &user {
        Some(user) => {
            hub.desk.rates().login(origin.address, user)?;
            let account = hub.store.user(user).await.map_err(ours)?;
            disabled = account.as_ref().is_some_and(|account| account.disabled);
            stored = account.and_then(|account| account.password);
        }
        None => hub.desk.rates().login_from(origin.address)?,
    }
    let passwords = &hub.desk.passwords;
    let is_right = passwords.is_right(&shown.password, stored.clone()).await?;
    let tried = user.clone();
    let proved = user.zip(stored).filter(|_| is_right).ok_or_else(|| {
        let account = match tried {
            Some(user) => format!("the password fits {user}"),
            None => "the name can be an account's, and the password fits it".to_owned(),
        };
        wrong_password().because(Why::default().passes(account))
    })?;
    // Only who knows the password learns that the account is disabled.
    if disabled {
        return Err(is_disabled());
    }
    Ok(proved)
}

/// Refuses who was proved by a password that was changed meanwhile.
async fn must_still_be(hub: &Hub, user: &UserId, password: &str) -> Result<(), Refusal> {
    let stored = stored_password(hub, user).await?;
    if stored.as_deref() == Some(password) {
        Ok(())
    } else {
        Err(wrong_password())
    }
}

async fn stored_password(hub: &Hub, user: &UserId) -> Result<Option<String>, Refusal> {
    let account = hub.store.user(user).await.map_err(ours)?;
    Ok(account.and_then(|account| account.password))
}

fn wrong_password() -> Refusal {
    Refusal::forbidden("wrong user name or password")
}

pub(super) async fn must_be_enabled(hub: &Hub, user: &UserId) -> Result<(), Refusal> {
    match hub.store.user(user).await.map_err(ours)? {
        Some(account) if account.disabled => Err(is_disabled()),
        _ => Ok(()),
    }
}

fn is_disabled() -> Refusal {
    let message = "this account was disabled by the operator of this server";
    Refusal::new(Code::UserDeactivated, message)
}

#[expect(deprecated, reason = "old and small clients still send `user`")]
fn named(shown: &Password) -> Result<&str, Refusal> {
    match (&shown.identifier, &shown.user) {
        (Some(UserIdentifier::Matrix(id)), _) => Ok(&id.user),
        (Some(_), _) => Err(Refusal::new(
            Code::Unknown,
            "only identifiers of type m.id.user are served here",
        )
        .with_status(400)),
        (None, Some(user)) => Ok(user),
        (None, None) => Err(Refusal::new(
            Code::MissingParam,
            "identifier: who logs in is missing",
        )),
    }
}

/// See `api::Command::Logout`.
pub(super) async fn logout(
    hub: &Hub,
    caller: &Caller,
    _request: session::logout::v3::Request,
) -> Result<session::logout::v3::Response, Refusal> {
    devices::remove(hub, &caller.user, std::slice::from_ref(&caller.device)).await?;
    Ok(session::logout::v3::Response::new())
}

/// See `api::Command::LogoutAll`.
pub(super) async fn logout_all(
    hub: &Hub,
    caller: &Caller,
    _request: session::logout_all::v3::Request,
) -> Result<session::logout_all::v3::Response, Refusal> {
    let all = devices::ids(hub, &caller.user).await?;
    devices::remove(hub, &caller.user, &all).await?;
    Ok(session::logout_all::v3::Response::new())
}

/// See `api::Command::Whoami`.
pub(super) async fn whoami(
    _hub: &Hub,
    caller: &Caller,
    _request: account::whoami::v3::Request,
) -> Result<account::whoami::v3::Response, Refusal> {
    let mut reply = account::whoami::v3::Response::new(caller.user.clone(), false);
    reply.device_id = Some(caller.device.clone());
    Ok(reply)
}

impl Hub {
    /// A token with which `user` can log in once, within two minutes (`m.login.token`). For the
    /// operator.
    pub async fn mint_login_token(&self, user: &UserId) -> Result<String, Refusal> {
        must_exist(self, user).await?;
        let token = words::random::<32>(self);
        let tokens = &self.desk.login_tokens.0;
        tokens.give(token_hash(&token), user.to_owned(), self.now())?;
        Ok(token)
    }

    /// Gives `user` another password and ends all sessions; says how many. For the operator.
    pub async fn set_password(&self, user: &UserId, password: &str) -> Result<usize, Refusal> {
        must_exist(self, user).await?;
        let hash = self.desk.passwords.hash(password, self.random()).await?;
        let changed = Write::Password {
            user: user.to_owned(),
            password: hash,
        };
        self.end_all_sessions(user, changed).await
    }

    /// Disables an account: all sessions end, their number is told, and nobody logs in to it until
    /// it is enabled. Its name, its rooms and its password stay. For the operator.
    pub async fn disable_user(&self, user: &UserId) -> Result<usize, Refusal> {
        self.set_disabled(user, true).await
    }

    /// Lets somebody log in again who was disabled. For the operator.
    ///
    /// A login that was under way when the account was disabled may have stored a session, which
    /// nobody could use; it must not come to life now.
    pub async fn enable_user(&self, user: &UserId) -> Result<(), Refusal> {
        self.set_disabled(user, false).await.map(drop)
    }

    async fn set_disabled(&self, user: &UserId, disabled: bool) -> Result<usize, Refusal> {
        let account = self.store.user(user).await.map_err(ours)?;
        let account = account.ok_or_else(|| no_account(user))?;
        if account.disabled == disabled {
            return Ok(0);
        }
        let changed = Write::Disabled {
            user: user.to_owned(),
            disabled,
        };
        self.end_all_sessions(user, changed).await
    }

    async fn end_all_sessions(&self, user: &UserId, changed: Write) -> Result<usize, Refusal> {
        let turn = turn_of_sessions(self, user).await;
        self.desk.login_tokens.forget(user);
        self.desk.codes.forget(user);
        let all = devices::ids(self, user).await?;
        devices::remove_with(self, user, &all, vec![changed], Some(turn)).await?;
        // Also what was remembered of a session that a login stored in the meantime.
        self.desk.sessions.forget(user, None);
        Ok(all.len())
    }
}

pub(super) async fn must_exist(hub: &Hub, user: &UserId) -> Result<(), Refusal> {
    match hub.store.user(user).await.map_err(ours)? {
        Some(_) => Ok(()),
        None => Err(no_account(user)),
    }
}

fn no_account(user: &UserId) -> Refusal {
    Refusal::not_found(format!("there is no account {user}"))
}

/// Which device a client wants to be.
#[derive(Default)]
pub(super) struct DeviceWish {
    pub(super) id: Option<OwnedDeviceId>,
    pub(super) name: Option<String>,
}

/// A session that is not stored yet.
pub(super) struct NewSession {
    pub(super) device: OwnedDeviceId,
    pub(super) token: String,
    name: Option<String>,
}

impl NewSession {
    pub(super) fn of(hub: &Hub, wish: DeviceWish) -> Result<Self, Refusal> {
        let device = match wish.id {
            Some(id) => checked_device_id(id)?,
            None => words::device_id(hub).into(),
        };
        Ok(Self {
            device,
            token: words::access_token(hub),
            name: wish.name.map(checked_device_name).transpose()?,
        })
    }

    pub(super) fn write(&self, hub: &Hub, user: &UserId) -> Write {
        Write::Session {
            user: user.to_owned(),
            device: self.device.clone(),
            token: token_hash(&self.token),
            name: self.name.clone(),
            at: hub.now(),
        }
    }
}

pub(super) fn checked_device_id(id: OwnedDeviceId) -> Result<OwnedDeviceId, Refusal> {
    let text = id.as_str();
    let wrong = match text.len() {
        0 => "device_id: must not be empty",
        1 if text == "*" => "device_id: `*` is every device in a to-device message",
        1..=DEVICE_ID_BYTES_MAX if !text.contains(char::is_control) => return Ok(id),
        1..=DEVICE_ID_BYTES_MAX => "device_id: must not hold control characters",
        _ => "device_id: at most 255 bytes",
    };
    Err(Refusal::invalid_param(wrong))
}

/// A device's name, unless it is too long.
pub(super) fn checked_device_name(name: String) -> Result<String, Refusal> {
    if name.len() > DEVICE_NAME_BYTES_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!(
                "the device's name has {} bytes, at most {DEVICE_NAME_BYTES_MAX} are kept",
                name.len()
            ),
        ));
    }
    Ok(name)
}

pub(super) fn must_fit_in(devices: &[OwnedDeviceId]) -> Result<(), Refusal> {
    if devices.len() < DEVICES_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        Code::ResourceLimitExceeded,
        format!("this account has {DEVICES_MAX} devices; log one out first"),
    ))
}

/// A batch that may collide with what is stored.
pub(super) fn contested(writes: Vec<Write>) -> Batch {
    Batch {
        writes,
        may_conflict: true,
    }
}

#[cfg(test)]
mod tests {
    use ruma::api::client::uiaa::MatrixUserIdentifier;

    use super::*;
    use crate::hub::testing::{hub, stranger};

    #[tokio::test]
    async fn who_was_proved_by_an_old_password_does_not_come_in_after_the_change() {
        let hub = hub().await;
        let ana = hub.account("ana").await;
        hub.password(&ana, "old").await;
        let who = UserIdentifier::Matrix(MatrixUserIdentifier::new("ana".to_owned()));
        let shown = Password::new(who, "old".to_owned());
        let (user, proved_by) = by_password(&hub.hub, &stranger(), &shown).await.unwrap();
        must_still_be(&hub.hub, &user, &proved_by).await.unwrap();

        hub.password(&ana, "new").await;

        let refusal = must_still_be(&hub.hub, &user, &proved_by).await;
        assert_eq!(refusal.unwrap_err().code, Code::Forbidden);
    }
}
