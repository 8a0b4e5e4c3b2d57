//! What became of each part of a transaction of another server: its events and what came beside them,
//! by their places in the lists as they were sent.
//!
//! Only the latest transactions are remembered, as the refusals are ([`super::explain`]).

use std::collections::VecDeque;

use serde_json::{Value as Json, json};

use super::{Door, RequestId, explain::cut};
use crate::base::Timestamp;

/// A list of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Events.
    Pdus,
    /// What is in no room's log.
    Edus,
}

/// One part: which of which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartId {
    /// The list.
    pub list: List,
    /// Its place in it, counted from 0.
    pub index: usize,
}

impl std::fmt::Display for PartId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = match self.list {
            List::Pdus => "pdus",
            List::Edus => "edus",
        };
        write!(f, "{list}[{}]", self.index)
    }
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// It was taken.
    Taken,
    /// It was here already.
    Known,
    /// It was taken, and readers do not see it.
    Hidden,
    /// This hub does nothing with such.
    Ignored,
    /// It was not taken.
    Refused,
}

impl Became {
    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Known => "known",
            Self::Hidden => "hidden",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }

    const fn is_fine(self) -> bool {
        matches!(self, Self::Taken | Self::Known)
    }
}

/// One part, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub id: PartId,
    /// The event's id, or the type of what is no event; none where it has none.
    pub what: Option<String>,
    /// What became of it.
    pub became: Became,
    /// The stable reason, unless it was simply taken.
    pub code: Option<&'static str>,
    /// The same in words.
    pub said: Option<String>,
}

impl Part {
    fn bounded(mut self) -> Self {
        self.what = self.what.map(|what| cut(&what, WHAT_BYTES_MAX));
        self.said = self.said.map(|said| cut(&said, SAID_BYTES_MAX));
        self
    }

    fn json(&self) -> Json {
        let name = match self.id.list {
            List::Pdus => "event_id",
            List::Edus => "type",
        };
        json!({
            "part": self.id.to_string(),
            name: self.what,
            "outcome": self.became.as_str(),
            "reason": self.code,
            "said": self.said,
        })
    }
}

/// A transaction as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The request that brought it.
    pub request: RequestId,
    /// How it came.
    pub door: Door,
    /// The server that sent it.
    pub from: String,
    /// Its parts.
    pub parts: Vec<Part>,
}

/// One with its parts in order, as many as are kept.
struct Kept {
    at: Timestamp,
    transaction: Transaction,
    /// Parts that are not kept.
    more: usize,
}

impl Kept {
    fn of(at: Timestamp, mut transaction: Transaction) -> Self {
        let parts = std::mem::take(&mut transaction.parts);
        let more = parts.len().saturating_sub(PARTS_MAX);
        // what was taken is of the least interest
        let (mut kept, fine): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|part| !part.became.is_fine());
        kept.extend(fine);
        kept.truncate(PARTS_MAX);
        kept.sort_by_key(|part| part.id);
        transaction.parts = kept.into_iter().map(Part::bounded).collect();
        Self {
            at,
            transaction,
            more,
        }
    }

    fn json(&self) -> Json {
        let parts: Vec<Json> = self.transaction.parts.iter().map(Part::json).collect();
        json!({
            "request": self.transaction.request.to_string(),
            "at": self.at.rfc3339(),
            "from": self.transaction.from,
            "door": self.transaction.door.as_str(),
            "parts": parts,
            "more": self.more,
        })
    }
}

/// The latest transactions: those of which all was taken apart from the others, so that they do not
/// make these forgotten.
#[derive(Default)]
pub(super) struct Transactions {
    fine: VecDeque<Kept>,
    spoiled: VecDeque<Kept>,
}

