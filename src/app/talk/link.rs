//! Linking by a code: a signed-in device approves, the new one redeems.

use std::path::Path;

use serde_json::json;

use super::{Said, cost::Spent, failed, report};
use crate::{
    app::{
        clock::world,
        failure::Failure,
        link::{DeviceKeys, credentials_of, must_be_new},
        output::{Format, visible},
    },
    client::{Client, Target, thin::StateDir},
    wire::link_code::LinkCode,
};

/// Approves a device and prints its code.
pub(super) async fn approve(client: &mut Client, device: &str) -> Result<Said, Failure> {
    if client.is_over_udp() {
        let reason = "a device is approved over https: the credential file names no https address";
        return Err(Failure::usage("CREDENTIALS", reason));
    }
    let code = client.approve_link(device).await.map_err(failed)?;
    Ok(Said::one(
        visible(&code),
        json!({"device_id": device, "code": code}),
    ))
}

/// What a person or a program wants to be told.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) format: Format,
    pub(super) wants_cost: bool,
}

/// Makes the keys of a device, redeems the code, and writes the credential file with its state.
pub(super) async fn redeem(
    code: &str,
    out: &Path,
    server: &str,
    ca_pem: Option<&str>,
    Told { format, wants_cost }: Told,
) -> Result<(), Failure> {
    let code: LinkCode = code
        .parse()
        .map_err(|error| Failure::usage("LINK_CODE", format!("CODE: {error}")))?;
    // The code is good once.
    must_be_new(out)?;
    must_be_new(&StateDir::path_of(out))?;
    let mut client = if ca_pem.is_none() {
        Client::pinned(server, code.key_hash).map_err(failed)?
    } else {
        let target = Target::parse(server, ca_pem)
            .map_err(|error| Failure::usage("SERVER_URL", format!("--server: {error}")))?;
        Client::open(&target, &world()).await.map_err(failed)?
    };
    let keys = DeviceKeys::make(None).map_err(|error| Failure::failed("LINK_KEYS", error))?;
    let told = client
        .redeem_link(&code, &keys.edhoc.public_x(), &keys.quic_spki)
        .await
        .map_err(failed)?;
    let credentials = credentials_of(told, &keys)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::failed("LINK_FILE", error);
    credentials.write(out).map_err(|error| wrong(&error))?;
    StateDir::begin(out, &credentials).map_err(|error| wrong(&error))?;
    let (user, device, path) = (&credentials.user_id, &credentials.device_id, out.display());
    let text = format!(
        "this is {} of {} now; its credentials are in {path}",
        visible(device),
        visible(user)
    );
    let said = Said::one(
        text,
        json!({"user_id": user, "device_id": device, "file": out}),
    );
    report(Ok(said), wants_cost.then(|| Spent::by(&client)), format)
}
