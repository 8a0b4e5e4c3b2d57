//! A linked device on a UDP socket, with its files: what the machine wants stored is stored before
//! it goes on, and every datagram is counted.

mod renewing;

use std::{
    collections::VecDeque,
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{net::UdpSocket, time::timeout};

use self::renewing::Trial;
use super::{
    agree::{AgreeError, DeviceIdentity},
    ask::{Answer, Ask, AskError},
    book::{Book, BookFile, Line, Way},
    machine::{Conduct, Event, Follow, OpId, ThinMachine},
    places::Places,
    queue::{Queue, Queued},
    secure::operation_of,
    state::{State, StateDir, StateError},
};
use crate::{
    base::{Clock, Timestamp},
    client::{Credentials, World},
    session::oscore::{Hint, SecurityContext},
    wire::thin::{Alias, Body, Draft, LinkProfile, NameKind, Record, Shown},
};

/// The largest datagram taken, in bytes: blocks have 1024.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Closed-port answers to one request after which nobody is taken to be there.
const REFUSALS_MAX: u32 = 3;

/// Hints that the hub does not know us before we believe that asking on is of no use.
const STRANGER_HINTS_MAX: u32 = 3;

/// How long to wait where nothing is due.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// How often the ledger is written while following.
const BOOK_EVERY_MS: u64 = 60_000;

/// Why something did not work.
#[derive(Debug, Error)]
pub enum ThinError {
    /// The files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The hub said no, or nothing.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Nobody is there.
    #[error("cannot reach the hub at {at}: {reason}")]
    Unreachable {
        /// Where.
        at: String,
        /// Why.
        reason: String,
    },
    /// The credential file names no address to send to.
    #[error("the credential file names no coap address")]
    NoDoor,
    /// The hub says, without proof, that it does not know us.
    #[error(
        "the hub at {at} seems not to know this device's context: it was unlinked, or the hub was restored from a backup; link the device anew"
    )]
    Stranger {
        /// Where.
        at: String,
    },
    /// All numbers of the context are used.
    #[error("all numbers of this context are used; link the device anew")]
    Exhausted,
    /// No fresh context could be agreed.
    #[error(
        "the hub does not take this device's context any more, and no fresh one could be agreed: {0}"
    )]
    Agree(#[from] AgreeError),
    /// What was asked speaks of what is void.
    #[error("the hub was restored from a backup; a fresh context is agreed, ask again")]
    Restored,
    /// Another kind of answer than that question has.
    #[error("the hub's answer is not what this question is answered with")]
    OtherAnswer,
}

impl ThinError {
    /// Whether it may work later, as it is.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Restored => true,
            Self::Ask(error) => error.is_temporary(),
            _ => false,
        }
    }
}

/// What became of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Its number.
    pub counter: u64,
    /// The room's id.
    pub room: String,
    /// Its place in the log, or why it has none and never will.
    pub outcome: Result<u64, AskError>,
}

