//! What was sent, as it was sent: the same message sent again must be the same bytes, and take no
//! new number.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::ContextKey;
use crate::{base::Timestamp, session::oscore::nonce::Piv, wire::coap::Kind};

/// How long a message may be sent again: `EXCHANGE_LIFETIME` of the slowest class of links, rounded
/// up. spec: rfc7252 §4.8
const KEPT: Duration = Duration::from_hours(1);

/// The bytes of all that is kept. When they are used up, the oldest go; should one of those be
/// sent again, it takes a new number, or is lost on the way.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// What an entry takes beside its message, in bytes.
const ENTRY_BYTES: usize = 160;

/// Who, with which type, under which message id.
type Name = (ContextKey, u8, u16);

#[derive(Debug, Default)]
pub(super) struct Sent {
    by_name: BTreeMap<Name, Entry>,
    by_age: VecDeque<(Timestamp, Name, u64)>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    /// The number of the request it answers.
    request: Piv,
    inner: [u8; 16],
    outer: Bytes,
}

impl Sent {
    /// What `inner` was sent as, if it was.
    pub(super) fn again(
        &self,
        key: ContextKey,
        kind: Kind,
        id: u16,
        inner: &[u8],
    ) -> Option<Bytes> {
        let entry = self.by_name.get(&(key, kind as u8, id))?;
        (entry.inner == digest(inner)).then(|| entry.outer.clone())
    }

    pub(super) fn keep(
        &mut self,
        now: Timestamp,
        (key, kind, id): (ContextKey, Kind, u16),
        request: Piv,
        inner: &[u8],
        outer: Bytes,
    ) {
        let name = (key, kind as u8, id);
        self.remove(name);
        self.bytes += outer.len() + ENTRY_BYTES;
        self.next += 1;
        self.by_age.push_back((now + KEPT, name, self.next));
        let entry = Entry {
            serial: self.next,
            request,
            inner: digest(inner),
            outer,
        };
        self.by_name.insert(name, entry);
        self.forget_old(now);
    }

    /// A request came under this message id: an acknowledgement kept under it is of an earlier
    /// one, unless the number says otherwise.
    pub(super) fn asked(&mut self, key: ContextKey, id: u16, request: Piv) {
        let name = (key, Kind::Ack as u8, id);
        if self
            .by_name
            .get(&name)
            .is_some_and(|entry| entry.request != request)
        {
            self.remove(name);
        }
    }

    /// It was acknowledged, if it was sent.
    pub(super) fn landed(&mut self, key: ContextKey, id: u16) -> bool {
        self.remove((key, Kind::Con as u8, id))
    }

    pub(super) fn forget_old(&mut self, now: Timestamp) {
        while let Some(&(until, name, serial)) = self.by_age.front() {
            let is_current = self
                .by_name
                .get(&name)
                .is_some_and(|entry| entry.serial == serial);
            if is_current && until > now && self.bytes <= BYTES_MAX {
                break;
            }
            self.by_age.pop_front();
            if is_current {
                self.remove(name);
            }
        }
    }

    fn remove(&mut self, name: Name) -> bool {
        let gone = self.by_name.remove(&name);
        self.bytes -= gone
            .as_ref()
            .map_or(0, |gone| gone.outer.len() + ENTRY_BYTES);
        gone.is_some()
    }
}

fn digest(inner: &[u8]) -> [u8; 16] {
    let whole: [u8; 32] = Sha256::digest(inner).into();
    let mut half = [0; 16];
    half.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    half
}
