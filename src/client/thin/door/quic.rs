//! QUIC: a connection when there is something to ask, and a new one where the old has ended.
//!
//! There is no machine: streams are reliable and in order. What is left to do is to notice that the hub
//! is gone, to follow on after that, and to count what the socket has carried.

mod following;

use std::{io::ErrorKind, net::SocketAddr, pin::pin, time::Duration};

use tokio::{net::UdpSocket, time::timeout};

use self::following::Following;
use super::{
    super::{
        ask::{Answer, Ask},
        places::Places,
    },
    ThinError,
    choice::{QuicDoor, header_bytes},
    kept::Kept,
};
use crate::{
    base::Timestamp,
    client::{
        Cost, plain,
        quic::{Quic, QuicError, QuicSession},
    },
    session::coap::Timers,
};

/// A word is exchanged after so much silence at the latest: hubs forget a connection after two minutes.
const ALIVE_EVERY_MAX: Duration = Duration::from_secs(100);

/// How long something that must be acknowledged may not be, until the hub is taken to be gone: twice the
/// black-outs of a mobile network.
const SILENT_MAX: Duration = Duration::from_secs(20);

/// How long a handshake may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How often a connection is looked at while an answer is waited for, and while nothing is but news.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_SELDOM: Duration = Duration::from_secs(10);

/// How long a goodbye may take; what is lost of it costs the hub two minutes of memory.
const GOODBYE_MAX: Duration = Duration::from_millis(100);

/// Bytes of records asked for at once. What is pushed is the hub's to measure, by the class of the link.
pub(super) const RECORDS_BYTES_MAX: u64 = 16 * 1024;

/// The ledger's line of the handshake, of words that keep it, and of its end.
const CONNECTION: &str = "connection";

/// The hub's code for a device that is not linked. spec: thin-profile §14
const UNLINKED: u32 = 1;

/// TLS's alert for a key that is not let in, `access_denied`.
const ACCESS_DENIED: u8 = 49;

/// After how long without a connection it is asked whether the port is closed, how often, and how long an
/// answer may take. Together they are half of the five seconds in which that is to be known.
const KNOCK_AFTER: Duration = Duration::from_secs(1);
const KNOCKS: u32 = 3;
const KNOCK_EVERY: Duration = Duration::from_millis(400);

/// The way over QUIC.
pub(super) struct QuicWay {
    quic: Quic,
    address: SocketAddr,
    line: Option<Line>,
    places: Places,
    following: Option<Following>,
}

/// A connection.
struct Line {
    session: QuicSession,
    counted: Cost,
    /// Whether the hub has said in it that it is the one whose aliases we have.
    greeted: bool,
    /// What was heard of the hub and what it was asked, and since when it owes an acknowledgement.
    heard: u64,
    asked: u64,
    owes_since: Option<Timestamp>,
}

