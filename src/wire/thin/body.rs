//! Kinds and bodies, which drafts, records and entries in full have in common.

use super::{Body, Membership, Shown, ThinError, ThinFault, names::MEMBER, number, number::Reader};

/// The kind is in the low four bits of a head.
pub(super) const KIND_MASK: u8 = 0x0f;
pub(super) const HAS_TARGET: u8 = 0x10;
pub(super) const BIT_5: u8 = 0x20;
pub(super) const BIT_6: u8 = 0x40;
pub(super) const BIT_7: u8 = 0x80;

pub(super) const RECEIPT: u8 = 13;
pub(super) const TYPING: u8 = 14;
pub(super) const COVERED: u8 = 15;

impl Body {
    /// The number of the kind. spec: thin-profile §6
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Text(_) => 0,
            Self::Notice(_) => 1,
            Self::Emote(_) => 2,
            Self::Reaction(_) => 3,
            Self::Redaction(_) => 4,
            Self::MlsElided(_) => 5,
            Self::MlsWhole(_) => 6,
            Self::Event {
                deflated: false, ..
            } => 7,
            Self::State {
                deflated: false, ..
            } => 8,
            Self::Event { .. } => 9,
            Self::State { .. } => 10,
            Self::Member { .. } => 11,
            Self::TooLarge { .. } => 12,
        }
    }

    /// Whether it says nothing without something it refers to.
    pub const fn needs_target(&self) -> bool {
        matches!(self, Self::Reaction(_) | Self::Redaction(_))
    }

    /// Whether it says what somebody is in a room: its target is no seq then.
    pub const fn is_membership(&self) -> bool {
        match self {
            Self::Member { .. } => true,
            Self::State { event_type, .. } => *event_type == MEMBER,
            _ => false,
        }
    }

    /// Whether a device may send it.
    pub const fn is_for_drafts(&self) -> bool {
        !matches!(self, Self::Member { .. } | Self::TooLarge { .. })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text)
            | Self::Notice(text)
            | Self::Emote(text)
            | Self::Reaction(text)
            | Self::Redaction(text) => out.extend_from_slice(text.as_bytes()),
            Self::MlsElided(bytes) | Self::MlsWhole(bytes) => out.extend_from_slice(bytes),
            Self::Event {
                event_type,
                content,
                ..
            } => {
                number::write(out, *event_type);
                out.extend_from_slice(content);
            }
            Self::State {
                event_type,
                state_key,
                content,
                ..
            } => {
                number::write(out, *event_type);
                number::write(out, state_key.len() as u64);
                out.extend_from_slice(state_key.as_bytes());
                out.extend_from_slice(content);
            }
            Self::Member {
                user,
                membership,
                display_name,
            } => {
                number::write(out, *user);
                out.push(membership.number());
                out.extend_from_slice(display_name.as_bytes());
            }
            Self::TooLarge { size, etag } => {
                number::write(out, *size);
                out.extend_from_slice(etag);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text)
            | Self::Notice(text)
            | Self::Emote(text)
            | Self::Reaction(text)
            | Self::Redaction(text) => text.len(),
            Self::MlsElided(bytes) | Self::MlsWhole(bytes) => bytes.len(),
            Self::Event {
                event_type,
                content,
                ..
            } => number::len(*event_type) + content.len(),
            Self::State {
                event_type,
                state_key,
                content,
                ..
            } => {
                number::len(*event_type)
                    + number::len(state_key.len() as u64)
                    + state_key.len()
                    + content.len()
            }
            Self::Member {
                user, display_name, ..
            } => number::len(*user) + 1 + display_name.len(),
            Self::TooLarge { size, .. } => number::len(*size) + 8,
        }
    }

    /// Reads all there is.
    pub(super) fn read(kind: u8, reader: &mut Reader<'_>) -> Result<Self, ThinError> {
        let text = |reader: &mut Reader<'_>| {
            let bytes = reader.remainder();
            reader.text(bytes)
        };
        let body = match kind {
            0 => Self::Text(text(reader)?),
            1 => Self::Notice(text(reader)?),
            2 => Self::Emote(text(reader)?),
            3 => Self::Reaction(text(reader)?),
            4 => Self::Redaction(text(reader)?),
            5 => Self::MlsElided(reader.remainder().to_vec()),
            6 => Self::MlsWhole(reader.remainder().to_vec()),
            7 | 9 => Self::Event {
                event_type: reader.number()?,
                content: reader.remainder().to_vec(),
                deflated: kind == 9,
            },
            8 | 10 => Self::State {
                event_type: reader.number()?,
                state_key: {
                    let key = reader.counted()?;
                    reader.text(key)?
                },
                content: reader.remainder().to_vec(),
                deflated: kind == 10,
            },
            11 => Self::Member {
                user: reader.number()?,
                membership: Membership::of_number(reader.byte()?)
                    .ok_or_else(|| reader.fault(ThinFault::Membership))?,
                display_name: text(reader)?,
            },
            12 => Self::TooLarge {
                size: reader.number()?,
                etag: reader.array()?,
            },
            _ => return Err(reader.fault(ThinFault::Kind { kind })),
        };
        reader.finish()?;
        Ok(body)
    }
}

impl Membership {
    const ALL: [Self; 5] = [
        Self::Join,
        Self::Invite,
        Self::Leave,
        Self::Ban,
        Self::Knock,
    ];

    /// Its number in kind 11. spec: thin-profile §6
    pub fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|one| *one == self);
        place
            .and_then(|place| u8::try_from(place).ok())
            .expect("all memberships are in the list")
    }

    fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl Shown {
    /// What a user was before this entry changed it, where that is told.
    ///
    /// spec: thin-profile §7
    pub fn membership_before(&self) -> Option<Membership> {
        match self {
            Self::Entry {
                target: Some(number),
                body,
                ..
            } if body.is_membership() => Membership::of_number(u8::try_from(*number).ok()?),
            _ => None,
        }
    }
}
