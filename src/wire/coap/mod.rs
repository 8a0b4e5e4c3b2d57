//! The strict CoAP message codec: one datagram to one typed [`Message`] and back.
//!
//! [`message`] holds the message and its format check, [`options`] the option list and typed
//! values, [`block`] the block options' value, [`status`] the map between HTTP statuses and
//! response codes. What a message *means* (reliability, blocks, observation) is in
//! `session::coap`; paths and bodies belong to the edge.

pub mod block;
pub mod code;
pub mod message;
pub mod options;
pub mod status;

pub use block::{Block, BlockError, Szx};
pub use code::Code;
pub use message::{Answer, DecodeError, EncodeError, Fault, Kind, Message, Token};
pub use options::{OptionFault, Options};
pub use status::{code_for_status, status_for_code};
