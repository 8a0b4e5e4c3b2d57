//! OSCORE over UDP: the machine on a socket. What it wants stored is stored before it goes on, and every
//! datagram is counted.

mod renewing;

use std::{collections::VecDeque, net::SocketAddr, ops::ControlFlow, time::Duration};

use bytes::Bytes;
use tokio::{net::UdpSocket, time::timeout};

use self::renewing::Trial;
use super::{
    super::{
        agree::DeviceIdentity,
        ask::{Answer, Ask},
        book::Way,
        machine::{Conduct, Event, Follow, OpId, ThinMachine},
        nat::NatTimer,
        places::Places,
        secure::operation_of,
        state::State,
    },
    ThinError,
    choice::{header_bytes, resolve},
    kept::Kept,
};
use crate::{
    base::Timestamp,
    client::{Credentials, World, plain},
    session::{
        coap::Progress,
        oscore::{Hint, SecurityContext},
    },
};

/// The largest datagram taken, in bytes: blocks have 1024.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Closed-port answers to one request after which nobody is taken to be there.
const REFUSALS_MAX: u32 = 3;

/// After how long a datagram for a closed port is sent again: nobody there is known of in seconds, also on
/// links whose own timers are slow, and a hub that is just being started is met.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Hints that the hub does not know us before we believe that asking on is of no use.
const STRANGER_HINTS_MAX: u32 = 2;

/// How long a goodbye may take; a hub that does not hear it is told by its next push.
const GOODBYE_MAX: Duration = Duration::from_millis(100);

/// How long to wait where nothing is due.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// Whether a transfer is to go on, by how far it has got.
pub(super) type Watcher<'a> = &'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send);

