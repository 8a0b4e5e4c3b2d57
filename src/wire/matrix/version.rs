//! The room versions this hub speaks, and their rules as data.

use std::{fmt, str::FromStr};

use ruma::{
    RoomVersionId,
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules},
};

/// A room version in mode `matrix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Room version 10.
    V10,
    /// Room version 11.
    V11,
    /// Room version 12: the default.
    V12,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 3] = [Self::V10, Self::V11, Self::V12];

    /// The version of a room whose creator names none.
    pub const DEFAULT: Self = Self::V12;

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V10 => "10",
            Self::V11 => "11",
            Self::V12 => "12",
        }
    }

    /// Its rules, as ruma tells them.
    pub const fn rules(self) -> &'static RoomVersionRules {
        match self {
            Self::V10 => &RoomVersionRules::V10,
            Self::V11 => &RoomVersionRules::V11,
            Self::V12 => &RoomVersionRules::V12,
        }
    }

    /// In what its state resolution differs from that of room version 2.
    ///
    /// # Panics
    ///
    /// Never: all versions here came after room version 2.
    pub fn state_resolution(self) -> &'static StateResolutionV2Rules {
        let rules = self.rules().state_res.v2_rules();
        rules.expect("versions 10, 11 and 12 resolve state as version 2 and later do")
    }

    /// Its identifier.
    pub const fn id(self) -> RoomVersionId {
        match self {
            Self::V10 => RoomVersionId::V10,
            Self::V11 => RoomVersionId::V11,
            Self::V12 => RoomVersionId::V12,
        }
    }

    /// Whether the room id is the hash of the create event, which then carries no `room_id` and is
    /// in nobody's `auth_events`, and whose creators outrank all power levels.
    ///
    /// spec: matrix-v12 §Room-ids
    pub const fn room_id_is_create_hash(self) -> bool {
        matches!(self, Self::V12)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// This hub does not speak that room version.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("room version {0:?} is not one of 10, 11, 12")]
pub struct UnknownVersion(pub String);

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(name: &str) -> Result<Self, UnknownVersion> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == name)
            .ok_or_else(|| UnknownVersion(name.to_owned()))
    }
}
