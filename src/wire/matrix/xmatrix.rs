//! The `Authorization: X-Matrix` header: by which a server says who it is, and signs its request.
//!
//! The parser is our own because the header is read before anything about the sender is known, and
//! must take what older servers write. Which key is the sender's, and whether the sender may ask at
//! all, is decided elsewhere.

use std::fmt::Write as _;

use ruma::{OwnedServerName, ServerName, signatures::KeyPair as _};
use thiserror::Error;

use super::{Forged, KeyId, KeyIdError, NameError, PublicKey, ServerKey, Signature, server_name};

/// What a request's signature covers beside who sent it to whom.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// The path with its query, as it stands in the request line.
    pub uri: &'a str,
    /// The canonical text of the body, if there is one.
    pub content: Option<&'a str>,
}

/// One header, read; nobody has looked at the signature yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XMatrix {
    /// Who says to have sent the request.
    pub origin: OwnedServerName,
    /// To whom; absent from servers older than v1.3 of the specification.
    pub destination: Option<OwnedServerName>,
    /// With which of the origin's keys.
    pub key: KeyId,
    /// The signature.
    pub signature: Signature,
}

/// A header that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum XMatrixError {
    /// Not text.
    #[error("it is not visible ASCII")]
    Text,
    /// Another way of authentication.
    #[error("it is not of the scheme X-Matrix")]
    Scheme,
    /// No list of `name=value`.
    #[error("no parameters in the form name=\"value\" at byte {offset}")]
    Syntax {
        /// Where, from its start.
        offset: usize,
    },
    /// A parameter twice.
    #[error("`{0}` stands in it twice")]
    Twice(&'static str),
    /// A parameter that must be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// No server's name.
    #[error("`{parameter}` is no server name: {source}")]
    Name {
        /// Which parameter.
        parameter: &'static str,
        /// Why not.
        source: NameError,
    },
    /// No key id of a kind we have.
    #[error("`key`: {0}")]
    Key(#[from] KeyIdError),
    /// Not the form of a signature.
    #[error("`sig` is not 64 bytes in base64")]
    Signature,
}

impl XMatrix {
    /// Signs a request to `destination`.
    pub fn sign(key: &ServerKey, destination: &ServerName, request: Signed<'_>) -> Self {
        let text = text(request, key.name(), destination);
        let signature = key.pair().sign(text.as_bytes());
        let bytes = signature.as_bytes().try_into();
        Self {
            origin: key.name().clone(),
            destination: Some(destination.to_owned()),
            key: key.key_id(),
            signature: Signature(bytes.expect("an Ed25519 signature has 64 bytes")),
        }
    }

    /// The header's text, as every server reads it: quoted, lower case, no space after a comma.
    pub fn header(&self) -> String {
        let mut text = format!("X-Matrix origin=\"{}\"", self.origin);
        let mut put = |name: &str, value: &str| {
            let _ = write!(text, ",{name}=\"{value}\""); // a String takes all
        };
        if let Some(destination) = &self.destination {
            put("destination", destination.as_str());
        }
        put("key", self.key.as_str());
        put("sig", &self.signature.base64());
        text
    }

    /// Reads the value of an `Authorization` header.
    // spec: server-server §Request-Authentication
    pub fn parse(header: &[u8]) -> Result<Self, XMatrixError> {
        let text = std::str::from_utf8(header).map_err(|_| XMatrixError::Text)?;
        if !text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return Err(XMatrixError::Text);
        }
        let scheme = text.get(..SCHEME.len()).ok_or(XMatrixError::Scheme)?;
        let rest = text.get(SCHEME.len()..).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(SCHEME) || !(rest.is_empty() || rest.starts_with(' ')) {
            return Err(XMatrixError::Scheme);
        }
        let mut found = Found::default();
        let mut list = List {
            text,
            at: SCHEME.len(),
        };
        while let Some((name, value)) = list.next()? {
            found.take(&name.to_ascii_lowercase(), value)?;
        }
        found.whole()
    }

    /// Whether `public` signed this request, to us.
    ///
    /// What a header without a destination was meant for is not said, but signed all the same.
    pub fn verify(
        &self,
        public: &PublicKey,
        ours: &ServerName,
        request: Signed<'_>,
    ) -> Result<(), Forged> {
        public.verify(&text(request, &self.origin, ours), &self.signature)
    }
}

/// What is signed: canonical JSON, of which the members are in order here.
fn text(request: Signed<'_>, origin: &ServerName, destination: &ServerName) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let content = request
        .content
        .map_or_else(String::new, |content| format!("\"content\":{content},"));
    format!(
        "{{{content}\"destination\":{},\"method\":{},\"origin\":{},\"uri\":{}}}",
        quoted(destination.as_str()),
        quoted(request.method),
        quoted(origin.as_str()),
        quoted(request.uri),
    )
}