impl QuicWay {
    /// A socket of its own. Sends nothing yet.
    pub(super) fn open(kept: &Kept, door: &QuicDoor) -> Result<Self, ThinError> {
        let (quic, address) = door.open()?;
        // A connection is used where somebody follows, or waits: then it is kept.
        let alive_every = kept.state().nat.interval().min(ALIVE_EVERY_MAX);
        Ok(Self {
            quic: quic.keeping_alive(alive_every),
            address,
            line: None,
            places: Places::new(&kept.state().through, kept.state().inbox),
            following: None,
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) const fn places(&self) -> &Places {
        &self.places
    }

    pub(super) const fn places_mut(&mut self) -> &mut Places {
        &mut self.places
    }

    /// Connects, if there is no connection.
    pub(super) async fn connected(&mut self, kept: &mut Kept) -> Result<QuicSession, ThinError> {
        if let Some(line) = &self.line
            && line.session.ended().is_none()
        {
            return Ok(line.session.clone());
        }
        self.hang_up(kept);
        let patience = scaled(CONNECT_MAX, kept);
        let connected = tokio::select! {
            connected = timeout(patience, self.quic.connect()) => connected,
            reason = nobody_at(self.address) => return Err(self.unreachable(&reason)),
        };
        let session = match connected {
            Ok(connected) => connected.map_err(|error| self.gone(None, Gone::Broken(error)))?,
            Err(_) => return Err(self.unreachable("no answer")),
        };
        self.line = Some(Line {
            session: session.clone(),
            counted: Cost::default(),
            greeted: false,
            heard: 0,
            asked: 0,
            owes_since: None,
        });
        self.count(kept, CONNECTION);
        kept.noted(CONNECTION);
        Ok(session)
    }

    /// Asks something and waits for its answer.
    pub(super) async fn ask(
        &mut self,
        kept: &mut Kept,
        operation: &str,
        ask: Ask,
    ) -> Result<Answer, ThinError> {
        let session = self.connected(kept).await?;
        if !matches!(ask, Ask::Hello | Ask::Other(_)) {
            self.greet(kept, &session).await?;
        }
        self.ask_on(kept, &session, operation, ask).await
    }

    /// Makes sure, once in a connection, that the hub is the one whose aliases we have: keys outlive its
    /// restoring from a backup, aliases do not.
    async fn greet(&mut self, kept: &mut Kept, session: &QuicSession) -> Result<(), ThinError> {
        if self.line.as_ref().is_some_and(|line| line.greeted) {
            return Ok(());
        }
        let answer = self.ask_on(kept, session, "hello", Ask::Hello).await?;
        match answer {
            Answer::Hello(_) => Ok(()),
            _ => Err(ThinError::OtherAnswer),
        }
    }

    async fn ask_on(
        &mut self,
        kept: &mut Kept,
        session: &QuicSession,
        operation: &str,
        ask: Ask,
    ) -> Result<Answer, ThinError> {
        let request = ask.request();
        let work = session.exchange(&request);
        let response = self.attend(kept, session, work, |_| ()).await;
        self.over(kept, operation)?;
        let answer = ask.read(response?)?;
        if matches!(answer, Answer::Hello(_)) {
            if let Some(line) = &mut self.line {
                line.greeted = true;
            }
            if let Err(error) = kept.met(&answer) {
                self.places = Places::new(&kept.state().through, kept.state().inbox);
                return Err(error);
            }
        }
        Ok(answer)
    }

    /// Waits for work on a connection for as long as the hub gives a sign of life, and tells now and then
    /// what the socket has carried.
    pub(super) async fn attend<T>(
        &mut self,
        kept: &Kept,
        session: &QuicSession,
        work: impl Future<Output = Result<T, QuicError>>,
        told: impl FnMut(Cost),
    ) -> Result<T, ThinError> {
        let done = match &mut self.line {
            Some(line) => line.attend(kept, LOOK_EVERY, work, told).await,
            None => work.await.map_err(Gone::Broken),
        };
        done.map_err(|gone| self.gone(Some(session), gone))
    }

    /// Counts what was exchanged for an operation that is over.
    pub(super) fn over(&mut self, kept: &mut Kept, operation: &str) -> Result<(), ThinError> {
        self.count(kept, operation);
        Ok(kept.done(operation)?)
    }

    fn count(&mut self, kept: &mut Kept, operation: &str) {
        if let Some(line) = &mut self.line {
            let cost = line.session.cost();
            let since = cost - line.counted;
            line.counted = cost;
            kept.exchanged(operation, since, header_bytes(self.address));
        }
    }

    fn hang_up(&mut self, kept: &mut Kept) {
        self.count(kept, CONNECTION);
        self.line = None;
    }

    /// Says goodbye, if there is anyone to say it to.
    pub(super) async fn close(&mut self, kept: &mut Kept) -> Result<(), ThinError> {
        self.following = None;
        if let Some(line) = &self.line {
            line.session.close();
            let _ = timeout(GOODBYE_MAX, self.quic.wait_idle()).await; // or without it
        }
        self.hang_up(kept);
        Ok(kept.save_book()?)
    }

    /// Follows all rooms; [`QuicWay::turn`] does it.
    pub(super) fn follow(&mut self) {
        self.following = Some(Following::default());
    }

    /// Ends that. Dropping its stream tells the hub.
    pub(super) fn unfollow(&mut self, kept: &mut Kept) -> Result<(), ThinError> {
        self.following = None;
        self.count(kept, following::OPERATION);
        Ok(kept.save_book()?)
    }

    /// What a connection ended with, as the device sees it.
    fn gone(&self, session: Option<&QuicSession>, gone: Gone) -> ThinError {
        let error = match gone {
            Gone::Silent => return self.unreachable("no sign of life"),
            Gone::Broken(error) => error,
        };
        let reason = error.to_string();
        let ended = session.and_then(QuicSession::ended).or(match &error {
            QuicError::Connection(ended) => Some(ended.clone()),
            _ => None,
        });
        if ended.as_ref().is_some_and(is_unlinked) {
            let at = format!("quic://{}", self.address);
            return ThinError::Unlinked { at };
        }
        match (ended, error) {
            (Some(ended), _) => self.unreachable(&ended.to_string()),
            (None, QuicError::Read(_) | QuicError::Write(_)) => self.unreachable(&reason),
            (None, error) => ThinError::Quic(error),
        }
    }

    fn unreachable(&self, reason: &str) -> ThinError {
        ThinError::Unreachable {
            at: format!("quic://{}", self.address),
            reason: reason.to_owned(),
        }
    }
}

/// Whether the hub, whose key was seen before, ended a connection because it does not know ours.
fn is_unlinked(ended: &quinn::ConnectionError) -> bool {
    match ended {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code == UNLINKED.into(),
        quinn::ConnectionError::ConnectionClosed(close) => {
            close.error_code == quinn_proto::TransportErrorCode::crypto(ACCESS_DENIED)
        }
        _ => false,
    }
}

/// Ends, saying why, when the system is told several times that a port is closed. QUIC itself does not
/// listen to that; one byte, which no hub answers, is sent only where a handshake takes long.
async fn nobody_at(address: SocketAddr) -> String {
    let local: SocketAddr = if address.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0; 16], 0).into()
    };
    tokio::time::sleep(KNOCK_AFTER).await;
    if let Ok(socket) = UdpSocket::bind(local).await
        && socket.connect(address).await.is_ok()
    {
        let mut refusals = 0;
        for _ in 0..KNOCKS {
            let sent = socket.send(&[0]).await;
            tokio::time::sleep(KNOCK_EVERY).await;
            let error = sent.err().or_else(|| socket.take_error().ok().flatten());
            let Some(error) = error.filter(|it| it.kind() == ErrorKind::ConnectionRefused) else {
                break;
            };
            refusals += 1;
            if refusals == KNOCKS {
                return plain::io(&error);
            }
        }
    }
    std::future::pending().await
}

