//! The link and a machine above it on one side, a device made of the same parts on the other.

use super::*;
use crate::{session::oscore::RESERVE_HUB, wire::coap::Options};
use crate::{
    session::{
        coap::{Config, Event, ExchangeId, Machine, ObservationId, Request, Response},
        oscore::{Parameters, SecurityContext},
    },
    wire::coap::Answer,
};
use rand::{SeedableRng as _, rngs::StdRng};

const T0: Timestamp = Timestamp(1_000_000);
const HOME: &str = "192.0.2.1:1000";
const AWAY: &str = "198.51.100.7:2000";
const ELSEWHERE: &str = "203.0.113.9:3000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn id(text: &str) -> Id {
    Id::new(text.as_bytes()).unwrap()
}

fn parameters<'a>(secret: &'a [u8], ours: &str, theirs: &str) -> Parameters<'a> {
    Parameters::new(secret, id(ours), id(theirs))
}

/// A hub's side: what a driver does, without a socket.
struct Hub {
    link: Link,
    machine: Machine<UdpPeer>,
    now: Timestamp,
    /// Kid and numbers stored, for everyone linked.
    stored: BTreeMap<Id, u64>,
    /// Whether what is wanted is given at once.
    is_prompt: bool,
    wanted: Vec<Want>,
    events: Vec<Event<UdpPeer>>,
    sent: Vec<(SocketAddr, Bytes)>,
}

fn secret(kid: Id) -> [u8; 16] {
    let mut secret = [9; 16];
    secret[..kid.as_bytes().len()].copy_from_slice(kid.as_bytes());
    secret
}

impl Hub {
    fn new(stored: BTreeMap<Id, u64>) -> Self {
        Self {
            link: Link::new(100, [3; 32], Plainly::Loopback),
            machine: Machine::new(Config::new([4; 32]), Box::new(StdRng::seed_from_u64(5)))
                .without_copies_of(UdpPeer::is_told_apart),
            now: T0,
            stored,
            is_prompt: true,
            wanted: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn with(kids: &[&str]) -> Self {
        Self::new(kids.iter().map(|kid| (id(kid), 0)).collect())
    }

    /// The same store, nothing else.
    fn restarted(&self) -> Self {
        let mut hub = Self::new(self.stored.clone());
        hub.link = Link::new(100, [33; 32], Plainly::Loopback);
        hub.now = self.now;
        hub
    }

    fn context(&self, kid: Id) -> Option<SecurityContext> {
        let below = *self.stored.get(&kid)?;
        let secret = secret(kid);
        let parameters = Parameters::new(&secret, id("hub"), kid);
        Some(if below == 0 {
            SecurityContext::new(&parameters).unwrap()
        } else {
            SecurityContext::resumed(&parameters, below).unwrap()
        })
    }

    fn give(&mut self, want: Want) {
        match want {
            Want::Context(kid) => match self.context(kid) {
                Some(context) => drop(self.link.found(self.now, context, ())),
                None => self.link.absent(self.now, kid),
            },
            Want::Reserve { kid, below } => {
                self.stored.insert(kid, below);
                self.link.reserved(self.now, kid, below);
            }
        }
    }

    fn follow_up(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(want) = self.link.poll_want() {
                is_quiet = false;
                if self.is_prompt {
                    self.give(want);
                } else {
                    self.wanted.push(want);
                }
            }
            if let Some(arrived) = self.link.poll_arrived() {
                is_quiet = false;
                self.arrived(arrived);
            }
            while let Some((peer, message)) = self.machine.poll_transmit() {
                is_quiet = false;
                let is_proved = self.machine.budget(&peer) == u64::MAX;
                self.link.send(self.now, &peer, message, is_proved);
            }
            while let Some(sent) = self.link.poll_transmit() {
                self.sent.push((sent.to, sent.bytes));
            }
            while let Some(event) = self.machine.poll_event() {
                self.events.push(event);
            }
            if is_quiet {
                return;
            }
        }
    }

    fn arrived(&mut self, arrived: Arrived) {
        let now = self.now;
        match arrived {
            Arrived::Message {
                peer,
                bytes,
                path,
                is_proved,
                ..
            } => {
                if let Some(path) = path {
                    self.machine.peer_is_at(now, &peer, path);
                }
                if is_proved {
                    self.machine.mark_validated(now, &peer);
                }
                self.machine.handle_datagram(now, peer, &bytes);
            }
            Arrived::Copy { .. } | Arrived::Combined { .. } | Arrived::Gone { .. } => {}
        }
    }

    /// Takes a datagram in and gives what went out for it.
    fn hears(&mut self, from: &str, datagram: &[u8]) -> Vec<(SocketAddr, Bytes)> {
        self.link.handle_datagram(self.now, address(from), datagram);
        self.follow_up();
        std::mem::take(&mut self.sent)
    }

    fn requests(&mut self) -> Vec<(ExchangeId, UdpPeer, Option<ObservationId>)> {
        let requests = std::mem::take(&mut self.events).into_iter();
        let request = |event| match event {
            Event::Request {
                exchange,
                peer,
                observation,
                ..
            } => Some((exchange, peer, observation)),
            _ => None,
        };
        requests.filter_map(request).collect()
    }

    /// Answers everything asked so far.
    fn answers(&mut self, text: &str) -> Vec<(SocketAddr, Bytes)> {
        for (exchange, _, observation) in self.requests() {
            let mut response = Response::new(Code::CONTENT).saying(text);
            if observation.is_some() {
                response = response.observing();
            }
            self.machine.respond(self.now, exchange, response).unwrap();
        }
        self.follow_up();
        std::mem::take(&mut self.sent)
    }

    /// The device is known to be somewhere: who only says so may not register there.
    fn meets(&mut self, device: &mut Device, from: &str) {
        let (datagram, _) = device.asks(plain());
        self.hears(from, &datagram);
        let (_, peer, _) = self.requests_kept()[0].clone();
        self.answers("met");
        self.machine.mark_validated(self.now, &peer);
    }

    fn later(&mut self, seconds: u64) -> Vec<(SocketAddr, Bytes)> {
        self.now = self.now + Duration::from_secs(seconds);
        self.machine.handle_timeout(self.now);
        self.follow_up();
        std::mem::take(&mut self.sent)
    }
}

/// A device: it protects and reads one message at a time.
struct Device {
    context: SecurityContext,
    next_id: u16,
}

impl Device {
    fn new(kid: &str) -> Self {
        let secret = secret(id(kid));
        let mut context = SecurityContext::new(&parameters(&secret, kid, "hub")).unwrap();
        context.reserved(1000);
        Self {
            context,
            next_id: 100,
        }
    }

