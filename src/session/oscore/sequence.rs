//! The numbers this end sends under: each once, whatever crashes.
//!
//! Numbers are handed out only below a ceiling the caller has stored durably; after a restart they
//! go on at that ceiling, so those left below it are lost and none is used twice.

use thiserror::Error;

use super::nonce::Piv;

/// How many numbers a hub reserves at once: few enough writes when it pushes to everyone, and few
/// enough numbers lost that a restart a day keeps partial IVs at two bytes for over two years.
pub const RESERVE_HUB: u64 = 64;

/// How many numbers a client reserves at once. Clients restart often and send little.
pub const RESERVE_CLIENT: u64 = 16;

/// A sender's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    begin: u64,
    next: u64,
    ceiling: u64,
}

/// Why there is no number.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SequenceError {
    /// All that were reserved are used: store a higher ceiling first.
    #[error("number {0} is not reserved yet")]
    NotReserved(u64),
    /// All there are were used: a fresh context is needed.
    #[error("all 2^40 numbers of this context are used")]
    Exhausted,
}

impl Sequence {
    /// The numbers of a context just derived, or those left by an earlier run that had stored this
    /// ceiling. None is reserved yet.
    pub fn resumed(ceiling: u64) -> Self {
        let begin = ceiling.min(END);
        Self {
            begin,
            next: begin,
            ceiling: begin,
        }
    }

    /// The next number.
    ///
    /// spec: rfc8613 §7.2
    pub fn take(&mut self) -> Result<Piv, SequenceError> {
        let piv = Piv::new(self.next).ok_or(SequenceError::Exhausted)?;
        if self.next >= self.ceiling {
            return Err(SequenceError::NotReserved(self.next));
        }
        self.next += 1;
        Ok(piv)
    }

    /// The ceiling to store and then report to [`Sequence::reserved`], when less than a quarter of
    /// a block is left.
    ///
    /// spec: rfc8613 §B.1.1
    pub fn reserve_wanted(&self, block: u64) -> Option<u64> {
        let left = self.ceiling.saturating_sub(self.next);
        (left <= block / 4 && self.ceiling < END)
            .then(|| self.ceiling.saturating_add(block.max(1)).min(END))
    }

    /// Whether any ceiling was reserved since the numbers were resumed.
    pub const fn has_reserved(&self) -> bool {
        self.ceiling > self.begin
    }

    /// This ceiling is stored, and no crash will undo it.
    pub fn reserved(&mut self, ceiling: u64) {
        self.ceiling = self.ceiling.max(ceiling.min(END));
    }

    /// The number it went on from: another one for each run that has sent anything.
    pub const fn begin(&self) -> u64 {
        self.begin
    }
}

/// One more than the last number.
const END: u64 = Piv::MAX.number() + 1;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn no_number_is_given_before_it_is_reserved() {
        let mut sequence = Sequence::resumed(0);

        assert_eq!(sequence.take(), Err(SequenceError::NotReserved(0)));
        assert_eq!(sequence.reserve_wanted(4), Some(4));
        sequence.reserved(4);
        assert_eq!(sequence.take(), Ok(Piv::new(0).unwrap()));
        assert_eq!(sequence.reserve_wanted(4), None);
    }

    #[test]
    fn the_last_number_is_given_once_and_then_never_any() {
        let mut sequence = Sequence::resumed(END - 1);
        assert_eq!(sequence.reserve_wanted(64), Some(END));
        sequence.reserved(u64::MAX);

        assert_eq!(sequence.take(), Ok(Piv::MAX));
        assert_eq!(sequence.take(), Err(SequenceError::Exhausted));
        assert_eq!(sequence.reserve_wanted(64), None);
        assert_eq!(
            Sequence::resumed(u64::MAX).take(),
            Err(SequenceError::Exhausted)
        );
    }

    proptest! {
        /// Each step sends, stores what is wanted (and may crash before it is told so), or crashes.
        #[test]
        fn no_number_is_used_twice_whenever_it_crashes(steps in vec(0..6_u8, 0..300)) {
            let mut stored = 0;
            let mut sequence = Sequence::resumed(stored);
            let mut used = BTreeSet::new();
            for step in steps {
                match step {
                    0 => sequence = Sequence::resumed(stored),
                    1 => {
                        if let Some(ceiling) = sequence.reserve_wanted(8) {
                            stored = ceiling;
                            sequence.reserved(ceiling);
                        }
                    }
                    2 => {
                        if let Some(ceiling) = sequence.reserve_wanted(8) {
                            stored = ceiling;
                            sequence = Sequence::resumed(stored);
                        }
                    }
                    _ => {
                        if let Ok(piv) = sequence.take() {
                            prop_assert!(used.insert(piv));
                            prop_assert!(piv.number() < stored);
                        }
                    }
                }
            }
        }
    }
}
