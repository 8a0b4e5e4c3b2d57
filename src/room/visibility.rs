//! Who may see an event: decided here and nowhere else.

use std::{fmt, str::FromStr};

use ruma::CanonicalJsonObject;

use crate::wire::matrix::PduFields;

/// `m.room.history_visibility`, `shared` when the room has none or an unknown one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistoryVisibility {
    /// Anyone.
    WorldReadable,
    /// Members, the time before they joined included.
    #[default]
    Shared,
    /// Members, from when they were invited.
    Invited,
    /// Members, from when they joined.
    Joined,
}

/// A user's membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the specification's words")]
pub enum Membership {
    #[default]
    Leave,
    Join,
    Invite,
    Ban,
    Knock,
}

/// What the store knows of a reader and an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The visibility in force at the event.
    pub visibility: HistoryVisibility,
    /// The reader's membership at the event (after it, for the reader's own membership event).
    pub at_event: Membership,
    /// The reader's membership now.
    pub now: Membership,
    /// Whether the reader joined at any time after the event.
    pub joined_later: bool,
}

/// Whether the reader may see the event.
///
/// For `m.room.history_visibility` events and the reader's own membership, where before and after
/// the event differ, use [`may_see_change`].
///
/// spec: history-visibility §Server-behaviour
pub fn may_see(reader: Reader) -> bool {
    // 1. World readable.
    reader.visibility == HistoryVisibility::WorldReadable
        // 2. The reader was joined.
        || reader.at_event == Membership::Join
        // 3. Shared, and the reader joined later; who is joined now and was not then, did.
        || (reader.visibility == HistoryVisibility::Shared
            && (reader.joined_later || reader.now == Membership::Join))
        // 4. Invited, and the reader was.
        || (reader.visibility == HistoryVisibility::Invited
            && reader.at_event == Membership::Invite)
    // 5. Otherwise, deny.
}

/// Whether the reader may see an event that changes the answer: a history visibility event, or
/// the reader's own membership. Either side of it is enough.
///
/// spec: history-visibility §Server-behaviour
pub fn may_see_change(before: Reader, after: Reader) -> bool {
    may_see(before) || may_see(after)
}

/// Not a word of the specification's list.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a known word here")]
pub struct UnknownWord(pub String);

impl HistoryVisibility {
    /// Its word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorldReadable => "world_readable",
            Self::Shared => "shared",
            Self::Invited => "invited",
            Self::Joined => "joined",
        }
    }
}

impl FromStr for HistoryVisibility {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        [
            Self::WorldReadable,
            Self::Shared,
            Self::Invited,
            Self::Joined,
        ]
        .into_iter()
        .find(|visibility| visibility.as_str() == word)
        .ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

impl Membership {
    /// Every membership.
    pub const ALL: [Self; 5] = [
        Self::Leave,
        Self::Join,
        Self::Invite,
        Self::Ban,
        Self::Knock,
    ];

    /// Its word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Ban => "ban",
            Self::Knock => "knock",
        }
    }

    /// What a stored `m.room.member` event says; the rules let none say anything unknown.
    pub fn of(event: &PduFields) -> Self {
        Self::named_in(&event.content).unwrap_or_default()
    }

    /// What a content says, if it says anything known.
    pub fn named_in(content: &CanonicalJsonObject) -> Option<Self> {
        content.get("membership")?.as_str()?.parse().ok()
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Membership {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|membership| membership.as_str() == word)
            .ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{HistoryVisibility as H, Membership as M, *};

    /// Visibility, then for each membership at the event (leave, join, invite, ban, knock) whether
    /// someone who never joined afterwards sees it, and whether someone who did.
    const TABLE: [(H, [[bool; 2]; 5]); 4] = {
        const ALL: [bool; 2] = [true, true];
        const LATER: [bool; 2] = [false, true];
        const NONE: [bool; 2] = [false, false];
        [
            (H::WorldReadable, [ALL, ALL, ALL, ALL, ALL]),
            (H::Shared, [LATER, ALL, LATER, LATER, LATER]),
            (H::Invited, [NONE, ALL, ALL, NONE, NONE]),
            (H::Joined, [NONE, ALL, NONE, NONE, NONE]),
        ]
    };

    #[test]
    fn the_whole_table_holds() {
        for (visibility, row) in TABLE {
            for (at_event, cells) in M::ALL.into_iter().zip(row) {
                for (joined_later, expected) in [false, true].into_iter().zip(cells) {
                    for now in M::ALL {
                        let reader = Reader {
                            visibility,
                            at_event,
                            now,
                            joined_later,
                        };
                        // Whoever is joined now was joined then or joined later.
                        let expected = if now == M::Join {
                            expected || row_of(visibility, at_event)
                        } else {
                            expected
                        };
                        assert_eq!(may_see(reader), expected, "{reader:?}");
                    }
                }
            }
        }
    }

    fn row_of(visibility: H, at_event: M) -> bool {
        let row = TABLE.iter().find(|(of, _)| *of == visibility);
        let at = M::ALL.iter().position(|of| *of == at_event);
        row.zip(at)
            .and_then(|((_, row), at)| row.get(at))
            .is_some_and(|cells| cells[1])
    }

    #[test]
    fn leaving_takes_nothing_away_that_could_be_seen() {
        for visibility in [H::WorldReadable, H::Shared, H::Invited, H::Joined] {
            assert!(may_see(Reader {
                visibility,
                at_event: M::Join,
                now: M::Leave,
                joined_later: false,
            }));
        }
    }

    #[test]
    fn a_change_is_seen_from_either_side() {
        let at = |visibility, at_event| Reader {
            visibility,
            at_event,
            now: M::Leave,
            joined_later: false,
        };
        let open = at(H::WorldReadable, M::Leave);
        let shut = at(H::Joined, M::Leave);
        assert!(may_see_change(open, shut) && may_see_change(shut, open));
        assert!(may_see_change(at(H::Joined, M::Join), shut));
        assert!(!may_see_change(shut, shut));
    }

    #[test]
    fn an_unknown_visibility_counts_as_shared() {
        assert_eq!("world_readable".parse(), Ok(H::WorldReadable));
        assert_eq!(
            "secret".parse::<H>().unwrap_or_default(),
            HistoryVisibility::Shared
        );
        assert!("owner".parse::<M>().is_err());
    }
}
