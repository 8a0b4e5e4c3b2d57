//! Requests that wait for their context to be fetched, or for its numbers to be reserved; and ids
//! that nobody has.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;

use crate::{base::Timestamp, session::oscore::context::Id};

/// How many requests wait together, of at most a datagram each.
const HELD_MAX: usize = 4096;

/// How many wait for one context: a device sends one, and again.
const PER_CONTEXT_MAX: usize = 4;

/// The largest request that waits, in bytes. A larger one comes again.
const BYTES_MAX: usize = 1280;

/// How long a request waits; afterwards its client has sent it again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long nobody asks for a context again that was not there. Someone linked meanwhile waits so
/// long at most.
const ABSENT: Duration = Duration::from_secs(3);

/// How many ids are remembered as nobody's.
const ABSENT_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Held {
    by_kid: BTreeMap<Id, Vec<Request>>,
    len: usize,
    absent: BTreeMap<Id, Timestamp>,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) from: SocketAddr,
    pub(super) datagram: Bytes,
    until: Timestamp,
}

impl Held {
    /// Keeps a request; false when there is no room.
    pub(super) fn hold(
        &mut self,
        now: Timestamp,
        kid: Id,
        from: SocketAddr,
        datagram: &[u8],
    ) -> bool {
        if self.len >= HELD_MAX {
            self.forget_old(now);
        }
        let requests = self.by_kid.entry(kid).or_default();
        let fits =
            self.len < HELD_MAX && requests.len() < PER_CONTEXT_MAX && datagram.len() <= BYTES_MAX;
        if fits {
            self.len += 1;
            requests.push(Request {
                from,
                datagram: Bytes::copy_from_slice(datagram),
                until: now + PATIENCE,
            });
        } else if requests.is_empty() {
            self.by_kid.remove(&kid);
        }
        fits
    }

    /// Whether someone waits for this context.
    pub(super) fn is_awaited(&self, kid: Id) -> bool {
        self.by_kid.contains_key(&kid)
    }

    /// Those that waited for it, and not for too long.
    pub(super) fn release(&mut self, now: Timestamp, kid: Id) -> Vec<Request> {
        let mut released = self.by_kid.remove(&kid).unwrap_or_default();
        self.len -= released.len();
        released.retain(|request| request.until > now);
        released
    }

    pub(super) fn is_absent(&self, now: Timestamp, kid: Id) -> bool {
        self.absent.get(&kid).is_some_and(|until| *until > now)
    }

    pub(super) fn note_absent(&mut self, now: Timestamp, kid: Id) {
        if self.absent.len() >= ABSENT_MAX {
            self.absent.retain(|_, until| *until > now);
        }
        if self.absent.len() < ABSENT_MAX {
            self.absent.insert(kid, now + ABSENT);
        }
    }

    pub(super) fn note_present(&mut self, kid: Id) {
        self.absent.remove(&kid);
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.by_kid.retain(|_, requests| {
            requests.retain(|request| request.until > now);
            !requests.is_empty()
        });
        self.len = self.by_kid.values().map(Vec::len).sum();
    }
}
