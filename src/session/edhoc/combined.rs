//! Message 3 in front of the first protected request (RFC 9668): one round trip less.

use super::{Refused, shape};
use crate::{
    session::oscore::{Id, addressee},
    wire::coap::{Message, options::number},
};

/// Says that message 3 is in front of the payload.
pub const EDHOC_OPTION: u16 = 21;

/// A combined request, taken apart. Nothing in it is authentic yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combined {
    /// Which exchange, by the request's kid.
    pub c_r: Id,
    /// EDHOC's part.
    pub message_3: Vec<u8>,
    /// OSCORE's part: the request as it is without EDHOC.
    pub rest: Message,
}

/// Puts message 3 in front of a protected request.
///
/// spec: rfc9668 §3.2.1
#[must_use]
pub fn combine(protected: &Message, message_3: &[u8]) -> Message {
    let mut combined = protected.clone();
    combined.options.push(EDHOC_OPTION, []);
    combined.payload = [message_3, &protected.payload].concat();
    combined
}

/// Takes a combined request apart; none if it is not one.
///
/// spec: rfc9668 §3.3.1. The option's value is ignored.
pub fn take_combined(request: &Message) -> Result<Option<Combined>, Refused> {
    if !request.options.has(EDHOC_OPTION) {
        return Ok(None);
    }
    if !request.options.has(number::OSCORE) {
        return Err(Refused::malformed(0, 0, "an OSCORE option beside EDHOC's"));
    }
    let (message_3, rest) = shape::split_message_3(&request.payload)?;
    let message_3 = message_3.to_vec();
    let mut outer = request.clone();
    outer.options.remove(EDHOC_OPTION);
    outer.payload = rest.to_vec();
    let id =
        addressee(&outer).map_err(|_| Refused::malformed(0, 0, "an OSCORE option with a kid"))?;
    Ok(Some(Combined {
        c_r: id.kid,
        message_3,
        rest: outer,
    }))
}
