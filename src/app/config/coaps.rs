//! `[coaps]`: the door for constrained clients, secured.

use super::{
    key::section,
    value::{FilePath, Listen},
};

section! {
    /// The door for constrained clients: CoAP over DTLS.
    "coaps." Coaps {
        /// Where to listen. Port 0 means any free port; the ready line tells which.
        listen: Listen = "127.0.0.1:5684", Restart;
        /// The certificate, in PEM: for ECDSA on P-256 or P-384. `init` makes one for both secured doors.
        cert_file: FilePath = "keys/https.cert.pem", Live;
        /// The certificate's private key, in PEM.
        key_file: FilePath = "keys/https.key.pem", Live;
    }
}
