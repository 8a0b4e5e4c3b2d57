//! Doors and our own client together, mostly with a hub that is not one. Neither `edge` nor `client` may name
//! the other; `app` may name both.

mod bytes;
mod clock;
mod hub;
mod quic;
mod websocket;
