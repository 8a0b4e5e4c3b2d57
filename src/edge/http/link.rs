//! Linking a device by a code, over HTTPS alone: what is told here is secret.
//!
//! `POST /_tramline/client/v1/link/approve` with `{"device_id"}` and a token gives
//! `{"code", "expires_in_s"}`; the new device sends the code to `…/link/redeem` as
//! `{"code", "edhoc_public", "quic_spki"}` (both keys in hex, each may be absent) and gets its
//! credential file, into which it puts the private keys itself.
//!
//! Of the code the first half is the secret, which is all that need be sent. The second half is no
//! secret: it is a hash of the hub's public key, which the new device compares before it sends anything.

use axum::body::Body;
use http::{Method, Response};
use serde_json::{Map, Value, json};

use super::{Asked, Https, arriving::Arriving, json_response};
use crate::{
    api::{Code, Command, Linked, Linking, Refusal, Reply, Secret},
    edge::{
        client_api::{Answer, routes::allow, unreadable},
        credential_file::{HubFacts, credential_file},
    },
    wire::{
        json,
        link_code::{self, LinkCode, LinkCodeError},
    },
};

/// How long a code is valid, in seconds.
const EXPIRES_IN_S: u64 = 600;

/// What is asked.
pub(super) enum Target {
    Approve,
    Redeem,
}

impl Target {
    /// What a path means here; nothing if it is not about links.
    pub(super) fn of(method: &Method, path: &[&str]) -> Result<Option<Self>, Refusal> {
        let target = match path {
            ["_tramline", "client", "v1", "link", "approve"] => Self::Approve,
            ["_tramline", "client", "v1", "link", "redeem"] => Self::Redeem,
            _ => return Ok(None),
        };
        if method == Method::POST {
            return Ok(Some(target));
        }
        Err(Refusal::wrong_method(&allow([Method::POST])))
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Approve => "LinkApprove",
            Self::Redeem => "LinkRedeem",
        }
    }
}

impl Https {
    pub(super) async fn link(
        &self,
        target: Target,
        asked: Asked,
        body: Arriving,
    ) -> Result<Response<Body>, Refusal> {
        let body = body.whole(self.limits.body).await?;
        let facts = self.facts.as_ref();
        let facts = facts.ok_or_else(|| Refusal::not_found("no device can be linked here"))?;
        let asked_for = match read(&target, &body, facts) {
            Ok(asked_for) => asked_for,
            Err(refusal) => {
                return Err(self.front.service.asked_by(&asked.origin, refusal).await);
            }
        };
        let command = Command::Linking(Box::new(asked_for));
        let reply = self.front.service.ask(asked.origin, command).await?;
        let Reply::Linking(linked) = reply else {
            return Err(Refusal::internal());
        };
        let told = told(*linked, facts)?;
        Ok(json_response(Answer::of_object(&told)))
    }
}

fn told(linked: Linked, facts: &HubFacts) -> Result<Value, Refusal> {
    match linked {
        Linked::Approved { secret } => {
            let shown = (facts.certificate)();
            let secret = secret.0.try_into().map_err(|_| Refusal::internal())?;
            let key_hash = shown.ok_or_else(Refusal::internal)?.key_hash;
            let code = LinkCode { secret, key_hash }.to_string();
            Ok(json!({"code": code, "expires_in_s": EXPIRES_IN_S}))
        }
        Linked::Redeemed(device) => Ok(credential_file(&device, facts)),
    }
}

fn read(target: &Target, body: &[u8], facts: &HubFacts) -> Result<Linking, Refusal> {
    let body = json::read_lax_object(body).map_err(|error| unreadable(&error))?;
    let needed = |name: &str| {
        text(&body, name)?
            .ok_or_else(|| Refusal::new(Code::MissingParam, format!("`{name}` is missing")))
    };
    Ok(match target {
        Target::Approve => Linking::Approve {
            device: needed("device_id")?.into(),
        },
        Target::Redeem => {
            let secret = secret(needed("code")?, facts)?;
            let x = bytes(&body, "edhoc_public")?.map(TryInto::try_into);
            Linking::Redeem {
                secret: Secret(secret.to_vec()),
                edhoc_public_x: x.transpose().map_err(|x: Vec<u8>| {
                    let found = x.len();
                    Refusal::invalid_param(format!("`edhoc_public`: {found} bytes, not 32"))
                })?,
                quic_spki: bytes(&body, "quic_spki")?,
            }
        }
    })
}

/// The secret in a code, or alone.
fn secret(text: &str, facts: &HubFacts) -> Result<[u8; link_code::SECRET_BYTES], Refusal> {
    if let Ok(code) = text.parse::<LinkCode>() {
        let shown = (facts.certificate)();
        if shown.is_some_and(|shown| shown.key_hash != code.key_hash) {
            return Err(Refusal::invalid_param(
                "`code`: its second half is of another HTTPS certificate than this hub's: it was given out by \
                 another hub, or before the certificate's key was changed, or has a slip",
            ));
        }
        return Ok(code.secret);
    }
    let wrong = |error: LinkCodeError| match error {
        LinkCodeError::Length { found, wanted } => format!(
            "`code`: {found} letters, a code has {}; the first {wanted} of them are enough",
            wanted * 2
        ),
        error @ LinkCodeError::Letter(_) => format!("`code`: {error}"),
    };
    link_code::secret_from(text).map_err(|error| Refusal::invalid_param(wrong(error)))
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => {
            let found = json::kind_lax(other);
            Err(Refusal::bad_json(format!(
                "`{name}`: expected a text, found {found}"
            )))
        }
    }
}