#[derive(Default)]
struct Found {
    origin: Option<String>,
    destination: Option<String>,
    key: Option<String>,
    signature: Option<String>,
}

impl Found {
    fn take(&mut self, name: &str, value: String) -> Result<(), XMatrixError> {
        let (slot, name) = match name {
            "origin" => (&mut self.origin, "origin"),
            "destination" => (&mut self.destination, "destination"),
            "key" => (&mut self.key, "key"),
            "sig" => (&mut self.signature, "sig"),
            _ => return Ok(()), // unknown ones are ignored
        };
        if slot.replace(value).is_some() {
            return Err(XMatrixError::Twice(name));
        }
        Ok(())
    }

    fn whole(self) -> Result<XMatrix, XMatrixError> {
        let needed = |value: Option<String>, name| value.ok_or(XMatrixError::Missing(name));
        let named = |parameter, value: String| {
            server_name(&value).map_err(|source| XMatrixError::Name { parameter, source })
        };
        let destination = self.destination;
        let signature = Signature::parse(&needed(self.signature, "sig")?);
        Ok(XMatrix {
            origin: named("origin", needed(self.origin, "origin")?)?,
            destination: destination
                .map(|value| named("destination", value))
                .transpose()?,
            key: needed(self.key, "key")?.parse()?,
            signature: signature.ok_or(XMatrixError::Signature)?,
        })
    }
}

