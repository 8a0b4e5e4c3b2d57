//! EDHOC at the link: which requests are its, and what becomes of those that carry message 3. The
//! exchange is the caller's.

use std::{net::SocketAddr, time::Duration};

use super::{Came, Link, Prefix, addressee, refusing::Refusal};
use crate::{
    base::Timestamp,
    session::{
        coap::Response,
        edhoc::{EDHOC_OPTION, PATH},
    },
    wire::coap::{Code, Message},
};

/// Whether message 3 is in front of the request.
pub(super) fn is_combined(request: &Message) -> bool {
    request.options.has(EDHOC_OPTION)
}

/// Whether an exchange is to begin, or to end without a request. Nobody has keys before.
pub(super) fn is_of_exchange(request: &Message) -> bool {
    request.code == Code::POST && request.options.path().eq(PATH)
}

impl<N> Link<N> {
    /// Whether this source may have message 3 verified again.
    pub(super) fn may_combine(&mut self, now: Timestamp, from: SocketAddr) -> bool {
        self.exchanges.allow(now, Prefix::of(&from))
    }

    /// Takes in a request whose message 3 was verified. Its context is stored: that there was none
    /// a moment ago is no longer so.
    pub fn onward(&mut self, now: Timestamp, from: SocketAddr, rest: &Message) {
        if let Ok(id) = addressee(rest) {
            self.held.note_present(id.kid);
        }
        if let Ok(datagram) = rest.encode() {
            self.handle_datagram(now, from, &datagram);
        }
    }

    /// Answers a request whose message 3 was not taken, without protection.
    pub fn decline(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        request: &Message,
        response: Response,
    ) {
        let Ok(datagram) = request.encode() else {
            return; // it was decoded from one
        };
        let came = Came {
            now,
            from,
            bytes: datagram.len(),
            message: request,
        };
        self.refuse(
            came,
            Refusal {
                code: response.code,
                options: response.options,
                payload: response.payload.to_vec(),
            },
        );
    }
}

/// How often the addresses of a prefix may have message 3 verified: half a millisecond each.
pub(super) const EXCHANGE_INTERVAL: Duration = Duration::from_millis(20);
pub(super) const EXCHANGE_BURST: u32 = 256; // devices behind one network after a restore
