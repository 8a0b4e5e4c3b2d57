//! CoAP over WebSocket, for networks that let nothing but HTTPS through: the thin profile of the device
//! whose access token the upgrade showed.
//!
//! The HTTPS door makes the connection and gives it here; this is what happens on it. One task reads
//! and writes, each request has a task of its own, and so has each observation, behind its answer.
//!
//! spec: rfc8323 §4.3

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::extract::ws::{Message, WebSocket};
use metrics::gauge;
use ruma::UserId;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use super::linked::{Answering, PUSH, Who};
use crate::{
    api::{Deliver, DeviceName, Links},
    base::Position,
    session::{
        coap::Response,
        framed::{
            Asked, Form, Framed, MESSAGE_BYTES_BASE, MESSAGE_BYTES_MAX, Observe, Settings, Signal,
        },
        ledger::Traffic,
    },
    wire::coap::{Code, Token},
};

/// The subprotocol. spec: rfc8323 §4.1
pub(super) const SUBPROTOCOL: &str = "coap";

/// What the connections share.
pub struct WebSockets {
    answering: Arc<dyn Answering>,
    open: Arc<Open>,
}

impl WebSockets {
    /// One for the process.
    pub fn new(answering: Arc<dyn Answering>, links: &Arc<dyn Links>) -> Arc<Self> {
        let open = Arc::new(Open::default());
        links.tell(Arc::clone(&open) as Arc<dyn Deliver>);
        Arc::new(Self { answering, open })
    }

    /// Serves one connection until either end has enough.
    pub(super) async fn serve(&self, socket: WebSocket, who: Who, stopping: watch::Receiver<bool>) {
        let (say, said) = mpsc::channel(SAID_MAX);
        let entry = self.open.enter(&who.device);
        let mut connection = Connection {
            socket,
            who: Arc::new(who),
            answering: Arc::clone(&self.answering),
            message_bytes_max: MESSAGE_BYTES_BASE,
            has_settings: false,
            places: Arc::new(Semaphore::new(EXCHANGES_MAX)),
            tasks: JoinSet::new(),
            observed: HashMap::new(),
            say,
        };
        let why = connection.run(said, &entry.revoked, stopping).await;
        tracing::debug!(why, "WebSocket closed");
        // nobody may be there to hear it
        let _ =
            tokio::time::timeout(LAST_WORDS, connection.socket.send(Message::Close(None))).await;
    }
}

/// Requests and observations of a connection at a time. spec: thin-profile §7
const EXCHANGES_MAX: usize = 32;

/// Answers that wait to be written; who makes more waits with them.
const SAID_MAX: usize = 8;

/// A connection on which nothing came for so long is asked whether it is there, and closed after as long again.
const SILENCE: Duration = Duration::from_mins(15);

/// How long closing may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// When to come back to a hub that goes, or has no place, in seconds.
const RETURN_SECONDS: u32 = 10;

struct Connection {
    socket: WebSocket,
    who: Arc<Who>,
    answering: Arc<dyn Answering>,
    /// The largest message the device takes, in bytes.
    message_bytes_max: u32,
    has_settings: bool,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
    observed: HashMap<Token, AbortHandle>,
    say: mpsc::Sender<Said>,
}

/// Something to write, and what it belongs to.
struct Said {
    operation: &'static str,
    response: Response,
    token: Token,
}

