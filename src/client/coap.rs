//! The CoAP door: the MSC3079 profile over plain UDP, CBOR bodies with integer keys.
//!
//! The session machine does the reliability; this file owns the socket and waits. Between calls
//! nothing is read: a hub that repeats itself meanwhile is answered with the next call.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{net::UdpSocket, time::timeout};

use crate::{
    base::Clock,
    client::{Call, ClientError, Cost, Method, World, outcome},
    session::coap::{Config, Event, ExchangeId, Machine, Request, Response},
    wire::{
        cbor::{self, KeyForm},
        coap::{Code, options::number, status_for_code},
        keys, paths,
    },
};

/// CBOR, as a Content-Format.
const CBOR: u16 = 60;

/// The largest datagram a CoAP server may send us; blocks are 1024 bytes and headers small.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// After how many closed-port answers to one request nobody is taken to be there.
const REFUSALS_MAX: u32 = 3;

/// A hub's CoAP door.
pub(super) struct CoapDoor {
    address: SocketAddr,
    socket: UdpSocket,
    machine: Machine<SocketAddr>,
    clock: Arc<dyn Clock>,
    cost: Cost,
    /// Whether the hub has our token for this address, so that it need not travel again.
    introduced: bool,
}

impl CoapDoor {
    pub(super) async fn open(address: SocketAddr, world: &World) -> Result<Self, ClientError> {
        let local: SocketAddr = if address.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0; 16], 0).into()
        };
        let socket = UdpSocket::bind(local)
            .await
            .map_err(|error| unreachable(address, error, false))?;
        socket
            .connect(address)
            .await
            .map_err(|error| unreachable(address, error, false))?;
        let mut rng = (world.rng)();
        let mut echo_key = [0; 32]; // a client challenges nobody
        rng.fill_bytes(&mut echo_key);
        Ok(Self {
            address,
            socket,
            machine: Machine::new(Config::new(echo_key), rng),
            clock: Arc::clone(&world.clock),
            cost: Cost::default(),
            introduced: false,
        })
    }

    pub(super) async fn call(
        &mut self,
        token: Option<&str>,
        call: &Call<'_>,
    ) -> (Result<Value, ClientError>, Cost) {
        let before = self.cost;
        let answer = self.introduce(token, call).await;
        (answer, self.cost - before)
    }

    /// The token is sticky: it travels until a request with it has succeeded, and again when the
    /// hub no longer knows it (it was started again).
    async fn introduce(
        &mut self,
        token: Option<&str>,
        call: &Call<'_>,
    ) -> Result<Value, ClientError> {
        if let (true, Some(token)) = (self.introduced, token) {
            match self.exchange(None, call).await {
                Err(ClientError::Refused { status: 401, .. }) => {}
                other => return other,
            }
            self.introduced = false;
            tracing::debug!(address = %self.address, "the hub has forgotten this address");
            return self.introduced_by(token, call).await;
        }
        match token {
            Some(token) => self.introduced_by(token, call).await,
            None => self.exchange(None, call).await,
        }
    }

    async fn introduced_by(&mut self, token: &str, call: &Call<'_>) -> Result<Value, ClientError> {
        let answer = self.exchange(Some(token), call).await;
        self.introduced = answer.is_ok();
        answer
    }

    async fn exchange(
        &mut self,
        token: Option<&str>,
        call: &Call<'_>,
    ) -> Result<Value, ClientError> {
        let request = request(&[], token, call);
        let now = self.clock.now();
        let exchange = self.machine.request(now, self.address, request);
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let (mut refused, before) = (0, self.cost.datagrams_up);
        loop {
            self.flush().await?;
            if let Some(answer) = self.answer_to(exchange) {
                self.flush().await?; // the acknowledgement of what just came
                return answer.and_then(|response| read(&response));
            }
            let due = self.machine.poll_timeout();
            let wait = due.map_or(Duration::from_mins(1), |due| due.since(self.clock.now()));
            match timeout(wait, self.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => self.take(buffer.get(..length).unwrap_or_default()),
                // An ICMP error tells of one datagram: a hub that starts again comes back before
                // the next one, nobody at all does not.
                Ok(Err(error)) => {
                    refused += 1;
                    if refused >= REFUSALS_MAX {
                        // What was not refused may have come where it was meant for.
                        let sent = self.cost.datagrams_up - before;
                        let is_sent = sent > u64::from(refused);
                        return Err(unreachable(self.address, error, is_sent));
                    }
                }
                Err(_) => {}
            }
            self.machine.handle_timeout(self.clock.now());
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        self.cost.down += datagram.len() as u64;
        self.cost.datagrams_down += 1;
        self.machine
            .handle_datagram(self.clock.now(), self.address, datagram);
    }

    async fn flush(&mut self) -> Result<(), ClientError> {
        while let Some((_, datagram)) = self.machine.poll_transmit() {
            self.cost.up += datagram.len() as u64;
            self.cost.datagrams_up += 1;
            match self.socket.send(&datagram).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    tracing::debug!("nobody listens there; retransmission goes on");
                }
                Err(error) => return Err(unreachable(self.address, error, true)),
            }
        }
        Ok(())
    }

    fn answer_to(&mut self, wanted: ExchangeId) -> Option<Result<Response, ClientError>> {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Response {
                    exchange, response, ..
                } if exchange == wanted => {
                    return Some(Ok(response));
                }
                Event::Failed { exchange, reason } if exchange == wanted => {
                    return Some(Err(unreachable(self.address, reason, true)));
                }
                _ => {} // of a call that was given up
            }
        }
        None
    }
}

