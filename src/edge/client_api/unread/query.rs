//! Which parameter of a query keeps it from being read, and why.

use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Fault, Said, Unread, body, kinds, said_of, told};
use crate::{api::Refusal, edge::client_api::percent_decoded, wire::json};

/// The parameter and what is wrong with it. Lists have the index in the name.
pub(super) fn fault(unread: &Unread<'_>, whole: &Said) -> Option<(String, Fault)> {
    if unread.query.len() > QUERY_BYTES_MAX {
        return None;
    }
    if let Some(missing) = whole.missing() {
        return Some((missing.to_owned(), Fault::Missing));
    }
    let pairs: Vec<&str> = unread.query.split('&').collect();
    let says = |pairs: &[&str]| unread.says(&pairs.join("&"), unread.body);
    let mut keys: Vec<&str> = pairs.iter().copied().map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut keys = keys.into_iter().take(KEYS_MAX);
    let wrong = keys.find(|wrong| {
        let others: Vec<&str> = without(&pairs, wrong);
        says(&others) != *whole
    })?;
    let shown: String = wrong.chars().take(KEY_CHARS_MAX).collect();
    let values: Vec<&str> = pairs
        .iter()
        .copied()
        .filter(|pair| key(pair) == wrong)
        .collect();
    let others = without(&pairs, wrong);
    let mut wrong_ones = values
        .iter()
        .take(KEYS_MAX)
        .enumerate()
        .filter(|(_, value)| {
            let alone: Vec<&str> = others.iter().chain([*value]).copied().collect();
            says(&alone) == *whole
        });
    let Some((index, pair)) = wrong_ones.next() else {
        return Some((shown, Fault::Repeated(values.len())));
    };
    let shown = if values.len() > 1 {
        format!("{shown}[{index}]")
    } else {
        shown
    };
    Some(in_value(unread, whole, &others, (shown, pair)))
}

/// What is wrong with the value of one; `shown` is its name in words.
fn in_value(
    unread: &Unread<'_>,
    whole: &Said,
    others: &[&str],
    (shown, pair): (String, &str),
) -> (String, Fault) {
    let value = pair.split_once('=').map_or("", |(_, value)| value);
    let value = value.replace('+', " ");
    let value = percent_decoded(&value).unwrap_or_default();
    let with = |text: &str| {
        let own = format!("{}={}", key(pair), encoded(text));
        let pairs: Vec<&str> = others.iter().copied().chain([own.as_str()]).collect();
        unread.says(&pairs.join("&"), unread.body)
    };
    if let Ok(object @ Value::Object(_)) = serde_json::from_str(&value)
        && let Some((place, fault)) = body::fault(object, whole, &|json| with(json))
    {
        return (format!("{shown}.{place}"), fault);
    }
    let absent = unread.says(&others.join("&"), unread.body);
    let expected = whole.alternatives().or_else(|| {
        kinds::taken_of_query(|text| {
            let said = with(text);
            said == Said::Nothing || (said == absent && said.missing().is_none())
        })
    });
    let found = kinds::found_in_query(expected.as_deref(), &value);
    (shown, Fault::Other { expected, found })
}

/// What is wrong with an object that stands in the query, as JSON, and is not read as `T`.
pub(in crate::edge::client_api) fn not_inline<T: DeserializeOwned>(
    name: &str,
    text: &str,
) -> Refusal {
    let says = |text: &str| match serde_json::from_str::<T>(text) {
        Ok(_) => Said::Nothing,
        Err(error) => said_of(&error.into()),
    };
    let object = match json::read_lax(text.as_bytes()) {
        Ok(object) => object,
        // the offsets of this text are not those of the body
        Err(error) if !error.is_well_formed() => {
            return Refusal::invalid_param(format!("`{name}`: expected JSON, found another text"));
        }
        Err(error) => return Refusal::invalid_param(format!("`{name}`: {error}")),
    };
    let message = match body::fault(object, &says(text), &says) {
        Some((place, fault)) => told(&format!("{name}.{place}"), &fault),
        None => match says(text).missing() {
            Some(missing) => format!("`{missing}` is missing in `{name}`"),
            None => format!("`{name}`: not what is expected there"),
        },
    };
    Refusal::invalid_param(message)
}

fn key(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

fn without<'a>(pairs: &[&'a str], wrong: &str) -> Vec<&'a str> {
    let others = pairs.iter().copied();
    others.filter(|pair| key(pair) != wrong).collect()
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    encoded
}

/// How many parameters are tried: no endpoint has more, and each costs reading the query once.
const KEYS_MAX: usize = 16;

/// In a longer query nothing is tried, in bytes: whoever asks is not known yet, and may make the hub
/// read this some dozens of times and not more. What clients send is shorter, but for filters, which
/// have a place of their own.
const QUERY_BYTES_MAX: usize = 2048;

/// Longer than the name of any that is known, in characters.
const KEY_CHARS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ruma::api::{IncomingRequestExt as _, client::sync::sync_events::v3};

    use super::*;

    /// What is told of a Sync's query, and how often that was read.
    fn of_sync(query: &str) -> (String, usize) {
        let tries = Cell::new(0);
        let read = |query: &str, body: &[u8]| {
            tries.set(tries.get() + 1);
            let request = http::Request::get(format!("/?{query}")).body(body).unwrap();
            v3::Request::try_from_http_request(request, &[]).map(drop)
        };
        let error = read(query, b"").unwrap_err();
        tries.set(0);
        let unread = Unread {
            path: "/_matrix/client/v3/sync",
            arguments: &[],
            query,
            body: b"",
            read: &read,
        };
        (unread.refusal(&error).message, tries.get())
    }

    #[test]
    fn a_query_longer_than_any_that_is_meant_is_not_read_again() {
        let fits = format!("timeout=x&a={}", "a".repeat(QUERY_BYTES_MAX - 12));
        assert_eq!(fits.len(), QUERY_BYTES_MAX);

        let (said, read) = of_sync(&fits);
        assert!(said.starts_with("`timeout`: "), "{said}");
        assert!((2..60).contains(&read), "{read}");
        let (said, read) = of_sync(&format!("{fits}a"));
        assert_eq!((&*said, read), ("the path or the query cannot be read", 0));
    }

    #[test]
    fn what_stands_twice_and_what_is_wrong_are_told_apart() {
        for (query, wanted) in [
            (
                "timeout=1&since=a&since=b",
                "`since` stands in the query 2 times, it may stand there once",
            ),
            (
                "since=a&timeout=abc",
                "`timeout`: expected a whole number from 0 on, found a text",
            ),
            (
                "since=a&full_state=",
                "`full_state`: expected true or false, found nothing",
            ),
        ] {
            assert_eq!(of_sync(query).0, wanted, "{query}");
        }
    }
}
