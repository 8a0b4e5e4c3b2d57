//! Doors and our own client together, with a hub that is not one. Neither `edge` nor `client` may name
//! the other; `app` may name both.

mod hub;
mod quic;
mod websocket;
