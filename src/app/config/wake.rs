//! `[wake]`: how sleeping devices are knocked at.

use super::key::section;

section! {
    /// How sleeping devices are knocked at, where they ask for it.
    "wake." Wake {
        /// Whether a device's URL may lead into private networks and to this machine.
        allow_private_addresses: bool = "false", Restart;
    }
}
