//! A device on a socket of its own, each datagram of which is put on the scales.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{net::UdpSocket, time::timeout};

use crate::{
    api::DeviceCredentials,
    app::clock,
    base::{Clock, Timestamp},
    client::thin::{Answer, Ask, AskError, Conduct, Event, Follow, NatTimer, Places, ThinMachine},
    session::{
        coap::{self, Config, ExchangeId, Machine},
        dtls::{self, ClientEvent, Identity, Proof},
        oscore::{Id, Parameters, SecurityContext},
    },
    wire::thin::{Record, decode_records},
};

use super::world::PIV_OF_TWO_BYTES;

/// IPv4 and UDP.
pub(super) const HEADERS: u64 = 28;

/// What a device says to its owner.
#[derive(Debug)]
pub(super) enum Told {
    Answer(Result<Answer, AskError>),
    Following,
    News(Vec<Record>),
}

/// A device without I/O.
pub(super) trait Device {
    fn ask(&mut self, now: Timestamp, ask: Ask);
    /// Wants to be told of all rooms.
    fn follow(&mut self, now: Timestamp);
    fn take(&mut self, now: Timestamp, datagram: &[u8]);
    fn give(&mut self, now: Timestamp) -> Option<Bytes>;
    fn told(&mut self) -> Option<Told>;
}

/// Our client library's own device, over OSCORE.
pub(super) struct Oscore {
    pub(super) machine: ThinMachine,
    follows: bool,
}

impl Oscore {
    /// As after 256 requests.
    pub(super) fn new(now: Timestamp, keys: &DeviceCredentials) -> Self {
        let id = |id: &[u8]| Id::new(id).unwrap();
        let (sender, recipient) = (id(&keys.sender_id), id(&keys.recipient_id));
        let mut parameters = Parameters::new(&keys.master_secret.0, sender, recipient);
        parameters.master_salt = &keys.master_salt;
        let context = SecurityContext::resumed(&parameters, PIV_OF_TWO_BYTES).unwrap();
        let conduct = Conduct {
            class: 0,
            tries_max: None,
            keeps_alive: false,
        };
        let known = (Places::default(), NatTimer::default());
        let rng = Box::new(StdRng::seed_from_u64(3));
        Self {
            machine: ThinMachine::new(now, context, rng, conduct, known),
            follows: false,
        }
    }

    /// Whether there is something new.
    pub(super) fn check(&self) -> Ask {
        Ask::Inbox {
            after: Some(self.machine.places().inbox().expect("it follows its rooms")),
            bytes_max: None,
            observe: false,
        }
    }
}

impl Device for Oscore {
    fn ask(&mut self, now: Timestamp, ask: Ask) {
        self.machine.ask(now, ask);
    }

    fn follow(&mut self, now: Timestamp) {
        self.machine.follow(now, Follow::Inbox);
        self.follows = true;
    }

    fn take(&mut self, now: Timestamp, datagram: &[u8]) {
        self.machine.handle_datagram(now, datagram);
    }

    fn give(&mut self, now: Timestamp) -> Option<Bytes> {
        while let Some(ceiling) = self.machine.reserve_wanted() {
            self.machine.reserved(ceiling);
        }
        Some(self.machine.poll_transmit(now)?.bytes)
    }

    fn told(&mut self) -> Option<Told> {
        if self.follows && self.machine.places().inbox().is_some() {
            self.follows = false;
            return Some(Told::Following);
        }
        match self.machine.poll_event()? {
            Event::Answered { answer, .. } => Some(Told::Answer(answer)),
            Event::News(records) => Some(Told::News(records)),
            other => panic!("{other:?}"),
        }
    }
}

/// The thin profile over DTLS with a pre-shared key.
pub(super) struct Dtls {
    channel: dtls::Client,
    machine: Machine<()>,
    asked: Option<Ask>,
    following: Option<ExchangeId>,
}

impl Dtls {
    pub(super) fn new(now: Timestamp, keys: &DeviceCredentials) -> Self {
        let proof = Proof::Psk {
            identity: Identity(keys.psk_identity.clone().into_bytes()),
            key: dtls::Secret::new(keys.psk.0.clone()),
        };
        let mut config = Config::new([7; 32]);
        config.serves_requests = false;
        config.token_bytes = 1;
        Self {
            channel: dtls::Client::new(proof, clock::instant(), now).unwrap(),
            machine: Machine::new(config, Box::new(StdRng::seed_from_u64(4))),
            asked: None,
            following: None,
        }
    }
}