    fn message(&mut self, code: Code, options: Options) -> Message {
        self.next_id += 1;
        Message {
            kind: Kind::Con,
            code,
            id: self.next_id,
            token: Token::new(&self.next_id.to_be_bytes()).unwrap(),
            options,
            payload: Vec::new(),
        }
    }

    fn protects(&mut self, message: &Message) -> (Vec<u8>, RequestBinding) {
        let (outer, binding) = self.context.protect_request(message).unwrap();
        (outer.encode().unwrap(), binding)
    }

    fn asks(&mut self, options: Options) -> (Vec<u8>, RequestBinding) {
        let message = self.message(Code::GET, options);
        self.protects(&message)
    }

    fn reads(&self, binding: &mut RequestBinding, datagram: &[u8]) -> Message {
        let outer = Message::decode(datagram).unwrap();
        self.context.unprotect_response(binding, &outer).unwrap()
    }
}

fn plain() -> Options {
    Options::new().with(number::URI_PATH, "A")
}

fn observe() -> Options {
    plain().with(number::OBSERVE, [])
}

fn only_one(mut sent: Vec<(SocketAddr, Bytes)>) -> (SocketAddr, Bytes) {
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent.remove(0)
}

/// An answer without protection.
fn refusal(sent: Vec<(SocketAddr, Bytes)>) -> Message {
    let answer = Message::decode(&only_one(sent).1).unwrap();
    assert!(!answer.options.has(number::OSCORE));
    answer
}

/// An exchange that works, which shows that the hub goes on as if nothing had happened.
fn is_served(hub: &mut Hub, device: &mut Device, from: &str) {
    let (datagram, mut binding) = device.asks(plain());
    assert!(hub.hears(from, &datagram).is_empty());
    let (to, answer) = only_one(hub.answers("still here"));
    assert_eq!(to, address(from));
    assert_eq!(device.reads(&mut binding, &answer).payload, b"still here");
}

#[test]
fn a_request_is_answered_under_its_own_number() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    let (datagram, mut binding) = device.asks(plain());

    hub.hears(HOME, &datagram);
    let (to, answer) = only_one(hub.answers("hello"));

