//! A request whose body is sent as it is read, and never held.

use quinn::WriteError;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{PIECE_BYTES_MAX, QuicError, QuicSession};
use crate::{
    session::{
        coap::{RESPONSE_BYTES_MAX, Request, Response},
        framed::{Form, Framed},
    },
    wire::coap::Token,
};

/// Stands before a body. spec: rfc8323 §3.2
const MARKER: u8 = 0xff;

impl QuicSession {
    /// Sends a request, whose own body is empty, with this one, and waits for the whole answer. Waits for
    /// the handshake first: a body is sent once.
    pub async fn upload(
        &self,
        request: &Request,
        body: &mut (impl AsyncRead + Unpin),
    ) -> Result<Response, QuicError> {
        self.confirmed().await;
        let mut message = Framed::of_request(request, Token::EMPTY).encode(Form::Alone)?;
        let (mut send, receive) = self.connection.open_bi().await?;
        let mut piece = vec![0; PIECE_BYTES_MAX];
        let mut first = true;
        loop {
            let length = body.read(&mut piece).await.map_err(QuicError::File)?;
            if std::mem::take(&mut first) {
                message.extend((length > 0).then_some(MARKER));
                send.write_all(&message).await?;
            }
            if length == 0 {
                break;
            }
            let bytes = piece.get(..length).unwrap_or_default();
            match send.write_all(bytes).await {
                Ok(()) => {}
                Err(WriteError::Stopped(_)) => break, // the hub has seen enough, and says why
                Err(error) => return Err(error.into()),
            }
        }
        let _ = send.finish(); // an error: as above
        let mut answer = Vec::new();
        let mut keep = |_: &Response, piece: bytes::Bytes| {
            answer.extend_from_slice(&piece);
            if answer.len() > RESPONSE_BYTES_MAX {
                return Err(QuicError::TooLarge(RESPONSE_BYTES_MAX));
            }
            Ok(())
        };
        let mut response = Self::answer_on(receive, &mut keep).await?;
        response.payload = answer.into();
        Ok(response)
    }
}
