//! A linked device as a machine without I/O: asks, sends drafts in order, follows its rooms.
//!
//! The caller owns socket, clock, files and numbers:
//!
//! ```text
//! datagram in → handle_datagram      poll_transmit → datagram out
//! timer due   → handle_timeout       poll_timeout  → when to call it
//! number store → reserved            reserve_wanted → what to store first
//!                                    poll_event    → what happened
//! ```
//!
//! What CoAP gives up is asked again, a draft with its counter and bytes as they were. The order
//! of drafts is theirs: the next one goes out when the one before is answered.

mod probing;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    ask::{Answer, Ask, AskError},
    nat::NatTimer,
    places::{Found, Places},
    secure::{Outgoing, SecureLink},
};
use crate::{
    base::{Rng, Timestamp},
    session::{
        coap::{Event as CoapEvent, ExchangeId, Progress, Response},
        oscore::{Hint, SecurityContext},
    },
    wire::thin::{Alias, Record, Shown, decode_records},
};

/// How a device behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conduct {
    /// The class of the link. spec: thin-profile §11
    pub class: u8,
    /// How often something is asked before it counts as unanswered; none: until it is answered.
    pub tries_max: Option<u32>,
    /// Whether to keep a NAT's mapping open while following.
    pub keeps_alive: bool,
}

/// One thing asked of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer, or none.
    Answered {
        /// To what.
        op: OpId,
        /// What came of it.
        answer: Result<Answer, AskError>,
    },
    /// Records of followed rooms, each once and in its room's order.
    News(Vec<Record>),
    /// The hub refuses to be followed.
    Unfollowed(AskError),
    /// Somebody says, without proof, that something is wrong.
    Hint(Hint),
    /// The hub does not answer; what is followed goes on when it does.
    Silent,
    /// It answers again.
    Back,
}

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// One room.
    Room(Alias),
    /// All rooms.
    Inbox,
}

/// A linked device.
pub struct ThinMachine {
    link: SecureLink,
    conduct: Conduct,
    places: Places,
    nat: NatTimer,
    ops: BTreeMap<ExchangeId, Op>,
    /// Drafts that wait for the one before them.
    drafts: VecDeque<Op>,
    draft_out: Option<OpId>,
    again: BTreeMap<(Timestamp, OpId), Op>,
    followed: Option<Followed>,
    events: VecDeque<Event>,
    next_op: u64,
    last_sent: Option<Timestamp>,
    probe: Option<probing::Probe>,
    /// How often the hub may still be asked to answer later.
    probes_left: u8,
    /// Whether it was told that the hub does not answer.
    is_silent: bool,
}

#[derive(Clone, Debug)]
struct Op {
    id: OpId,
    ask: Ask,
    purpose: Purpose,
    tries: u32,
    /// When anything was sent before this.
    sent_before: Option<Timestamp>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The caller.
    Asked,
    /// The registration of what is followed.
    Registration,
    /// A gap, or a look whether there is something that was not pushed.
    Look,
    /// To hear of the hub after a silence.
    Probe,
}

struct Followed {
    what: Follow,
    watch: Option<ExchangeId>,
    /// When to look whether something was not pushed.
    check_at: Timestamp,
    check_after: Duration,
    /// Looks in a row that found something.
    missed: u32,
}

/// How often to look at the least: every half hour, which the idle budget counts with.
const CHECK_MAX: Duration = Duration::from_mins(30);

/// How often to look at most, when pushes do not come through.
const CHECK_MIN: Duration = Duration::from_mins(1);

/// How long after an announcement to fetch what it announced, if the hub does not push it itself.
pub(super) const ANNOUNCED: Duration = Duration::from_secs(30);

/// A record this much older than the answer that shows it should have been pushed.
const PUSH_LATE: Duration = Duration::from_secs(20);

/// Looks in a row that find something before the observation is registered anew.
const MISSED_MAX: u32 = 3;

/// The longest pause before something is asked again.
const PAUSE_MAX: Duration = Duration::from_mins(30);

impl ThinMachine {
    /// A device over this context, which has got this far.
    pub fn new(
        now: Timestamp,
        context: SecurityContext,
        rng: Box<dyn Rng + Send>,
        conduct: Conduct,
        (places, nat): (Places, NatTimer),
    ) -> Self {
        let mut link = SecureLink::new(context, rng);
        link.begin_ids(now);
        link.set_link_class(now, conduct.class);
        Self {
            link,
            conduct,
            places,
            nat,
            ops: BTreeMap::new(),
            drafts: VecDeque::new(),
            draft_out: None,
            again: BTreeMap::new(),
            followed: None,
            events: VecDeque::new(),
            next_op: 0,
            last_sent: None,
            probe: None,
            probes_left: probing::PROBES_MAX,
            is_silent: false,
        }
    }

