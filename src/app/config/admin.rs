//! `[admin]`: the doors for the operator.

use super::{
    key::section,
    value::{FilePath, Listen},
};
use crate::app::secrets::Secret;

section! {
    /// The doors for the operator: health, metrics, and the socket that `tramline user` uses.
    "admin." Admin {
        /// Where to listen for /livez, /readyz, /metrics and /admin.
        listen: Listen = "127.0.0.1:9090", Restart;
        /// The token that /metrics and /admin ask for; better in `token_file`.
        token: Option<Secret> = "", Live;
        /// The file with that token.
        token_file: Option<FilePath> = "keys/admin.token", Live;
        /// The Unix socket of the operator's verbs; only its owner may use it.
        socket: FilePath = "run/operator.sock", Restart;
    }
}
