//! A request's path, cut into segments before anything is decoded.
//!
//! Ids may hold `/` as `%2F`; decoding first would cut them in two. Nothing is normalised: `..`,
//! `//` and an encoded letter of a fixed part are other paths than the ones we serve, so that
//! whatever filters paths in front of us and we ourselves read them alike.

use std::borrow::Cow;

use crate::api::Refusal;

/// The longest path in segments: twice that of the longest endpoint.
const SEGMENTS_MAX: usize = 24;

/// A path in segments.
#[derive(Debug)]
pub struct Path<'a> {
    pub(super) segments: Vec<Segment<'a>>,
}

/// One segment, decoded.
#[derive(Debug)]
pub(super) struct Segment<'a> {
    pub(super) text: Cow<'a, str>,
    /// Whether decoding changed it; then it can only be a variable.
    pub(super) encoded: bool,
}

impl<'a> Path<'a> {
    /// The path of a URL, percent-encoded, with its leading `/`.
    pub fn of_url(path: &'a str) -> Result<Self, Refusal> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let mut segments = Vec::new();
        for raw in path.split('/') {
            let text = percent_decoded(raw)?;
            let encoded = matches!(text, Cow::Owned(_));
            segments.push(Segment { text, encoded });
        }
        Self::bounded(segments)
    }

    /// A path that arrived in segments, not encoded.
    pub fn of_segments(segments: impl IntoIterator<Item = &'a str>) -> Result<Self, Refusal> {
        let plain = |segment| Segment {
            text: Cow::Borrowed(segment),
            encoded: false,
        };
        Self::bounded(segments.into_iter().map(plain).collect())
    }

    fn bounded(segments: Vec<Segment<'a>>) -> Result<Self, Refusal> {
        if segments.len() > SEGMENTS_MAX {
            return Err(super::routes::unknown_path());
        }
        Ok(Self { segments })
    }

    /// How many segments came unencoded before the first that did not: only these can be fixed
    /// parts of a path.
    pub fn plain_segments(&self) -> usize {
        self.segments
            .iter()
            .take_while(|segment| !segment.encoded)
            .count()
    }

    /// What the segments say.
    pub fn texts(&self) -> Vec<&str> {
        self.segments.iter().map(|s| s.text.as_ref()).collect()
    }
}

/// The text that `raw` encodes; borrowed if nothing was encoded.
pub fn percent_decoded(raw: &str) -> Result<Cow<'_, str>, Refusal> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let decoded = after
            .split_at_checked(2)
            .and_then(|(digits, after)| Some((hex_byte(digits)?, after)));
        let Some((byte, after)) = decoded else {
            return Err(Refusal::invalid_param(
                "a `%` without two hex digits in the URL",
            ));
        };
        bytes.push(byte);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        // what it holds is not repeated: it may be a token
        let error = error.utf8_error();
        Refusal::invalid_param(format!(
            "the URL decodes to something that is not UTF-8: {error}"
        ))
    })?;
    Ok(Cow::Owned(text))
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    // from_str_radix would also take a sign
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
