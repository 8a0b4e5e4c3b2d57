//! The operator's end of the socket.

use std::{io, path::Path};

use serde_json::Value as Json;
use thiserror::Error;
use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Answer, Request, read_line, short_name, write_line};

/// Why the hub did not do what was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// It refused.
    #[error("{message}")]
    Refused {
        /// The stable code.
        code: String,
        /// The reason.
        message: String,
    },
    /// It went away, or does not speak this release's words.
    #[error("the hub's operator socket: {0}")]
    Io(#[from] io::Error),
}

/// A connection to a running hub.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Client {
    /// Connects; none when no hub answers there.
    pub async fn connect(path: &Path) -> io::Result<Option<Self>> {
        let connected = match short_name(path) {
            Ok((name, _dir)) => UnixStream::connect(&name).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                let reader = BufReader::new(reader);
                Ok(Some(Self { reader, writer }))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Asks, and passes on how far it is until it is done.
    pub async fn ask(
        &mut self,
        request: &Request,
        mut on_progress: impl FnMut(Json),
    ) -> Result<Json, ClientError> {
        write_line(&mut self.writer, request).await?;
        loop {
            let line = read_line(&mut self.reader)
                .await?
                .ok_or(io::ErrorKind::UnexpectedEof)
                .map_err(io::Error::from)?;
            match serde_json::from_slice(&line).map_err(io::Error::from)? {
                Answer::Progress(step) => on_progress(step),
                Answer::Done(result) => return Ok(result),
                Answer::Refused { code, message } => {
                    return Err(ClientError::Refused { code, message });
                }
            }
        }
    }
}
