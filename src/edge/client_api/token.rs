//! The access token, out of the header or the query.

use std::borrow::Cow;

use super::path::percent_decoded;
use crate::api::{Code, Credentials, Refusal};

/// What a request shows, and its query without it.
///
/// `headers` are the values of all `Authorization` headers. A token in the query is deprecated but
/// must be taken; it is cut out so that no later line can log it. Two tokens that differ, or two
/// headers, are refused: whatever stands in front of us may have looked at the other one.
// spec: client-server §Using-access-tokens
pub fn credentials<'a, 'q>(
    headers: impl IntoIterator<Item = &'a [u8]>,
    query: &'q str,
) -> Result<(Credentials, Cow<'q, str>), Refusal> {
    let (in_query, query) = taken_from_query(query)?;
    let mut headers = headers.into_iter();
    let in_header = headers.next().map(bearer).transpose()?;
    if headers.next().is_some() {
        return Err(Refusal::invalid_param("more than one Authorization header"));
    }
    let token = match (in_header, in_query) {
        (Some(header), Some(query)) if header != query => {
            return Err(Refusal::invalid_param(
                "the Authorization header and access_token hold different tokens",
            ));
        }
        (Some(token), _) | (None, Some(token)) => token,
        (None, None) => return Ok((Credentials::Nothing, query)),
    };
    Ok((Credentials::Token(token), query))
}

/// The token of an `Authorization` value.
fn bearer(value: &[u8]) -> Result<String, Refusal> {
    let refused = || {
        Refusal::new(
            Code::MissingToken,
            "the Authorization header must be `Bearer` and a token",
        )
    };
    // of what is wrong with a secret nothing is said
    let value = std::str::from_utf8(value).map_err(|_| refused())?;
    let (scheme, token) = value.trim().split_once(' ').ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused());
    }
    Ok(token.trim_start().to_owned())
}

fn taken_from_query(query: &str) -> Result<(Option<String>, Cow<'_, str>), Refusal> {
    let is_token = |pair: &&str| matches!(pair.split_once('='), Some(("access_token", _)));
    let mut tokens = query.split('&').filter(is_token);
    let Some(first) = tokens.next() else {
        return Ok((None, Cow::Borrowed(query)));
    };
    if tokens.next().is_some() {
        return Err(Refusal::invalid_param("more than one access_token"));
    }
    let (_, value) = first.split_once('=').unwrap_or_default();
    let token = percent_decoded(value)?.into_owned();
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_token(pair)).collect();
    Ok((Some(token), Cow::Owned(rest.join("&"))))
}
