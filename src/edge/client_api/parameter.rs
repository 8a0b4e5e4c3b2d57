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
            if self.query.len() > QUERY_BYTES_MAX {
                return None;
            }
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

/// In a longer query nothing is tried, in bytes: whoever asks is not known yet, and may make the hub
/// read this 17 times and not more. What clients send is shorter, but for filters, which have a place
/// of their own.
const QUERY_BYTES_MAX: usize = 2048;

/// Longer than the name of any that is known, in characters.
const KEY_CHARS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ruma::api::{IncomingRequestExt as _, client::sync::sync_events::v3};

    use super::*;

    /// The name that is told of a Sync's query, and how often that was read.
    fn told(query: &str) -> (Option<String>, usize) {
        let read = Cell::new(0);
        let parameters = Parameters {
            path: "/_matrix/client/v3/sync",
            arguments: &[],
            query,
        };
        let wrong = parameters.wrong(|query| {
            read.set(read.get() + 1);
            let request = http::Request::get(format!("/?{query}"))
                .body(&b""[..])
                .unwrap();
            v3::Request::try_from_http_request(request, &[]).map(drop)
        });
        (wrong, read.get())
    }

    #[test]
    fn a_query_longer_than_any_that_is_meant_is_not_read_again() {
        let fits = format!("timeout=x&a={}", "a".repeat(QUERY_BYTES_MAX - 12));
        assert_eq!(fits.len(), QUERY_BYTES_MAX);

        let (wrong, read) = told(&fits);
        assert_eq!(wrong.as_deref(), Some("timeout"));
        assert!(read > 1);
        assert_eq!(told(&format!("{fits}a")), (None, 0));
    }
}
