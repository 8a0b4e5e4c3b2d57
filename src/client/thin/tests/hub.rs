//! A hub of one room and one device, without I/O: enough of the thin profile to be talked to.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    base::Timestamp,
    session::{
        coap::{Config, Event, ExchangeId, Machine, ObservationId, Request, Response},
        edhoc::{CONTENT_FORMAT, NEW_EXCHANGE, PublicKey, Responder, StaticKey, take_combined},
        lab::{Node, world::OPENS},
        oscore::{Freshness, Id, PivUse, Refused, RequestBinding, SecurityContext},
    },
    wire::{
        coap::{Code, Kind, Message, Token, options::number},
        thin::{
            Body, Draft, Hello, Name, NameKind, Record, Shown, decode_numbers, encode_numbers,
            encode_records,
        },
    },
};

pub(super) const ROOM: &str = "H";
pub(super) const ROOM_ALIAS: u64 = 7;
const DEVICE: &str = "ana's context";
const PUSH_BYTES: usize = 256;

pub(super) struct Said {
    pub(super) text: String,
    pub(super) counter: Option<u64>,
    at: Timestamp,
}

pub(super) struct Hub {
    machine: Machine<&'static str>,
    context: SecurityContext,
    address: Option<SocketAddr>,
    bindings: BTreeMap<Token, RequestBinding>,
    sent: VecDeque<(Bytes, Bytes)>,
    out: VecDeque<Bytes>,
    pub(super) log: Vec<Said>,
    drafts: BTreeMap<u64, (Vec<u8>, u64)>,
    watch: Option<(ObservationId, u64)>,
    flying: bool,
    pub(super) moves: usize,
    pub(super) pushes: usize,
    pub(super) retries: usize,
    pub(super) numbers: Vec<u64>,
    /// Answers requests that are not in an authenticated form with this, as a forger would.
    pub(super) is_lost: bool,
    /// Agrees on fresh contexts, once it is told whose key to take.
    responder: Responder<()>,
    pub(super) device: Option<PublicKey>,
    pub(super) contexts: usize,
    rng: StdRng,
    /// What is to be answered later.
    later: Vec<(Timestamp, ExchangeId)>,
}

/// What the hub calls itself no more than a test's device would mind.
const FRESH_ID: &[u8] = &[0x77, 0x01];

pub(super) fn hub_key() -> StaticKey {
    StaticKey::generate(&mut StdRng::seed_from_u64(9528))
}

impl Hub {
    pub(super) fn new(mut context: SecurityContext, class: u8) -> Self {
        context.reserved(1 << 20);
        let rng = StdRng::seed_from_u64(99);
        let mut machine = Machine::new(Config::new([1; 32]), Box::new(rng));
        machine.mark_validated(OPENS, &DEVICE);
        machine.set_link_class(OPENS, &DEVICE, class);
        Self {
            machine,
            context,
            address: None,
            bindings: BTreeMap::new(),
            sent: VecDeque::new(),
            out: VecDeque::new(),
            log: Vec::new(),
            drafts: BTreeMap::new(),
            watch: None,
            flying: false,
            moves: 0,
            pushes: 0,
            retries: 0,
            numbers: Vec::new(),
            is_lost: false,
            responder: Responder::new(hub_key()),
            device: None,
            contexts: 0,
            rng: StdRng::seed_from_u64(7),
            later: Vec::new(),
        }
    }

    /// Message 2 to message 1.
    fn begin(&mut self, now: Timestamp, outer: &Message) -> Message {
        let (new, message_1) = outer.payload.split_first().unwrap();
        assert_eq!(*new, NEW_EXCHANGE);
        let id = Id::new(FRESH_ID).unwrap();
        let payload = self
            .responder
            .message_1(now, &mut self.rng, &(), message_1, id);
        let format = vec![u8::try_from(CONTENT_FORMAT).unwrap()];
        Message {
            kind: Kind::Ack,
            code: Code::CHANGED,
            options: crate::wire::coap::Options::new().with(number::CONTENT_FORMAT, format),
            payload: payload.unwrap(),
            ..outer.clone()
        }
    }

