//! Which request numbers were received: no request is taken twice.

use thiserror::Error;

use super::nonce::Piv;

/// How many numbers back a late request may be, the newest included. spec: rfc8613 §3.2.2.
const WINDOW: u64 = 32;

/// The replay window of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Nothing received, ever: a context just made.
    Empty,
    /// What was received is known.
    Certain {
        /// The highest number received.
        newest: Piv,
        /// Bit n: the number n below the newest was received, or must count as received.
        seen: u32,
    },
    /// What was received was forgotten. Until a request is shown to be fresh, any may be a replay.
    Uncertain,
}

/// How a request stands to those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Newer than everything before: only such a request may move the peer's address.
    Newest,
    /// Not seen before, but overtaken by a newer one.
    Late,
    /// It may be a replay. Nothing may be done for it but to answer with a challenge (Echo) under
    /// an own partial IV; see `SecurityContext::confirm_fresh`.
    Unverified,
}

/// The number was received before, or is too old to say.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("number {} was received before, or is more than 31 behind {}", .piv.number(), .newest.number())]
pub struct Replay {
    /// The number.
    pub piv: Piv,
    /// The newest received.
    pub newest: Piv,
}

impl Window {
    /// What this number would be. Changes nothing: the request is not authenticated yet.
    ///
    /// spec: rfc8613 §7.4
    pub fn judge(&self, piv: Piv) -> Result<Freshness, Replay> {
        match *self {
            Self::Empty => Ok(Freshness::Newest),
            Self::Uncertain => Ok(Freshness::Unverified),
            Self::Certain { newest, .. } if piv > newest => Ok(Freshness::Newest),
            Self::Certain { newest, seen } => {
                let back = newest.number() - piv.number();
                if back < WINDOW && seen >> back & 1 == 0 {
                    Ok(Freshness::Late)
                } else {
                    Err(Replay { piv, newest })
                }
            }
        }
    }

    /// Notes an authenticated number. While uncertain there is nothing to note it in.
    pub fn mark(&mut self, piv: Piv) {
        match self {
            Self::Empty => {
                *self = Self::Certain {
                    newest: piv,
                    seen: 1,
                }
            }
            Self::Uncertain => {}
            Self::Certain { newest, seen } if piv > *newest => {
                let ahead = u32::try_from(piv.number() - newest.number()).unwrap_or(u32::MAX);
                *seen = seen.checked_shl(ahead).unwrap_or(0) | 1;
                *newest = piv;
            }
            Self::Certain { newest, seen } => {
                let back = u32::try_from(newest.number() - piv.number()).unwrap_or(u32::MAX);
                *seen |= 1_u32.checked_shl(back).unwrap_or(0);
            }
        }
    }

    /// Notes a number whose request was shown to be fresh by other means. While uncertain it
    /// becomes the lower limit; otherwise it counts like any other.
    ///
    /// spec: rfc8613 §B.1.2
    pub fn confirm(&mut self, piv: Piv) -> Result<Freshness, Replay> {
        if *self == Self::Uncertain {
            *self = Self::Certain {
                newest: piv,
                seen: u32::MAX,
            };
            return Ok(Freshness::Newest);
        }
        let freshness = self.judge(piv)?;
        self.mark(piv);
        Ok(freshness)
    }
}

/// How long a window is when written down, in bytes.
const WINDOW_BYTES: usize = 10;