    /// Asks something. Drafts go out one after the other, in the order they are given.
    pub fn ask(&mut self, now: Timestamp, ask: Ask) -> OpId {
        self.next_op += 1;
        let id = OpId(self.next_op);
        self.begin(now, id, ask, Purpose::Asked);
        id
    }

    /// How far the bodies of a question or its answer have got, where they are in blocks.
    pub fn progress(&self, op: OpId) -> Option<Progress> {
        self.link.progress(self.exchange_of(op)?)
    }

    /// Asks no more for what was begun; there will be no event.
    pub fn give_up(&mut self, now: Timestamp, op: OpId) {
        if let Some(exchange) = self.exchange_of(op) {
            self.ops.remove(&exchange);
            self.link.cancel(now, exchange);
        }
    }

    fn exchange_of(&self, op: OpId) -> Option<ExchangeId> {
        let mut under_way = self.ops.iter();
        let found = under_way.find(|(_, one)| one.id == op);
        found.map(|(exchange, _)| *exchange)
    }

    /// See [`SecureLink::bring`].
    pub fn bring(&mut self, message_3: Vec<u8>) {
        self.link.bring(message_3);
    }

    /// Follows a room or all of them, from where the places are.
    pub fn follow(&mut self, now: Timestamp, what: Follow) {
        self.unfollow(now);
        self.followed = Some(Followed {
            what,
            watch: None,
            check_at: now + CHECK_MAX,
            check_after: CHECK_MAX,
            missed: 0,
        });
        self.register(now);
    }

    /// Ends that, and tells the hub.
    pub fn unfollow(&mut self, now: Timestamp) {
        if let Some(watch) = self.followed.take().and_then(|followed| followed.watch) {
            self.link.cancel(now, watch);
        }
    }

    /// How far the device has got.
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// The same, for a caller that has asked for records itself.
    pub const fn places_mut(&mut self) -> &mut Places {
        &mut self.places
    }

    /// From now on, how often something is asked.
    pub const fn set_tries(&mut self, tries_max: Option<u32>) {
        self.conduct.tries_max = tries_max;
    }

    /// Nobody seems to be where the hub was. Looks, while something is followed, for when it is back.
    pub fn nobody_answers(&mut self, now: Timestamp) {
        if self.followed.is_some() && !self.is_silent {
            self.is_silent = true;
            self.events.push_back(Event::Silent);
            self.look(now);
        }
    }

    fn heard(&mut self) {
        if std::mem::take(&mut self.is_silent) {
            self.events.push_back(Event::Back);
        }
    }

    /// Whether something is followed.
    pub const fn is_following(&self) -> bool {
        self.followed.is_some()
    }

    /// What is known of the NAT.
    pub const fn nat(&self) -> NatTimer {
        self.nat
    }

    /// See [`SecureLink::reserve_wanted`].
    pub fn reserve_wanted(&self) -> Option<u64> {
        self.link.reserve_wanted()
    }

    /// See [`SecureLink::reserved`].
    pub fn reserved(&mut self, ceiling: u64) {
        self.link.reserved(ceiling);
    }

    /// Whether a fresh context is needed.
    pub const fn is_exhausted(&self) -> bool {
        self.link.is_exhausted()
    }

    /// Takes in a datagram; gives the ledger's line it belongs to.
    pub fn handle_datagram(&mut self, now: Timestamp, datagram: &[u8]) -> &'static str {
        let operation = self.link.handle_datagram(now, datagram);
        self.pump(now);
        operation
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.link.handle_timeout(now);
        self.pump(now);
        while let Some(first) = self.again.first_entry() {
            if first.key().0 > now {
                break;
            }
            let op = first.remove();
            self.put(now, op);
        }
        self.probe_ends(now);
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.stay_open(now);
        }
        if let Some(followed) = self.followed.as_mut().filter(|it| it.check_at <= now) {
            followed.check_at = now + followed.check_after;
            self.look(now);
        }
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let check = self.followed.as_ref().map(|followed| followed.check_at);
        let again = self.again.keys().next().map(|(at, _)| *at);
        let probe = self.probe.map(|probe| probe.until);
        let keep_alive = self.keep_alive_at();
        let all = [self.link.poll_timeout(), check, again, keep_alive, probe];
        all.into_iter().flatten().min()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self, now: Timestamp) -> Option<Outgoing> {
        let outgoing = self.link.poll_transmit()?;
        self.last_sent = Some(now);
        Some(outgoing)
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        let hint = self.link.poll_hint().map(Event::Hint);
        self.events.pop_front().or(hint)
    }

    /// Whether nothing that was asked waits for its answer.
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty() && self.drafts.is_empty() && self.again.is_empty()
    }
}

