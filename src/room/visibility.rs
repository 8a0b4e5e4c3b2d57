//! Who may see an event: decided here and nowhere else.

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
/// spec: client-server §History-visibility
pub fn may_see(reader: Reader) -> bool {
    let _ = reader;
    unimplemented!("being written")
}

impl std::str::FromStr for Membership {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "join" => Ok(Self::Join),
            "leave" => Ok(Self::Leave),
            "invite" => Ok(Self::Invite),
            "ban" => Ok(Self::Ban),
            "knock" => Ok(Self::Knock),
            _ => Err(()),
        }
    }
}