impl Window {
    /// To be kept over a clean stop, or while the context is put away. Whoever reads it back must
    /// see to it that it is read once: an old window lets replays in.
    pub fn to_bytes(self) -> [u8; WINDOW_BYTES] {
        let (kind, newest, seen) = match self {
            Self::Empty => (0, [0; 5], [0; 4]),
            Self::Certain { newest, seen } => (1, newest.padded(), seen.to_be_bytes()),
            Self::Uncertain => (2, [0; 5], [0; 4]),
        };
        let mut bytes = [0; WINDOW_BYTES];
        let whole = [kind].into_iter().chain(newest).chain(seen);
        bytes
            .iter_mut()
            .zip(whole)
            .for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads it back. Whatever was not written like that is no knowledge.
    pub fn from_bytes(bytes: [u8; WINDOW_BYTES]) -> Self {
        let [kind, rest @ ..] = bytes;
        match (kind, rest.split_first_chunk(), rest.last_chunk()) {
            (0, ..) if rest == [0; WINDOW_BYTES - 1] => Self::Empty,
            (1, Some((newest, _)), Some(seen)) => Self::Certain {
                newest: Piv::from_padded(*newest),
                seen: u32::from_be_bytes(*seen),
            },
            _ => Self::Uncertain,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn piv(number: u64) -> Piv {
        Piv::new(number).unwrap()
    }

    fn take(window: &mut Window, number: u64) -> Option<Freshness> {
        let freshness = window.judge(piv(number)).ok()?;
        window.mark(piv(number));
        Some(freshness)
    }

    #[test]
    fn a_number_is_taken_once_and_only_a_higher_one_is_the_newest() {
        let mut window = Window::Empty;

        assert_eq!(take(&mut window, 5), Some(Freshness::Newest));
        assert_eq!(take(&mut window, 5), None);
        assert_eq!(take(&mut window, 7), Some(Freshness::Newest));
        assert_eq!(take(&mut window, 6), Some(Freshness::Late));
        assert_eq!(take(&mut window, 6), None);
        assert_eq!(take(&mut window, 0), Some(Freshness::Late));
    }

    #[test]
    fn thirty_one_behind_is_late_and_thirty_two_behind_is_too_old() {
        let mut window = Window::Empty;
        take(&mut window, 100);

        assert_eq!(take(&mut window, 69), Some(Freshness::Late));
        assert_eq!(take(&mut window, 68), None);
        assert_eq!(take(&mut window, 1 << 39), Some(Freshness::Newest));
        assert_eq!(take(&mut window, 100), None);
    }

    #[test]
    fn while_uncertain_nothing_is_fresh_until_one_is_confirmed_and_all_below_it_are_replays() {
        let mut window = Window::Uncertain;

        assert_eq!(take(&mut window, 9), Some(Freshness::Unverified));
        assert_eq!(take(&mut window, 9), Some(Freshness::Unverified));
        assert_eq!(window.confirm(piv(10)), Ok(Freshness::Newest));
        assert_eq!(take(&mut window, 10), None);
        assert_eq!(take(&mut window, 9), None);
        assert!(window.confirm(piv(10)).is_err());
        assert_eq!(window.confirm(piv(11)), Ok(Freshness::Newest));
    }

    #[test]
    fn a_window_survives_storage_and_anything_odd_is_no_knowledge() {
        let mut certain = Window::Empty;
        take(&mut certain, 1 << 39);
        take(&mut certain, (1 << 39) - 3);

        for window in [Window::Empty, Window::Uncertain, certain] {
            assert_eq!(Window::from_bytes(window.to_bytes()), window);
        }
        assert_eq!(
            Window::from_bytes([0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            Window::Uncertain
        );
        assert_eq!(Window::from_bytes([7; 10]), Window::Uncertain);
    }

    proptest! {
        #[test]
        fn no_number_is_ever_taken_twice(numbers in vec(0..80_u64, 0..200)) {
            let mut window = Window::Empty;
            let mut taken = BTreeSet::new();
            for number in numbers {
                let newest = taken.last().copied();
                match take(&mut window, number) {
                    Some(freshness) => {
                        prop_assert!(taken.insert(number));
                        let is_newest = newest.is_none_or(|newest| number > newest);
                        prop_assert_eq!(freshness == Freshness::Newest, is_newest);
                    }
                    None => prop_assert!(
                        taken.contains(&number) || newest.unwrap() >= number + WINDOW
                    ),
                }
            }
        }
    }
}
