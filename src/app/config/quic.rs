//! `[quic]`: the door for linked devices that stay connected.

use super::{
    key::section,
    public::PublicAddress,
    value::{FilePath, Listen, Span},
};

section! {
    /// The door for linked devices that stay connected, and for large bodies.
    "quic." Quic {
        /// Where to listen. Port 0 means any free port; the ready line tells which.
        listen: Listen = "127.0.0.1:8449", Restart;
        /// Where other machines reach it ("host:port"), for the files of linked devices; unset, that is guessed from `listen`.
        public: Option<PublicAddress> = "", Restart;
        /// The hub's Ed25519 key, in PEM. Devices know the hub by it; it is made where there is none.
        key_file: FilePath = "keys/quic.key", Restart;
        /// When a connection on which nothing happens is forgotten. The hub sends no keep-alives.
        idle: Span = "2m", Restart;
    }
}