/// A linked device.
pub struct ThinDoor {
    state: StateDir,
    queue: Queue,
    machine: ThinMachine,
    book: BookFile,
    socket: UdpSocket,
    address: SocketAddr,
    clock: Arc<dyn Clock>,
    strangers: u32,
    refusals: u32,
    saved: Timestamp,
    /// What happened while something else was waited for.
    backlog: VecDeque<Event>,
    /// The ledger's lines of what is being asked: on the wire, and for the caller.
    asking: Option<(&'static str, String)>,
    world: World,
    /// With which a fresh context is agreed; none in files of other programs.
    identity: Option<DeviceIdentity>,
    /// A context that was agreed and has not shown yet that it works.
    trial: Option<Trial>,
    /// When a context was last agreed in this run.
    renewed_at: Option<Timestamp>,
}

impl ThinDoor {
    /// Opens the state beside the credential file, for this process alone. Sends nothing yet.
    pub async fn open(
        file: &Path,
        credentials: &Credentials,
        world: &World,
    ) -> Result<Self, ThinError> {
        let identity = DeviceIdentity::of(credentials)?;
        let now = world.clock.now();
        let state = match StateDir::open(file, credentials) {
            // More drafts than one a second there were not, so that none of these is an old one.
            Err(StateError::Gone { .. }) if identity.is_some() => {
                StateDir::begin_without_numbers(file, credentials, now.0 / 1000)?
            }
            opened => opened?,
        };
        let queue = Queue::open(&state)?;
        let book = BookFile::open(&state)?;
        let place = credentials.server.coap.as_ref().ok_or(ThinError::NoDoor)?;
        let address = resolve(place)?;
        let local: SocketAddr = if address.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0; 16], 0).into()
        };
        let io = |error: std::io::Error| unreachable(address, &error);
        let socket = UdpSocket::bind(local).await.map_err(io)?;
        socket.connect(address).await.map_err(io)?;
        let machine = machine_of(state.state(), now, state.context()?, world);
        Ok(Self {
            state,
            queue,
            machine,
            book,
            socket,
            address,
            clock: Arc::clone(&world.clock),
            strangers: 0,
            refusals: 0,
            saved: now,
            backlog: VecDeque::new(),
            asking: None,
            world: world.clone(),
            identity,
            trial: None,
            renewed_at: None,
        })
    }

    /// What is on the disk.
    pub const fn state(&self) -> &State {
        self.state.state()
    }

    /// Where the hub is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drafts that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What everything has cost, day by day.
    pub fn book(&self) -> Book {
        self.book.all()
    }

    /// What this run has cost.
    pub fn spent(&self) -> Line {
        self.book.run()
    }

    /// Asks something and waits for its answer.
    pub async fn ask(&mut self, operation: &str, ask: Ask) -> Result<Answer, ThinError> {
        self.meet().await?;
        match self.ask_plainly(operation, ask.clone()).await {
            Err(error) if self.may_renew(&error) => {
                let before = self.state().generation().map(str::to_owned);
                Box::pin(self.renew(error)).await?;
                if self.state().generation() != before.as_deref() {
                    return Err(ThinError::Restored); // aliases in the question are void
                }
                self.ask_plainly(operation, ask).await
            }
            answer => answer,
        }
    }

    /// The first thing said in a context: whose aliases these are.
    async fn meet(&mut self) -> Result<(), ThinError> {
        if self.state().has_met() {
            return Ok(());
        }
        match Box::pin(self.ask_plainly("hello", Ask::Hello)).await {
            Ok(Answer::Hello(_)) => Ok(()),
            Ok(_) => Err(ThinError::OtherAnswer),
            Err(error) if self.may_renew(&error) => Box::pin(self.renew(error)).await,
            Err(error) => Err(error),
        }
    }

    async fn ask_plainly(&mut self, operation: &str, ask: Ask) -> Result<Answer, ThinError> {
        let now = self.clock.now();
        (self.strangers, self.refusals) = (0, 0);
        let request = ask.request();
        let on_the_wire = operation_of(&request.options, request.method);
        self.asking = Some((on_the_wire, operation.to_owned()));
        let op = self.machine.ask(now, ask);
        let answer = self.answer_to(op).await;
        self.asking = None;
        self.book.fresh.done(self.clock.now(), operation);
        self.book.save()?;
        if let Ok(Answer::Hello(hello)) = &answer {
            self.state.met(hello.generation)?;
        }
        answer
    }

    async fn answer_to(&mut self, op: OpId) -> Result<Answer, ThinError> {
        loop {
            match self.next_event(None).await? {
                Some(Event::Answered { op: of, answer }) if of == op => return Ok(answer?),
                Some(Event::Answered { .. }) | None => {} // of something that was given up
                Some(other) => self.backlog.push_back(other),
            }
        }
    }

    /// The alias of a room: its id, or an alias with `#`.
    pub async fn room(&mut self, room: &str) -> Result<Alias, ThinError> {
        self.meet().await?;
        if let Some(alias) = self.state().alias(NameKind::Room, room) {
            return Ok(alias);
        }
        let (kind, text) = (NameKind::Room, room.to_owned());
        match self.ask("names", Ask::Alias { kind, text }).await? {
            Answer::Alias(alias) => {
                if room.starts_with('!') {
                    self.state.named([(kind, alias, room.to_owned())])?;
                }
                Ok(alias)
            }
            _ => Err(ThinError::OtherAnswer),
        }
    }

    /// Asks for the names of those of these aliases that are not known yet.
    pub async fn learn(&mut self, aliases: &[(NameKind, Alias)]) -> Result<(), ThinError> {
        let is_unknown = |(kind, alias): &&(NameKind, Alias)| {
            self.state().name(*kind, *alias).is_none()
                && !(*kind == NameKind::EventType && *alias < 64)
        };
        let mut unknown: Vec<_> = aliases.iter().filter(is_unknown).copied().collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        self.names(unknown).await
    }

    /// Asks for the names of all rooms.
    pub async fn learn_rooms(&mut self) -> Result<Vec<(Alias, String)>, ThinError> {
        let answer = self.ask("rooms", Ask::Names(Vec::new())).await?;
        let Answer::Names(names) = answer else {
            return Err(ThinError::OtherAnswer);
        };
        let all = names
            .iter()
            .map(|one| (one.kind, one.alias, one.text.clone()));
        self.state.named(all)?;
        Ok(names.into_iter().map(|one| (one.alias, one.text)).collect())
    }

    async fn names(&mut self, wanted: Vec<(NameKind, Alias)>) -> Result<(), ThinError> {
        match self.ask("names", Ask::Names(wanted)).await? {
            Answer::Names(names) => {
                let all = names.into_iter().map(|one| (one.kind, one.alias, one.text));
                Ok(self.state.named(all)?)
            }
            _ => Err(ThinError::OtherAnswer),
        }
    }

    /// Queues a draft, on the disk. From then on it is sent once, whatever happens.
    pub fn queue(&mut self, room: &str, body: Body) -> Result<u64, ThinError> {
        let (target, read) = (None, None);
        let mut draft = Draft {
            counter: 0,
            target,
            read,
            body,
        };
        self.queue.check(draft.encode().len() + 8)?; // and the number's own bytes
        draft.counter = self.state.next_counter()?;
        let queued = Queued {
            room: room.to_owned(),
            draft: draft.encode(),
            at_ms: self.clock.now().0,
        };
        self.queue.push(draft.counter, queued)?;
        Ok(draft.counter)
    }

    /// Sends what waits, oldest first, until one cannot be sent now.
    pub async fn flush(&mut self) -> (Vec<Flushed>, Result<(), ThinError>) {
        let mut flushed = Vec::new();
        while let Some((counter, queued)) = self.queue.first() {
            let outcome = match self.send(&queued).await {
                Ok(seq) => Ok(seq),
                Err(ThinError::Restored) => continue, // under the room's new alias
                Err(ThinError::Ask(error)) if !error.is_temporary() => Err(error),
                Err(error) => return (flushed, Err(error)),
            };
            if let Err(error) = self.queue.done(counter) {
                return (flushed, Err(error.into()));
            }
            flushed.push(Flushed {
                counter,
                room: queued.room,
                outcome,
            });
        }
        (flushed, Ok(()))
    }

    async fn send(&mut self, queued: &Queued) -> Result<u64, ThinError> {
        let room = self.room(&queued.room).await?;
        let draft = queued.draft.clone().into();
        match self.ask("send", Ask::Append { room, draft }).await? {
            Answer::Appended { seq } => Ok(seq),
            _ => Err(ThinError::OtherAnswer),
        }
    }

    /// Tells the hub what the link is like, and keeps to it from the next run on.
    pub async fn set_link(&mut self, link: LinkProfile) -> Result<(), ThinError> {
        self.ask("link profile", Ask::LinkProfile(link)).await?;
        Ok(self.state.change(|state| state.set_link(link))?)
    }

    /// What came in all rooms since the last time, and no waiting. Keep it with
    /// [`ThinDoor::keep_places`] once it is dealt with.
    pub async fn news(&mut self) -> Result<Vec<Record>, ThinError> {
        let mut news = Vec::new();
        let mut places = self.machine.places().clone();
        loop {
            let ask = Ask::Inbox {
                after: places.inbox(),
                bytes_max: Some(NEWS_BYTES_MAX),
                observe: false,
            };
            let before = places.inbox();
            let Answer::Records(records) = self.ask("sync", ask).await? else {
                return Err(ThinError::OtherAnswer);
            };
            let found = places.inbox_answered(records);
            news.extend(found.news);
            // The first time there are only heads: what was before is for `read`.
            if !found.more || places.inbox() == before {
                break;
            }
        }
        *self.machine.places_mut() = places;
        Ok(news)
    }

    /// The last seq of a room.
    pub async fn head(&mut self, room: Alias) -> Result<u64, ThinError> {
        let (bytes_max, observe) = (None, false);
        let ask = Ask::Inbox {
            after: None,
            bytes_max,
            observe,
        };
        let Answer::Records(records) = self.ask("read", ask).await? else {
            return Err(ThinError::OtherAnswer);
        };
        let mut of = None;
        for record in records {
            of = record.room.or(of);
            if let (true, Shown::Covered { seq, .. }) = (of == Some(room), record.what) {
                return Ok(seq);
            }
        }
        Ok(0)
    }

    /// A room's visible entries from one to another.
    pub async fn log(
        &mut self,
        room: Alias,
        from: u64,
        through: u64,
    ) -> Result<Vec<Record>, ThinError> {
        let (mut news, mut next) = (Vec::new(), from);
        while next <= through {
            let ask = Ask::Log {
                room,
                from: next,
                bytes_max: None,
                observe: false,
            };
            let Answer::Records(records) = self.ask("read", ask).await? else {
                return Err(ThinError::OtherAnswer);
            };
            let before = next;
            for mut record in records {
                record.room = Some(room);
                match record.what {
                    Shown::Covered { seq, .. } => next = next.max(seq.saturating_add(1)),
                    Shown::Entry { seq, .. } if seq <= through => {
                        next = next.max(seq.saturating_add(1));
                        news.push(record);
                    }
                    _ => {}
                }
            }
            if next == before {
                break; // asking again would bring the same
            }
        }
        Ok(news)
    }

    /// Follows all rooms; [`ThinDoor::turn`] has what comes.
    pub async fn follow(&mut self) -> Result<(), ThinError> {
        self.meet().await?;
        self.machine.set_tries(None);
        let now = self.clock.now();
        self.machine.follow(now, Follow::Inbox);
        Ok(())
    }

    /// Ends that; waits a moment for the hub to hear of it.
    pub async fn unfollow(&mut self) -> Result<(), ThinError> {
        let now = self.clock.now();
        self.machine.unfollow(now);
        let until = now + Duration::from_secs(2);
        while self.clock.now() < until && self.turn(Some(until)).await?.is_some() {}
        self.book.save()?;
        Ok(())
    }

    /// What was told so far has been dealt with.
    pub fn keep_places(&mut self) -> Result<(), ThinError> {
        let places = self.machine.places();
        let (through, inbox) = (places.through(), places.inbox());
        let (is_whole, nat) = (places.is_whole(), self.machine.nat());
        let old = self.state();
        if old.through == through && old.inbox == inbox && old.nat == nat {
            return Ok(());
        }
        Ok(self.state.change(|state| {
            state.through = through;
            state.nat = nat;
            // With a gap, the next run begins where there was none.
            if is_whole {
                state.inbox = inbox;
            }
        })?)
    }

    /// Waits for the next thing that happens, until then at most.
    pub async fn turn(&mut self, until: Option<Timestamp>) -> Result<Option<Event>, ThinError> {
        match self.backlog.pop_front() {
            Some(event) => Ok(Some(event)),
            None => match self.next_event(until).await {
                Err(error) if self.machine.is_following() && self.may_renew(&error) => {
                    self.strangers = 0;
                    self.renew_and_follow(error).await?;
                    self.next_event(until).await
                }
                event => event,
            },
        }
    }

    async fn next_event(&mut self, until: Option<Timestamp>) -> Result<Option<Event>, ThinError> {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            self.transmit().await?;
            match self.machine.poll_event() {
                Some(Event::Hint(hint)) => self.hinted(hint)?,
                Some(event) => return Ok(Some(event)),
                None => {}
            }
            let now = self.clock.now();
            if until.is_some_and(|until| now >= until) {
                return Ok(None);
            }
            let due = [self.machine.poll_timeout(), until];
            let due = due.into_iter().flatten().min();
            let wait = due.map_or(WAIT_MAX, |due| due.since(now).min(WAIT_MAX));
            match timeout(wait, self.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => self.take(buffer.get(..length).unwrap_or_default()),
                // An ICMP error tells of one datagram, and anyone may send it.
                Ok(Err(error)) => self.refused(&error).await?,
                Err(_) => {}
            }
            self.machine.handle_timeout(self.clock.now());
            self.save_book()?;
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        let now = self.clock.now();
        self.refusals = 0;
        let operation = self.machine.handle_datagram(now, datagram);
        self.count(now, operation, Way::Down, datagram.len());
    }

    async fn refused(&mut self, error: &std::io::Error) -> Result<(), ThinError> {
        self.refusals += 1;
        if self.refusals >= REFUSALS_MAX && !self.machine.is_following() {
            return Err(unreachable(self.address, error));
        }
        // The system answers at once, and the next datagram is seconds away.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    fn hinted(&mut self, hint: Hint) -> Result<(), ThinError> {
        tracing::debug!(%hint, "an unprotected answer");
        if hint == Hint::ContextNotFound {
            self.strangers += 1;
            // The context stays: who said so has not shown who they are.
            let at = format!("coap://{}", self.address);
            let stranger = ThinError::Stranger { at };
            if self.strangers >= STRANGER_HINTS_MAX
                && (!self.machine.is_following() || self.may_renew(&stranger))
            {
                return Err(stranger);
            }
        }
        Ok(())
    }

    async fn transmit(&mut self) -> Result<(), ThinError> {
        while let Some(ceiling) = self.machine.reserve_wanted() {
            match &mut self.trial {
                // Its keys are nowhere but here: no number can be used twice.
                Some(trial) => trial.sequence_below = ceiling,
                None => self.state.reserve(ceiling)?,
            }
            self.machine.reserved(ceiling);
        }
        if self.machine.is_exhausted() {
            return Err(ThinError::Exhausted);
        }
        let now = self.clock.now();
        while let Some(outgoing) = self.machine.poll_transmit(now) {
            self.count(now, outgoing.operation, Way::Up, outgoing.bytes.len());
            if let Err(error) = self.socket.send(&outgoing.bytes).await {
                self.refused(&error).await?; // retransmission goes on
            }
        }
        Ok(())
    }

    /// Counts a datagram for what the caller asked, or for what it is itself.
    fn count(&mut self, now: Timestamp, operation: &'static str, way: Way, payload: usize) {
        let bytes = self.on_the_wire(payload);
        let asked = self.asking.as_ref();
        let operation = asked
            .filter(|(on_the_wire, _)| *on_the_wire == operation)
            .map_or(operation, |(_, asked)| asked.as_str());
        self.book.fresh.datagram(now, operation, way, bytes);
    }

    /// With IP and UDP headers.
    fn on_the_wire(&self, payload: usize) -> u64 {
        let headers = if self.address.is_ipv4() { 28 } else { 48 };
        u64::try_from(payload)
            .unwrap_or(u64::MAX)
            .saturating_add(headers)
    }

    fn save_book(&mut self) -> Result<(), ThinError> {
        let now = self.clock.now();
        if now.0.saturating_sub(self.saved.0) >= BOOK_EVERY_MS {
            self.saved = now;
            self.book.save()?;
        }
        Ok(())
    }
}

