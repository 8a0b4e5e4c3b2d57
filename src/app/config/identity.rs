//! The keys above the first section: who this hub is.

use ruma::OwnedServerName;

use super::{key::section, value::FilePath};

section! {
    /// Relative paths in this file start at the directory it is in.
    "" Identity {
        /// The hub's name: what stands behind the colon in its users' ids. It cannot change later.
        server_name: OwnedServerName = "", Restart;
        /// The Ed25519 key that signs the hub's events: PKCS#8 in PEM. Losing it loses the hub's identity.
        signing_key_file: FilePath = "keys/signing.pem", Restart;
        /// The P-256 key by which linked devices know the hub (EDHOC): hex. It is made where there is none.
        edhoc_key_file: FilePath = "keys/edhoc.key", Restart;
    }
}
