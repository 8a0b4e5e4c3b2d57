//! What a request is told that cannot be read: where it is wrong, what stands there, and what is
//! right there.
//!
//! Whoever reads a request tells this to programmers of Rust, and of some faults not even where they
//! are. So it is not asked: pieces of the request are taken out and put in until it can be read, which
//! tells the place and what would stand there rightly. No text of the request is repeated: it may be a
//! password. Here is the order in which this is done, and which code comes of it; the tries in a body
//! are [`body`]'s, in a query [`query`]'s, and what is put in is in [`kinds`].

mod body;
mod kinds;
mod query;

use ruma::{
    EventId, RoomAliasId, RoomId, RoomOrAliasId, ServerName, UserId,
    api::error::{DeserializationError, FromHttpRequestError},
};

use crate::api::{Code, Refusal};

pub(super) use query::not_inline;

/// Reads a request with this query and this body.
type Read<'a> = dyn Fn(&str, &[u8]) -> Result<(), FromHttpRequestError> + 'a;

/// A request that could not be read.
pub(in crate::edge) struct Unread<'a> {
    /// The path, variables in braces.
    pub(in crate::edge) path: &'a str,
    /// The values of these, decoded.
    pub(in crate::edge) arguments: &'a [&'a str],
    /// The query as it stood in the URL.
    pub(in crate::edge) query: &'a str,
    /// The body.
    pub(in crate::edge) body: &'a [u8],
    /// Reads the same with another query and another body.
    pub(in crate::edge) read: &'a Read<'a>,
}

/// What reading says, without where: the same for the same fault.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Body(String),
    /// Of path or query.
    Outside(String),
}

/// What is wrong at a place.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing stands there.
    Missing,
    /// Something that stands in it.
    Within,
    /// A member of this name cannot stand there; what its name should be.
    Name(String),
    /// It stands in the query so many times.
    Repeated(usize),
    /// Something else is expected there, if it could be found out what; and what was found.
    Other {
        expected: Option<String>,
        found: &'static str,
    },
}

impl Unread<'_> {
    /// The refusal, after the error with which it could not be read.
    // spec: client-server §Common-error-codes
    pub(in crate::edge) fn refusal(&self, error: &FromHttpRequestError) -> Refusal {
        let error = match error {
            FromHttpRequestError::Deserialization(error) => error,
            FromHttpRequestError::MethodMismatch { expected, .. } => {
                return Refusal::wrong_method(&super::routes::allow([expected.clone()]));
            }
            _ => return Refusal::bad_json("the request cannot be read"),
        };
        let said = said_of(error);
        if let DeserializationError::Json(error) = error {
            return body::refusal(self, error, &said);
        }
        if let Some((name, right)) = self.wrong_in_path() {
            return Refusal::invalid_param(format!("`{name}`: expected {right}"));
        }
        match query::fault(self, &said) {
            Some((key, Fault::Missing)) => missing(&format!("{key}` in the query")),
            Some((key, fault)) => Refusal::invalid_param(told(&key, &fault)),
            None => Refusal::invalid_param("the path or the query cannot be read"),
        }
    }

    fn says(&self, query: &str, body: &[u8]) -> Said {
        match (self.read)(query, body) {
            Err(FromHttpRequestError::Deserialization(error)) => said_of(&error),
            _ => Said::Nothing,
        }
    }

    /// The variable of the path that cannot be what its name says, and what it should be.
    fn wrong_in_path(&self) -> Option<(String, &'static str)> {
        let names = self.path.split('{').skip(1);
        let names = names.filter_map(|rest| rest.split('}').next());
        let mut both = names.zip(self.arguments);
        both.find_map(|(name, value)| {
            Some((as_the_specification_writes(name), right(name, value)?))
        })
    }
}

impl Said {
    /// The name of what it says is missing. serde has this sentence for all formats.
    fn missing(&self) -> Option<&str> {
        let (Self::Body(said) | Self::Outside(said)) = self else {
            return None;
        };
        let name = said.strip_prefix("missing field `")?;
        name.strip_suffix('`')
    }

    /// Texts that are allowed where another stands, if it tells them: serde has one sentence for that
    /// too.
    fn alternatives(&self) -> Option<String> {
        let (Self::Body(said) | Self::Outside(said)) = self else {
            return None;
        };
        let (_, allowed) = said
            .strip_prefix("unknown variant `")?
            .rsplit_once("`, expected ")?;
        let quoted = allowed.split('`').skip(1).step_by(2).take(ALTERNATIVES_MAX);
        let quoted: Vec<String> = quoted.map(|text| format!("`{text}`")).collect();
        (!quoted.is_empty()).then(|| kinds::one_of(&quoted))
    }
}

fn said_of(error: &DeserializationError) -> Said {
    let message = error.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    let message = message.get(..end).unwrap_or_default().to_owned();
    match error {
        DeserializationError::Json(_) => Said::Body(message),
        _ => Said::Outside(message),
    }
}

/// `M_MISSING_PARAM` for something required; the name comes without its first quote.
fn missing(name: &str) -> Refusal {
    let closed = if name.contains('`') { "" } else { "`" };
    Refusal::new(Code::MissingParam, format!("`{name}{closed} is missing"))
}

fn told(place: &str, fault: &Fault) -> String {
    match fault {
        Fault::Missing => format!("`{place}` is missing"),
        Fault::Within => format!("`{place}`: something in it cannot stand there"),
        Fault::Name(expected) => format!("`{place}`: expected {expected} as the name"),
        Fault::Repeated(times) => {
            format!("`{place}` stands in the query {times} times, it may stand there once")
        }
        Fault::Other {
            expected: Some(expected),
            found,
        } => format!("`{place}`: expected {expected}, found {found}"),
        Fault::Other {
            expected: None,
            found,
        } => format!("`{place}`: {found} that cannot stand here"),
    }
}

/// What a variable of a path should be, where the value is not that.
fn right(name: &str, value: &str) -> Option<&'static str> {
    let (is_right, right) = match name {
        "room_id" => (RoomId::parse(value).is_ok(), kinds::ROOM_ID),
        "room_alias" => (RoomAliasId::parse(value).is_ok(), kinds::ROOM_ALIAS),
        "room_id_or_alias" => (
            RoomOrAliasId::parse(value).is_ok(),
            "a room id or a room alias, such as `#name:server.example`",
        ),
        "event_id" => (EventId::parse(value).is_ok(), kinds::EVENT_ID),
        "user_id" => (UserId::parse(value).is_ok(), kinds::USER_ID),
        "server_name" => (ServerName::parse(value).is_ok(), kinds::SERVER_NAME),
        _ => return None,
    };
    (!is_right).then_some(right)
}

/// `room_id` as `roomId`.
fn as_the_specification_writes(name: &str) -> String {
    let mut written = String::with_capacity(name.len());
    let mut begins = false;
    for c in name.chars() {
        match c {
            '_' => begins = true,
            c if begins => {
                written.extend(c.to_uppercase());
                begins = false;
            }
            c => written.push(c),
        }
    }
    written
}

/// How many allowed texts are told: more than any list of the specification has that is closed.
const ALTERNATIVES_MAX: usize = 12;