fn bytes(body: &Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
    let text = text(body, name)?;
    let bytes = text.map(hex::decode).transpose();
    bytes.map_err(|_| Refusal::invalid_param(format!("`{name}`: expected bytes in hex")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{DeviceCredentials, DeviceName},
        edge::credential_file::ShownCertificate,
    };

    fn facts() -> HubFacts {
        HubFacts {
            name: "hub.example".to_owned(),
            doors: vec![("https", "127.0.0.1:8448".to_owned())],
            guessed: Vec::new(),
            quic_spki: None,
            certificate: Box::new(|| {
                Some(ShownCertificate {
                    key_hash: [7; 10],
                    pem: Some("PEM".to_owned()),
                })
            }),
        }
    }

    #[test]
    fn an_approval_tells_a_code_with_the_hubs_key_in_it() {
        let secret = Secret(vec![1; 10]);

        let told = told(Linked::Approved { secret }, &facts()).unwrap();

        let code: LinkCode = told["code"].as_str().unwrap().parse().unwrap();
        assert_eq!((code.secret, code.key_hash), ([1; 10], [7; 10]));
        assert_eq!(told["expires_in_s"], 600);
    }

    #[test]
    fn a_redeemed_code_gives_the_credential_file_without_the_devices_own_keys() {
        let device = DeviceCredentials {
            device: DeviceName {
                user: "@ana:hub.example".try_into().unwrap(),
                device: "NEW".into(),
            },
            access_token: Secret(b"tl_x".to_vec()),
            master_secret: Secret(vec![1; 16]),
            master_salt: vec![2; 8],
            sender_id: vec![3],
            recipient_id: Vec::new(),
            psk_identity: "id".to_owned(),
            psk: Secret(b"ab".to_vec()),
            hub_edhoc_public_x: [4; 32],
            edhoc_kid: vec![5],
        };

        let file = told(Linked::Redeemed(Box::new(device)), &facts()).unwrap();

        assert_eq!(file["access_token"], "tl_x");
        assert_eq!(file["server"]["https"], "127.0.0.1:8448");
        assert_eq!(file["server"]["ca_pem"], "PEM");
        assert_eq!(file["oscore"]["sender_id"], "03");
        assert_eq!(file["psk"]["key"], "6162");
        assert_eq!(file["edhoc"].get("device_key"), None);
    }

    #[test]
    fn a_code_is_taken_as_it_was_given_out_or_its_secret_half_alone() {
        let secret = Secret(vec![1; 10]);
        let told = told(Linked::Approved { secret }, &facts()).unwrap();
        let redeem = |code: &str| {
            let body = json!({ "code": code }).to_string();
            read(&Target::Redeem, body.as_bytes(), &facts())
        };
        let whole = told["code"].as_str().unwrap();
        for code in [whole, &link_code::secret_text(&[1; 10])] {
            let Ok(Linking::Redeem { secret, .. }) = redeem(code) else {
                panic!("{code}");
            };
            assert_eq!(secret.0, [1; 10]);
        }
        let others = LinkCode {
            secret: [1; 10],
            key_hash: [8; 10],
        };

        let refusal = redeem(&others.to_string()).unwrap_err();

        assert!(refusal.message.contains("another hub"), "{refusal}");
    }

    #[test]
    fn what_is_no_request_is_refused_and_says_which_member_is_wrong() {
        let code = link_code::secret_text(&[9; 10]);
        let good = json!({"code": code, "edhoc_public": "00".repeat(32), "quic_spki": null});
        let read = |target: &Target, body: &[u8]| read(target, body, &facts());
        assert!(read(&Target::Redeem, good.to_string().as_bytes()).is_ok());
        for (body, named) in [
            (json!({}), "`code`"),
            (json!({"code": 1}), "`code`"),
            (json!({"code": "short"}), "`code`: 5 letters, a code has 32"),
            (
                json!({"code": code, "edhoc_public": "00"}),
                "`edhoc_public`",
            ),
            (json!({"code": code, "quic_spki": "0"}), "`quic_spki`"),
            (json!([]), "object"),
        ] {
            let refusal = read(&Target::Redeem, body.to_string().as_bytes()).unwrap_err();
            assert!(refusal.message.contains(named), "{refusal}");
        }
        assert!(read(&Target::Approve, b"{").is_err());
        let path = ["_tramline", "client", "v1", "link", "redeem"];
        assert!(Target::of(&Method::POST, &path).unwrap().is_some());
        assert!(Target::of(&Method::GET, &path).is_err());
    }
}