/// How work on a connection ended without a result.
enum Gone {
    /// The hub gave no sign of life.
    Silent,
    /// Something broke.
    Broken(QuicError),
}

impl Line {
    async fn attend<T>(
        &mut self,
        kept: &Kept,
        look_every: Duration,
        work: impl Future<Output = Result<T, QuicError>>,
        mut told: impl FnMut(Cost),
    ) -> Result<T, Gone> {
        let mut work = pin!(work);
        loop {
            match timeout(look_every, &mut work).await {
                Ok(done) => return done.map_err(Gone::Broken),
                Err(_) if self.is_silent(kept) => {
                    self.session.close();
                    return Err(Gone::Silent);
                }
                Err(_) => told(self.session.cost()),
            }
        }
    }

    /// Whether the hub has owed an acknowledgement for too long. What is sent again counts as asked again,
    /// so that nothing goes unnoticed.
    fn is_silent(&mut self, kept: &Kept) -> bool {
        let (heard, asked) = self.session.heard_and_asked();
        if heard != self.heard {
            (self.heard, self.asked, self.owes_since) = (heard, asked, None);
        } else if asked != self.asked {
            self.asked = asked;
            self.owes_since.get_or_insert_with(|| kept.now());
        }
        let silent_max = scaled(SILENT_MAX, kept);
        self.owes_since
            .is_some_and(|since| kept.now().since(since) > silent_max)
    }
}

/// A time that is meant for quick links, for the link there is.
fn scaled(time: Duration, kept: &Kept) -> Duration {
    let default = Timers::default();
    let timers = Timers::of_class(kept.state().link().class, default);
    let slower = timers.ack_timeout.as_secs() / default.ack_timeout.as_secs().max(1);
    time.saturating_mul(u32::try_from(slower.max(1)).unwrap_or(1))
}