/// Asking.
impl ThinMachine {
    fn begin(&mut self, now: Timestamp, id: OpId, ask: Ask, purpose: Purpose) {
        let op = Op {
            id,
            ask,
            purpose,
            tries: 0,
            sent_before: self.last_sent,
        };
        if matches!(op.ask, Ask::Append { .. }) {
            self.drafts.push_back(op);
            return self.next_draft(now);
        }
        self.put(now, op);
    }

    fn next_draft(&mut self, now: Timestamp) {
        if self.draft_out.is_none()
            && let Some(op) = self.drafts.pop_front()
        {
            self.draft_out = Some(op.id);
            self.put(now, op);
        }
    }

    fn put(&mut self, now: Timestamp, mut op: Op) {
        op.tries += 1;
        // What is followed has moved on since this was first asked.
        if op.purpose == Purpose::Registration {
            match self.registration() {
                Some(ask) => op.ask = ask,
                None => return,
            }
        }
        let exchange = self.link.request(now, op.ask.request());
        if op.purpose == Purpose::Registration
            && let Some(followed) = &mut self.followed
        {
            followed.watch = Some(exchange);
        }
        self.ops.insert(exchange, op);
        self.pump(now);
    }

    fn pump(&mut self, now: Timestamp) {
        while let Some(event) = self.link.poll_event() {
            match event {
                CoapEvent::Response {
                    exchange, response, ..
                } => {
                    self.heard();
                    if let Some(op) = self.ops.remove(&exchange) {
                        let answer = op.ask.read(response);
                        self.answered(now, op, answer);
                    }
                }
                CoapEvent::Failed { exchange, reason } => match self.ops.remove(&exchange) {
                    Some(op) => self.answered(now, op, Err(reason.into())),
                    None => self.watch_lost(now, exchange),
                },
                CoapEvent::Notification { exchange, response } => {
                    self.heard();
                    self.notified(now, exchange, &response);
                }
                _ => {} // a server's
            }
        }
    }

    fn answered(&mut self, now: Timestamp, op: Op, answer: Result<Answer, AskError>) {
        if let Err(error) = &answer
            && error.is_temporary()
            && op.purpose != Purpose::Probe
            && (op.purpose != Purpose::Asked
                || self.conduct.tries_max.is_none_or(|max| op.tries < max))
        {
            let at = now + self.pause(&op, error);
            let is_unheard = matches!(error, AskError::Unanswered(_));
            self.again.insert((at, op.id), op);
            if is_unheard {
                self.nobody_answers(now);
            }
            return;
        }
        match (op.purpose, answer) {
            (Purpose::Asked, answer) => {
                self.events.push_back(Event::Answered { op: op.id, answer });
                if self.draft_out == Some(op.id) {
                    self.draft_out = None;
                    self.next_draft(now);
                }
            }
            (Purpose::Registration | Purpose::Look, Ok(Answer::Records(records))) => {
                self.looked(now, &op, records);
            }
            (Purpose::Registration, Err(error)) => {
                self.followed = None;
                self.events.push_back(Event::Unfollowed(error));
            }
            (Purpose::Probe, answer) => self.probed(now, op.id, &answer),
            (_, Err(error)) => tracing::debug!(%error, "a look was refused"),
            (_, Ok(_)) => {}
        }
    }

    /// Longer each time, and as long as the hub says.
    fn pause(&self, op: &Op, error: &AskError) -> Duration {
        let doublings = 1_u32 << op.tries.min(10);
        let own = match self.conduct.class {
            // CoAP has been trying for a quarter of an hour already.
            1..=4 => Duration::from_secs(1),
            _ => Duration::from_secs(1).saturating_mul(doublings),
        };
        let said = match error {
            AskError::Refused { retry_after_s, .. } => retry_after_s.unwrap_or(0),
            _ => 0,
        };
        own.max(Duration::from_secs(said.into())).min(PAUSE_MAX)
    }
}

/// Following.
impl ThinMachine {
    fn registration(&self) -> Option<Ask> {
        Some(self.fetch(self.followed.as_ref()?.what, true))
    }

    fn fetch(&self, what: Follow, observe: bool) -> Ask {
        match what {
            Follow::Room(room) => Ask::Log {
                room,
                from: self.places.next(room),
                bytes_max: None,
                observe,
            },
            Follow::Inbox => Ask::Inbox {
                after: self.places.inbox(),
                bytes_max: None,
                observe,
            },
        }
    }

    fn register(&mut self, now: Timestamp) {
        if let Some(ask) = self.registration() {
            self.next_op += 1;
            self.begin(now, OpId(self.next_op), ask, Purpose::Registration);
        }
    }

    /// Asks whether there is something, and for the gaps; one at a time.
    fn look(&mut self, now: Timestamp) {
        let Some(what) = self.followed.as_ref().map(|followed| followed.what) else {
            return;
        };
        let ask = self.fetch(what, false);
        self.look_for(now, ask);
        for (room, from) in self.places.gaps() {
            self.fill(now, room, from);
        }
    }

