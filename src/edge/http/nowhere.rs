//! What the operator is told of a request for which nothing is served: by which method and path it was
//! asked, and by which server, in that server's own words: no signature is checked for it.

use http::{HeaderMap, HeaderValue, header, request::Parts};
use ruma::OwnedServerName;

use crate::{
    api::{Code, Refusal, federation_off},
    wire::matrix::XMatrix,
};

/// The refusal with who asked and for what, in the log, too. `federates`: whether other servers are
/// served.
pub(super) fn told(refusal: Refusal, parts: &Parts, federates: bool) -> Refusal {
    if refusal.code != Code::Unrecognized {
        return refusal;
    }
    let (method, path) = (shown(parts.method.as_str()), shown(parts.uri.path()));
    let span = tracing::Span::current();
    span.record("method", method.as_str());
    span.record("path", path.as_str());
    let is_off = !federates && OF_SERVERS.iter().any(|of| path.starts_with(of));
    let refusal = claimed_by(refusal, &parts.headers);
    refusal.known(|why| {
        if is_off {
            let who = (why.who.take(), why.is_claimed);
            *why = federation_off();
            (why.who, why.is_claimed) = who;
        } else {
            why.passes = Some(format!(
                "this hub implements {path}, which this version does not"
            ));
        }
        why.asked = Some((method, path));
    })
}

/// The refusal with the server that a request says to be of, unless it is known who asked.
pub(super) fn claimed_by(refusal: Refusal, headers: &HeaderMap) -> Refusal {
    let is_known = refusal.why.as_ref().is_some_and(|why| why.who.is_some());
    let Some(server) = claimed(headers).filter(|_| !is_known) else {
        return refusal;
    };
    let span = tracing::Span::current();
    span.record("server_unverified", server.as_str());
    refusal.known(|why| {
        why.who = Some(server.to_string());
        why.is_claimed = true;
    })
}

/// Beneath these only other servers are served.
const OF_SERVERS: [&str; 2] = ["/_matrix/federation/", "/_matrix/key/"];

/// The server that a request says to be of.
fn claimed(headers: &HeaderMap) -> Option<OwnedServerName> {
    let shown = headers.get(header::AUTHORIZATION);
    let header = XMatrix::parse(shown.map(HeaderValue::as_bytes)?).ok()?;
    Some(header.origin)
}

/// At most so many bytes of a text, in printable characters.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        let before = shown.len();
        if c.is_ascii_graphic() || c == ' ' {
            shown.push(c);
        } else {
            shown.extend(c.escape_unicode());
        }
        if shown.len() > PATH_BYTES_MAX {
            shown.truncate(before);
            shown.push('…');
            break;
        }
    }
    shown
}

/// The longest path that is told, in bytes: the longest that is served has some 150 with its ids.
const PATH_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_and_steers_nothing() {
        let steering = "/_matrix/\u{1b}[2J\r\n\u{202e}x";
        assert_eq!(shown(steering), r"/_matrix/\u{1b}[2J\u{d}\u{a}\u{202e}x");
        let long = shown(&format!("/{}", "é".repeat(1000)));
        assert!(
            long.len() <= PATH_BYTES_MAX + '…'.len_utf8() && long.ends_with('…'),
            "{long}"
        );
        assert_eq!(
            shown("/_matrix/federation/v1/x?"),
            "/_matrix/federation/v1/x?"
        );
    }

    #[test]
    fn who_is_known_does_not_become_who_is_claimed() {
        let sig = "A".repeat(86);
        let shown = format!("X-Matrix origin=\"far.example\",key=\"ed25519:1\",sig=\"{sig}\"");
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, shown.parse().unwrap());
        let refusal = || Refusal::bad_json("no");
        let who = |refusal: Refusal| {
            let why = claimed_by(refusal, &headers).why.unwrap();
            (why.who, why.is_claimed)
        };

        let known = refusal().known(|why| why.who = Some("other.example".to_owned()));

        assert_eq!(who(refusal()), (Some("far.example".to_owned()), true));
        assert_eq!(who(known), (Some("other.example".to_owned()), false));
    }
}
