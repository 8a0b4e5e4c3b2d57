//! The QUIC door and its device as nodes of the laboratory: endpoints without sockets, configured as
//! the door and the client configure theirs, with one connection between them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, ReadError, StreamEvent,
    StreamId, WriteError,
};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::PrivateKeyDer;

use super::{device::SEED, place::Place};
use crate::{
    api::{DeviceName, Door as Way},
    app::clock,
    base::Timestamp,
    client,
    edge::{
        quic::{self, HubKey, Limits},
        thin::{Thin, Who},
    },
    session::{
        coap::{RESPONSE_BYTES_MAX, Request, Response},
        framed::{Asked, Form, Framed, MESSAGE_BYTES_MAX},
        lab::{
            Node, Profile, World,
            world::{HUB, OPENS},
        },
    },
    wire::coap::Token,
};

/// An endpoint with one connection.
struct Half {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    /// When the laboratory opened, as QUIC counts.
    opened: Instant,
    now: Timestamp,
    out: VecDeque<(SocketAddr, Bytes)>,
    wake: Option<Timestamp>,
    /// Of streams: what came and has not ended, and what is still to be sent.
    came: BTreeMap<StreamId, Vec<u8>>,
    to_send: BTreeMap<StreamId, Bytes>,
}

/// What a stream has brought, whole.
struct Whole {
    stream: StreamId,
    bytes: Vec<u8>,
}

impl Half {
    fn new(endpoint: Endpoint, opened: Instant) -> Self {
        Self {
            endpoint,
            connection: None,
            opened,
            now: OPENS,
            out: VecDeque::new(),
            wake: None,
            came: BTreeMap::new(),
            to_send: BTreeMap::new(),
        }
    }

    fn instant(&self) -> Instant {
        self.opened + self.now.since(OPENS)
    }

    /// Takes in a datagram.
    fn take(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.now = now;
        let (at, mut buffer) = (self.instant(), Vec::new());
        let data = BytesMut::from(datagram);
        let came = self
            .endpoint
            .handle(at, from, None, None, data, &mut buffer);
        match came {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let (own, connection) = self.connection.as_mut().unwrap();
                assert_eq!(*own, handle, "there is one connection");
                connection.handle_event(event);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, at, &mut buffer, None);
                let accepted = accepted.unwrap_or_else(|error| panic!("{:?}", error.cause));
                self.connection = Some(accepted);
            }
            Some(DatagramEvent::Response(_)) => panic!("an answer to nobody's connection"),
            None => {}
        }
    }

    fn timeout(&mut self, now: Timestamp) {
        self.now = now;
        let at = self.instant();
        if let Some((_, connection)) = &mut self.connection {
            connection.handle_timeout(at);
        }
    }

    /// Opens a stream for a message.
    fn open(&mut self, message: Vec<u8>) {
        let (_, connection) = self.connection.as_mut().unwrap();
        let stream = connection.streams().open(Dir::Bi).unwrap();
        self.to_send.insert(stream, message.into());
    }

    /// Does what QUIC has to do; gives what came whole, and whether the connection has begun.
    fn go_on(&mut self) -> (Vec<Whole>, bool) {
        let (mut whole, mut has_begun) = (Vec::new(), false);
        let Some((handle, mut connection)) = self.connection.take() else {
            return (whole, has_begun);
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(back) = self.endpoint.handle_event(handle, event) {
                connection.handle_event(back);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => has_begun = true,
                Event::ConnectionLost { reason } => panic!("{reason}"),
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(stream) = connection.streams().accept(dir) {
                        whole.extend(self.read(&mut connection, stream));
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => {
                    whole.extend(self.read(&mut connection, id));
                }
                _ => {} // what is to be sent is tried each time
            }
        }
        self.connection = Some((handle, connection));
        self.send();
        (whole, has_begun)
    }

    fn read(&mut self, connection: &mut Connection, stream: StreamId) -> Option<Whole> {
        let came = self.came.entry(stream).or_default();
        let mut receive = connection.recv_stream(stream);
        let mut chunks = receive.read(true).ok()?;
        let has_ended = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => came.extend_from_slice(&chunk.bytes),
                Ok(None) => break true,
                Err(ReadError::Blocked) => break false,
                Err(ReadError::Reset(code)) => panic!("reset with {code}"),
            }
        };
        let _ = chunks.finalize(); // what there is to send is asked for anyway
        if !has_ended {
            return None;
        }
        let bytes = self.came.remove(&stream)?;
        Some(Whole { stream, bytes })
    }

    /// Writes what streams take, and puts the datagrams out.
    fn send(&mut self) {
        let at = self.instant();
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        self.to_send.retain(|stream, rest| {
            let mut stream = connection.send_stream(*stream);
            while !rest.is_empty() {
                match stream.write(rest) {
                    Ok(taken) => drop(rest.split_to(taken)),
                    Err(WriteError::Blocked) => return true,
                    Err(error) => panic!("{error}"),
                }
            }
            stream.finish().unwrap();
            false
        });
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(at, 1, &mut buffer) {
            let datagram = Bytes::copy_from_slice(&buffer[..transmit.size]);
            self.out.push_back((transmit.destination, datagram));
            buffer.clear();
        }
        let wake = connection.poll_timeout();
        self.wake = wake.map(|at| OPENS + whole_ms(at.saturating_duration_since(self.opened)));
    }
}