impl Device for Dtls {
    fn ask(&mut self, now: Timestamp, ask: Ask) {
        self.machine.request(now, (), ask.request());
        self.asked = Some(ask);
    }

    fn follow(&mut self, now: Timestamp) {
        let ask = Ask::Inbox {
            after: None,
            bytes_max: None,
            observe: true,
        };
        self.following = Some(self.machine.request(now, (), ask.request()));
    }

    fn take(&mut self, now: Timestamp, datagram: &[u8]) {
        self.channel.handle_datagram(now, datagram);
        while let Some(event) = self.channel.poll_event() {
            match event {
                ClientEvent::Connected => {}
                ClientEvent::Data(bytes) => self.machine.handle_datagram(now, (), &bytes),
                ClientEvent::Closed(reason) => panic!("{reason:?}"),
            }
        }
    }

    fn give(&mut self, now: Timestamp) -> Option<Bytes> {
        while self.channel.is_connected()
            && let Some(((), message)) = self.machine.poll_transmit()
        {
            self.channel.send(now, &message).unwrap();
        }
        self.channel.poll_transmit()
    }

    fn told(&mut self) -> Option<Told> {
        match self.machine.poll_event()? {
            coap::Event::Response {
                exchange, response, ..
            } if self.following == Some(exchange) => {
                assert!(response.observing, "{response:?}");
                Some(Told::Following)
            }
            coap::Event::Response { response, .. } => {
                let ask = self.asked.take().expect("it was asked");
                Some(Told::Answer(ask.read(response)))
            }
            coap::Event::Notification { response, .. } => {
                Some(Told::News(decode_records(&response.payload).unwrap()))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What went over the line, datagram by datagram, with headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weighed {
    pub(super) up: Vec<u64>,
    pub(super) down: Vec<u64>,
}

impl Weighed {
    pub(super) fn all(&self) -> u64 {
        self.up.iter().chain(&self.down).sum()
    }

    /// One datagram each way, as it has to be where nothing is lost.
    #[track_caller]
    pub(super) fn of_an_exchange(&self) -> u64 {
        assert_eq!((self.up.len(), self.down.len()), (1, 1), "{self:?}");
        self.all()
    }
}

/// A device and its socket.
pub(super) struct Radio<D> {
    pub(super) device: D,
    socket: UdpSocket,
    clock: Arc<dyn Clock>,
    weighed: Weighed,
}

async fn towards(hub: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(hub).await.unwrap();
    socket
}

impl<D: Device> Radio<D> {
    pub(super) async fn new(device: D, hub: SocketAddr, clock: Arc<dyn Clock>) -> Self {
        Self {
            device,
            socket: towards(hub).await,
            clock,
            weighed: Weighed::default(),
        }
    }

    /// From now on at another address, and the hub perhaps, too.
    pub(super) async fn moves(&mut self, hub: SocketAddr) {
        self.socket = towards(hub).await;
    }

    pub(super) async fn asks(&mut self, ask: Ask) -> (Answer, Weighed) {
        self.weighed = Weighed::default();
        self.device.ask(self.clock.now(), ask);
        match self.hears().await {
            Told::Answer(answer) => (answer.unwrap(), std::mem::take(&mut self.weighed)),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn follows(&mut self) {
        self.device.follow(self.clock.now());
        let told = self.hears().await;
        assert!(matches!(told, Told::Following), "{told:?}");
        self.weighed = Weighed::default();
    }

    /// Waits for a push and acknowledges it.
    pub(super) async fn is_told(&mut self) -> (Vec<Record>, Weighed) {
        match self.hears().await {
            Told::News(records) => (records, std::mem::take(&mut self.weighed)),
            other => panic!("{other:?}"),
        }
    }

    async fn hears(&mut self) -> Told {
        let mut buffer = vec![0; 2048];
        loop {
            while let Some(datagram) = self.device.give(self.clock.now()) {
                self.weighed.up.push(weight(datagram.len()));
                self.socket.send(&datagram).await.unwrap();
            }
            if let Some(told) = self.device.told() {
                return told;
            }
            let received = timeout(Duration::from_secs(20), self.socket.recv(&mut buffer)).await;
            let size = received.expect("the hub says something").unwrap();
            self.weighed.down.push(weight(size));
            self.device.take(self.clock.now(), &buffer[..size]);
        }
    }
}

fn weight(payload: usize) -> u64 {
    HEADERS + u64::try_from(payload).unwrap()
}