    let outer = Message::decode(&answer).unwrap();
    assert_eq!(outer.options.first(number::OSCORE), Some(&[][..]));
    assert_eq!(to, address(HOME));
    assert_eq!(device.reads(&mut binding, &answer).payload, b"hello");
}

#[test]
fn nothing_is_answered_before_the_context_is_there_and_its_first_numbers_are_stored() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    hub.is_prompt = false;
    let (datagram, _) = device.asks(plain());

    assert!(hub.hears(HOME, &datagram).is_empty());
    assert_eq!(hub.wanted, [Want::Context(id("d"))]);
    let want = hub.wanted.remove(0);
    hub.give(want);
    hub.follow_up();
    assert!(hub.requests().is_empty());
    let below = RESERVE_HUB;
    assert_eq!(
        hub.wanted,
        [Want::Reserve {
            kid: id("d"),
            below
        }]
    );
    let want = hub.wanted.remove(0);
    hub.give(want);
    hub.follow_up();

    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_retransmission_from_a_new_address_gets_the_same_bytes_there_and_moves_nothing() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    hub.meets(&mut device, HOME);
    let (datagram, _) = device.asks(observe());
    hub.hears(HOME, &datagram);
    let (_, first) = only_one(hub.answers("a"));

    let (to, again) = only_one(hub.hears(AWAY, &datagram));

    assert_eq!((to, &again), (address(AWAY), &first));
    assert!(again.len() <= 3 * datagram.len());
    assert!(hub.requests().is_empty());
    let peer = hub
        .link
        .devices
        .iter()
        .next()
        .map(|(kid, device)| device.key(kid));
    let peer = UdpPeer::Device(peer.unwrap());
    assert_eq!(hub.link.address(&peer), Some(address(HOME)));
    let mut other = Message::decode(&datagram).unwrap();
    other.id += 1;
    let refused = refusal(hub.hears(AWAY, &other.encode().unwrap()));
    assert_eq!(
        refused.code,
        Code::UNAUTHORIZED,
        "the number belongs to another id"
    );
    assert_eq!(refused.payload, b"Replay detected");
}

#[test]
fn an_answer_that_was_lost_comes_again_whole_where_its_device_is_known_to_be_and_nowhere_else() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    let (datagram, mut binding) = device.asks(plain());
    hub.hears(HOME, &datagram);
    let (kid, known) = hub.link.devices.iter().next().unwrap();
    let peer = UdpPeer::Device(known.key(kid));
    let large = "a".repeat(700);
    let (_, unproved) = only_one(hub.answers(&large));
    assert!(unproved.len() <= 3 * datagram.len(), "a challenge");
    assert_eq!(only_one(hub.hears(HOME, &datagram)).1, unproved);

    hub.machine.mark_validated(hub.now, &peer);
    device.reads(&mut binding, &unproved);
    let (datagram, mut binding) = device.asks(plain());
    hub.hears(HOME, &datagram);
    let (_, lost) = only_one(hub.answers(&large));
    assert!(lost.len() > 3 * datagram.len());

    assert!(hub.hears(AWAY, &datagram).is_empty());
    let (to, again) = only_one(hub.hears(HOME, &datagram));
    assert_eq!((to, &again), (address(HOME), &lost));
    assert_eq!(device.reads(&mut binding, &again).payload, large.as_bytes());
}

#[test]
fn the_newest_request_moves_a_device_and_a_late_one_does_not() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    hub.meets(&mut device, HOME);
    let (registration, mut notified) = device.asks(observe());
    hub.hears(HOME, &registration);
    let (_, _, observation) = hub.requests_kept()[0];
    let (_, answer) = only_one(hub.answers("a"));
    device.reads(&mut notified, &answer);
    let (late, _) = device.asks(plain());
    let (newest, _) = device.asks(plain());

    hub.hears(AWAY, &newest);
    assert_eq!(only_one(hub.answers("b")).0, address(AWAY));
    hub.hears(ELSEWHERE, &late);
    assert_eq!(only_one(hub.answers("c")).0, address(AWAY));

    let (kid, known) = hub.link.devices.iter().next().unwrap();
    let peer = UdpPeer::Device(known.key(kid));
    hub.machine.mark_validated(hub.now, &peer);
    let news = Response::new(Code::CONTENT).saying("n");
    hub.machine
        .notify(hub.now, observation.unwrap(), news)
        .unwrap();
    hub.follow_up();
    let (to, first) = only_one(std::mem::take(&mut hub.sent));
    assert_eq!(to, address(AWAY));
    let (_, again) = only_one(hub.later(4));
    assert_eq!(
        first, again,
        "a notification sent again takes no new number"
    );
    assert_eq!(device.reads(&mut notified, &first).payload, b"n");
}

