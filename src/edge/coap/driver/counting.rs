//! What the driver counts of linked devices: every datagram, for the operation it belongs to. Of a
//! request that is known once it is answered; what comes and goes until then waits. With several
//! at a time a datagram may be another's; the sum is right.

use std::collections::BTreeMap;

use super::Driver;
use crate::{edge::coap::link::Link, session::ledger::Traffic};

/// What is to be counted, and as what.
pub(super) struct Tally<P> {
    entries: BTreeMap<P, Entry>,
}

struct Entry {
    /// What was done last: sent again, or acknowledged, is that.
    last: &'static str,
    /// Up and down, since a request came that is not answered yet.
    open: Option<Box<(Traffic, Traffic)>>,
}

impl<P> Default for Tally<P> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<L: Link> Driver<L> {
    /// A datagram of a peer came; what was in it is a request or not.
    pub(super) fn came(&mut self, peer: &L::Peer, is_request: bool, came: Traffic) {
        if is_request && came != Traffic::NONE && self.link.device(peer).is_some() {
            let entry = self.tally.entries.entry(peer.clone());
            let entry = entry.or_insert(Entry {
                last: CONNECTION,
                open: None,
            });
            entry.open.get_or_insert_default();
        }
        self.passed(peer, came, Traffic::NONE);
    }

    /// A datagram went to a peer.
    pub(super) fn went(&mut self, peer: &L::Peer, went: Traffic) {
        self.passed(peer, Traffic::NONE, went);
    }

    fn passed(&mut self, peer: &L::Peer, up: Traffic, down: Traffic) {
        let entry = self.tally.entries.get_mut(peer);
        let last = match entry {
            Some(Entry {
                open: Some(open), ..
            }) => {
                open.0 += up;
                open.1 += down;
                return;
            }
            Some(entry) => entry.last,
            None => CONNECTION,
        };
        self.count_for(peer, last, up, down);
    }

    /// Something was done for a peer: what waits was for that, and what follows is.
    pub(super) fn was(&mut self, peer: &L::Peer, operation: &'static str) {
        if self.link.device(peer).is_none() {
            return;
        }
        let entry = Entry {
            last: operation,
            open: None,
        };
        let before = self.tally.entries.insert(peer.clone(), entry);
        if let Some(open) = before.and_then(|entry| entry.open) {
            self.count_for(peer, operation, open.0, open.1);
        }
    }

    /// A handshake turns out to have been this peer's.
    pub(super) fn shaken(&self, peer: &L::Peer, up: Traffic, down: Traffic) {
        self.count_for(peer, CONNECTION, up, down);
    }

    /// The peer is gone.
    pub(super) fn tally_ends(&mut self, peer: &L::Peer) {
        if let Some(entry) = self.tally.entries.remove(peer)
            && let Some(open) = entry.open
        {
            self.count_for(peer, entry.last, open.0, open.1);
        }
    }

    fn count_for(&self, peer: &L::Peer, operation: &'static str, up: Traffic, down: Traffic) {
        if (up, down) == (Traffic::NONE, Traffic::NONE) {
            return;
        }
        if let Some(serving) = &self.serving
            && let Some(device) = self.link.device(peer)
        {
            serving.thin.count(&device, operation, up, down);
        }
    }
}

/// Whether a message is a request. spec: rfc7252 §3
pub(super) fn is_request(message: &[u8]) -> bool {
    matches!(message.get(1), Some(1..=31))
}

/// What is counted before anything was done.
const CONNECTION: &str = "Connection";

/// What requests with a path of the Matrix API in full are counted as.
pub(super) const MATRIX: &str = "Matrix";