    /// Takes message 3, if there is one, and gives the request behind it.
    fn established(&mut self, now: Timestamp, outer: Message) -> Message {
        let Ok(Some(combined)) = take_combined(&outer) else {
            return outer;
        };
        let (id, message_3) = (combined.c_r, &combined.message_3);
        let asked = self
            .responder
            .message_3(now, &mut self.rng, &(), id, message_3);
        let Ok(asked) = asked else {
            return combined.rest; // a copy
        };
        let Ok(done) = asked.verify(&mut self.rng, self.device.as_ref()) else {
            return outer;
        };
        self.context = SecurityContext::new(&done.keying().parameters()).unwrap();
        self.context.reserved(1 << 20);
        self.contexts += 1;
        self.is_lost = false;
        combined.rest
    }

    /// Somebody else says something.
    pub(super) fn say(&mut self, now: Timestamp, text: String) {
        self.log.push(Said {
            text,
            counter: None,
            at: now,
        });
        self.push(now);
        self.pump();
    }

    fn records(&self, now: Timestamp, from: u64, covered: bool) -> Vec<Record> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let head = self.log.len() as u64;
        let mut last = head;
        for (seq, said) in (1..).zip(&self.log).skip_while(|(seq, _)| *seq < from) {
            let what = Shown::Entry {
                seq,
                sender: u64::from(said.counter.is_none()),
                age: now.since(said.at).as_secs(),
                target: None,
                counter: said.counter,
                body: Body::Text(said.text.clone()),
            };
            let record = Record { room: None, what };
            bytes += record.encoded_len() + 1;
            if bytes > PUSH_BYTES {
                last = seq - 1;
                break;
            }
            records.push(record);
        }
        if covered || last < head {
            let head = (last < head).then_some(head);
            let what = Shown::Covered { seq: last, head };
            records.push(Record { room: None, what });
        }
        records
    }

    fn push(&mut self, now: Timestamp) {
        let Some((id, from)) = self.watch.filter(|_| !self.flying) else {
            return;
        };
        let records = self.records(now, from, false);
        let shown = records.iter().filter_map(|record| match record.what {
            Shown::Entry { seq, .. } => Some(seq),
            _ => None,
        });
        let Some(last) = shown.max() else {
            return;
        };
        let mut response = Response::new(Code::CONTENT);
        response.payload = encode_records(&records).into();
        if self.machine.notify(now, id, response).is_ok() {
            self.flying = true;
            self.pushes += 1;
            self.watch = Some((id, last + 1));
        }
    }

    fn events(&mut self, now: Timestamp) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Request {
                    exchange,
                    request,
                    observation,
                    ..
                } => self.serve(now, exchange, &request, observation),
                Event::Delivered { .. } => {
                    self.flying = false;
                    self.push(now);
                }
                Event::ObserverGone { observation, .. }
                    if self.watch.is_some_and(|(id, _)| id == observation) =>
                {
                    self.watch = None;
                    self.flying = false;
                }
                _ => {}
            }
        }
        self.pump();
    }

    fn serve(
        &mut self,
        now: Timestamp,
        exchange: ExchangeId,
        request: &Request,
        observation: Option<ObservationId>,
    ) {
        let path: Vec<&str> = request.options.path().collect();
        let mut response = Response::new(Code::CONTENT);
        match (request.method, path.as_slice()) {
            (Code::GET, []) => {
                let hello = Hello {
                    version: 1,
                    generation: [5; 8],
                    dictionary: 1,
                    time_ms: now.0,
                };
                response.payload = hello.encode().into();
            }
            (Code::POST, [ROOM]) => {
                response.code = Code::CHANGED;
                let seq = self.append(now, &request.payload);
                response.payload = encode_numbers(&[seq]).into();
            }
            (Code::FETCH, ["?"]) => {
                let seconds = decode_numbers(&request.payload, 1).unwrap()[0];
                let at = now + Duration::from_secs(seconds);
                return self.later.push((at, exchange));
            }
            (Code::POST, ["@"]) => {
                response.code = Code::CHANGED;
                response.payload = encode_numbers(&[ROOM_ALIAS]).into();
            }
            (Code::FETCH, ["@"]) => {
                let name = Name {
                    kind: NameKind::Room,
                    alias: ROOM_ALIAS,
                    text: "!room:hub.example".to_owned(),
                };
                response.payload = Name::encode_all(&[name]).into();
            }
            (Code::FETCH, [ROOM]) => {
                let numbers = decode_numbers(&request.payload, 2).unwrap();
                let records = self.records(now, numbers[0], true);
                let Some(Shown::Covered { seq, .. }) = records.last().map(|one| &one.what) else {
                    panic!("an answer ends with what it covers");
                };
                let next = seq + 1;
                response.payload = encode_records(&records).into();
                if let Some(observation) = observation {
                    response = response.observing();
                    self.watch = Some((observation, next));
                    self.flying = false;
                }
            }
            (Code::FETCH, ["*"]) => {
                let numbers = decode_numbers(&request.payload, 3).unwrap();
                let mut records = match numbers.get(1) {
                    Some(after) => self.records(now, after + 1, false),
                    None => self.records(now, self.log.len() as u64 + 1, true),
                };
                if let Some(first) = records.first_mut() {
                    first.room = Some(ROOM_ALIAS);
                }
                if records.is_empty() {
                    response.code = Code::VALID;
                }
                response.payload = encode_records(&records).into();
            }
            (Code::PUT, [ROOM]) => response.code = Code::CHANGED,
            _ => {
                response = Response::new(Code::NOT_FOUND).saying("M_NOT_FOUND no such room");
            }
        }
        let _ = self.machine.respond(now, exchange, response);
        self.push(now);
    }

    fn append(&mut self, now: Timestamp, bytes: &[u8]) -> u64 {
        let draft = Draft::decode(bytes).unwrap();
        if let Some((before, seq)) = self.drafts.get(&draft.counter) {
            assert_eq!(before, bytes, "a counter stands for one draft");
            self.retries += 1;
            return *seq;
        }
        let Body::Text(text) = draft.body else {
            panic!("only texts are sent here");
        };
        self.log.push(Said {
            text,
            counter: Some(draft.counter),
            at: now,
        });
        let seq = self.log.len() as u64;
        self.drafts.insert(draft.counter, (bytes.to_vec(), seq));
        seq
    }

    fn pump(&mut self) {
        while let Some((_, inner)) = self.machine.poll_transmit() {
            let message = Message::decode(&inner).unwrap();
            if message.code == Code::EMPTY {
                self.out.push_back(inner);
                continue;
            }
            if let Some((_, outer)) = self.sent.iter().find(|(sent, _)| *sent == inner) {
                self.out.push_back(outer.clone());
                continue;
            }
            let Some(binding) = self.bindings.get_mut(&message.token) else {
                continue;
            };
            let Ok(outer) = self
                .context
                .protect_response(binding, &message, PivUse::Reuse)
            else {
                continue; // a notification, and the token is another request's by now
            };
            let outer = Bytes::from(outer.encode().unwrap());
            self.sent.push_front((inner, outer.clone()));
            self.sent.truncate(32);
            self.out.push_back(outer);
        }
    }
}