#[test]
fn after_a_restart_nothing_is_delivered_before_the_echo_comes_back() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    is_served(&mut hub, &mut device, HOME);
    let (old, _) = device.asks(plain());
    hub.hears(HOME, &old);
    hub.answers("old");
    let mut hub = hub.restarted();

    let replayed = hub.hears(ELSEWHERE, &old);
    assert_eq!(replayed.len(), 1);
    assert!(replayed[0].1.len() <= 3 * old.len());
    let (datagram, mut binding) = device.asks(plain());
    let (to, challenge) = only_one(hub.hears(AWAY, &datagram));
    assert_eq!(to, address(AWAY));
    assert_eq!(
        only_one(hub.hears(AWAY, &datagram)).1,
        challenge,
        "no new number"
    );
    assert!(hub.requests().is_empty());
    let challenge = device.reads(&mut binding, &challenge);
    assert_eq!(challenge.code, Code::UNAUTHORIZED);
    let echo = challenge.options.first(number::ECHO).unwrap();
    let (elsewhere, _) = device.asks(plain().with(number::ECHO, echo));
    assert_eq!(
        hub.hears(ELSEWHERE, &elsewhere).len(),
        1,
        "bound to the address"
    );
    assert!(hub.requests().is_empty());
    let (datagram, mut binding) = device.asks(plain().with(number::ECHO, echo));
    hub.hears(AWAY, &datagram);
    let (to, answer) = only_one(hub.answers("fresh"));

    assert_eq!(to, address(AWAY));
    assert_eq!(device.reads(&mut binding, &answer).payload, b"fresh");
    hub.hears(AWAY, &old);
    assert!(hub.requests().is_empty());
    is_served(&mut hub, &mut device, AWAY);
}

#[test]
fn who_registers_shows_to_be_there_before_anything_is_told_there() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    let (registration, mut binding) = device.asks(observe());
    let (_, challenge) = only_one(hub.hears(HOME, &registration));
    let challenge = device.reads(&mut binding, &challenge);
    assert_eq!(challenge.code, Code::UNAUTHORIZED);
    assert!(hub.requests().is_empty());

    let echo = challenge.options.first(number::ECHO).unwrap().to_vec();
    let (registration, _) = device.asks(observe().with(number::ECHO, echo));
    hub.hears(HOME, &registration);

    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_replay_is_refused_and_not_delivered() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    let (datagram, _) = device.asks(plain());
    hub.hears(HOME, &datagram);
    hub.answers("once");
    hub.later(2000); // what answered it is forgotten

    let sent = hub.hears(ELSEWHERE, &datagram);

    assert!(sent.is_empty());
    assert!(hub.requests().is_empty());
    is_served(&mut hub, &mut device, HOME);
}

#[test]
fn a_forged_acknowledgement_stops_one_retransmission_and_a_forged_reset_ends_no_binding() {
    let (mut hub, mut device) = (Hub::with(&["d", "e"]), Device::new("d"));
    hub.meets(&mut device, HOME);
    let (registration, mut binding) = device.asks(observe());
    hub.hears(HOME, &registration);
    let (_, _, observation) = hub.requests_kept()[0];
    let (_, answer) = only_one(hub.answers("0"));
    device.reads(&mut binding, &answer);
    for kind in [Kind::Ack, Kind::Rst] {
        for id in [0, 1, u16::MAX] {
            let forged = Message::empty(kind, id).encode().unwrap();
            assert!(hub.hears(HOME, &forged).is_empty());
            assert!(hub.hears(ELSEWHERE, &forged).is_empty());
        }
    }
    let (kid, known) = hub.link.devices.iter().next().unwrap();
    let peer = UdpPeer::Device(known.key(kid));
    hub.machine.mark_validated(hub.now, &peer);
    let news = Response::new(Code::CONTENT).saying("1");
    hub.machine
        .notify(hub.now, observation.unwrap(), news)
        .unwrap();
    hub.follow_up();
    let (_, push) = only_one(std::mem::take(&mut hub.sent));
    let id = Message::decode(&push).unwrap().id;

    let forged = Message::empty(Kind::Ack, id).encode().unwrap();
    hub.hears(ELSEWHERE, &forged);
    assert_eq!(
        hub.later(4).len(),
        1,
        "from another address it says nothing"
    );
    hub.hears(HOME, &forged);

    assert!(hub.later(100).is_empty());
    assert!(
        hub.events
            .iter()
            .any(|event| matches!(event, Event::Delivered { .. }))
    );
    is_served(&mut hub, &mut device, HOME);
}

