//! The MSC3079 profile: what a CoAP request asks of the client API, and how an answer is written.
//!
//! Paths may be full or one character; bodies CBOR or JSON, as Content-Format and Accept say.
//! Reliability, blocks and the order of notifications are `session::coap`'s.

use std::fmt::Write as _;

use http::Method;
use serde_json::Value;

use super::sticky::Words;
use crate::{
    api::{Code as Refused, Command, Credentials, Refusal},
    edge::client_api::{Answer, ClientApi, Endpoint, Match, Path, token},
    session::coap::{Request, Response},
    wire::{
        DecodeError,
        cbor::{self, KeyForm},
        coap::{Code, code_for_status, options::number},
        keys, paths,
    },
};

/// `application/json` as Content-Format.
pub(in crate::edge) const JSON: u16 = 50;
/// `application/cbor` as Content-Format.
pub(in crate::edge) const CBOR: u16 = 60;

/// How an answer is written for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge) struct Form {
    /// Decides which success code fits.
    method: Code,
    body: BodyForm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyForm {
    Json,
    Cbor(KeyForm),
}

/// Why a request is not answered by the hub.
#[derive(Clone, Debug)]
pub(in crate::edge) enum Fault {
    /// With a Matrix error.
    Refused(Refusal),
    /// The body has a format we do not read.
    UnknownFormat(u16),
    /// The client wants a format we do not write.
    NotAcceptable(u16),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A request whose path is known.
#[derive(Debug)]
pub(in crate::edge) struct Asked {
    found: Match,
    query: String,
    pub(in crate::edge) credentials: Credentials,
}

impl Asked {
    /// The endpoint and who asks. Nothing of the body yet.
    pub(in crate::edge) fn of(
        api: &ClientApi,
        request: &Request,
        meant: &Words,
    ) -> Result<Self, Refusal> {
        let method = method(request.method)?;
        let segments: Vec<&str> = request.options.path().collect();
        let full = paths::expand(&segments)
            .map_err(|error| Refusal::new(Refused::Unrecognized, error.to_string()))?;
        let found = api.find(&method, &Path::of_segments(full)?)?;
        let query = url_query(request.options.query());
        let token = meant.token.as_ref().filter(|token| !token.is_empty());
        let shown = token.map(|token| format!("{BEARER}{token}"));
        let (credentials, query) = token::credentials(shown.as_deref().map(str::as_bytes), &query)?;
        Ok(Self {
            found,
            query: query.into_owned(),
            credentials,
        })
    }

    pub(in crate::edge) const fn endpoint(&self) -> Endpoint {
        self.found.endpoint
    }