    fn fill(&mut self, now: Timestamp, room: Alias, from: u64) {
        let ask = Ask::Log {
            room,
            from,
            bytes_max: None,
            observe: false,
        };
        self.look_for(now, ask);
    }

    fn look_for(&mut self, now: Timestamp, ask: Ask) {
        let waiting = self.ops.values().chain(self.again.values());
        let mut same = waiting.filter(|op| op.purpose == Purpose::Look && is_same(&op.ask, &ask));
        if same.next().is_none() {
            self.next_op += 1;
            self.begin(now, OpId(self.next_op), ask, Purpose::Look);
        }
    }

    /// The answer to a registration or a look.
    fn looked(&mut self, now: Timestamp, op: &Op, records: Vec<Record>) {
        let was_late = op.purpose == Purpose::Look && records.iter().any(is_late);
        let oldest = records.iter().filter_map(age).max();
        let (found, is_inbox) = match op.ask {
            Ask::Log { room, .. } => (self.places.log_answered(room, records), false),
            _ => (self.places.inbox_answered(records), true),
        };
        let has_more = found.more && is_inbox;
        let has_new = found.news.iter().any(|one| age(one).is_some());
        if op.purpose == Purpose::Look {
            let silent_since = op.sent_before.filter(|_| has_new && was_late);
            self.judge(now, has_new && was_late, oldest.zip(silent_since));
        }
        self.tell(now, found);
        if has_more {
            self.look(now);
        }
    }

    /// Whether pushes come through, by what a look has found.
    fn judge(&mut self, now: Timestamp, was_missed: bool, missed: Option<(Duration, Timestamp)>) {
        if let Some((oldest, silent_since)) = missed {
            let accepted = Timestamp(now.0.saturating_sub(millis(oldest)));
            if accepted > silent_since {
                self.nat.failed(accepted.since(silent_since));
            }
        }
        let Some(followed) = &mut self.followed else {
            return;
        };
        followed.check_after = if was_missed {
            followed.missed += 1;
            (followed.check_after / 2).max(CHECK_MIN)
        } else {
            followed.missed = 0;
            (followed.check_after * 2).min(CHECK_MAX)
        };
        followed.check_at = now + followed.check_after;
        if followed.missed >= MISSED_MAX {
            followed.missed = 0;
            let what = followed.what;
            let after = followed.check_after;
            self.follow(now, what);
            if let Some(followed) = &mut self.followed {
                followed.check_after = after;
                followed.check_at = now + after;
            }
        }
    }

    fn notified(&mut self, now: Timestamp, exchange: ExchangeId, response: &Response) {
        let is_ours = |followed: &&mut Followed| followed.watch == Some(exchange);
        let Some(followed) = self.followed.as_mut().filter(is_ours) else {
            return;
        };
        if !response.code.is_success() {
            return self.watch_lost(now, exchange);
        }
        let what = followed.what;
        let Ok(records) = decode_records(&response.payload) else {
            tracing::warn!("a push that is no records");
            return self.look(now);
        };
        if let (Some(age), Some(sent)) = (records.iter().filter_map(age).min(), self.last_sent) {
            let accepted = Timestamp(now.0.saturating_sub(millis(age)));
            if age < PUSH_LATE && accepted > sent {
                self.nat.held(accepted.since(sent));
            }
        }
        let found = match what {
            Follow::Room(room) => self.places.log_pushed(room, records),
            Follow::Inbox => self.places.inbox_pushed(records),
        };
        if found.more
            && let Some(followed) = &mut self.followed
        {
            followed.check_at = followed.check_at.min(now + ANNOUNCED);
        }
        self.tell(now, found);
    }

    fn tell(&mut self, now: Timestamp, found: Found) {
        if !found.news.is_empty() {
            self.events.push_back(Event::News(found.news));
        }
        for (room, from) in found.gaps {
            self.fill(now, room, from);
        }
    }

    fn watch_lost(&mut self, now: Timestamp, exchange: ExchangeId) {
        if let Some(followed) = &mut self.followed
            && followed.watch == Some(exchange)
        {
            followed.watch = None;
            self.register(now);
        }
    }
}

/// Whether the one answers the other: a gap may have grown since it was asked for.
fn is_same(waiting: &Ask, ask: &Ask) -> bool {
    match (waiting, ask) {
        (Ask::Log { room: one, .. }, Ask::Log { room: other, .. }) => one == other,
        (Ask::Inbox { .. }, Ask::Inbox { .. }) => true,
        _ => false,
    }
}

fn age(record: &Record) -> Option<Duration> {
    match record.what {
        Shown::Entry { age, .. } => Some(Duration::from_secs(age)),
        _ => None,
    }
}

fn is_late(record: &Record) -> bool {
    age(record).is_some_and(|age| age > PUSH_LATE)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
