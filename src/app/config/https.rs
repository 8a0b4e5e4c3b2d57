//! `[https]`: the door for ordinary Matrix clients.

use super::{
    key::section,
    value::{BaseUrl, FilePath, Listen},
};

section! {
    /// The door for ordinary Matrix clients.
    "https." Https {
        /// Where to listen. Port 0 means any free port; the ready line tells which.
        listen: Listen = "127.0.0.1:8448", Restart;
        /// The certificate chain, in PEM. `init` makes one that is good for this machine only.
        cert_file: FilePath = "keys/https.cert.pem", Live;
        /// The certificate's private key, in PEM.
        key_file: FilePath = "keys/https.key.pem", Live;
        /// What /.well-known/matrix/client tells clients to use, and linked devices' files name; unset, there is no such answer.
        public_url: Option<BaseUrl> = "", Restart;
    }
}
