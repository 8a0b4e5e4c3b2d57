//! Handshakes under way: few, short, and the oldest goes first when there are too many.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{
    channel::{Channel, Said, Step},
    client_hello::ClientHello,
    credentials::Identity,
    types::ConnId,
};
use crate::base::Timestamp;

/// One handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) channel: Channel,
    pub(super) address: SocketAddr,
    /// Whose key was given out, if one was.
    pub(super) identity: Option<Identity>,
    pub(super) due: Option<Timestamp>,
    begun: Timestamp,
    random: Vec<u8>,
    /// Whether the client has shown a cookie, and with it that it receives at its address.
    is_proved: bool,
    bytes_received: usize,
    bytes_sent: usize,
}

impl Handshake {
    pub(super) fn new(
        channel: Channel,
        address: SocketAddr,
        begun: Timestamp,
        hello: &ClientHello<'_>,
    ) -> Self {
        Self {
            channel,
            address,
            identity: None,
            due: None,
            begun,
            random: hello.random.to_vec(),
            is_proved: false,
            bytes_received: 0,
            bytes_sent: 0,
        }
    }

    /// Whether `hello` begins another handshake, and this one has gone nowhere: a client that
    /// was restarted on the same port, or a stranger who wrote that address on his datagram.
    pub(super) fn gives_way_to(&self, hello: &ClientHello<'_>) -> bool {
        !self.is_proved && self.random != hello.random
    }

    pub(super) const fn received(&mut self, bytes: usize) {
        self.bytes_received = self.bytes_received.saturating_add(bytes);
    }

    /// Takes out what must not be sent: until the address is proved it gets at most three times
    /// what came from it, whatever the library would like to repeat.
    // spec: rfc6347 §4.2.1
    pub(super) fn hold_back(&mut self, step: &mut Step) {
        step.said.retain(|said| {
            let Said::Packet(packet) = said else {
                return true;
            };
            self.is_proved = self.is_proved || follows_cookie(packet);
            let sent = self.bytes_sent.saturating_add(packet.len());
            let allowed = self.bytes_received.saturating_mul(AMPLIFICATION_MAX);
            let may_go = self.is_proved || sent <= allowed;
            if may_go {
                self.bytes_sent = sent;
            }
            may_go
        });
    }
}

/// Whether a packet begins with a `ServerHello` that is no request to try again: the library
/// sends it to those only who brought back their cookie.
fn follows_cookie(packet: &[u8]) -> bool {
    let Some((_record, message)) = packet.split_at_checked(RECORD_HEADER_BYTES) else {
        return false;
    };
    let random = message.get(SERVER_RANDOM_AT..SERVER_RANDOM_AT + RETRY_RANDOM.len());
    packet.first() == Some(&22)
        && message.first() == Some(&SERVER_HELLO)
        && random.is_some_and(|random| random != RETRY_RANDOM)
}

/// All handshakes under way.
#[derive(Debug)]
pub(super) struct HalfOpen {
    max: usize,
    /// Ids only grow, so the first is the oldest.
    by_id: BTreeMap<ConnId, Handshake>,
    by_address: BTreeMap<SocketAddr, ConnId>,
}

impl HalfOpen {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            max,
            by_id: BTreeMap::new(),
            by_address: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn at(&self, address: &SocketAddr) -> Option<ConnId> {
        self.by_address.get(address).copied()
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Handshake> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Handshake> {
        self.by_id.get_mut(&id)
    }

    /// Adds one; gives back the oldest when there is no room for both, if it can be one whose
    /// address may be forged.
    pub(super) fn insert(
        &mut self,
        id: ConnId,
        handshake: Handshake,
    ) -> Option<(ConnId, Handshake)> {
        let unproved = self.by_id.iter().take(LOOKED_AT_MAX);
        let unproved = unproved.filter(|(_, handshake)| !handshake.is_proved);
        let oldest = unproved.chain(self.by_id.iter()).next().map(|(id, _)| *id);
        let oldest = oldest.filter(|_| self.by_id.len() >= self.max);
        let pushed_out = oldest.and_then(|oldest| Some((oldest, self.remove(oldest)?)));
        self.by_address.insert(handshake.address, id);
        self.by_id.insert(id, handshake);
        pushed_out
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Handshake> {
        let handshake = self.by_id.remove(&id)?;
        if self.at(&handshake.address) == Some(id) {
            self.by_address.remove(&handshake.address);
        }
        Some(handshake)
    }

    /// Takes out one that has taken too long.
    pub(super) fn remove_expired(&mut self, now: Timestamp) -> Option<(ConnId, Handshake)> {
        let (id, handshake) = self.by_id.first_key_value()?;
        if now.since(handshake.begun) < HANDSHAKE_MAX {
            return None;
        }
        let id = *id;
        self.remove(id).map(|handshake| (id, handshake))
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let (_, oldest) = self.by_id.first_key_value()?;
        Some(oldest.begun + HANDSHAKE_MAX)
    }
}

/// How long a handshake may take: with the library's timers that is four flights sent again. A
/// client that comes back later begins anew, at the price of one more hello.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How many of the oldest are looked at for one that has proved nothing.
const LOOKED_AT_MAX: usize = 256;

/// Bytes sent to an address for each byte that came from it, until it has shown a cookie.
const AMPLIFICATION_MAX: usize = 3;

/// Before the handshake message in a record.
const RECORD_HEADER_BYTES: usize = 13;
/// The message type.
const SERVER_HELLO: u8 = 2;
/// After the message's header (12) and version (2).
const SERVER_RANDOM_AT: usize = 14;
/// How the random of a DTLS 1.3 `HelloRetryRequest` begins. spec: rfc6347 §4.2.1.
const RETRY_RANDOM: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];