/// Why a connection ends.
enum End {
    /// With an Abort that says so.
    Abort(Signal),
    /// As the device asked, or without it.
    Closed(&'static str),
}

impl Connection {
    async fn run(
        &mut self,
        mut said: mpsc::Receiver<Said>,
        revoked: &Notify,
        mut stopping: watch::Receiver<bool>,
    ) -> &'static str {
        let settings = Signal::Settings(Settings {
            message_bytes_max: u32::try_from(MESSAGE_BYTES_MAX).ok(),
            block_wise: false,
        });
        let mut silent = false;
        let mut outcome = self.signal(&settings, Token::EMPTY).await;
        while outcome.is_ok() {
            outcome = tokio::select! {
                () = revoked.notified() => Err(End::Closed("revoked")),
                () = stopped(&mut stopping) => {
                    let release = Signal::Release { elsewhere: Vec::new(), hold_off: Some(RETURN_SECONDS) };
                    self.signal(&release, Token::EMPTY).await.and(Err(End::Closed("the hub goes")))
                }
                Some(said) = said.recv() => self.write(said).await,
                Some(_) = self.tasks.join_next() => Ok(()),
                message = tokio::time::timeout(SILENCE, self.socket.recv()) => match message {
                    Ok(Some(Ok(message))) => {
                        silent = false;
                        self.came(message).await
                    }
                    Ok(_) => Err(End::Closed("the device has closed it")),
                    Err(_) if silent => Err(End::Closed("silent")),
                    Err(_) => {
                        silent = true;
                        self.signal(&Signal::Ping { custody: false }, Token::EMPTY).await
                    }
                }
            };
        }
        match outcome {
            Err(End::Abort(abort)) => {
                let _ = self.signal(&abort, Token::EMPTY).await; // it ends anyway
                "aborted"
            }
            Err(End::Closed(why)) => why,
            Ok(()) => "",
        }
    }

    async fn came(&mut self, message: Message) -> Result<(), End> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(_) => return Err(abort("text, where CoAP is binary")),
            Message::Close(_) => return Err(End::Closed("the device has closed it")),
            Message::Ping(_) | Message::Pong(_) => return Ok(()), // answered by the library
        };
        let framed = Framed::decode(&bytes, MESSAGE_BYTES_MAX).map_err(abort)?;
        if Signal::is(framed.code) {
            return self.signalled(&framed).await;
        }
        if !self.has_settings {
            return Err(abort("the first message is no CSM"));
        }
        if framed.code.is_request() {
            self.asked(framed, bytes.len()).await
        } else {
            Ok(()) // Empty, or an answer to nothing
        }
    }

    // spec: rfc8323 §5.4
    async fn signalled(&mut self, framed: &Framed) -> Result<(), End> {
        match Signal::read(framed).map_err(|fault| End::Abort(fault.abort()))? {
            Signal::Settings(settings) => {
                self.has_settings = true;
                if let Some(bytes) = settings.message_bytes_max {
                    self.message_bytes_max = bytes;
                }
                Ok(())
            }
            Signal::Ping { .. } => {
                let pong = Signal::Pong { custody: false };
                self.signal(&pong, framed.token).await
            }
            Signal::Pong { .. } => Ok(()),
            Signal::Release { .. } => Err(End::Closed("released")),
            Signal::Abort { .. } => Err(End::Closed("aborted by the device")),
        }
    }

    async fn asked(&mut self, framed: Framed, bytes: usize) -> Result<(), End> {
        let token = framed.token;
        let asked = match Asked::of(framed) {
            Ok(asked) => asked,
            Err(fault) => return self.refuse(fault.response(), token).await,
        };
        if asked.observe != Observe::Unsaid
            && let Some(before) = self.observed.remove(&token)
        {
            before.abort();
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return self
                .refuse(Response::unavailable(RETURN_SECONDS), token)
                .await;
        };
        let (who, answering) = (Arc::clone(&self.who), Arc::clone(&self.answering));
        let say = self.say.clone();
        let task = self.tasks.spawn(async move {
            let _place = place;
            let answered = answering.answer(&who, &asked.request).await;
            let operation = answered.operation;
            answering.count(&who.device, operation, traffic(bytes), Traffic::NONE);
            let watching = answered
                .watching
                .filter(|_| asked.observe == Observe::Register);
            let mut next = Some(if watching.is_some() {
                answered.response.observing()
            } else {
                answered.response
            });
            let (mut watching, mut operation) = (watching, operation);
            while let Some(response) = next {
                let goes_on = response.code.is_success();
                let said = Said {
                    operation,
                    response,
                    token,
                };
                if say.send(said).await.is_err() || !goes_on {
                    return;
                }
                operation = PUSH;
                next = match &mut watching {
                    Some(watching) => watching.next().await.map(Response::observing),
                    None => None,
                };
            }
        });
        if asked_to_observe(asked.observe) {
            self.observed.retain(|_, task| !task.is_finished());
            self.observed.insert(token, task);
        }
        Ok(())
    }

    async fn refuse(&mut self, response: Response, token: Token) -> Result<(), End> {
        let operation = "Unknown";
        self.write(Said {
            operation,
            response,
            token,
        })
        .await
    }

    /// Writes an answer, unless the device does not take one so large. spec: rfc8323 §5.3.1
    async fn write(&mut self, said: Said) -> Result<(), End> {
        let bytes_max = usize::try_from(self.message_bytes_max).unwrap_or(usize::MAX);
        let message = Framed::of_response(&said.response, said.token).encode(Form::Alone);
        let message = match message {
            Ok(message) if message.len() <= bytes_max => message,
            other => {
                let bytes = other.map_or(0, |message| message.len());
                let words = format!("the answer has {bytes} bytes, this device takes {bytes_max}");
                let told = Response::new(Code::INTERNAL_ERROR).saying(words);
                let told = Framed::of_response(&told, said.token);
                told.encode(Form::Alone).unwrap_or_default()
            }
        };
        let down = traffic(message.len());
        let (device, operation) = (&self.who.device, said.operation);
        self.answering.count(device, operation, Traffic::NONE, down);
        self.send(message).await
    }

    async fn signal(&mut self, signal: &Signal, token: Token) -> Result<(), End> {
        let message = signal.write(token).encode(Form::Alone);
        self.send(message.unwrap_or_default()).await
    }

    async fn send(&mut self, message: Vec<u8>) -> Result<(), End> {
        let sent = self.socket.send(Message::Binary(message.into())).await;
        sent.map_err(|_| End::Closed("the device is gone"))
    }
}

