//! Aliases and what they stand for.

use super::{Alias, Name, NameKind, RECORDS_MAX, ThinError, ThinFault, number, number::Reader};

/// The event types whose aliases are the same everywhere: the place is the alias.
///
/// spec: thin-profile §9
pub const FIXED_EVENT_TYPES: [&str; 32] = [
    "m.room.message",
    "m.room.encrypted",
    "m.reaction",
    "m.room.redaction",
    "m.room.member",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.create",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.pinned_events",
    "m.room.tombstone",
    "m.room.server_acl",
    "m.room.third_party_invite",
    "m.space.child",
    "m.space.parent",
    "m.sticker",
    "m.call.invite",
    "m.call.candidates",
    "m.call.answer",
    "m.call.hangup",
    "m.poll.start",
    "m.poll.response",
    "m.poll.end",
    "m.beacon_info",
    "m.beacon",
    "m.location",
];

/// The number of `m.room.member`, the same for every device.
pub const MEMBER: Alias = 4;

/// Event types from here on are numbered per device.
pub const FIRST_OWN_EVENT_TYPE: Alias = 64;

impl NameKind {
    const fn number(self) -> u8 {
        match self {
            Self::Room => 0,
            Self::User => 1,
            Self::EventType => 2,
            Self::RoomName => 3,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ThinError> {
        match reader.byte()? {
            0 => Ok(Self::Room),
            1 => Ok(Self::User),
            2 => Ok(Self::EventType),
            3 => Ok(Self::RoomName),
            _ => Err(reader.fault(ThinFault::NameKind)),
        }
    }
}

impl Name {
    /// spec: thin-profile §9
    pub fn encode_all(names: &[Self]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names {
            out.push(name.kind.number());
            number::write(&mut out, name.alias);
            number::write(&mut out, name.text.len() as u64);
            out.extend_from_slice(name.text.as_bytes());
        }
        out
    }

    /// spec: thin-profile §9
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Self>, ThinError> {
        let mut reader = Reader::new(bytes);
        let mut names = Vec::new();
        while !reader.is_empty() {
            if names.len() >= RECORDS_MAX {
                return Err(reader.fault(ThinFault::TooMany));
            }
            let kind = NameKind::read(&mut reader)?;
            let alias = reader.number()?;
            let text = reader.counted()?;
            names.push(Self {
                kind,
                alias,
                text: reader.text(text)?,
            });
        }
        Ok(names)
    }
}

/// Names asked for. spec: thin-profile §9
pub fn encode_wanted(wanted: &[(NameKind, Alias)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, alias) in wanted {
        out.push(kind.number());
        number::write(&mut out, *alias);
    }
    out
}

/// spec: thin-profile §9
pub fn decode_wanted(bytes: &[u8]) -> Result<Vec<(NameKind, Alias)>, ThinError> {
    let mut reader = Reader::new(bytes);
    let mut wanted = Vec::new();
    while !reader.is_empty() {
        if wanted.len() >= RECORDS_MAX {
            return Err(reader.fault(ThinFault::TooMany));
        }
        wanted.push((NameKind::read(&mut reader)?, reader.number()?));
    }
    Ok(wanted)
}

/// A name whose alias is asked for. spec: thin-profile §9
pub fn encode_named(kind: NameKind, text: &str) -> Vec<u8> {
    let mut out = vec![kind.number()];
    out.extend_from_slice(text.as_bytes());
    out
}

/// spec: thin-profile §9
pub fn decode_named(bytes: &[u8]) -> Result<(NameKind, String), ThinError> {
    let mut reader = Reader::new(bytes);
    let kind = NameKind::read(&mut reader)?;
    let text = reader.remainder();
    Ok((kind, reader.text(text)?))
}

/// Numbers one after the other: `[from, max_bytes]` and the like, at most `max` of them.
pub fn decode_numbers(bytes: &[u8], max: usize) -> Result<Vec<u64>, ThinError> {
    let mut reader = Reader::new(bytes);
    let mut numbers = Vec::new();
    while !reader.is_empty() {
        if numbers.len() >= max {
            return Err(reader.fault(ThinFault::Trailing));
        }
        numbers.push(reader.number()?);
    }
    Ok(numbers)
}

/// Numbers one after the other.
pub fn encode_numbers(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for one in numbers {
        number::write(&mut out, *one);
    }
    out
}
