//! What the driver counts of linked devices: every datagram, for the operation it belongs to. Of a
//! request that is known once it is answered; what comes and goes until then waits. With several
//! at a time a datagram may be another's; the sum is right.

use std::collections::BTreeMap;

use super::Driver;
use crate::{
    edge::coap::link::Link,
    session::ledger::{CONNECTION, Traffic},
};

/// What is to be counted, and not yet known as what. What was done last, so what is sent again or
/// acknowledged is that, is known to the ledger.
pub(super) struct Tally<P> {
    /// Up and down, since a request came that is not answered yet.
    open: BTreeMap<P, (Traffic, Traffic)>,
}

impl<P> Default for Tally<P> {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
        }
    }
}

impl<L: Link> Driver<L> {
    /// A datagram of a peer came; what was in it is a request or not.
    pub(super) fn came(&mut self, peer: &L::Peer, is_request: bool, came: Traffic) {
        if is_request && came != Traffic::NONE && self.link.device(peer).is_some() {
            self.tally.open.entry(peer.clone()).or_default();
        }
        self.passed(peer, came, Traffic::NONE);
    }

    /// A datagram went to a peer.
    pub(super) fn went(&mut self, peer: &L::Peer, went: Traffic) {
        self.passed(peer, Traffic::NONE, went);
    }

    fn passed(&mut self, peer: &L::Peer, up: Traffic, down: Traffic) {
        if let Some(open) = self.tally.open.get_mut(peer) {
            open.0 += up;
            open.1 += down;
            return;
        }
        self.count_for(peer, None, up, down);
    }

    /// Something was done for a peer: what waits was for that, and what follows is.
    pub(super) fn was(&mut self, peer: &L::Peer, operation: &'static str) {
        if let Some(serving) = &self.serving
            && let Some(device) = self.link.device(peer)
        {
            serving.thin.did(&device, operation);
        }
        if let Some((up, down)) = self.tally.open.remove(peer) {
            self.count_for(peer, None, up, down);
        }
    }

    /// A handshake turns out to have been this peer's.
    pub(super) fn shaken(&self, peer: &L::Peer, up: Traffic, down: Traffic) {
        self.count_for(peer, Some(CONNECTION), up, down);
    }

    /// The peer is gone.
    pub(super) fn tally_ends(&mut self, peer: &L::Peer) {
        if let Some((up, down)) = self.tally.open.remove(peer) {
            self.count_for(peer, None, up, down);
        }
    }

    /// Counts for an operation, or for what was done last.
    fn count_for(
        &self,
        peer: &L::Peer,
        operation: Option<&'static str>,
        up: Traffic,
        down: Traffic,
    ) {
        if (up, down) == (Traffic::NONE, Traffic::NONE) {
            return;
        }
        if let Some(serving) = &self.serving
            && let Some(device) = self.link.device(peer)
        {
            match operation {
                Some(operation) => serving.thin.count(&device, operation, up, down),
                None => serving.thin.count_on(&device, up, down),
            }
        }
    }
}

/// Whether a message is a request. spec: rfc7252 §3
pub(super) fn is_request(message: &[u8]) -> bool {
    matches!(message.get(1), Some(1..=31))
}

/// What requests with a path of the Matrix API in full are counted as.
pub(super) const MATRIX: &str = "Matrix";