/// A machine over this context, which goes on where the state is.
fn machine_of(
    state: &State,
    now: Timestamp,
    context: SecurityContext,
    world: &World,
) -> ThinMachine {
    let class = state.link().class;
    let conduct = Conduct {
        class,
        tries_max: Some(1),
        // Radio links have no NAT that forgets within minutes, and no bytes to spare.
        keeps_alive: !matches!(class, 1..=3),
    };
    let places = Places::new(&state.through, state.inbox);
    ThinMachine::new(now, context, (world.rng)(), conduct, (places, state.nat))
}

/// Bytes of records asked for at once: what fits into one datagram without blocks.
const NEWS_BYTES_MAX: u64 = 1024;

/// Senders, rooms and types that records speak of.
pub fn aliases_of(records: &[Record]) -> Vec<(NameKind, Alias)> {
    let mut aliases = Vec::new();
    for record in records {
        aliases.extend(record.room.map(|room| (NameKind::Room, room)));
        match &record.what {
            Shown::Entry { sender, body, .. } => {
                aliases.push((NameKind::User, *sender));
                match body {
                    Body::Event { event_type, .. } | Body::State { event_type, .. } => {
                        aliases.push((NameKind::EventType, *event_type));
                    }
                    Body::Member { user, .. } => aliases.push((NameKind::User, *user)),
                    _ => {}
                }
            }
            Shown::Receipt { user, .. } => aliases.push((NameKind::User, *user)),
            Shown::Typing(users) => {
                aliases.extend(users.iter().map(|user| (NameKind::User, *user)));
            }
            Shown::Covered { .. } => {}
        }
    }
    // 0 is the device's own user, whom it knows.
    aliases.retain(|(kind, alias)| (*kind, *alias) != (NameKind::User, 0));
    aliases
}

fn resolve(place: &str) -> Result<SocketAddr, ThinError> {
    let nowhere = |reason: String| ThinError::Unreachable {
        at: format!("coap://{place}"),
        reason,
    };
    let mut found = place
        .to_socket_addrs()
        .map_err(|error| nowhere(error.to_string()))?;
    found
        .next()
        .ok_or_else(|| nowhere("the name has no address".to_owned()))
}

fn unreachable(address: SocketAddr, error: &std::io::Error) -> ThinError {
    ThinError::Unreachable {
        at: format!("coap://{address}"),
        reason: error.to_string(),
    }
}
