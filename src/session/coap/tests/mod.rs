//! The machine as a whole: as a server with handmade datagrams, and two or more machines with a
//! network between them that loses, repeats and reorders.
#![expect(
    clippy::cast_possible_truncation,
    reason = "ids and filler are made from counters"
)]

mod hostile;
mod observing;
mod serving;
mod transfers;
mod world;

use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    base::Timestamp,
    wire::coap::{Code, Kind, Message, Options, Token, options::number},
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn config() -> Config {
    Config::new([7; 32])
}

fn machine(config: Config, seed: u64) -> Machine<&'static str> {
    Machine::new(config, Box::new(StdRng::seed_from_u64(seed)))
}

/// A server, and a client called "ana" that speaks in handmade messages.
struct Bench {
    server: Machine<&'static str>,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: Config) -> Self {
        let mut server = machine(config, 1);
        server.mark_validated(NOW, &"ana");
        Self { server, now: NOW }
    }

    /// Hands in one message and gives what the server sends.
    fn hear(&mut self, message: &Message) -> Vec<Message> {
        self.hear_from("ana", message)
    }

    fn hear_from(&mut self, peer: &'static str, message: &Message) -> Vec<Message> {
        self.server
            .handle_datagram(self.now, peer, &message.encode().unwrap());
        self.sent()
    }

    fn sent(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some((_, bytes)) = self.server.poll_transmit() {
            all.push(Message::decode(&bytes).unwrap());
        }
        all
    }

    fn one_sent(&mut self) -> Message {
        let mut all = self.sent();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// The one request that was delivered.
    fn delivered(&mut self) -> (ExchangeId, Request, Option<ObservationId>) {
        match self.server.poll_event() {
            Some(Event::Request {
                exchange,
                request,
                observation,
                ..
            }) => (exchange, request, observation),
            other => panic!("expected a request, got {other:?}"),
        }
    }

    fn answer(&mut self, exchange: ExchangeId, response: Response) -> Message {
        self.server.respond(self.now, exchange, response).unwrap();
        self.one_sent()
    }

    /// Sends a request, answers it, gives the answer.
    fn ask(&mut self, message: &Message, response: Response) -> Message {
        assert_eq!(self.hear(message), []);
        let (exchange, ..) = self.delivered();
        self.answer(exchange, response)
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now = Timestamp(self.now.0 + ms);
        self.server.handle_timeout(self.now);
    }
}

fn con(code: Code, id: u16, token: &[u8], path: &str) -> Message {
    Message {
        kind: Kind::Con,
        code,
        id,
        token: Token::new(token).unwrap(),
        options: Options::new().with(number::URI_PATH, path),
        payload: Vec::new(),
    }
}

fn with(mut message: Message, number: u16, value: impl Into<Vec<u8>>) -> Message {
    message.options.push(number, value);
    message
}

fn content(body: impl Into<bytes::Bytes>) -> Response {
    Response::new(Code::CONTENT).body(60, body)
}

fn body(bytes: usize, salt: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 % 251) as u8 ^ salt).collect()
}
