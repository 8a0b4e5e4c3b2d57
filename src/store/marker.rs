//! The bytes of a marker: a change of current state that no event of the log made.
//!
//! Canonical JSON, so that the chain over them means the same to everyone:
//! `{"new":…,"old":…,"state_key":…,"type":…}`, the events as ids or null.

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use crate::room::StateKey;

/// A change of a room's current state by state resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Which piece of state changed.
    pub key: StateKey,
    /// The event that was current before.
    pub old: Option<OwnedEventId>,
    /// The event that is current now.
    pub new: Option<OwnedEventId>,
}

/// Fields in the order of canonical JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    new: Option<OwnedEventId>,
    old: Option<OwnedEventId>,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Marker {
    /// Its bytes.
    ///
    /// # Panics
    /// Never: text and ids are JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let form = Form {
            new: self.new.clone(),
            old: self.old.clone(),
            state_key: self.key.key.clone(),
            kind: self.key.kind.clone(),
        };
        serde_json::to_vec(&form).expect("text and ids are JSON")
    }

    /// Reads its bytes back.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let form: Form = serde_json::from_slice(bytes)?;
        Ok(Self {
            key: StateKey::new(form.kind, form.state_key),
            old: form.old,
            new: form.new,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_marker_is_read_back() {
        let marker = Marker {
            key: StateKey::new("m.room.topic", "\0\"x"),
            old: None,
            new: Some(OwnedEventId::try_from("$new").unwrap()),
        };
        let bytes = marker.to_bytes();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"new":"$new","old":null,"state_key":"\u0000\"x","type":"m.room.topic"}"#
        );
        assert_eq!(Marker::read(&bytes).unwrap(), marker);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Marker::read(&bytes);
        }
    }
}
