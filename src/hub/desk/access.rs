//! From what a request shows to who asks.

use sha2::{Digest, Sha256};

use crate::{
    api::{Caller, Code, Credentials, Origin, Refusal},
    hub::Hub,
    store::StoreError,
};

/// The caller behind an origin, or why there is none.
pub(super) async fn caller(hub: &Hub, origin: &Origin) -> Result<Caller, Refusal> {
    let Credentials::Token(token) = &origin.credentials else {
        return Err(Refusal::new(
            Code::MissingToken,
            "this needs an access token",
        ));
    };
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    match hub.store.session(&hash).await.map_err(ours)? {
        Some(session) => Ok(Caller {
            user: session.user,
            device: session.device,
            admin: session.admin,
        }),
        None => Err(Refusal::new(
            Code::UnknownToken,
            "this access token is not known (any more)",
        )),
    }
}

/// Logs a store's failure in full and shows «try later».
#[expect(clippy::needless_pass_by_value, reason = "reads best in map_err")]
pub(super) fn ours(error: StoreError) -> Refusal {
    tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
    Refusal::internal()
}
