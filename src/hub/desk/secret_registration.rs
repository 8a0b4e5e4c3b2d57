//! Registration by whoever holds the shared secret.

use ruma::api::client::account;

use crate::{
    api::{Origin, Refusal, Reply, SecretRegistration},
    hub::Hub,
};

/// Nonces given out and not used.
#[derive(Default)]
pub(super) struct Nonces {}

/// See `api::Command::RegisterNonce`.
pub(super) fn nonce(hub: &Hub, origin: &Origin) -> Result<Reply, Refusal> {
    let _ = (hub, origin);
    Err(Refusal::internal())
}

/// See `api::Command::RegisterWithSecret`.
pub(super) async fn register(
    hub: &Hub,
    origin: &Origin,
    request: SecretRegistration,
) -> Result<account::register::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}
