//! CoAP messages on transports that deliver everything once and in order: RFC 8323's framing.
//!
//! Three ways to carry one [`Framed`] message, all without message id and acknowledgement:
//!
//! * [`Framed::encode`] with [`Form::Prefixed`], read by [`Decoder`]: one after the other in a stream;
//! * with [`Form::Alone`], read by [`Framed::decode`]: a WebSocket message, which has a length itself;
//! * the same, read by [`HeadReader`]: a QUIC stream, which ends where the message ends, so that a
//!   large body need not be held.
//!
//! [`Signal`] is what the ends tell each other about the connection; `exchange` makes of messages the
//! requests and responses every door knows. Which stream, which socket, and what a request means
//! is the doors' business.

mod exchange;
mod head;
mod message;
mod options;
mod signal;
mod stream;
#[cfg(test)]
mod tests;

pub use exchange::{Asked, Observe, RequestFault};
pub use head::{Head, HeadReader};
pub use message::{DecodeError, EncodeError, Fault, Form, Framed};
pub use signal::{Settings, Signal, SignalFault};
pub use stream::Decoder;

use crate::{base::limits::BODY_BYTES_MAX, wire::coap::options::OPTION_BYTES_MAX};

/// The largest message we read whole, in bytes: the largest body of a request with options around
/// it. Files are larger; they go through a [`HeadReader`] and are never held.
pub const MESSAGE_BYTES_MAX: usize = BODY_BYTES_MAX + 4 * OPTION_BYTES_MAX;

/// What a peer takes that has said nothing of it, in bytes. spec: rfc8323 §5.3.1
pub const MESSAGE_BYTES_BASE: u32 = 1152;
