//! Media: files that users upload and anyone with an account here may read.
//!
//! Files are opaque: nothing here looks inside one.
#![expect(clippy::unused_async, reason = "every command is asked in one way")]

use bytes::Bytes;
use futures_util::stream;
use ruma::{
    UInt, UserId,
    api::client::{authenticated_media, media},
};
use tokio::{fs::File, io::AsyncReadExt};

use super::{
    access::{self, ours},
    media_elsewhere as elsewhere,
    turns::keep_in_turn,
    words,
};
use crate::{
    api::{ByteStream, Caller, Code, Credentials, MediaObject, Origin, Refusal, Upload},
    hub::Hub,
    store::{MediaRecord, Write, media::MediaError},
};

/// The longest name and media type of a file, in bytes; both become headers again.
const LABEL_BYTES_MAX: usize = 255;

/// How much of a file is read at a time, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// See `api::Command::MediaConfig`.
#[expect(deprecated, reason = "old clients still ask for it")]
pub(super) async fn media_config(
    hub: &Hub,
    _caller: &Caller,
    _request: media::get_media_config::v3::Request,
) -> Result<media::get_media_config::v3::Response, Refusal> {
    Ok(media::get_media_config::v3::Response::new(largest(hub)))
}

/// See `api::Command::AuthenticatedMediaConfig`.
pub(super) async fn authenticated_media_config(
    hub: &Hub,
    _caller: &Caller,
    _request: authenticated_media::get_media_config::v1::Request,
) -> Result<authenticated_media::get_media_config::v1::Response, Refusal> {
    Ok(authenticated_media::get_media_config::v1::Response::new(
        largest(hub),
    ))
}

fn largest(hub: &Hub) -> UInt {
    UInt::try_from(hub.desk.settings().limits.media_bytes_max).unwrap_or(UInt::MAX)
}

/// Stores a file; see [`crate::api::Service::upload`].
// spec: client-server-accounts §Media
pub(in crate::hub) async fn upload(
    hub: &Hub,
    origin: &Origin,
    upload: Upload,
) -> Result<String, Refusal> {
    let caller = access::caller(hub, origin).await?;
    let content_type = label("content type", upload.content_type)?;
    let filename = label("file name", upload.filename)?;
    let allowed = Allowed::of(hub, &caller.user).await?;
    if let Some(length) = upload.length {
        allowed.must_hold(length)?;
    }
    let received = hub.desk.media.receive(upload.body, allowed.least()).await;
    let received = received.map_err(|error| match error {
        MediaError::TooLarge { .. } => allowed.refusal(),
        MediaError::Upload(_) => {
            Refusal::new(Code::Unknown, "the upload broke off").with_status(400)
        }
        MediaError::Disk(error) => broken(&error),
    })?;
    // Two uploads side by side have each seen the room the other one took.
    let turn = hub.desk.turns.take(("media", &caller.user)).await;
    Allowed::of(hub, &caller.user)
        .await?
        .must_hold(received.what().size)?;
    let kept = hub.desk.media.keep(received).await;
    let stored = kept.map_err(|error| broken(&error))?;
    let id = words::random::<18>(hub);
    let record = MediaRecord {
        id: id.clone(),
        user: caller.user,
        hash: stored.hash,
        size: stored.size,
        content_type,
        filename,
        created: hub.now(),
    };
    keep_in_turn(hub, turn, vec![Write::Media(record)], Vec::new()).await?;
    Ok(format!("mxc://{}/{id}", hub.key.name()))
}

/// Opens a file; see [`crate::api::Service::download`].
pub(in crate::hub) async fn download(
    hub: &Hub,
    origin: &Origin,
    server: &str,
    media_id: &str,
) -> Result<MediaObject, Refusal> {
    let unknown = || Refusal::not_found("there is no such file here");
    let is_ours = server == hub.key.name().as_str();
    match &origin.credentials {
        // spec: server-server §Content-Repository. Whoever knows a file's id may have it.
        Credentials::Server(_) if !is_ours => return Err(unknown()),
        Credentials::Server(_) => {}
        _ => drop(access::caller(hub, origin).await?),
    }
    if !is_media_id(media_id) {
        return Err(unknown());
    }
    if !is_ours {
        return elsewhere::open(hub, server, media_id).await;
    }
    let record = hub.store.media(media_id).await.map_err(ours)?;
    let record = record.ok_or_else(unknown)?;
    let opened = hub.desk.media.open(&record.hash).await;
    let (file, length) = opened.map_err(|error| broken(&error))?;
    Ok(MediaObject {
        content_type: record.content_type,
        filename: record.filename,
        length,
        body: pieces(file),
    })
}

/// What stands for an image where it need not be whole: the image itself, for images are not decoded here.
/// There is nothing for another file. See [`crate::api::Service::thumbnail`].
// spec: server-server §Content-Repository
pub(in crate::hub) async fn thumbnail(
    hub: &Hub,
    origin: &Origin,
    server: &str,
    media_id: &str,
) -> Result<MediaObject, Refusal> {
    let file = download(hub, origin, server, media_id).await?;
    let is_image = |text: &str| text.starts_with("image/");
    if file.content_type.as_deref().is_some_and(is_image) {
        return Ok(file);
    }
    Err(Refusal::new(Code::Unknown, "this file is no image").with_status(400))
}

/// Ours have 24 characters. The id only ever looks up a row, and never becomes part of a path.
fn is_media_id(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !id.is_empty() && id.len() <= LABEL_BYTES_MAX && id.chars().all(is_plain)
}

/// A file, a piece at a time.
pub(super) fn pieces(file: File) -> ByteStream {
    Box::pin(stream::try_unfold(file, |mut file| async move {
        let mut piece = Vec::with_capacity(CHUNK_BYTES);
        let limit = u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX);
        let read = (&mut file).take(limit).read_to_end(&mut piece).await?;
        Ok((read > 0).then(|| (Bytes::from(piece), file)))
    }))
}

pub(super) fn broken(error: &std::io::Error) -> Refusal {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the media directory failed"
    );
    Refusal::internal()
}

/// A name or type that can be a header again.
pub(super) fn label(what: &str, label: Option<String>) -> Result<Option<String>, Refusal> {
    match label {
        Some(text) if text.len() > LABEL_BYTES_MAX || text.contains(char::is_control) => {
            Err(Refusal::invalid_param(format!(
                "{what}: at most {LABEL_BYTES_MAX} bytes and no control characters"
            )))
        }
        label => Ok(label.filter(|text| !text.is_empty())),
    }
}

/// How large a file may be.
#[derive(Clone, Copy)]
struct Allowed {
    file: u64,
    left: u64,
}

impl Allowed {
    async fn of(hub: &Hub, user: &UserId) -> Result<Self, Refusal> {
        let limits = &hub.desk.settings().limits;
        let taken = hub.store.media_used(user).await.map_err(ours)?;
        Ok(Self {
            file: limits.media_bytes_max,
            left: limits.media_bytes_per_account.saturating_sub(taken),
        })
    }

    fn least(self) -> u64 {
        self.file.min(self.left)
    }

    fn must_hold(self, length: u64) -> Result<(), Refusal> {
        if length <= self.least() {
            Ok(())
        } else {
            Err(self.refusal())
        }
    }

    fn refusal(self) -> Refusal {
        if self.file <= self.left {
            let max = self.file;
            return Refusal::new(
                Code::TooLarge,
                format!("a file has at most {max} bytes here"),
            );
        }
        let left = self.left;
        Refusal::new(
            Code::ResourceLimitExceeded,
            format!("your files have room for {left} more bytes"),
        )
    }
}
