//! Files over HTTP: streamed in and out, never decoded, never rendered on our origin.
//!
//! Downloads need a token. The old paths without one are frozen: they serve what was stored before
//! the freeze, and on this hub nothing was.

use std::{io, time::Duration};

use axum::body::Body;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use serde_json::json;

use super::{Asked, Https, arriving::Arriving, json_response};
use crate::{
    api::{ByteStream, MediaObject, Refusal, Upload},
    edge::client_api::{Answer, percent_decoded, routes::allow},
};

/// What is done with which file.
pub(super) enum Target {
    Upload,
    Download {
        server: String,
        media_id: String,
        /// The name the client wants it to have.
        filename: Option<String>,
    },
    Frozen,
    Thumbnail {
        server: String,
        media_id: String,
    },
}

impl Target {
    /// What a path means here; nothing if it is not about files.
    // spec: client-server §Content-repository
    pub(super) fn of(method: &Method, path: &[&str]) -> Result<Option<Self>, Refusal> {
        let (target, asked_with) = match path {
            ["_matrix", "media", "v3" | "r0", "upload"] => (Self::Upload, Method::POST),
            [
                "_matrix",
                "client",
                "v1",
                "media",
                "download",
                server,
                id,
                name @ ..,
            ] if name.len() <= 1 => {
                let target = Self::Download {
                    server: server_name(server)?,
                    media_id: media_id(id)?,
                    filename: name.first().map(|name| (*name).to_owned()),
                };
                (target, Method::GET)
            }
            ["_matrix", "client", "v1", "media", "thumbnail", server, id] => {
                let target = Self::Thumbnail {
                    server: server_name(server)?,
                    media_id: media_id(id)?,
                };
                (target, Method::GET)
            }
            [
                "_matrix",
                "media",
                "v3" | "r0" | "v1",
                "download" | "thumbnail",
                _,
                _,
                ..,
            ] => (Self::Frozen, Method::GET),
            _ => return Ok(None),
        };
        if method != asked_with && !(method == Method::HEAD && asked_with == Method::GET) {
            return Err(Refusal::wrong_method(&allow([asked_with])));
        }
        Ok(Some(target))
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Upload => "MediaUpload",
            Self::Download { .. } => "MediaDownload",
            Self::Frozen => "MediaFrozen",
            Self::Thumbnail { .. } => "MediaThumbnail",
        }
    }
}

// spec: client-server §Content-repository-security
fn server_name(text: &str) -> Result<String, Refusal> {
    ruma::ServerName::parse(text)
        .map(|name| name.to_string())
        .map_err(|error| Refusal::invalid_param(format!("`serverName`: {error}")))
}

fn media_id(text: &str) -> Result<String, Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if text.is_empty() || text.len() > MEDIA_ID_BYTES_MAX || !text.bytes().all(allowed) {
        return Err(Refusal::invalid_param(
            "`mediaId` has letters, digits, `_` and `-` only",
        ));
    }
    Ok(text.to_owned())
}

impl Https {
    pub(super) async fn media(
        &self,
        target: Target,
        asked: Asked,
        body: Arriving,
    ) -> Result<Response<Body>, Refusal> {
        match target {
            Target::Upload => {
                let upload = upload(&asked, body, self.limits.body)?;
                let uri = self.front.service.upload(asked.origin, upload).await?;
                Ok(json_response(Answer::of_object(
                    &json!({ "content_uri": uri }),
                )))
            }
            Target::Download {
                server,
                media_id,
                filename,
            } => {
                let service = &self.front.service;
                let mut file = service.download(asked.origin, &server, &media_id).await?;
                if filename.is_some() {
                    file.filename = filename;
                }
                Ok(download(file, &asked.method))
            }
            Target::Frozen => Err(Refusal::not_found(
                "files are served at /_matrix/client/v1/media/download, with a token",
            )),
            Target::Thumbnail { server, media_id } => {
                let service = &self.front.service;
                let file = service.thumbnail(asked.origin, &server, &media_id).await?;
                Ok(download(file, &asked.method))
            }
        }
    }
}

fn upload(asked: &Asked, body: Arriving, patience: Duration) -> Result<Upload, Refusal> {
    let pairs = asked
        .query
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let mut names = pairs
        .filter(|(key, _)| *key == "filename")
        .map(|(_, value)| value);
    let name = names.next();
    let more = names.count();
    if more > 0 {
        let times = more + 1;
        return Err(Refusal::invalid_param(format!(
            "`filename` stands in the query {times} times, it may stand there once"
        )));
    }
    let filename = match name {
        Some(name) => Some(percent_decoded(&name.replace('+', " "))?.into_owned()),
        None => None,
    };
    let text = |name: HeaderName| Some(asked.headers.get(name)?.to_str().ok()?.to_owned());
    Ok(Upload {
        content_type: text(header::CONTENT_TYPE),
        filename,
        length: body.length(),
        body: body.pieces(patience),
    })
}

fn download(file: MediaObject, method: &Method) -> Response<Body> {
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from_stream(within(file.body, file.length))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let content_type = file
        .content_type
        .as_deref()
        .and_then(|text| HeaderValue::from_str(text).ok())
        .unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"));
    let disposition = disposition(content_type.as_bytes(), file.filename.as_deref());
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(file.length));
    fence(headers);
    response
}

/// The stream, cut off with an error if it holds more than it said: the length is already out.
pub(super) fn within(
    body: ByteStream,
    length: u64,
) -> impl Stream<Item = io::Result<bytes::Bytes>> {
    body.scan(length, |left, piece| {
        let piece = piece.and_then(|piece| {
            let size = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            *left = left.checked_sub(size).ok_or(io::ErrorKind::InvalidData)?;
            Ok(piece)
        });
        std::future::ready(Some(piece))
    })
}

/// Keeps whatever was uploaded from acting as a page of ours.
fn fence(headers: &mut HeaderMap) {
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
             style-src 'unsafe-inline'; object-src 'self';",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin",
        ),
        // a file never changes, but only who has a token may have it
        (header::CACHE_CONTROL, "private, max-age=86400, immutable"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// `inline` for the types the specification lists, with the name in ASCII and in UTF-8.
// spec: client-server §Serving-inline-content
pub(super) fn disposition(content_type: &[u8], filename: Option<&str>) -> HeaderValue {
    let essence = content_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    let kind = if INLINE.iter().any(|allowed| allowed.as_bytes() == essence) {
        "inline"
    } else {
        "attachment"
    };
    let Some(name) = filename.filter(|name| !name.is_empty()) else {
        return HeaderValue::from_static(kind);
    };
    let encoded: String = name.bytes().map(encoded_byte).collect();
    HeaderValue::from_str(&format!("{kind}; filename*=utf-8''{encoded}"))
        .unwrap_or_else(|_| HeaderValue::from_static(kind))
}

/// A byte of a name as rfc8187 writes it.
fn encoded_byte(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// Longer than any server's; the limit of a file name on most disks.
const MEDIA_ID_BYTES_MAX: usize = 255;

/// Types that browsers show without running anything.
const INLINE: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];