/// The parameters of a header, from left to right.
struct List<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> List<'a> {
    fn next(&mut self) -> Result<Option<(&'a str, String)>, XMatrixError> {
        self.skip(|byte| matches!(byte, b' ' | b'\t' | b','));
        if self.at == self.text.len() {
            return Ok(None);
        }
        let name = self.skip(is_token);
        self.skip(is_space);
        if name.is_empty() || self.skip_one(b'=').is_none() {
            return self.wrong();
        }
        self.skip(is_space);
        let value = match self.skip_one(b'"') {
            Some(()) => self.quoted()?,
            None => self.skip(is_bare).to_owned(),
        };
        self.skip(is_space);
        if !matches!(self.peek(), None | Some(b',')) {
            return self.wrong();
        }
        Ok(Some((name, value)))
    }

    /// The rest of a quoted value; a pair of backslash and character is the character.
    fn quoted(&mut self) -> Result<String, XMatrixError> {
        let mut value = String::new();
        loop {
            value.push_str(self.skip(|byte| !matches!(byte, b'"' | b'\\')));
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(value);
                }
                Some(_) => {
                    self.at += 1;
                    let escaped = self.peek().map(char::from);
                    let Some(escaped) = escaped else {
                        return self.wrong();
                    };
                    value.push(escaped);
                    self.at += 1;
                }
                None => return self.wrong(),
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.bytes().take_while(|byte| wanted(*byte)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn skip_one(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    const fn wrong<T>(&self) -> Result<T, XMatrixError> {
        Err(XMatrixError::Syntax { offset: self.at })
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || is_mark(byte)
}

const fn is_mark(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    )
}

/// What older servers leave without quotes: names with their ports, and base64.
const fn is_bare(byte: u8) -> bool {
    is_token(byte) || matches!(byte, b':' | b'/' | b'=' | b'[' | b']')
}

const SCHEME: &str = "X-Matrix";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::server_name as name;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::json::SignedText;
    use crate::wire::matrix::tests::key;

    const SIG: &str =
        "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ";

    fn read(header: &str) -> Result<XMatrix, XMatrixError> {
        XMatrix::parse(header.replace("SIG", SIG).as_bytes())
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let header = r#"X-Matrix origin="origin.hs.example.com",destination="destination.hs.example.com",key="ed25519:key1",sig="SIG""#;

        let read = read(header).unwrap();

        assert_eq!(read.origin, "origin.hs.example.com");
        assert_eq!(
            read.destination.as_deref(),
            Some(name!("destination.hs.example.com"))
        );
        assert_eq!(read.key.as_str(), "ed25519:key1");
        assert_eq!(read.header(), header.replace("SIG", SIG));
    }

    #[test]
    fn what_older_and_stranger_servers_write_is_read_the_same() {
        let plain = read(r#"X-Matrix origin="a:1",destination="b",key="ed25519:k",sig="SIG""#);
        for header in [
            "x-matrix origin=a:1,destination=b,key=ed25519:k,sig=SIG",
            "X-MATRIX   Origin=\"a:1\" ,\t KEY=ed25519:k , sig=\"SIG==\" , destination=\"b\"",
            "X-Matrix ,origin=\"\\a:1\",,destination=b,key=\"ed25519:\\k\",sig=SIG,later=\"x,\\\"y\"",
            "X-Matrix origin = a:1, destination= b, key =ed25519:k,sig=SIG",
        ] {
            assert_eq!(read(header), plain, "{header}");
        }
        let old = read("X-Matrix origin=[::1]:8448,key=ed25519:k,sig=SIG").unwrap();
        assert_eq!(old.origin, "[::1]:8448");
        assert_eq!(old.destination, None);
    }

    #[test]
    fn a_header_that_is_wrong_says_where() {
        for (header, error) in [
            ("Bearer abc", XMatrixError::Scheme),
            ("X-Matrix", XMatrixError::Missing("sig")),
            ("X-Matrixorigin=a", XMatrixError::Scheme),
            ("X-Matrix ", XMatrixError::Missing("sig")),
            (
                "X-Matrix key=ed25519:k,sig=SIG",
                XMatrixError::Missing("origin"),
            ),
            ("X-Matrix origin=a,sig=SIG", XMatrixError::Missing("key")),
            ("X-Matrix origin=a,origin=b", XMatrixError::Twice("origin")),
            ("X-Matrix origin=a,Origin=a", XMatrixError::Twice("origin")),
            ("X-Matrix origin", XMatrixError::Syntax { offset: 15 }),
            ("X-Matrix origin=\"a", XMatrixError::Syntax { offset: 18 }),
            (
                "X-Matrix origin=\"a\"b",
                XMatrixError::Syntax { offset: 19 },
            ),
            ("X-Matrix origin=\"a\\", XMatrixError::Syntax { offset: 19 }),
            (
                "X-Matrix origin=a,key=ed25519:k,sig=abc",
                XMatrixError::Signature,
            ),
            ("X-Matrix origin=\u{e9}", XMatrixError::Text),
        ] {
            assert_eq!(read(header).unwrap_err(), error, "{header}");
        }
        let key = "X-Matrix origin=a,key=rsa:k,sig=SIG";
        assert!(matches!(read(key), Err(XMatrixError::Key(_))));
        let name = "X-Matrix origin=\"a b\",key=ed25519:k,sig=SIG";
        assert!(matches!(
            read(name),
            Err(XMatrixError::Name {
                parameter: "origin",
                ..
            })
        ));
    }

    #[test]
    fn the_signature_is_that_of_the_json_in_the_specification() {
        let key = key("origin.example");
        let body = json!({"pdus": [], "n": 1});
        let content = SignedText::of_body(body.to_string().as_bytes()).unwrap();
        let request = Signed {
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1?a=b",
            content: Some(content.as_str()),
        };
        let signed = XMatrix::sign(&key, name!("hub.example:8448"), request);

        let object = json!({
            "method": "PUT",
            "uri": "/_matrix/federation/v1/send/1?a=b",
            "origin": "origin.example",
            "destination": "hub.example:8448",
            "content": body,
        });
        let mut object: ruma::CanonicalJsonObject = serde_json::from_value(object).unwrap();
        ruma::signatures::sign_json("origin.example", key.pair(), &mut object).unwrap();
        let object = serde_json::to_value(object).unwrap();
        let expected = &object["signatures"]["origin.example"]["ed25519:1"];
        assert_eq!(&Value::from(signed.signature.base64()), expected);
    }

    #[test]
    fn a_signature_covers_every_part_of_the_request() {
        let key = key("origin.example");
        let (body, other) = (
            SignedText::of_body(b"{}"),
            SignedText::of_body(b"{\"a\":0.5}"),
        );
        let (body, other) = (body.unwrap(), other.unwrap());
        let ours = name!("hub.example");
        let request = Signed {
            method: "PUT",
            uri: "/a?b",
            content: Some(other.as_str()),
        };
        let header = XMatrix::sign(&key, ours, request).header();
        let read = XMatrix::parse(header.as_bytes()).unwrap();
        let public = PublicKey(key.public());

        read.verify(&public, ours, request).unwrap();

        for changed in [
            Signed {
                method: "POST",
                ..request
            },
            Signed {
                uri: "/a?c",
                ..request
            },
            Signed {
                content: Some(body.as_str()),
                ..request
            },
            Signed {
                content: None,
                ..request
            },
        ] {
            assert!(read.verify(&public, ours, changed).is_err());
        }
        assert!(
            read.verify(&public, name!("other.example"), request)
                .is_err()
        );
        let mut posing = read.clone();
        posing.origin = name!("posing.example").to_owned();
        assert!(posing.verify(&public, ours, request).is_err());
        let mut flipped = read;
        flipped.signature.0[10] ^= 1;
        assert!(flipped.verify(&public, ours, request).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_bytes_give_a_header_that_reads_back_or_an_error(
            rest in "[ ,=\"\\\\a-z:1SIG]{0,60}",
            origin in "[a-z]{1,8}(:[0-9]{1,4})?",
        ) {
            let _ = XMatrix::parse(rest.as_bytes());
            let header = format!("X-Matrix {rest},origin={origin},key=ed25519:1,sig={SIG}");
            if let Ok(read) = XMatrix::parse(header.as_bytes()) {
                prop_assert_eq!(XMatrix::parse(read.header().as_bytes()), Ok(read));
            }
        }
    }
}
