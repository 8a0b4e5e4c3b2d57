//! Files in the thin profile: what `~m` asks for. How their bytes travel is the door's.
//!
//! spec: thin-profile §3

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::StreamExt as _;

use super::{
    Front,
    front::{self, Told},
    thin::{Who, refused},
};
use crate::{
    api::{ByteStream, Code as Refused, Credentials, MediaObject, Origin, Refusal, Upload},
    session::coap::{RESPONSE_BYTES_MAX, Request, Response},
    wire::coap::{Code, options::number, status_for_code},
};

/// The first segment of every file's path.
const FILES: &str = "~m";

/// What is asked of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// Store one.
    Upload,
    /// Give one.
    Download {
        /// Whose.
        server: String,
        /// Which of theirs.
        media_id: String,
    },
}

impl File {
    /// What a request asks; nothing if it is about something else.
    pub(super) fn of(request: &Request) -> Option<Result<Self, Refusal>> {
        let path: Vec<&str> = request.options.path().collect();
        let [FILES, rest @ ..] = path.as_slice() else {
            return None;
        };
        Some(match (request.method, rest) {
            (Code::POST, []) => Ok(Self::Upload),
            (Code::GET, [server, media_id]) => download(server, media_id),
            _ => Err(Refusal::new(
                Refused::Unrecognized,
                "files are POST ~m and GET ~m/SERVER/MEDIA_ID",
            )),
        })
    }
}

fn download(server: &str, media_id: &str) -> Result<File, Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if media_id.is_empty() || !media_id.bytes().all(allowed) {
        return Err(Refusal::invalid_param(
            "`mediaId` has letters, digits, `_` and `-` only",
        ));
    }
    let server = ruma::ServerName::parse(server)
        .map_err(|error| Refusal::invalid_param(format!("`serverName`: {error}")))?;
    Ok(File::Download {
        server: server.to_string(),
        media_id: media_id.to_owned(),
    })
}

/// Gives files to devices, and takes them.
pub(super) struct Files {
    pub(super) front: Arc<Front>,
}

/// An answer whose body may be long.
pub(super) enum Given {
    /// It is all there.
    Whole(Response),
    /// A head, and the body as it is read.
    Stream(Response, ByteStream),
}

impl Files {
    /// Opens a file for a device.
    pub(super) async fn download(&self, who: &Who, server: &str, media_id: &str) -> Given {
        let number = self.front.number();
        let asked = asked(who, "MediaDownload", number);
        let origin = origin(who, number);
        let work = self.front.service.download(origin, server, media_id);
        let finish = |outcome: Result<MediaObject, Refusal>| match outcome {
            Ok(file) => {
                let told = Told {
                    status: 200,
                    bytes_out: Some(file.length),
                };
                let size = u32::try_from(file.length).unwrap_or(u32::MAX);
                let mut head = Response::new(Code::CONTENT);
                head.options.push_uint(number::SIZE2, size);
                (Given::Stream(head, file.body), told)
            }
            Err(refusal) => {
                let response = refused(&refusal, Code::GET);
                let told = told(&response);
                (Given::Whole(response), told)
            }
        };
        self.front.run(asked, work, finish).await
    }

    /// Stores a file of a device.
    pub(super) async fn upload(&self, who: &Who, request: &Request, body: ByteStream) -> Response {
        let number = self.front.number();
        let asked = asked(who, "MediaUpload", number);
        let body = counted(body, Arc::clone(&asked.bytes_in));
        let query = |key: &str| {
            let mut pairs = request.options.query().filter_map(|q| q.split_once('='));
            let found = pairs.find(|(name, _)| *name == key);
            found.map(|(_, value)| value.to_owned())
        };
        let upload = Upload {
            content_type: query("t"),
            filename: query("n"),
            length: request.options.uint(number::SIZE1).map(u64::from),
            body,
        };
        let work = self.front.service.upload(origin(who, number), upload);
        let finish = |outcome: Result<String, Refusal>| {
            let response = match outcome {
                Ok(uri) => Response::new(Code::CREATED).saying(uri),
                Err(refusal) => refused(&refusal, Code::POST),
            };
            let told = told(&response);
            (response, told)
        };
        self.front.run(asked, work, finish).await
    }

    /// Answers a request whole, for doors that cut bodies into blocks or messages themselves.
    pub(super) async fn whole(&self, who: &Who, file: &File, request: &Request) -> Response {
        match file {
            File::Upload => {
                let body = futures_util::stream::iter([Ok(request.payload.clone())]);
                self.upload(who, request, Box::pin(body)).await
            }
            File::Download { server, media_id } => {
                match self.download(who, server, media_id).await {
                    Given::Whole(response) => response,
                    Given::Stream(head, body) => held(head, body).await,
                }
            }
        }
    }
}

/// A body whose bytes are counted as they come.
fn counted(body: ByteStream, read: Arc<AtomicU64>) -> ByteStream {
    Box::pin(body.inspect(move |piece| {
        if let Ok(piece) = piece {
            let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            read.fetch_add(bytes, Ordering::Relaxed);
        }
    }))
}

/// Takes a file into memory, if it fits.
async fn held(mut head: Response, mut body: ByteStream) -> Response {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        let Ok(piece) = piece else {
            return refused(&Refusal::internal(), Code::GET);
        };
        if bytes.len() + piece.len() > RESPONSE_BYTES_MAX {
            let message = format!(
                "files of more than {RESPONSE_BYTES_MAX} bytes are given over QUIC and HTTPS only"
            );
            return refused(&Refusal::new(Refused::TooLarge, message), Code::GET);
        }
        bytes.extend_from_slice(&piece);
    }
    head.options.remove(number::SIZE2); // block-wise transfer has its own
    head.payload = bytes.into();
    head
}

fn origin(who: &Who, request: crate::api::RequestId) -> Origin {
    Origin {
        door: who.door,
        address: who.address.map(|address| address.ip()),
        request,
        credentials: Credentials::Device(crate::api::DeviceName::clone(&who.device)),
    }
}

fn asked(who: &Who, endpoint: &'static str, number: crate::api::RequestId) -> front::Asked {
    front::Asked {
        door: who.door,
        endpoint,
        number,
        bytes_in: Arc::default(),
        repeats: false,
    }
}

fn told(response: &Response) -> Told {
    Told {
        status: status_for_code(response.code),
        bytes_out: u64::try_from(response.payload.len()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bytes_of_an_upload_are_counted_as_they_come() {
        let read = Arc::new(AtomicU64::new(0));
        let pieces = [Ok(vec![1; 2000].into()), Ok(vec![2; 1000].into())];
        let body = Box::pin(futures_util::stream::iter(pieces));
        let mut body = counted(body, Arc::clone(&read));

        body.next().await.unwrap().unwrap();
        assert_eq!(read.load(Ordering::Relaxed), 2000);
        body.next().await.unwrap().unwrap();

        assert_eq!(read.load(Ordering::Relaxed), 3000);
    }
}
