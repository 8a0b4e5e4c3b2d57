//! One stream: a request, its answer, and what is told later if it observes.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use metrics::counter;
use quinn::{ConnectionError, RecvStream, SendStream, VarInt, WriteError};

use super::connection::{Link, MALFORMED};
use crate::{
    api::{ByteStream, Refusal},
    base::limits::BODY_BYTES_MAX,
    edge::{
        files::{File, Given},
        linked::{PUSH, Watching, is_replayable},
        thin::{FILE, refused},
    },
    session::{
        coap::{Request, Response},
        framed::{Asked, Form, Framed, Head, HeadReader, Observe},
    },
    wire::coap::{Code, Token},
};

/// One exchange.
pub(super) struct Exchange {
    link: Arc<Link>,
    send: SendStream,
    /// Gone when a body is read elsewhere.
    receive: Option<RecvStream>,
}

/// Why an exchange ends without an answer.
enum Broken {
    /// The device reset the stream, or the connection is gone.
    Gone,
    /// What came is no request.
    Malformed(String),
    /// Nothing came.
    Slow,
}

impl From<WriteError> for Broken {
    fn from(_: WriteError) -> Self {
        Self::Gone
    }
}

impl Exchange {
    pub(super) const fn new(link: Arc<Link>, send: SendStream, receive: RecvStream) -> Self {
        Self {
            link,
            send,
            receive: Some(receive),
        }
    }

    pub(super) async fn run(mut self) {
        let why = match self.exchange().await {
            Ok(()) => return self.see_off().await,
            Err(Broken::Gone) => return,
            Err(Broken::Malformed(why)) => why,
            Err(Broken::Slow) => "the request did not come".to_owned(),
        };
        tracing::debug!(peer = %self.link.peer(), why, "stream reset");
        // what would be a Reset over UDP
        let _ = self.send.reset(MALFORMED);
        if let Some(mut receive) = self.receive.take() {
            let _ = receive.stop(MALFORMED);
        }
    }

    /// When the hub goes, waits until the device has the answer: closing the connection forgets it.
    async fn see_off(self) {
        if *self.link.stopping.borrow() {
            let patience = self.link.shared.limits.drain;
            let _ = tokio::time::timeout(patience, self.send.stopped()).await; // or in vain
        }
    }

    async fn exchange(&mut self) -> Result<(), Broken> {
        let head = self.head().await?;
        let asked = match Asked::of_head(head) {
            Ok(asked) => asked,
            Err(fault) => {
                self.refuse_body();
                return self.answer(&fault.response(), Form::Alone).await;
            }
        };
        let Asked {
            mut request,
            observe,
        } = asked;
        let form = match observe {
            Observe::Register => Form::Prefixed, // more may follow
            _ => Form::Alone,
        };
        if self.is_early(&request, observe) {
            self.refuse_body();
            return self.answer(&Response::new(Code::TOO_EARLY), form).await;
        }
        if let Some(file) = File::of(&request) {
            let outcome = self.file(file, request).await;
            self.link.count(FILE);
            return outcome;
        }
        if !self.whole_body(&mut request).await? {
            self.refuse_body();
            let response = Response::new(Code::TOO_LARGE);
            return self.answer(&response, form).await;
        }
        let link = Arc::clone(&self.link);
        let answered = link.shared.answering.answer(&link.who(), &request).await;
        let operation = answered.operation;
        let outcome = match answered.watching {
            Some(mut watching) if observe == Observe::Register => {
                let first = answered.response.observing();
                let outcome = self.observe(first, operation, watching.as_mut()).await;
                let reason = link.connection.close_reason();
                if matches!(reason, Some(ConnectionError::TimedOut)) {
                    watching.gave_up();
                }
                outcome
            }
            _ => self.answer(&answered.response, form).await,
        };
        link.count(operation);
        outcome
    }

    /// Reads up to the body.
    async fn head(&mut self) -> Result<Head, Broken> {
        let mut reader = HeadReader::new();
        loop {
            let piece = self.piece().await?;
            let ended = piece.is_none();
            reader.push(&piece.unwrap_or_default());
            let head = reader.head(ended);
            if let Some(head) = head.map_err(|error| Broken::Malformed(error.to_string()))? {
                return Ok(head);
            }
        }
    }

    /// Reads the rest of the body; false if it is larger than it may be.
    async fn whole_body(&mut self, request: &mut Request) -> Result<bool, Broken> {
        let mut body = Vec::from(std::mem::take(&mut request.payload));
        if !body.is_empty() {
            while let Some(piece) = self.piece().await? {
                if body.len() + piece.len() > BODY_BYTES_MAX {
                    return Ok(false);
                }
                body.extend_from_slice(&piece);
            }
        }
        let fits = body.len() <= BODY_BYTES_MAX;
        request.payload = body.into();
        Ok(fits)
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        let patience = self.link.shared.limits.body;
        match &mut self.receive {
            Some(receive) => piece(receive, patience).await,
            None => Ok(None),
        }
    }

    /// Whether a request came in early data and could do harm there.
    ///
    /// Whoever repeats early data cannot finish the handshake: a stream that is taken up after it is
    /// none, whenever its bytes came.
    fn is_early(&self, request: &Request, observe: Observe) -> bool {
        if !self.receive.as_ref().is_some_and(RecvStream::is_0rtt) {
            return false;
        }
        let harmless = is_replayable(request, observe);
        let outcome = if harmless { "answered" } else { "too early" };
        counter!("tramline_early_requests_total", "outcome" => outcome).increment(1);
        !harmless
    }

