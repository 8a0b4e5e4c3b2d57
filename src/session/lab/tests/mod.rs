//! The link alone, and two CoAP machines over it.

mod links;
mod worlds;
