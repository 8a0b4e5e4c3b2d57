//! What the operator is told of a request for which nothing is served: by which method and path it was
//! asked, and by which server, in that server's own words: no signature is checked for it.

use http::{HeaderMap, HeaderValue, header, request::Parts};
use ruma::OwnedServerName;

use crate::{
    api::{Code, Refusal},
    wire::matrix::XMatrix,
};

/// The refusal with who asked and for what, in the log, too.
pub(super) fn told(refusal: Refusal, parts: &Parts) -> Refusal {
    if refusal.code != Code::Unrecognized {
        return refusal;
    }
    let (method, path) = (shown(parts.method.as_str()), shown(parts.uri.path()));
    let span = tracing::Span::current();
    span.record("method", method.as_str());
    span.record("path", path.as_str());
    let server = claimed(&parts.headers);
    if let Some(server) = &server {
        span.record("server_unverified", server.as_str());
    }
    refusal.known(|why| {
        if let Some(server) = server {
            why.who = Some(server.to_string());
            why.is_claimed = true;
        }
        why.asked = Some((method, path));
    })
}

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
}