/// The laboratory's nodes are woken by the millisecond: not before it is time.
fn whole_ms(span: Duration) -> Duration {
    let ms = span.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(ms).unwrap())
}

/// The hub's side: what is asked is answered by the thin profile.
pub(super) struct Server {
    half: Half,
    place: Place,
    thin: Arc<Thin>,
    device: Arc<DeviceName>,
}

impl Server {
    fn go_on(&mut self) {
        let (asked, _) = self.half.go_on();
        for Whole { stream, bytes } in asked {
            let message = Framed::decode(&bytes, MESSAGE_BYTES_MAX).unwrap();
            let asked = Asked::of(message).unwrap();
            let who = Who {
                device: self.device.clone(),
                door: Way::Quic,
                address: None,
            };
            let answered = self.place.wait(self.thin.answer(&who, &asked.request));
            let answer = Framed::of_response(&answered.response, Token::EMPTY);
            let answer = answer.encode(Form::Alone).unwrap();
            self.half.to_send.insert(stream, answer.into());
        }
        self.half.send();
    }
}

impl Node for Server {
    fn handle(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.place.is_now(now);
        self.half.take(now, from, datagram);
        self.go_on();
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.half.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.half.wake
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.place.is_now(now);
        self.half.timeout(now);
        self.go_on();
    }
}

/// The device's side: connects, asks one thing, and has its answer in the end.
pub(super) struct Client {
    half: Half,
    request: Option<Request>,
    pub(super) answer: Option<Response>,
}

impl Client {
    fn go_on(&mut self) {
        let (answers, has_begun) = self.half.go_on();
        if has_begun && let Some(request) = self.request.take() {
            let message = Framed::of_request(&request, Token::EMPTY);
            self.half.open(message.encode(Form::Alone).unwrap());
            self.half.send();
        }
        for Whole { bytes, .. } in answers {
            let message = Framed::decode(&bytes, 2 * RESPONSE_BYTES_MAX).unwrap();
            self.answer = message.into_response();
        }
        self.half.send(); // reading has made room
    }
}

impl Node for Client {
    fn handle(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.half.take(now, from, datagram);
        self.go_on();
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.half.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.half.wake
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.half.timeout(now);
        self.go_on();
    }
}

/// A hub, and a device linked to it that asks this as soon as it is connected.
pub(super) fn lab(
    profile: Profile,
    wanted: impl FnOnce(&Place) -> Request,
) -> World<Client, Server> {
    let place = Place::new();
    let request = wanted(&place);
    let ed25519 = || KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let (hub_key, key) = (ed25519(), ed25519());
    let der = |key: &KeyPair| PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let (keys, _) = place.linked(Some(key.subject_public_key_info()));
    let opened = clock::instant();
    let hub_key = HubKey::new(&der(&hub_key)).unwrap();
    let config = quic::server_config(&hub_key, None, &place.links(), &Limits::default()).unwrap();
    let mut named = quic::endpoint_config();
    named.rng_seed(Some([1; 32]));
    let endpoint = Endpoint::new(Arc::new(named), Some(Arc::new(config)), false, None);
    let server = Server {
        half: Half::new(endpoint, opened),
        thin: place.thin(),
        place,
        device: Arc::new(keys.device),
    };

    let mut named = client::quic::endpoint_config();
    named.rng_seed(Some([2; 32]));
    let mut endpoint = Endpoint::new(Arc::new(named), None, false, None);
    let config = client::quic::client_config(hub_key.spki(), &der(&key)).unwrap();
    let connection = endpoint.connect(opened, config, HUB, "hub").unwrap();
    let mut half = Half::new(endpoint, opened);
    half.connection = Some(connection);
    let mut client = Client {
        half,
        request: Some(request),
        answer: None,
    };
    client.go_on();
    World::new(profile, SEED, server, vec![client])
}
