//! Files of other servers, for users here: fetched whole once, then given from a bounded cache.

use std::time::Duration;

use ruma::ServerName;
use tokio::sync::Semaphore;

use super::{
    media::{broken, label, pieces},
    turns::Turns,
};
use crate::{
    api::{Code, MediaObject, Refusal, RemoteError, RemoteFile, Why},
    hub::Hub,
    store::{
        media::{MediaError, MediaFiles},
        media_elsewhere::{KeptFile, Label, MediaElsewhere},
    },
};

/// How many bytes of other servers' files are kept.
const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How many files are fetched at once: each is a connection and a file being written.
const FETCHED_AT_ONCE: usize = 32;

/// How long a server may take until a file begins.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// How long a file may take: the largest at some hundred kilobytes a second.
const FILE_PATIENCE: Duration = Duration::from_mins(5);

/// When to try again when too many files are being fetched.
const BUSY_RETRY: Duration = Duration::from_secs(10);

/// What is kept, and what is being fetched.
pub(super) struct Files {
    kept: MediaElsewhere,
    places: Semaphore,
    /// Who wants a file that is being fetched waits for it.
    turns: Turns,
}

impl Files {
    /// A cache beside the files of this hub.
    pub(super) fn beside(media: &MediaFiles, seed: u64) -> Self {
        Self {
            kept: MediaElsewhere::below(media.dir(), CACHE_BYTES_MAX),
            places: Semaphore::new(FETCHED_AT_ONCE),
            turns: Turns::new(seed),
        }
    }
}

/// Opens a file of another server.
// spec: client-server-accounts §Media
pub(super) async fn open(hub: &Hub, server: &str, id: &str) -> Result<MediaObject, Refusal> {
    let files = &hub.desk.files_elsewhere;
    let server = ServerName::parse(server).map_err(|_| {
        Refusal::invalid_param(format!("`serverName`: {server:?} is no server's name"))
    })?;
    if let Some(kept) = kept(files, &server, id).await? {
        return Ok(kept);
    }
    let _place = files.places.try_acquire().map_err(|_| {
        let message = "too many files of other servers are being fetched";
        Refusal::new(Code::LimitExceeded, message).retry_after(BUSY_RETRY)
    })?;
    let _turn = files.turns.take((&server, id)).await;
    if let Some(kept) = kept(files, &server, id).await? {
        return Ok(kept);
    }
    fetch(hub, &server, id).await?;
    kept(files, &server, id)
        .await?
        .ok_or_else(|| Refusal::not_found("the file had no place here"))
}

async fn kept(
    files: &Files,
    server: &ServerName,
    id: &str,
) -> Result<Option<MediaObject>, Refusal> {
    let kept = files.kept.open(server.as_str(), id).await;
    let kept = kept.map_err(|error| broken(&error))?;
    Ok(kept.map(
        |KeptFile {
             label,
             length,
             file,
         }| MediaObject {
            content_type: label.content_type,
            filename: label.filename,
            length,
            body: pieces(file),
        },
    ))
}

async fn fetch(hub: &Hub, server: &ServerName, id: &str) -> Result<(), Refusal> {
    let RemoteFile {
        content_type,
        filename,
        body,
    } = match hub.remote.file(server, id, ANSWER_PATIENCE).await {
        Ok(file) => file,
        // To whoever asks, a file that cannot be had is one that is not there.
        Err(error @ RemoteError::NotAllowed { .. }) => {
            let absent = Refusal::not_found(error.to_string());
            let why = Refusal::from(error).why;
            return Err(Refusal { why, ..absent });
        }
        Err(error) => return Err(error.into()),
    };
    // What could not be a header here is left out.
    let known = Label {
        content_type: label("content type", content_type).unwrap_or_default(),
        filename: label("file name", filename).unwrap_or_default(),
    };
    let max = hub.desk.settings().limits.media_bytes_max;
    let kept = &hub.desk.files_elsewhere.kept;
    let keeping = kept.keep((server.as_str(), id), &known, body, max);
    match tokio::time::timeout(FILE_PATIENCE, keeping).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(MediaError::Disk(error))) => Err(broken(&error)),
        Ok(Err(MediaError::TooLarge { max })) => Err(Refusal::new(
            Code::TooLarge,
            format!("the file of {server} has more than the {max} bytes that are fetched"),
        )),
        Ok(Err(MediaError::Upload(error))) => Err(cut(server, &error.to_string())),
        Err(_) => Err(cut(server, "it took too long")),
    }
}

/// `why` is for the operator: it may be in the words of a library.
fn cut(server: &ServerName, why: &str) -> Refusal {
    let message = format!("{server} did not give the whole file: {why}");
    let told = format!("{server} did not give the whole file (PEER_UNREACHABLE)");
    let why = Why::of("PEER_UNREACHABLE").rule(&message).of_server(server);
    let refusal = Refusal::new(Code::Unknown, told).with_status(502);
    refusal.because(why)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};

    use crate::{
        api::{Code, Credentials, Origin, Service as _, Upload},
        hub::{
            desk::devices_elsewhere::tests::{FAR, Two},
            testing,
        },
    };

    fn file(pieces: Vec<std::io::Result<Bytes>>) -> Upload {
        Upload {
            content_type: Some("image/png".to_owned()),
            filename: Some("a.png".to_owned()),
            length: None,
            body: Box::pin(stream::iter(pieces)),
        }
    }

    #[tokio::test]
    async fn a_file_of_another_server_is_fetched_once_and_given_as_it_is() {
        let two = Two::apart().await;
        let upload = file(vec![Ok(Bytes::from_static(b"abc"))]);
        let uri = two.there.hub.upload(two.zed.origin.clone(), upload).await;
        let uri = uri.unwrap();
        let id = uri.rsplit('/').next().unwrap();
        for _ in 0..2 {
            let there = two.here.hub.download(two.ana.origin.clone(), FAR, id);
            let there = there.await.unwrap();
            assert_eq!(there.content_type.as_deref(), Some("image/png"));
            assert_eq!(
                (there.filename.as_deref(), there.length),
                (Some("a.png"), 3)
            );
            let bytes: Vec<_> = there.body.collect().await;
            assert_eq!(bytes.len(), 1);
            assert_eq!(bytes[0].as_ref().unwrap(), &Bytes::from_static(b"abc"));
        }
        assert_eq!(*two.wire.asked.lock().unwrap(), ["file"]);
        let none = two
            .here
            .hub
            .download(two.ana.origin.clone(), FAR, "none")
            .await;
        assert_eq!(none.err().unwrap().code, Code::NotFound);
        let stranger = two.here.hub.download(testing::stranger(), FAR, id).await;
        assert_eq!(stranger.err().unwrap().code, Code::MissingToken);
        // A server is given what is ours, and not what we have of others.
        let server = Origin {
            credentials: Credentials::Server("near".try_into().unwrap()),
            ..testing::stranger()
        };
        let passed_on = two.here.hub.download(server.clone(), FAR, id).await;
        assert_eq!(passed_on.err().unwrap().code, Code::NotFound);
        assert!(two.there.hub.download(server, FAR, id).await.is_ok());
    }
}
