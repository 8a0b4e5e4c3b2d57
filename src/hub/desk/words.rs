//! Random words that name or prove something.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::hub::Hub;

/// `N` random bytes in URL-safe base64.
pub(super) fn random<const N: usize>(hub: &Hub) -> String {
    URL_SAFE_NO_PAD.encode(hub.random::<N>())
}

/// A fresh access token. The prefix lets secret scanners find one that leaked.
pub(super) fn access_token(hub: &Hub) -> String {
    format!("tl_{}", random::<32>(hub))
}

/// A device id no client chose: ten hexadecimal digits, which is enough within one account.
pub(super) fn device_id(hub: &Hub) -> String {
    hex::encode_upper(hub.random::<5>())
}
