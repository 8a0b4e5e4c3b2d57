//! The traits across which `edge` and `hub` speak.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use super::{Command, Origin, Refusal, Refused, Reply};

/// A body that arrives or leaves in pieces.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A file being uploaded.
pub struct Upload {
    /// Its media type, as the client says.
    pub content_type: Option<String>,
    /// Its name, as the client says.
    pub filename: Option<String>,
    /// Its length, where the client says; checked before a byte is read.
    pub length: Option<u64>,
    /// Its bytes.
    pub body: ByteStream,
}

/// A stored file being read.
pub struct MediaObject {
    /// Its media type, as the uploader said.
    pub content_type: Option<String>,
    /// Its name, as the uploader said.
    pub filename: Option<String>,
    /// Its length in bytes.
    pub length: u64,
    /// Its bytes.
    pub body: ByteStream,
}

/// The hub, as the edges see it.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Does what `command` asks, for whoever `origin` shows itself to be. A `Sync` may wait.
    async fn ask(&self, origin: Origin, command: Command) -> Result<Reply, Refusal>;

    /// Stores a file and gives its `mxc:` URI.
    async fn upload(&self, origin: Origin, upload: Upload) -> Result<String, Refusal>;

    /// Opens a stored file of `server`, by its media id.
    async fn download(
        &self,
        origin: Origin,
        server: &str,
        media_id: &str,
    ) -> Result<MediaObject, Refusal>;

    /// Opens what is shown in place of a stored image where it need not be whole.
    async fn thumbnail(
        &self,
        origin: Origin,
        server: &str,
        media_id: &str,
    ) -> Result<MediaObject, Refusal>;

    /// Whether work is accepted: false while starting, draining or with a broken store.
    fn ready(&self) -> bool;

    /// A refusal made before the hub was asked, with who it was that asked.
    async fn asked_by(&self, origin: &Origin, refusal: Refusal) -> Refusal {
        let _ = origin;
        refusal
    }

    /// Remembers a refusal, for whoever asks why.
    fn refused(&self, refused: Refused) {
        let _ = refused;
    }
}