/// Waits until the hub goes.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|over| *over).await; // its sender is gone: the hub, too
}

const fn asked_to_observe(observe: Observe) -> bool {
    matches!(observe, Observe::Register)
}

fn abort(why: impl ToString) -> End {
    End::Abort(Signal::Abort {
        bad_option: None,
        why: why.to_string(),
    })
}

/// Bytes of a message. What TLS and TCP make of them the socket does not say.
fn traffic(bytes: usize) -> Traffic {
    Traffic {
        datagrams: 0,
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    }
}

/// The connections by device, to end them when it is revoked.
#[derive(Default)]
struct Open(Mutex<HashMap<DeviceName, Vec<Arc<Notify>>>>);

struct Entry {
    open: Arc<Open>,
    device: DeviceName,
    revoked: Arc<Notify>,
}

impl Open {
    fn enter(self: &Arc<Self>, device: &DeviceName) -> Entry {
        let revoked = Arc::new(Notify::new());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(device.clone())
            .or_default()
            .push(Arc::clone(&revoked));
        gauge!("tramline_connections", "door" => "websocket").increment(1);
        Entry {
            open: Arc::clone(self),
            device: device.clone(),
            revoked,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut all = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.device) {
            own.retain(|entry| !Arc::ptr_eq(entry, &self.revoked));
            if own.is_empty() {
                all.remove(&self.device);
            }
        }
        gauge!("tramline_connections", "door" => "websocket").decrement(1);
    }
}

impl Deliver for Open {
    fn news(&self, _: Position, _: &mut dyn Iterator<Item = &UserId>) {}

    fn news_for_all(&self, _: Position) {}

    fn revoked(&self, device: &DeviceName) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in all.get(device).into_iter().flatten() {
            entry.notify_one();
        }
    }
}