#[test]
fn what_is_wrong_gets_the_stated_answer_and_the_next_device_is_served() {
    let mut hub = Hub::with(&["d", "e"]);
    let (mut device, mut next) = (Device::new("d"), Device::new("e"));
    is_served(&mut hub, &mut device, HOME);
    let mut wrong_key = Device::new("d");
    let parameters_of_wrong = parameters(&[1; 16], "d", "hub");
    wrong_key.context = SecurityContext::new(&parameters_of_wrong).unwrap();
    wrong_key.context.reserved(1000);
    wrong_key.context.sequence.take().unwrap();
    let mut unknown = Device::new("u");
    let (mut mutated, _) = device.asks(plain());
    *mutated.last_mut().unwrap() ^= 1;
    let mut bad_option = Message::decode(&device.asks(plain()).0).unwrap();
    bad_option.options.remove(number::OSCORE);
    bad_option.options.push(number::OSCORE, [0xff]);

    let cases = [
        (
            wrong_key.asks(plain()).0,
            Code::BAD_REQUEST,
            "Decryption failed",
        ),
        (
            unknown.asks(plain()).0,
            Code::UNAUTHORIZED,
            "Security context not found",
        ),
        (mutated, Code::BAD_REQUEST, "Decryption failed"),
        (
            bad_option.encode().unwrap(),
            Code::BAD_OPTION,
            "Failed to decode COSE",
        ),
        (
            device.message(Code::GET, plain()).encode().unwrap(),
            Code::UNAUTHORIZED,
            "OSCORE needed",
        ),
    ];
    for (datagram, code, text) in cases {
        let sent = hub.hears(ELSEWHERE, &datagram);
        assert!(sent[0].1.len() <= datagram.len());
        let answer = refusal(sent);
        assert_eq!(answer.code, code);
        assert!(text.as_bytes().starts_with(&answer.payload), "{answer:?}");
        assert!(hub.requests().is_empty());
        is_served(&mut hub, &mut next, AWAY);
        is_served(&mut hub, &mut device, HOME);
    }
}

#[test]
fn two_processes_on_one_credential_are_told_of_a_replay() {
    let (mut hub, mut first, mut second) = (Hub::with(&["d"]), Device::new("d"), Device::new("d"));
    second.next_id = 500;
    is_served(&mut hub, &mut first, HOME);

    let (datagram, _) = second.asks(plain());
    let answer = refusal(hub.hears(AWAY, &datagram));

    assert_eq!(answer.code, Code::UNAUTHORIZED);
    assert!(b"Replay detected".starts_with(&answer.payload));
    assert!(hub.requests().is_empty());
    is_served(&mut hub, &mut first, HOME);
}

#[test]
fn no_datagram_of_a_stranger_brings_more_than_three_times_its_bytes() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    is_served(&mut hub, &mut device, HOME);
    let (genuine, _) = device.asks(plain());
    hub.hears(HOME, &genuine);
    hub.answers("a");
    let mut unsure = hub.restarted();
    let (unknown, _) = Device::new("u").asks(plain());
    let mut worst = 0.0_f64;
    for hub in [&mut hub, &mut unsure] {
        for datagram in [&genuine, &unknown] {
            for len in 0..=datagram.len() {
                for flip in [None, Some(len.saturating_sub(1))] {
                    let mut datagram = datagram[..len].to_vec();
                    if let Some(byte) = flip.and_then(|at| datagram.get_mut(at)) {
                        *byte ^= 0x40;
                    }
                    let sent = hub.hears(ELSEWHERE, &datagram);
                    let bytes: usize = sent.iter().map(|(_, sent)| sent.len()).sum();
                    assert!(bytes <= 3 * datagram.len(), "{bytes} for {datagram:02x?}");
                    if len > 0 {
                        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                        let ratio = bytes as f64 / len as f64;
                        worst = worst.max(ratio);
                    }
                    hub.now = hub.now + Duration::from_secs(1);
                }
            }
        }
    }
    println!("at most {worst:.2} bytes for one");
}