    pub(in crate::edge) fn command(&self, json: &[u8]) -> Result<Command, Refusal> {
        self.found.command(&self.query, json)
    }
}

/// What the options 256 and 257 say. An empty token is one that is taken back.
pub(in crate::edge) fn words(request: &Request) -> Words {
    let token = request.options.first(number::ACCESS_TOKEN);
    let token = token
        .and_then(|value| std::str::from_utf8(value).ok())
        .map(|value| {
            let prefix = value
                .get(..BEARER.len())
                .filter(|start| start.eq_ignore_ascii_case(BEARER));
            value
                .get(prefix.map_or(0, str::len)..)
                .unwrap_or_default()
                .trim()
                .to_owned()
        });
    Words {
        token,
        key_table: request.options.uint(number::KEY_TABLE_VERSION),
    }
}

/// What servers must take off a token (the MSC lets clients send it).
const BEARER: &str = "Bearer ";

/// The body as JSON text, and the form that the answer takes.
pub(in crate::edge) fn body(request: &Request, meant: &Words) -> (Form, Result<Vec<u8>, Fault>) {
    let format = request.options.content_format();
    let (body, sent_keys) = match format {
        Some(CBOR) if request.payload.is_empty() => (Ok(Vec::new()), KeyForm::Text),
        Some(CBOR) => match cbor::decode(&request.payload) {
            Ok(body) => (Ok(body.value.to_string().into_bytes()), body.keys),
            Err(error) => (Err(undecodable(&error)), KeyForm::Text),
        },
        None | Some(JSON) => (Ok(request.payload.to_vec()), KeyForm::Text),
        Some(other) => (Err(Fault::UnknownFormat(other)), KeyForm::Text),
    };
    let keys = key_form(meant.key_table, sent_keys);
    let (form, acceptable) = match (request.options.accept(), format) {
        (Some(CBOR), _) | (None, Some(CBOR)) => (BodyForm::Cbor(keys), Ok(())),
        (Some(JSON) | None, _) => (BodyForm::Json, Ok(())),
        (Some(other), _) => (BodyForm::Json, Err(Fault::NotAcceptable(other))),
    };
    let form = Form {
        method: request.method,
        body: form,
    };
    (form, acceptable.and(body))
}

/// Integer keys go to those only who named our table, or who use it themselves.
// spec: msc3079 §Versioning
fn key_form(named: Option<u32>, sent: KeyForm) -> KeyForm {
    match named {
        Some(version) if version >= keys::VERSION => KeyForm::Integer, // tables only grow
        Some(_) => KeyForm::Text,
        None => sent,
    }
}

/// A body we cannot read is refused in the form its sender claimed to write.
fn undecodable(error: &DecodeError) -> Fault {
    let code = if error.is_well_formed() {
        Refused::BadJson
    } else {
        Refused::NotJson
    };
    Refusal::new(code, error.to_string()).into()
}

fn method(code: Code) -> Result<Method, Refusal> {
    Ok(match code {
        Code::GET => Method::GET,
        Code::POST => Method::POST,
        Code::PUT => Method::PUT,
        Code::DELETE => Method::DELETE,
        _ => {
            let said = "the methods here are GET, POST, PUT and DELETE";
            return Err(Refusal::new(Refused::Unrecognized, said).with_status(405));
        }
    })
}

/// The queries as a URL has them, in the order they came.
fn url_query<'a>(queries: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for query in queries {
        if !text.is_empty() {
            text.push('&');
        }
        for (index, part) in query.splitn(2, '=').enumerate() {
            if index > 0 {
                text.push('=');
            }
            push_encoded(&mut text, part);
        }
    }
    text
}

fn push_encoded(text: &mut String, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
}

impl Form {
    /// An answer as a response.
    pub(in crate::edge) fn response(self, answer: Answer) -> Response {
        let code = code_for_status(answer.status, self.method);
        let response = match self.body {
            BodyForm::Json => Response::new(code).body(JSON, answer.body),
            BodyForm::Cbor(keys) => match serde_json::from_slice::<Value>(&answer.body) {
                Ok(value) => Response::new(code).body(CBOR, cbor::encode(&value, keys)),
                Err(error) => {
                    tracing::error!(%error, "an answer is not JSON");
                    Response::new(Code::INTERNAL_ERROR)
                }
            },
        };
        let Some(after) = answer.retry_after else {
            return response;
        };
        // rounded up: coming back early is a second refusal
        let seconds = after
            .as_secs()
            .saturating_add(u64::from(after.subsec_nanos() > 0));
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        with_max_age(response, seconds)
    }

    /// What is told of a fault.
    pub(in crate::edge) fn fault(self, fault: Fault) -> Response {
        match fault {
            Fault::Refused(refusal) => self.response(Answer::of_refusal(refusal)),
            Fault::UnknownFormat(format) => Response::new(Code::UNSUPPORTED_FORMAT).saying(
                format!("Content-Format {format}: bodies are {CBOR} (CBOR) or {JSON} (JSON)"),
            ),
            Fault::NotAcceptable(format) => Response::new(Code::NOT_ACCEPTABLE).saying(format!(
                "Accept {format}: answers are {CBOR} (CBOR) or {JSON} (JSON)"
            )),
        }
    }
}

fn with_max_age(mut response: Response, seconds: u32) -> Response {
    response.options.push_uint(number::MAX_AGE, seconds);
    response
}

impl Fault {
    /// The HTTP status for the metrics.
    pub(in crate::edge) const fn status(&self) -> u16 {
        match self {
            Self::Refused(refusal) => refusal.status,
            Self::UnknownFormat(_) => 415,
            Self::NotAcceptable(_) => 406,
        }
    }
}