impl Node for Hub {
    fn handle(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        let Ok(outer) = Message::decode(datagram) else {
            return;
        };
        if outer.options.path().eq([".well-known", "edhoc"]) {
            let answer = self.begin(now, &outer);
            self.address = Some(from);
            return self.out.push_back(answer.encode().unwrap().into());
        }
        let outer = self.established(now, outer);
        if self.is_lost && outer.code.is_request() {
            let refused = Refused::ContextNotFound;
            let answer = Message {
                code: refused.code(),
                kind: Kind::Ack,
                options: refused.options(),
                payload: refused.diagnostic().into(),
                ..outer
            };
            self.address = Some(from);
            return self.out.push_back(answer.encode().unwrap().into());
        }
        if outer.code == Code::EMPTY {
            self.machine.handle_datagram(now, DEVICE, datagram);
            return self.events(now);
        }
        match self.context.unprotect_request(&outer) {
            Ok(unprotected) => {
                self.numbers.push(unprotected.binding.piv().number());
                if unprotected.freshness == Freshness::Newest {
                    self.moves += usize::from(self.address.is_some_and(|known| known != from));
                    self.address = Some(from);
                }
                self.bindings.insert(outer.token, unprotected.binding);
                let inner = unprotected.message.encode().unwrap();
                self.machine.handle_datagram(now, DEVICE, &inner);
            }
            Err(Refused::Replay(_)) if self.machine.has_seen(now, &DEVICE, outer.id) => {
                self.machine.handle_datagram(now, DEVICE, datagram);
            }
            Err(_) => {}
        }
        self.events(now);
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        let datagram = self.out.pop_front()?;
        Some((self.address?, datagram))
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let later = self.later.iter().map(|(at, _)| *at);
        later.chain(self.machine.poll_timeout()).min()
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.machine.handle_timeout(now);
        let due = self.later.extract_if(.., |(at, _)| *at <= now);
        for (_, exchange) in due.collect::<Vec<_>>() {
            let answer = Response::new(Code::CHANGED);
            self.machine.respond(now, exchange, answer).unwrap();
        }
        self.events(now);
    }
}
