//! The hub and its devices in the link laboratory, on a virtual clock.
//!
//! On the hub's side stands what a door has: the OSCORE link, the CoAP machine and the thin profile
//! over a real hub with its store ([`door`], [`place`]), or QUIC's endpoint as its door configures it
//! ([`quic`]); only the sockets are not there, and the hub's own work takes no time. The device is our
//! client's ([`device`]).

mod device;
mod door;
mod media;
mod place;
mod quic;
mod radio;
mod train;
