//! `[coaps]`: the door for constrained clients, secured.

use super::{
    key::section,
    public::PublicAddress,
    value::{FilePath, Listen},
};

section! {
    /// The door for constrained clients: CoAP over DTLS.
    "coaps." Coaps {
        /// Where to listen. Port 0 means any free port; the ready line tells which.
        listen: Listen = "127.0.0.1:5684", Restart;
        /// Where other machines reach it ("host:port"), for the files of linked devices; unset, that is guessed from `listen`.
        public: Option<PublicAddress> = "", Restart;
        /// The certificate, in PEM: for ECDSA on P-256 or P-384. `init` makes one for both secured doors.
        cert_file: FilePath = "keys/https.cert.pem", Live;
        /// The certificate's private key, in PEM.
        key_file: FilePath = "keys/https.key.pem", Live;
    }
}
