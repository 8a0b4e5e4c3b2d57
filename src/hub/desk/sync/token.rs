//! Tokens: where a sync stands, and where a page of a room's log begins or ends.

use std::{fmt, str::FromStr};

use crate::{
    api::Refusal,
    base::{Position, Seq},
};

/// Where a sync stands: `s{position}_{typing}`, and `_{mail}` while a mailbox is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct SyncToken {
    /// Everything stored up to here has been told.
    pub(in crate::hub::desk) position: Position,
    /// The version of the typing board that has been told.
    pub(in crate::hub::desk) typing: u64,
    /// Mail has been told only up to here; otherwise up to `position`.
    pub(in crate::hub::desk) mail: Option<Position>,
}

/// A point of a room's log: `t{seq}` lies just after that entry.
///
/// `t{seq}_{skip}` lies further back, among the events without a seq that stand before the first
/// entry, `skip` of which have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct RoomToken {
    pub(in crate::hub::desk) seq: Seq,
    pub(in crate::hub::desk) skip: u32,
}

/// A point of a room's log as clients name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) enum Point {
    Room(RoomToken),
    Sync(Position),
}

/// Not a token of this hub.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a token of this hub")]
pub(in crate::hub::desk) struct NotAToken(String);

impl NotAToken {
    fn of(text: &str) -> Self {
        Self(text.chars().take(TOKEN_SHOWN_MAX).collect())
    }
}

/// How much of a wrong token an error repeats, in characters; the longest right one has 63.
const TOKEN_SHOWN_MAX: usize = 64;

impl SyncToken {
    /// The position up to which mail has been told.
    pub(in crate::hub::desk) fn mail(self) -> Position {
        self.mail.unwrap_or(self.position)
    }
}

impl RoomToken {
    pub(in crate::hub::desk) const fn after(seq: Seq) -> Self {
        Self { seq, skip: 0 }
    }
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}", self.position, self.typing)?;
        match self.mail {
            Some(mail) => write!(f, "_{mail}"),
            None => Ok(()),
        }
    }
}

impl FromStr for SyncToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let numbers = text.strip_prefix('s').and_then(numbers);
        match numbers.as_deref() {
            Some(&[position, typing]) => Ok(Self {
                position: Position(position),
                typing,
                mail: None,
            }),
            Some(&[position, typing, mail]) if mail < position => Ok(Self {
                position: Position(position),
                typing,
                mail: Some(Position(mail)),
            }),
            _ => Err(NotAToken::of(text)),
        }
    }
}

impl fmt::Display for RoomToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.skip {
            0 => write!(f, "t{}", self.seq),
            skip => write!(f, "t{}_{skip}", self.seq),
        }
    }
}

impl FromStr for Point {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let Some(rest) = text.strip_prefix('t') else {
            return Ok(Self::Sync(text.parse::<SyncToken>()?.position));
        };
        match numbers(rest).as_deref() {
            Some(&[seq]) => Ok(Self::Room(RoomToken::after(Seq(seq)))),
            Some(&[seq, skip]) => match u32::try_from(skip) {
                Ok(skip) => Ok(Self::Room(RoomToken {
                    seq: Seq(seq),
                    skip,
                })),
                Err(_) => Err(NotAToken::of(text)),
            },
            _ => Err(NotAToken::of(text)),
        }
    }
}

impl NotAToken {
    /// What whoever sent it in this parameter is told.
    pub(in crate::hub::desk) fn refused_as(&self, parameter: &str) -> Refusal {
        Refusal::invalid_param(format!("`{parameter}`: {self}"))
    }
}

/// At most three numbers with `_` between them, written as we write them.
fn numbers(text: &str) -> Option<Vec<u64>> {
    text.splitn(4, '_')
        .map(|part| {
            let number: u64 = part.parse().ok().filter(|number| *number <= STORED_MAX)?;
            (number.to_string() == part).then_some(number)
        })
        .collect()
}

/// The largest number a token may hold: what every backend can store in a signed 64-bit column.
const STORED_MAX: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_read_as_it_was_written(position in 1..STORED_MAX, typing in 0..STORED_MAX, behind in any::<bool>()) {
            let mail = behind.then_some(Position(position / 2)).filter(|mail| mail.0 < position);
            let token = SyncToken { position: Position(position), typing, mail };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn no_text_makes_the_reader_fail_badly(text in "[st]?[0-9_+-]{0,30}|.{0,8}") {
            let _ = text.parse::<Point>();
            if let Ok(token) = text.parse::<SyncToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }

    #[test]
    fn garbled_tokens_are_refused() {
        for text in [
            "",
            "s",
            "s1",
            "t",
            "t-1",
            "t+1",
            "s1_2_3_4",
            "s1_",
            "s1_2_1",
            "s01_2",
            "x1_2",
            "s99999999999999999999_1",
            "t1_99999999999",
        ] {
            assert!(text.parse::<Point>().is_err(), "{text}");
        }
        assert_eq!("s7_0".parse(), Ok(Point::Sync(Position(7))));
        assert_eq!("t7".parse(), Ok(Point::Room(RoomToken::after(Seq(7)))));
    }
}
