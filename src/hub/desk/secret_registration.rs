//! Registration by whoever holds the shared secret, in the form of Synapse's admin tools.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use ruma::api::client::account;
use sha1::Sha1;

use super::{
    access::token_hash,
    accounts::DeviceWish,
    registration::{AccountWish, free_user, with_session},
    tickets::Tickets,
    words,
};
use crate::{
    api::{Code, Origin, Refusal, Reply, SecretRegistration},
    hub::Hub,
};

/// How long a nonce may be used: as long as Synapse's.
const NONCE_LIFETIME: Duration = Duration::from_mins(1);

/// How many nonces may be out at a time, at about 60 bytes each.
const NONCES_MAX: usize = 10_000;

/// Nonces given out and not used.
pub(super) struct Nonces(Tickets<()>);

impl Default for Nonces {
    fn default() -> Self {
        Self(Tickets::new(NONCE_LIFETIME, NONCES_MAX))
    }
}

/// See `api::Command::RegisterNonce`.
pub(super) fn nonce(hub: &Hub, origin: &Origin) -> Result<Reply, Refusal> {
    secret(hub)?;
    hub.desk.rates.probe(origin.address)?;
    let nonce = words::random::<24>(hub);
    let nonces = &hub.desk.nonces.0;
    nonces.give(token_hash(&nonce), (), hub.now())?;
    Ok(Reply::RegisterNonce { nonce })
}

/// See `api::Command::RegisterWithSecret`.
pub(super) async fn register(
    hub: &Hub,
    origin: &Origin,
    request: SecretRegistration,
) -> Result<account::register::v3::Response, Refusal> {
    let secret = secret(hub)?;
    hub.desk.rates.register(origin.address)?;
    let nonces = &hub.desk.nonces.0;
    nonces
        .redeem(&token_hash(&request.nonce), hub.now())
        .ok_or_else(|| {
            Refusal::new(Code::Unknown, "nonce: not one of ours, used, or too old").with_status(400)
        })?;
    if !is_signed(secret, &request) {
        return Err(Refusal::forbidden("mac: not made with the shared secret"));
    }
    let user = free_user(hub, &request.username).await?;
    let wish = AccountWish {
        localpart: request.username,
        password: Some(request.password),
        admin: request.admin,
    };
    with_session(hub, user, wish, Some(DeviceWish::default())).await
}

fn secret(hub: &Hub) -> Result<&str, Refusal> {
    let secret = hub.desk.settings.registration.shared_secret.as_deref();
    secret
        .filter(|secret| !secret.is_empty())
        .ok_or_else(|| Refusal::forbidden("registration by shared secret is off"))
}

/// Compares in constant time.
fn is_signed(secret: &str, request: &SecretRegistration) -> bool {
    let Ok(mac) = hex::decode(&request.mac) else {
        return false;
    };
    let role = if request.admin { "admin" } else { "notadmin" };
    let parts = [&request.nonce, &request.username, &request.password, role];
    hmac(secret, &parts).verify_slice(&mac).is_ok()
}

fn hmac(secret: &str, parts: &[&str; 4]) -> Hmac<Sha1> {
    let mut hmac =
        Hmac::new_from_slice(secret.as_bytes()).expect("an HMAC takes a key of any length");
    hmac.update(parts.join("\0").as_bytes());
    hmac
}

/// What a tool that knows the secret sends.
#[cfg(test)]
pub(super) fn mac(secret: &str, parts: &[&str; 4]) -> String {
    hex::encode(hmac(secret, parts).finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(mac: &str) -> SecretRegistration {
        SecretRegistration {
            nonce: "thisisanonce".to_owned(),
            username: "pepper_roni".to_owned(),
            password: "pizza".to_owned(),
            admin: true,
            mac: mac.to_owned(),
        }
    }

    /// Computed with Python: `hmac.new(b"shared_secret", …, hashlib.sha1)`.
    #[test]
    fn a_mac_made_elsewhere_is_right_and_any_change_makes_it_wrong() {
        let mac = "48715842ad67d5dc9a9ee938a3bda4fcfae8d7c7";
        assert!(is_signed("shared_secret", &request(mac)));
        assert!(!is_signed("shared_secreT", &request(mac)));
        assert!(!is_signed("shared_secret", &request("")));
        assert!(!is_signed("shared_secret", &request("not hex")));
        let mut user = request(mac);
        user.admin = false;
        assert!(!is_signed("shared_secret", &user));
    }
}