/// The way over OSCORE.
pub(super) struct OscoreWay {
    machine: ThinMachine,
    socket: UdpSocket,
    address: SocketAddr,
    strangers: u32,
    refusals: u32,
    /// What was sent last, and for what.
    last_sent: (&'static str, Bytes),
    /// What happened while something else was waited for.
    backlog: VecDeque<Event>,
    /// The ledger's lines of what is being asked: on the wire, and for the caller.
    asking: Option<(&'static str, String)>,
    /// With which a fresh context is agreed; none in files of other programs.
    identity: Option<DeviceIdentity>,
    /// A context that was agreed and has not shown yet that it works.
    trial: Option<Trial>,
    /// When a context was last agreed in this run.
    renewed_at: Option<Timestamp>,
}

impl OscoreWay {
    /// A socket of its own. Sends nothing yet.
    pub(super) async fn open(
        kept: &Kept,
        credentials: &Credentials,
        identity: Option<DeviceIdentity>,
    ) -> Result<Self, ThinError> {
        let place = credentials.server.coap.as_ref().ok_or(ThinError::NoDoor)?;
        let address = resolve("coap", place)?;
        let local: SocketAddr = if address.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0; 16], 0).into()
        };
        let io = |error: std::io::Error| unreachable(address, &error);
        let socket = UdpSocket::bind(local).await.map_err(io)?;
        socket.connect(address).await.map_err(io)?;
        let context = kept.state.context()?;
        let machine = machine_of(kept.state(), kept.now(), context, &kept.world);
        Ok(Self {
            machine,
            socket,
            address,
            strangers: 0,
            refusals: 0,
            last_sent: ("", Bytes::new()),
            backlog: VecDeque::new(),
            asking: None,
            identity,
            trial: None,
            renewed_at: None,
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) const fn places(&self) -> &Places {
        self.machine.places()
    }

    pub(super) const fn places_mut(&mut self) -> &mut Places {
        self.machine.places_mut()
    }

    pub(super) const fn nat(&self) -> NatTimer {
        self.machine.nat()
    }

    /// Asks something and waits for its answer, with a fresh context if that is what it takes.
    pub(super) async fn ask(
        &mut self,
        kept: &mut Kept,
        operation: &str,
        ask: Ask,
    ) -> Result<Answer, ThinError> {
        match self.ask_plainly(kept, operation, ask.clone()).await {
            Err(error) if self.may_renew(kept, &error) => {
                let before = kept.state().generation().map(str::to_owned);
                Box::pin(self.renew(kept, error)).await?;
                if kept.state().generation() != before.as_deref() {
                    return Err(ThinError::Restored); // aliases in the question are void
                }
                self.ask_plainly(kept, operation, ask).await
            }
            answer => answer,
        }
    }

    /// The same for a large body; none where the watcher has had enough.
    pub(super) async fn transfer(
        &mut self,
        kept: &mut Kept,
        operation: &str,
        ask: Ask,
        watcher: Watcher<'_>,
    ) -> Result<Option<Answer>, ThinError> {
        match self
            .transfer_once(kept, operation, ask.clone(), watcher)
            .await
        {
            Err(error) if self.may_renew(kept, &error) => {
                Box::pin(self.renew(kept, error)).await?;
                self.transfer_once(kept, operation, ask, watcher).await
            }
            answer => answer,
        }
    }

    async fn transfer_once(
        &mut self,
        kept: &mut Kept,
        operation: &str,
        ask: Ask,
        watcher: Watcher<'_>,
    ) -> Result<Option<Answer>, ThinError> {
        let op = self.begin(kept, operation, ask);
        let answer = self.transferred(kept, op, watcher).await;
        self.asking = None;
        kept.done(operation)?;
        answer
    }

    async fn ask_plainly(
        &mut self,
        kept: &mut Kept,
        operation: &str,
        ask: Ask,
    ) -> Result<Answer, ThinError> {
        let answer = self.ask_once(kept, operation, ask).await?;
        kept.met(&answer)?;
        Ok(answer)
    }

    async fn ask_once(
        &mut self,
        kept: &mut Kept,
        operation: &str,
        ask: Ask,
    ) -> Result<Answer, ThinError> {
        let op = self.begin(kept, operation, ask);
        let answer = self.answer_to(kept, op).await;
        self.asking = None;
        kept.done(operation)?;
        answer
    }

    fn begin(&mut self, kept: &Kept, operation: &str, ask: Ask) -> OpId {
        (self.strangers, self.refusals) = (0, 0);
        let request = ask.request();
        let on_the_wire = operation_of(&request.options, request.method);
        self.asking = Some((on_the_wire, operation.to_owned()));
        self.machine.ask(kept.now(), ask)
    }

    async fn answer_to(&mut self, kept: &mut Kept, op: OpId) -> Result<Answer, ThinError> {
        loop {
            match self.next_event(kept, None).await? {
                Some(Event::Answered { op: of, answer }) if of == op => return Ok(answer?),
                Some(Event::Answered { .. }) | None => {} // of something that was given up
                Some(other) => self.backlog.push_back(other),
            }
        }
    }

    async fn transferred(
        &mut self,
        kept: &mut Kept,
        op: OpId,
        watcher: Watcher<'_>,
    ) -> Result<Option<Answer>, ThinError> {
        loop {
            match self.next_step(kept, None).await? {
                Step::Happened(Event::Answered { op: of, answer }) if of == op => {
                    return Ok(Some(answer?));
                }
                Step::Happened(Event::Answered { .. }) | Step::Late => {}
                Step::Happened(other) => self.backlog.push_back(other),
                Step::Datagram => {
                    let progress = self.machine.progress(op);
                    if progress.is_some_and(|progress| watcher(progress).is_break()) {
                        self.machine.give_up(kept.now(), op);
                        // The hub sends what is not acknowledged again, and nothing else meanwhile.
                        self.transmit(kept).await?;
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Follows all rooms.
    pub(super) fn follow(&mut self, now: Timestamp) {
        self.machine.set_tries(None);
        self.machine.follow(now, Follow::Inbox);
    }

    /// Ends that; waits a moment for the hub to hear of it.
    pub(super) async fn unfollow(&mut self, kept: &mut Kept) -> Result<(), ThinError> {
        let now = kept.now();
        self.machine.unfollow(now);
        self.backlog.clear();
        let until = now + GOODBYE_MAX;
        // It goes out at once; nobody who ends waits for a hub that may not answer.
        while kept.now() < until
            && self
                .next_event(kept, Some(until))
                .await
                .is_ok_and(|it| it.is_some())
        {}
        Ok(kept.save_book()?)
    }

    /// Waits for the next thing that happens, until then at most.
    pub(super) async fn turn(
        &mut self,
        kept: &mut Kept,
        until: Option<Timestamp>,
    ) -> Result<Option<Event>, ThinError> {
        match self.backlog.pop_front() {
            Some(event) => Ok(Some(event)),
            None => match self.next_event(kept, until).await {
                Err(error) if self.machine.is_following() && self.may_renew(kept, &error) => {
                    self.strangers = 0;
                    match self.renew_and_follow(kept, error).await {
                        Err(error) if error.is_unheard() => self.machine.nobody_answers(kept.now()),
                        renewed => renewed?,
                    }
                    self.next_event(kept, until).await
                }
                event => event,
            },
        }
    }

    async fn next_event(
        &mut self,
        kept: &mut Kept,
        until: Option<Timestamp>,
    ) -> Result<Option<Event>, ThinError> {
        loop {
            match self.next_step(kept, until).await? {
                Step::Happened(event) => return Ok(Some(event)),
                Step::Late => return Ok(None),
                Step::Datagram => {}
            }
        }
    }

    async fn next_step(
        &mut self,
        kept: &mut Kept,
        until: Option<Timestamp>,
    ) -> Result<Step, ThinError> {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            self.transmit(kept).await?;
            match self.machine.poll_event() {
                Some(Event::Hint(hint)) => self.hinted(kept, hint)?,
                Some(event) => return Ok(Step::Happened(event)),
                None => {}
            }
            let now = kept.now();
            if until.is_some_and(|until| now >= until) {
                return Ok(Step::Late);
            }
            let due = [self.machine.poll_timeout(), until];
            let due = due.into_iter().flatten().min();
            let wait = due.map_or(WAIT_MAX, |due| due.since(now).min(WAIT_MAX));
            let received = timeout(wait, self.socket.recv(&mut buffer)).await;
            match &received {
                Ok(Ok(length)) => self.take(kept, buffer.get(..*length).unwrap_or_default()),
                // An ICMP error tells of one datagram, and anyone may send it.
                Ok(Err(error)) => self.refused(kept, error).await?,
                Err(_) => {}
            }
            self.machine.handle_timeout(kept.now());
            kept.save_book_when_due()?;
            if matches!(received, Ok(Ok(_))) {
                return Ok(Step::Datagram);
            }
        }
    }

    fn take(&mut self, kept: &mut Kept, datagram: &[u8]) {
        self.refusals = 0;
        let operation = self.machine.handle_datagram(kept.now(), datagram);
        self.count(kept, operation, Way::Down, datagram.len());
    }

    async fn refused(&mut self, kept: &mut Kept, error: &std::io::Error) -> Result<(), ThinError> {
        self.refusals += 1;
        if self.refusals >= REFUSALS_MAX {
            if !self.machine.is_following() {
                return Err(unreachable(self.address, error));
            }
            self.machine.nobody_answers(kept.now());
            // The system answers at once, and the next datagram is seconds away.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Ok(());
        }
        tokio::time::sleep(REFUSED_PAUSE).await;
        let (operation, datagram) = self.last_sent.clone();
        self.count(kept, operation, Way::Up, datagram.len());
        if let Err(error) = self.socket.send(&datagram).await {
            tracing::debug!(%error, "refused again"); // and told of once more when something is received
            self.refusals += 1;
        }
        Ok(())
    }

    fn hinted(&mut self, kept: &Kept, hint: Hint) -> Result<(), ThinError> {
        tracing::debug!(%hint, "an unprotected answer");
        let is_refusal = match hint {
            Hint::DecryptionFailed | Hint::NotUnderstood => true,
            Hint::Other(code) => code.class() == 4,
            // The answer to an earlier request, which was late, may say so.
            Hint::ContextNotFound | Hint::Replay | Hint::Success(_) => false,
        };
        // The context stays: who said so has not shown who they are.
        let at = format!("coap://{}", self.address);
        let stranger = ThinError::Stranger { at };
        // What is on trial has never worked: message 3 was refused.
        if self.trial.is_some() && is_refusal {
            return Err(stranger);
        }
        if hint == Hint::ContextNotFound {
            self.strangers += 1;
            if self.strangers >= STRANGER_HINTS_MAX
                && (!self.machine.is_following() || self.may_renew(kept, &stranger))
            {
                return Err(stranger);
            }
        }
        Ok(())
    }

    async fn transmit(&mut self, kept: &mut Kept) -> Result<(), ThinError> {
        while let Some(ceiling) = self.machine.reserve_wanted() {
            match &mut self.trial {
                // Its keys are nowhere but here: no number can be used twice.
                Some(trial) => trial.sequence_below = ceiling,
                None => kept.state.reserve(ceiling)?,
            }
            self.machine.reserved(ceiling);
        }
        if self.machine.is_exhausted() {
            return Err(ThinError::Exhausted);
        }
        while let Some(outgoing) = self.machine.poll_transmit(kept.now()) {
            self.count(kept, outgoing.operation, Way::Up, outgoing.bytes.len());
            self.last_sent = (outgoing.operation, outgoing.bytes.clone());
            if let Err(error) = self.socket.send(&outgoing.bytes).await {
                self.refused(kept, &error).await?; // retransmission goes on
            }
        }
        Ok(())
    }

    /// Counts a datagram for what the caller asked, or for what it is itself.
    fn count(&self, kept: &mut Kept, operation: &'static str, way: Way, payload: usize) {
        let asked = self.asking.as_ref();
        let operation = asked
            .filter(|(on_the_wire, _)| *on_the_wire == operation)
            .map_or(operation, |(_, asked)| asked.as_str());
        kept.datagram(operation, way, payload, header_bytes(self.address));
    }
}

/// One step of the socket.
enum Step {
    /// Something the caller may wait for.
    Happened(Event),
    /// A datagram came in.
    Datagram,
    /// The time is over.
    Late,
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

fn unreachable(address: SocketAddr, error: &std::io::Error) -> ThinError {
    ThinError::Unreachable {
        at: format!("coap://{address}"),
        reason: plain::io(error),
    }
}
