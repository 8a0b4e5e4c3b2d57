//! A device against a small hub on a bad link, and its files when the power goes.

mod aliases;
mod door;
mod files;
mod hub;
mod radio;

use crate::{
    client::{Credentials, OscoreKeys},
    session::oscore::{Id, Parameters, SecurityContext},
    wire::thin::{Body, Draft},
};

const SECRET: [u8; 16] = [7; 16];

fn id(bytes: &[u8]) -> Id {
    Id::new(bytes).unwrap()
}

fn hub_context() -> SecurityContext {
    SecurityContext::new(&Parameters::new(&SECRET, id(&[]), id(&[1, 2]))).unwrap()
}

fn device_context() -> SecurityContext {
    SecurityContext::new(&Parameters::new(&SECRET, id(&[1, 2]), id(&[]))).unwrap()
}

fn keys() -> OscoreKeys {
    OscoreKeys {
        master_secret: hex::encode(SECRET),
        master_salt: String::new(),
        sender_id: "0102".to_owned(),
        recipient_id: String::new(),
        id_context: None,
        aead: "AES-CCM-16-64-128".to_owned(),
        hkdf: "SHA-256".to_owned(),
    }
}

fn credentials() -> Credentials {
    let mut credentials = Credentials::new(
        "@ana:hub.example".to_owned(),
        "K1".to_owned(),
        String::new(),
    );
    credentials.oscore = Some(keys());
    credentials
}

fn draft(counter: u64, text: &str) -> Vec<u8> {
    let body = Body::Text(text.to_owned());
    let (target, read) = (None, None);
    Draft {
        counter,
        target,
        read,
        body,
    }
    .encode()
}
