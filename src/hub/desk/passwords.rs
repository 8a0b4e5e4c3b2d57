//! Password hashes, a bounded number at once.

/// Where password hashes are computed.
pub(super) struct Passwords {}

impl Passwords {
    /// At most `at_once` hashes are computed side by side.
    pub(super) fn new(at_once: usize) -> Self {
        let _ = at_once;
        Self {}
    }
}
