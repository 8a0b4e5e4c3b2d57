//! `[presence]`: whether users see who is there.

use super::key::section;

section! {
    /// Whether users see which of those they share rooms with are there, here and on other servers.
    "presence." Presence {
        /// Whether they do. It is kept in memory only, and never told to devices on thin links.
        enabled: bool = "false", Restart;
    }
}
