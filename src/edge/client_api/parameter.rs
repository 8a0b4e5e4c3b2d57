//! Which parameter is meant, where ruma says of a path or query only that something in it cannot be
//! read.
//!
//! It does not say what is wrong with it: that is ruma's.

use ruma::{
    EventId, RoomAliasId, RoomId, RoomOrAliasId, ServerName, UserId,
    api::error::{DeserializationError, FromHttpRequestError},
};

/// What a request names outside of its body.
pub(in crate::edge) struct Parameters<'a> {
    /// The path, variables in braces.
    pub(in crate::edge) path: &'a str,
    /// The values of these, decoded.
    pub(in crate::edge) arguments: &'a [&'a str],
    /// The query as it stood in the URL.
    pub(in crate::edge) query: &'a str,
}

impl Parameters<'_> {
    /// The name of the one that cannot be read, if it can be told.
    ///
    /// `read` reads a request with another query and no body; one that is read without a parameter,
    /// or fails otherwise then, fails by that parameter.
    pub(in crate::edge) fn wrong(
        &self,
        read: impl Fn(&str) -> Result<(), FromHttpRequestError>,
    ) -> Option<String> {
        self.in_path().or_else(|| {
            let whole = said(read(self.query))?;
            let mut keys: Vec<&str> = self.query.split('&').map(key).collect();
            keys.sort_unstable();
            keys.dedup();
            let mut keys = keys.into_iter().take(TRIES_MAX);
            let wrong = keys.find(|wrong| {
                let others = self.query.split('&').filter(|pair| key(pair) != *wrong);
                let others = others.collect::<Vec<_>>().join("&");
                said(read(&others)).is_none_or(|others| others != whole)
            });
            wrong.map(|key| key.chars().take(KEY_CHARS_MAX).collect())
        })
    }

    fn in_path(&self) -> Option<String> {
        let names = self.path.split('{').skip(1);
        let names = names.filter_map(|rest| rest.split('}').next());
        let mut both = names.zip(self.arguments);
        let (name, _) = both.find(|(name, value)| !can_be(name, value))?;
        Some(as_the_specification_writes(name))
    }
}

fn key(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

/// What is said of a query or path that cannot be read.
fn said(read: Result<(), FromHttpRequestError>) -> Option<String> {
    match read {
        Err(FromHttpRequestError::Deserialization(DeserializationError::Query(error))) => {
            Some(error.to_string())
        }
        _ => None,
    }
}

/// Whether a variable of a path can have the value, as far as its name says what it is.
fn can_be(name: &str, value: &str) -> bool {
    match name {
        "room_id" => RoomId::parse(value).is_ok(),
        "room_alias" => RoomAliasId::parse(value).is_ok(),
        "room_id_or_alias" => RoomOrAliasId::parse(value).is_ok(),
        "event_id" => EventId::parse(value).is_ok(),
        "user_id" => UserId::parse(value).is_ok(),
        "server_name" => ServerName::parse(value).is_ok(),
        _ => true,
    }
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

/// How many parameters are tried: no endpoint has more, and each costs reading the query once.
const TRIES_MAX: usize = 16;

/// Longer than the name of any that is known, in characters.
const KEY_CHARS_MAX: usize = 40;