impl Transactions {
    /// Remembers one, and forgets the oldest where there are too many.
    pub(super) fn remember(&mut self, at: Timestamp, transaction: Transaction) {
        let kept = Kept::of(at, transaction);
        let parts = &kept.transaction.parts;
        let is_fine = parts.iter().all(|part| part.became != Became::Refused);
        let those = if is_fine {
            &mut self.fine
        } else {
            &mut self.spoiled
        };
        if those.len() >= TRANSACTIONS_MAX {
            those.pop_front();
        }
        those.push_back(kept);
    }

    /// What became of the parts of the transaction that a request brought.
    pub(super) fn of(&self, request: RequestId) -> Option<Json> {
        let mut all = self.spoiled.iter().chain(&self.fine);
        let kept = all.find(|kept| kept.transaction.request == request)?;
        Some(kept.json())
    }
}

/// Transactions of each kind that are remembered: at a hundred bytes a part that was taken, and half a
/// kilobyte one that was not, they are some megabytes at most.
const TRANSACTIONS_MAX: usize = 512;

/// Parts of one transaction that are kept: nearly all have fewer, and with texts of their full length
/// they fit half of the operator's socket's line.
const PARTS_MAX: usize = 50;

/// The longest id or type that is kept of a part, in bytes: an event's id has 44.
const WHAT_BYTES_MAX: usize = 64;

/// The longest text that is kept of a part, in bytes.
const SAID_BYTES_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    fn part(list: List, index: usize, became: Became) -> Part {
        Part {
            id: PartId { list, index },
            what: Some("$e".repeat(100)),
            became,
            code: (!became.is_fine()).then_some("EVENT_FORM"),
            said: (!became.is_fine()).then(|| "\"\n".repeat(1000)),
        }
    }

    fn transaction(request: u64, parts: Vec<Part>) -> Transaction {
        Transaction {
            request: RequestId(request),
            door: Door::Https,
            from: "a.example".to_owned(),
            parts,
        }
    }

    #[test]
    fn parts_are_told_in_their_order_and_those_not_taken_before_too_many_are_counted() {
        let mut parts: Vec<_> = (0..100)
            .map(|index| part(List::Edus, index, Became::Taken))
            .collect();
        parts.push(part(List::Pdus, 7, Became::Refused));
        parts.push(part(List::Edus, 99, Became::Ignored));
        let mut all = Transactions::default();
        all.remember(Timestamp(0), transaction(1, parts));

        let told = all.of(RequestId(1)).unwrap();

        let parts = told["parts"].as_array().unwrap();
        assert_eq!(
            (parts.len(), told["more"].as_u64()),
            (PARTS_MAX, Some(102 - PARTS_MAX as u64))
        );
        assert_eq!(parts[0]["part"], "pdus[7]");
        assert_eq!(parts[1]["part"], "edus[0]");
        assert_eq!(parts[PARTS_MAX - 1]["outcome"], "ignored");
    }

    #[test]
    fn a_transaction_of_the_longest_texts_fits_half_a_line_of_the_operators_socket() {
        let parts = (0..200).map(|index| part(List::Pdus, index, Became::Refused));
        let mut all = Transactions::default();
        all.remember(Timestamp(0), transaction(1, parts.collect()));

        assert!(all.of(RequestId(1)).unwrap().to_string().len() < 32 * 1024);
    }

    #[test]
    fn transactions_that_were_taken_do_not_make_the_others_forgotten() {
        let mut all = Transactions::default();
        let refused = part(List::Pdus, 0, Became::Refused);
        all.remember(Timestamp(0), transaction(0, vec![refused]));
        for number in 1..=TRANSACTIONS_MAX as u64 + 1 {
            let taken = part(List::Edus, 0, Became::Taken);
            all.remember(Timestamp(number), transaction(number, vec![taken]));
        }

        assert!(all.of(RequestId(0)).is_some());
        assert!(all.of(RequestId(1)).is_none(), "the oldest one is gone");
        assert!(all.of(RequestId(TRANSACTIONS_MAX as u64)).is_some());
    }
}
