//! Named budgets per address and account.

use crate::hub::Limits;

/// The budgets.
pub(super) struct Rates {}

impl Rates {
    /// Budgets as the operator set them.
    pub(super) fn new(limits: &Limits) -> Self {
        let _ = limits;
        Self {}
    }
}