/// A call as the MSC3079 profile has it, its path below `under`.
pub(super) fn request(under: &[&str], token: Option<&str>, call: &Call<'_>) -> Request {
    let method = match call.method {
        Method::Get => Code::GET,
        Method::Post => Code::POST,
        Method::Put => Code::PUT,
        Method::Delete => Code::DELETE,
    };
    let full = |version| {
        if call.path.first() == Some(&"_tramline") {
            return call.path.clone();
        }
        let mut full = vec!["_matrix", "client", version];
        full.extend(&call.path);
        full
    };
    // The published codes stand for r0 paths; what has none is asked for in full.
    let short = paths::shorten(&full("r0")).unwrap_or_else(|| full("v3"));
    let mut request = Request::new(method, &[under, &short].concat());
    for (name, value) in &call.query {
        request = request.option(number::URI_QUERY, format!("{name}={value}"));
    }
    if let Some(token) = token {
        request.options.push(number::ACCESS_TOKEN, token);
        request
            .options
            .push_uint(number::KEY_TABLE_VERSION, keys::VERSION);
    }
    if let Some(body) = &call.body {
        request
            .options
            .push_uint(number::CONTENT_FORMAT, u32::from(CBOR));
        request.body(cbor::encode(body, KeyForm::Integer))
    } else {
        request.options.push_uint(number::ACCEPT, u32::from(CBOR));
        request
    }
}

/// The body of an answer; what is not CBOR is a diagnostic for a person.
pub(super) fn read(response: &Response) -> Result<Value, ClientError> {
    let status = status_for_code(response.code);
    let body = if response.payload.is_empty() {
        json!({})
    } else if response.options.content_format() == Some(CBOR) {
        let body = cbor::decode(&response.payload);
        body.map_err(|error| ClientError::Decode(error.to_string()))?
            .value
    } else {
        json!({ "error": String::from_utf8_lossy(&response.payload) })
    };
    let answer = outcome(status, body);
    match (answer, response.options.max_age()) {
        (
            Err(ClientError::Refused {
                status,
                errcode,
                error,
                retry_after_ms: None,
            }),
            Some(seconds),
        ) => {
            let retry_after_ms = Some(u64::from(seconds) * 1000);
            Err(ClientError::Refused {
                status,
                errcode,
                error,
                retry_after_ms,
            })
        }
        (answer, _) => answer,
    }
}

fn unreachable(
    address: SocketAddr,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    is_sent: bool,
) -> ClientError {
    ClientError::Unreachable {
        at: format!("coap://{address}"),
        source: error.into(),
        is_sent,
    }
}