#[test]
fn an_address_that_a_device_did_not_prove_gets_three_times_what_came_from_it() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    hub.meets(&mut device, HOME);
    let (registration, _) = device.asks(observe());
    hub.hears(HOME, &registration);
    let (_, _, observation) = hub.requests_kept()[0];
    hub.answers("0");
    let (datagram, _) = device.asks(plain());
    let received = datagram.len();
    let mut sent = hub
        .hears(AWAY, &datagram)
        .iter()
        .map(|(_, bytes)| bytes.len())
        .sum::<usize>();
    sent += hub
        .answers("0")
        .iter()
        .map(|(_, bytes)| bytes.len())
        .sum::<usize>();

    let news = Response::new(Code::CONTENT).saying("0123456789");
    hub.machine
        .notify(hub.now, observation.unwrap(), news)
        .unwrap();
    hub.follow_up();
    sent += std::mem::take(&mut hub.sent)
        .iter()
        .map(|(_, bytes)| bytes.len())
        .sum::<usize>();
    for _ in 0..100 {
        sent += hub
            .later(1)
            .iter()
            .map(|(_, bytes)| bytes.len())
            .sum::<usize>();
    }

    assert!(sent <= 3 * received, "{sent} bytes for {received}");
}

#[test]
fn a_registration_survives_a_restart_and_its_notification_takes_a_number_of_the_next_block() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    hub.meets(&mut device, HOME);
    let request = device.message(Code::GET, observe());
    let (registration, mut binding) = device.protects(&request);
    hub.hears(HOME, &registration);
    let (_, peer, _) = hub.requests_kept()[0].clone();
    let kept = hub.link.binding(&peer, request.token).unwrap();
    let (_, answer) = only_one(hub.answers("0"));
    device.reads(&mut binding, &answer);
    let mut hub = hub.restarted();

    let context = hub.context(id("d")).unwrap();
    hub.link.found(hub.now, context, ());
    let kept = RequestBinding::from_bytes(&kept).unwrap();
    let (peer, path) = hub
        .link
        .restore(id("d"), address(HOME), request.token, kept)
        .unwrap();
    hub.machine.peer_is_at(hub.now, &peer, path);
    hub.machine.mark_validated(hub.now, &peer);
    let asked = Request::new(Code::GET, &["A"]);
    let observation = hub
        .machine
        .restore_observation(&peer, request.token, &asked)
        .unwrap();
    let news = Response::new(Code::CONTENT).saying("after");
    hub.machine.notify(hub.now, observation, news).unwrap();
    hub.follow_up();

    let (to, push) = only_one(std::mem::take(&mut hub.sent));
    assert_eq!(to, address(HOME));
    assert_eq!(device.reads(&mut binding, &push).payload, b"after");
    assert!(hub.stored[&id("d")] > RESERVE_HUB);
}

#[test]
fn a_revoked_context_is_gone_and_one_made_later_with_its_id_is_another_peer() {
    let (mut hub, mut device) = (Hub::with(&["d"]), Device::new("d"));
    hub.meets(&mut device, HOME);
    let (datagram, _) = device.asks(observe());
    hub.hears(HOME, &datagram);
    let (_, before, _) = hub.requests_kept()[0].clone();
    hub.stored.remove(&id("d"));

    hub.link.forget(id("d"));
    assert!(hub.answers("too late").is_empty());
    assert_eq!(hub.link.address(&before), None);
    let (datagram, _) = device.asks(plain());
    let refused = refusal(hub.hears(HOME, &datagram));
    assert_eq!(refused.code, Code::UNAUTHORIZED);
    hub.now = hub.now + Duration::from_secs(10);
    hub.stored.insert(id("d"), 0);
    is_served(&mut hub, &mut device, HOME);

    let (datagram, _) = device.asks(plain());
    hub.hears(HOME, &datagram);
    assert_ne!(hub.requests()[0].1, before);
}

impl Hub {
    /// The requests so far, which stay to be answered.
    fn requests_kept(&mut self) -> Vec<(ExchangeId, UdpPeer, Option<ObservationId>)> {
        let events = self.events.clone();
        let requests = self.requests();
        self.events = events;
        requests
    }
}

#[test]
fn one_that_is_no_message_is_the_machines_to_judge() {
    let mut hub = Hub::with(&[]);

    let sent = hub.hears(HOME, &[0x40, 0, 0, 7, 1]);

    let wrong = Message::decode(&[0x40, 0, 0, 7, 1]).unwrap_err();
    assert_eq!(wrong.answer, Answer::Reset { id: 7 });
    assert_eq!(only_one(sent).1.len(), 4);
    assert!(hub.hears(HOME, &[0]).is_empty());
}
