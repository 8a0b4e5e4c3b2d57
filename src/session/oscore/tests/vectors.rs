//! Appendix C of RFC 8613.

use serde::Deserialize;

use super::*;
use crate::session::oscore::{aead, context::info, nonce, plaintext};

#[derive(Deserialize)]
struct Derivation {
    section: String,
    master_secret: String,
    master_salt: String,
    sender_id: String,
    recipient_id: String,
    id_context: Option<String>,
    info_sender_key: String,
    info_recipient_key: String,
    info_common_iv: String,
    sender_key: String,
    recipient_key: String,
    common_iv: String,
    sender_nonce: String,
    recipient_nonce: String,
}

#[derive(Deserialize)]
struct Exchange {
    section: String,
    context: Option<String>,
    answers: Option<String>,
    unprotected: String,
    sequence_number: Option<u64>,
    aad: String,
    plaintext: String,
    nonce: String,
    option: String,
    ciphertext: String,
    protected: String,
}

fn derivations() -> Vec<Derivation> {
    serde_json::from_str(include_str!(
        "../../../../conformance/vectors/oscore/derivation.json"
    ))
    .unwrap()
}

fn exchanges() -> Vec<Exchange> {
    serde_json::from_str(include_str!(
        "../../../../conformance/vectors/oscore/messages.json"
    ))
    .unwrap()
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn read(text: &str) -> Message {
    Message::decode(&bytes(text)).unwrap()
}

/// The two ends of a derivation, about to send under these numbers.
fn ends(section: &str, client_at: u64, server_at: u64) -> (SecurityContext, SecurityContext) {
    let all = derivations();
    let vector = all.iter().find(|one| one.section == section).unwrap();
    let (secret, salt) = (bytes(&vector.master_secret), bytes(&vector.master_salt));
    let id_context = vector.id_context.as_deref().map(bytes);
    let mut parameters = Parameters::new(
        &secret,
        id(&bytes(&vector.sender_id)),
        id(&bytes(&vector.recipient_id)),
    );
    parameters.master_salt = &salt;
    parameters.id_context = id_context.as_deref();
    let end = |parameters: &Parameters<'_>, at| {
        let sequence = Sequence::resumed(at);
        ready(SecurityContext::with_state(parameters, sequence, Window::Empty).unwrap())
    };
    let client = end(&parameters, client_at);
    std::mem::swap(&mut parameters.sender_id, &mut parameters.recipient_id);
    (client.saying_kid_context(), end(&parameters, server_at))
}

#[test]
fn c_1_to_c_3_keys_and_nonces_are_those_of_the_specification() {
    assert_eq!(derivations().len(), 3);
    for vector in derivations() {
        let (client, server) = ends(&vector.section, 0, 0);
        let context = client.id_context.as_ref();
        let infos = [
            (
                client.sender_id,
                &b"\x63Key\x10"[..],
                &vector.info_sender_key,
            ),
            (
                client.recipient_id,
                b"\x63Key\x10",
                &vector.info_recipient_key,
            ),
            (Id::default(), b"\x62IV\x0d", &vector.info_common_iv),
        ];
        for (id, kind, expected) in infos {
            assert_eq!(hex::encode(info(id, context, kind)), *expected);
        }
        assert_eq!(hex::encode(client.keys.sender_key), vector.sender_key);
        assert_eq!(hex::encode(client.keys.recipient_key), vector.recipient_key);
        assert_eq!(hex::encode(client.keys.common_iv), vector.common_iv);
        assert_eq!(client.keys.sender_key, server.keys.recipient_key);
        assert_eq!(client.keys.recipient_key, server.keys.sender_key);
        assert_eq!(client.keys.common_iv, server.keys.common_iv);
        for (id, expected) in [
            (client.sender_id, &vector.sender_nonce),
            (client.recipient_id, &vector.recipient_nonce),
        ] {
            let nonce = nonce::nonce(&client.keys.common_iv, id, piv(0));
            assert_eq!(hex::encode(nonce), *expected);
        }
    }
}

#[test]
fn c_4_to_c_6_requests_are_those_of_the_specification() {
    let all = exchanges();
    let requests: Vec<_> = all.iter().filter(|one| one.context.is_some()).collect();
    assert_eq!(requests.len(), 3);
    for vector in requests {
        let number = vector.sequence_number.unwrap();
        let (mut client, mut server) = ends(vector.context.as_deref().unwrap(), number, 0);
        let request = read(&vector.unprotected);

        let inner = Options::new().with(number::URI_PATH, "tv1");
        let text = plaintext::encode(Code::GET, inner, b"").unwrap();
        let aad = aead::associated_data(client.sender_id, piv(number));
        let nonce = client.nonce(client.sender_id, piv(number));
        assert_eq!(hex::encode(text), vector.plaintext);
        assert_eq!(hex::encode(aad), vector.aad);
        assert_eq!(hex::encode(nonce), vector.nonce);

        let (outer, _) = client.protect_request(&request).unwrap();
        let option = outer.options.first(number::OSCORE).unwrap();
        assert_eq!(hex::encode(option), vector.option);
        assert_eq!(hex::encode(&outer.payload), vector.ciphertext);
        assert_eq!(hex::encode(outer.encode().unwrap()), vector.protected);

        let back = server.unprotect_request(&read(&vector.protected)).unwrap();
        assert_eq!(back.message, request);
        assert_eq!(back.freshness, Freshness::Newest);
    }
}

#[test]
fn c_7_and_c_8_answers_are_those_of_the_specification() {
    let all = exchanges();
    let answers: Vec<_> = all.iter().filter(|one| one.answers.is_some()).collect();
    assert_eq!(answers.len(), 2);
    for vector in answers {
        let asked = all
            .iter()
            .find(|one| Some(&one.section) == vector.answers.as_ref())
            .unwrap();
        let (mut client, mut server) = ends("C.1", asked.sequence_number.unwrap(), 0);
        let (_, mut sent) = client.protect_request(&read(&asked.unprotected)).unwrap();
        let mut got = server.unprotect_request(&read(&asked.protected)).unwrap();
        let response = read(&vector.unprotected);
        let piv_use = match vector.sequence_number {
            Some(_) => PivUse::Own,
            None => PivUse::Reuse,
        };

        let text = plaintext::encode(Code::CONTENT, Options::new(), &response.payload).unwrap();
        let aad = aead::associated_data(got.binding.kid, got.binding.piv);
        let nonce = match vector.sequence_number {
            Some(number) => server.nonce(server.sender_id, piv(number)),
            None => server.nonce(got.binding.kid, got.binding.piv),
        };
        assert_eq!(hex::encode(text), vector.plaintext);
        assert_eq!(hex::encode(aad), vector.aad);
        assert_eq!(hex::encode(nonce), vector.nonce);

        let outer = server
            .protect_response(&mut got.binding, &response, piv_use)
            .unwrap();
        let option = outer.options.first(number::OSCORE).unwrap();
        assert_eq!(hex::encode(option), vector.option);
        assert_eq!(hex::encode(&outer.payload), vector.ciphertext);
        assert_eq!(hex::encode(outer.encode().unwrap()), vector.protected);

        let back = client
            .unprotect_response(&mut sent, &read(&vector.protected))
            .unwrap();
        assert_eq!(back, response);
    }
}
