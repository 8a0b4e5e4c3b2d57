//! `[coap]`: the door for constrained clients.

use std::net::SocketAddr;

use super::{
    key::section,
    public::PublicAddress,
    value::{Listen, PlainCoap},
};

section! {
    /// The door for constrained clients: CoAP over UDP, with OSCORE or without security.
    "coap." Coap {
        /// Where to listen. Port 0 means any free port; the ready line tells which.
        listen: Listen = "127.0.0.1:5683", Restart;
        /// Where other machines reach it ("host:port"), for the files of linked devices; unset, that is guessed from `listen`.
        public: Option<PublicAddress> = "", Restart;
        /// Who may speak CoAP without security: "loopback" (peers on this machine) or "any". "off" closes the door.
        plain: PlainCoap = "loopback", Restart;
    }
}

impl Coap {
    /// The addresses to bind: none while plain CoAP is off.
    pub fn addresses(&self) -> &[SocketAddr] {
        match self.plain {
            PlainCoap::Off => &[],
            PlainCoap::Loopback | PlainCoap::Any => self.listen.addresses(),
        }
    }
}
