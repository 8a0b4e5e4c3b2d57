//! The first event of a room.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, UserId};

use super::decide::wrong;
use crate::{
    room::{Evidence, Refusal, Room, check_auth},
    wire::matrix::{Pdu, PduFields, Version},
};

/// A room someone wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Founding {
    /// Who creates it.
    pub creator: OwnedUserId,
    /// Its version.
    pub version: Version,
    /// The room id, for versions whose id is not the hash of the create event; ignored otherwise.
    pub room_id: OwnedRoomId,
    /// Further content of the create event (`type`, `m.federate`, `additional_creators`,
    /// `predecessor`).
    pub content: CanonicalJsonObject,
}

/// Builds the create event and the staged room before it: give the event to [`Room::apply`] as an
/// `Append`, then decide the other parts.
pub fn found(founding: &Founding, evidence: &Evidence<'_>) -> Result<(Room, Arc<Pdu>), Refusal> {
    let fields = PduFields {
        room_id: founding.room_id.clone(),
        kind: "m.room.create".to_owned(),
        sender: founding.creator.clone(),
        state_key: Some(String::new()),
        content: content(founding)?,
        redacts: None,
        at: evidence.now,
        depth: 1,
        prev: Vec::new(),
        auth: Vec::new(),
    };
    check_auth(&fields, founding.version, &|_, _| None)?;
    let create = Pdu::sign(fields, founding.version, evidence.key)?;
    let id = create.fields().room_id.clone();
    Ok((Room::empty(id, founding.version), Arc::new(create)))
}

/// spec: matrix-v11 §Event-format. `creator` is written where the version has it, and `creator`
/// and `room_version` are never the client's to say.
fn content(founding: &Founding) -> Result<CanonicalJsonObject, Refusal> {
    let rules = &founding.version.rules().authorization;
    let mut content = founding.content.clone();
    if let Some(federate) = content.get("m.federate")
        && !federate.is_bool()
    {
        // The rules look for `false` and pass over the rest: someone meant something by it.
        return Err(wrong("m.room.create", "`m.federate`", "true or false"));
    }
    content.remove("creator");
    if !rules.use_room_create_sender {
        content.insert("creator".to_owned(), founding.creator.to_string().into());
    }
    content.insert("room_version".to_owned(), founding.version.as_str().into());
    let additional = content.remove("additional_creators");
    if rules.additional_room_creators
        && let Some(named) = additional
    {
        let named = additional_creators(&named, &founding.creator)?;
        if !named.is_empty() {
            content.insert("additional_creators".to_owned(), named.into());
        }
    }
    Ok(content)
}

/// The users named, each once, without the creator, in the order they were given.
fn additional_creators(
    named: &CanonicalJsonValue,
    creator: &UserId,
) -> Result<Vec<CanonicalJsonValue>, Refusal> {
    let bad = || {
        wrong(
            "m.room.create",
            "`additional_creators`",
            "an array of user ids",
        )
    };
    let mut seen = BTreeSet::from([creator.as_str()]);
    let mut kept = Vec::new();
    for item in named.as_array().ok_or_else(bad)? {
        let id = item.as_str().ok_or_else(bad)?;
        <&UserId>::try_from(id).map_err(|_| bad())?;
        if seen.insert(id) {
            kept.push(item.clone());
        }
    }
    Ok(kept)
}
