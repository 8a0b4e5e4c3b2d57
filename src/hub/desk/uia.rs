//! User-interactive authentication: one stage, asked again until it is passed.
//!
//! Nothing is kept for who only asks: a session is a word we make up and get back.

use ruma::api::client::uiaa::{AuthData, AuthType, UserIdentifier};
use serde_json::{Map, Value, json};

use super::{access::ours, words};
use crate::{
    api::{Caller, Code, Refusal},
    hub::Hub,
};

/// The longest session a client may hand back, in bytes; ours have 24.
pub(super) const SESSION_BYTES_MAX: usize = 64;

/// The answer that asks for a stage, or says that it was not passed.
// spec: client-server-accounts §User-interactive-authentication
pub(super) fn challenge(hub: &Hub, stage: &AuthType, shown: Option<&AuthData>) -> Refusal {
    let session = shown
        .and_then(AuthData::session)
        .filter(|session| session.len() <= SESSION_BYTES_MAX)
        .map_or_else(|| words::random::<18>(hub), ToOwned::to_owned);
    let message = match shown {
        None => "this needs further authentication",
        Some(_) => "what was shown does not pass this stage",
    };
    let mut body = Map::new();
    body.insert("flows".to_owned(), json!([{ "stages": [stage.as_str()] }]));
    body.insert("params".to_owned(), json!({}));
    body.insert("completed".to_owned(), json!([]));
    body.insert("session".to_owned(), Value::String(session));
    Refusal {
        body: Some(body),
        ..Refusal::new(Code::Forbidden, message).with_status(401)
    }
}

/// Makes sure that the caller knows the account's password.
pub(super) async fn prove_password(
    hub: &Hub,
    caller: &Caller,
    auth: Option<&AuthData>,
) -> Result<(), Refusal> {
    let ask = || challenge(hub, &AuthType::Password, auth);
    let Some(AuthData::Password(shown)) = auth else {
        return Err(ask());
    };
    hub.desk.rates().login(None, &caller.user)?;
    let account = hub.store.user(&caller.user).await.map_err(ours)?;
    let stored = account.and_then(|account| account.password);
    let passwords = &hub.desk.passwords;
    let is_right = passwords.is_right(&shown.password, stored).await?;
    if is_right && names(&shown.identifier, caller) {
        Ok(())
    } else {
        Err(ask())
    }
}

fn names(identifier: &UserIdentifier, caller: &Caller) -> bool {
    let UserIdentifier::Matrix(matrix) = identifier else {
        return false;
    };
    caller.user == matrix.user || caller.user.localpart() == matrix.user
}
