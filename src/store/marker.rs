//! The bytes of a marker: a change of current state that no event of the log made.
//!
//! Canonical JSON, so that the chain over them means the same to everyone:
//! `{"new":…,"old":…,"state_key":…,"type":…}`, the events as ids or null, or `{"arrived":true}`.

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use crate::room::StateKey;

/// What the log says beside events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marker {
    /// State resolution changed a piece of current state.
    Changed(Change),
    /// This hub came into the room, or back: from here on the state is what its new neighbours said.
    Arrived,
}

/// A change of a room's current state by state resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
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

/// The bytes of an arrival.
const ARRIVED: &[u8] = br#"{"arrived":true}"#;

impl Marker {
    /// Its bytes.
    ///
    /// # Panics
    /// Never: text and ids are JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self::Changed(change) = self else {
            return ARRIVED.to_vec();
        };
        let form = Form {
            new: change.new.clone(),
            old: change.old.clone(),
            state_key: change.key.key.clone(),
            kind: change.key.kind.clone(),
        };
        serde_json::to_vec(&form).expect("text and ids are JSON")
    }

    /// Reads its bytes back.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        if bytes == ARRIVED {
            return Ok(Self::Arrived);
        }
        let form: Form = serde_json::from_slice(bytes)?;
        Ok(Self::Changed(Change {
            key: StateKey::new(form.kind, form.state_key),
            old: form.old,
            new: form.new,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_marker_is_read_back() {
        let marker = Marker::Changed(Change {
            key: StateKey::new("m.room.topic", "\0\"x"),
            old: None,
            new: Some(OwnedEventId::try_from("$new").unwrap()),
        });
        let bytes = marker.to_bytes();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"new":"$new","old":null,"state_key":"\u0000\"x","type":"m.room.topic"}"#
        );
        assert_eq!(Marker::read(&bytes).unwrap(), marker);
        let bytes = Marker::Arrived.to_bytes();
        assert_eq!(Marker::read(&bytes).unwrap(), Marker::Arrived);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Marker::read(&bytes);
        }
    }
}