    /// Says that the rest of the request is of no use.
    fn refuse_body(&mut self) {
        if let Some(mut receive) = self.receive.take() {
            let _ = receive.stop(VarInt::from_u32(0)); // an error: it is all there
        }
    }

    /// The only message, and the end of the stream.
    async fn answer(&mut self, response: &Response, form: Form) -> Result<(), Broken> {
        self.tell(response, form).await?;
        let _ = self.send.finish(); // an error: the device does not want it any more
        Ok(())
    }

    async fn tell(&mut self, response: &Response, form: Form) -> Result<(), Broken> {
        let bytes_max = self.link.message_bytes_max.load(Ordering::Relaxed);
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let encoded = Framed::of_response(response, Token::EMPTY).encode(form);
        let message = match encoded {
            Ok(message) if bytes_max == 0 || message.len() <= bytes_max => message,
            Ok(message) => {
                let bytes = message.len();
                let words = format!("the answer has {bytes} bytes, this device takes {bytes_max}");
                bare(&Response::new(Code::INTERNAL_ERROR).saying(words), form)
            }
            Err(error) => {
                tracing::error!(%error, "an answer that cannot be written");
                bare(&Response::new(Code::INTERNAL_ERROR), form)
            }
        };
        Ok(self.send.write_all(&message).await?)
    }

    /// The first answer and everything that follows, until either end has enough.
    async fn observe(
        &mut self,
        first: Response,
        operation: &'static str,
        watching: &mut dyn Watching,
    ) -> Result<(), Broken> {
        self.tell(&first, Form::Prefixed).await?;
        self.link.count(operation);
        let mut stopping = self.link.stopping.clone();
        let stopped = self.send.stopped();
        tokio::pin!(stopped);
        loop {
            let news = tokio::select! {
                _ = &mut stopped => return Err(Broken::Gone), // that is how a device cancels
                _ = stopping.wait_for(|over| *over) => Some(Response::unavailable(RETURN_SECONDS)),
                news = watching.next() => news,
            };
            let Some(news) = news else { break };
            self.tell(&news, Form::Prefixed).await?;
            self.link.count(PUSH);
            if !news.code.is_success() {
                break;
            }
        }
        let _ = self.send.finish();
        Ok(())
    }

    async fn file(&mut self, file: Result<File, Refusal>, request: Request) -> Result<(), Broken> {
        let link = Arc::clone(&self.link);
        let (who, files) = (link.who(), &link.shared.files);
        match file {
            Err(refusal) => {
                self.refuse_body();
                let response = refused(&refusal, request.method);
                self.answer(&response, Form::Alone).await
            }
            Ok(File::Upload) => {
                let patience = link.shared.limits.body;
                let body = body(request.payload.clone(), self.receive.take(), patience);
                let response = files.upload(&who, &request, body).await;
                self.answer(&response, Form::Alone).await
            }
            Ok(File::Download { server, media_id }) => {
                match files.download(&who, &server, &media_id).await {
                    Given::Whole(response) => self.answer(&response, Form::Alone).await,
                    Given::Stream(head, body) => self.send_file(&head, body).await,
                }
            }
        }
    }

    /// A file's head, then its bytes as they are read from the disk.
    async fn send_file(&mut self, head: &Response, mut body: ByteStream) -> Result<(), Broken> {
        let mut message = bare(head, Form::Alone);
        let mut first = true;
        while let Some(piece) = body.next().await {
            let Ok(piece) = piece else {
                tracing::warn!("a file broke off while it was being sent");
                let _ = self.send.reset(MALFORMED);
                return Err(Broken::Gone);
            };
            if std::mem::take(&mut first) {
                message.push(MARKER);
                self.send.write_all(&message).await?;
            }
            self.send.write_chunk(piece).await?;
        }
        if first {
            self.send.write_all(&message).await?; // an empty file has no marker
        }
        let _ = self.send.finish();
        Ok(())
    }
}

/// The next bytes of a stream; none at its end.
async fn piece(stream: &mut RecvStream, patience: Duration) -> Result<Option<Bytes>, Broken> {
    match tokio::time::timeout(patience, stream.read_chunk(PIECE_BYTES_MAX, true)).await {
        Ok(Ok(chunk)) => Ok(chunk.map(|chunk| chunk.bytes)),
        Ok(Err(_)) => Err(Broken::Gone),
        Err(_) => Err(Broken::Slow),
    }
}

/// A request's body as it comes in.
fn body(begun: Bytes, stream: Option<RecvStream>, patience: Duration) -> ByteStream {
    let rest = stream::unfold(stream, move |stream| async move {
        let mut stream = stream?;
        match piece(&mut stream, patience).await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(stream))),
            Ok(None) => None,
            Err(_) => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    });
    Box::pin(stream::iter([Ok(begun)]).chain(rest))
}

/// An answer of ours that is known to fit.
fn bare(response: &Response, form: Form) -> Vec<u8> {
    let message = Framed::of_response(response, Token::EMPTY);
    message.encode(form).unwrap_or_default()
}

/// Bytes taken from a stream at once.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Stands before a body. spec: rfc8323 §3.2
const MARKER: u8 = 0xff;

/// When a device that observes may come back to a hub that is going down, in seconds.
const RETURN_SECONDS: u32 = 10;
