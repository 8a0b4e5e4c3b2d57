//! Power levels as the rules read them: a view over the events, nothing parsed twice.

use std::fmt;

use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use crate::wire::matrix::{Pdu, Version};

/// A user's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A number, as `m.room.power_levels` gives it.
    Finite(i64),
    /// Above every number: since v12, the creators.
    Creator,
}

impl Level {
    /// What somebody of this level has.
    pub(super) fn in_words(self) -> String {
        match self {
            Self::Finite(number) => format!("power level {number}"),
            Self::Creator => "a creator's power".to_owned(),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finite(number) => number.fmt(f),
            Self::Creator => f.write_str("a creator's"),
        }
    }
}

/// A number of `m.room.power_levels` by its name, and what it is when it is not there.
///
/// spec: server-server §Definitions
pub(in crate::room) type Field = (&'static str, i64);

pub(in crate::room) const USERS_DEFAULT: Field = ("users_default", 0);
pub(in crate::room) const EVENTS_DEFAULT: Field = ("events_default", 0);
pub(in crate::room) const STATE_DEFAULT: Field = ("state_default", 50);
pub(in crate::room) const BAN: Field = ("ban", 50);
pub(in crate::room) const REDACT: Field = ("redact", 50);
pub(in crate::room) const KICK: Field = ("kick", 50);
pub(in crate::room) const INVITE: Field = ("invite", 0);

/// In the order of the text.
pub(super) const FIELDS: [Field; 7] = [
    USERS_DEFAULT,
    EVENTS_DEFAULT,
    STATE_DEFAULT,
    BAN,
    REDACT,
    KICK,
    INVITE,
];

/// The creator's level in a room without `m.room.power_levels`, before v12.
const CREATOR_BEFORE_LEVELS: i64 = 100;

/// Who may do what, from the create event and the power levels event if there is one.
///
/// An `m.room.power_levels` in force passed rules 9.1 to 9.3 / 10.1 to 10.3, so whatever is there
/// is an integer; were it not, it would count as absent.
#[derive(Clone, Copy)]
pub(in crate::room) struct Levels<'a> {
    create: &'a Pdu,
    content: Option<&'a CanonicalJsonObject>,
    version: Version,
}

impl<'a> Levels<'a> {
    pub(in crate::room) fn new(
        create: &'a Pdu,
        power_levels: Option<&'a Pdu>,
        version: Version,
    ) -> Self {
        Self {
            create,
            content: power_levels.map(|event| &event.fields().content),
            version,
        }
    }

    /// What is in force, when there is such an event.
    pub(super) fn content(&self) -> Option<&'a CanonicalJsonObject> {
        self.content
    }

    /// A user's level.
    pub(in crate::room) fn of(&self, user: &str) -> Level {
        let privileged = self
            .version
            .rules()
            .authorization
            .explicitly_privilege_room_creators;
        if privileged && self.is_creator(user) {
            return Level::Creator;
        }
        let Some(content) = self.content else {
            return Level::Finite(if self.is_creator(user) {
                CREATOR_BEFORE_LEVELS
            } else {
                USERS_DEFAULT.1
            });
        };
        let own = map(content, "users").and_then(|users| integer(users.get(user)?));
        Level::Finite(own.unwrap_or_else(|| self.field(USERS_DEFAULT)))
    }

    /// One of the numbers.
    pub(in crate::room) fn field(&self, (name, default): Field) -> i64 {
        self.content
            .and_then(|content| integer(content.get(name)?))
            .unwrap_or(default)
    }

    /// The level needed to send an event of a type.
    pub(in crate::room) fn needed_for(&self, kind: &str, is_state: bool) -> i64 {
        self.content
            .and_then(|content| integer(map(content, "events")?.get(kind)?))
            .unwrap_or_else(|| {
                self.field(if is_state {
                    STATE_DEFAULT
                } else {
                    EVENTS_DEFAULT
                })
            })
    }

    fn is_creator(&self, user: &str) -> bool {
        self.creators().any(|creator| creator == user)
    }

    /// Who made the room, and since v12 whoever is named beside.
    pub(super) fn creators(&self) -> impl Iterator<Item = &'a str> {
        let rules = &self.version.rules().authorization;
        let named = self.create.fields().content.get("additional_creators");
        let named = named
            .filter(|_| rules.additional_room_creators)
            .and_then(CanonicalJsonValue::as_array)
            .unwrap_or_default();
        first_creator(self.create, self.version)
            .into_iter()
            .chain(named.iter().filter_map(CanonicalJsonValue::as_str))
    }
}

/// The one whose join may follow the create event: `creator` in v10, the sender since.
pub(super) fn first_creator(create: &Pdu, version: Version) -> Option<&str> {
    let fields = create.fields();
    if version.rules().authorization.use_room_create_sender {
        Some(fields.sender.as_str())
    } else {
        fields.content.get("creator")?.as_str()
    }
}

pub(super) fn integer(value: &CanonicalJsonValue) -> Option<i64> {
    value.as_integer().map(i64::from)
}

pub(super) fn map<'a>(
    content: &'a CanonicalJsonObject,
    name: &str,
) -> Option<&'a CanonicalJsonObject> {
    content.get(name)?.as_object()
}
