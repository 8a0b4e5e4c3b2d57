//! One Matrix event as servers exchange it: exact bytes beside what the rules look at.
//!
//! A [`Pdu`] is only made by [`Pdu::sign`], from fields we built, or by [`Pdu::read`], from bytes
//! whose id is computed, never believed. Neither checks authorization; that is `room`'s.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
    ServerName,
    canonical_json::{CanonicalJsonFieldError, redact},
    signatures::{JsonError, reference_hash},
};
use thiserror::Error;

use crate::{
    base::{EventHash, Timestamp, limits::EVENT_BYTES_MAX},
    wire::{
        DecodeError, json as text,
        matrix::{
            ServerKey, Version,
            seal::{countersigned, seal, signed_by, template},
        },
    },
};

/// How many `prev_events` an event may name.
///
/// spec: matrix-v12 §Event-format
pub const PREV_EVENTS_MAX: usize = 20;

/// How many `auth_events` an event may name.
///
/// spec: matrix-v12 §Event-format
pub const AUTH_EVENTS_MAX: usize = 10;

/// The largest `depth`: the largest integer of canonical JSON. Events after it keep it.
///
/// spec: matrix-v12 §Event-format
pub const DEPTH_MAX: u64 = (1 << 53) - 1;

/// A signed event.
#[derive(Clone, Debug, PartialEq)]
pub struct Pdu {
    id: OwnedEventId,
    hash: EventHash,
    fields: PduFields,
    json: Arc<str>,
}

/// What an event says, before or beside its hashes and signatures.
#[derive(Clone, Debug, PartialEq)]
pub struct PduFields {
    /// The room; for a v12 create event the room it founds, though its bytes do not carry it.
    pub room_id: OwnedRoomId,
    /// `type`.
    pub kind: String,
    /// `sender`.
    pub sender: OwnedUserId,
    /// `state_key`, when it is state.
    pub state_key: Option<String>,
    /// `content`.
    pub content: CanonicalJsonObject,
    /// `redacts` of a redaction: top-level before v11, in the content since; here in either case.
    pub redacts: Option<OwnedEventId>,
    /// `origin_server_ts`.
    pub at: Timestamp,
    /// `depth`, 1 for the first.
    pub depth: u64,
    /// `prev_events`.
    pub prev: Vec<OwnedEventId>,
    /// `auth_events`.
    pub auth: Vec<OwnedEventId>,
}

/// An event could not be read or made.
#[derive(Debug, Error)]
pub enum PduError {
    /// Its canonical JSON is over the ceiling.
    #[error("the event has {bytes} bytes, {EVENT_BYTES_MAX} are allowed")]
    TooLarge {
        /// What it has.
        bytes: usize,
    },
    /// A field is over 255 bytes.
    #[error("`{field}` has {bytes} bytes, 255 are allowed")]
    FieldTooLong {
        /// The field.
        field: &'static str,
        /// What it has.
        bytes: usize,
    },
    /// A field is missing or of the wrong type.
    #[error("`{field}` is missing or not {wanted}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it should have been.
        wanted: &'static str,
    },
    /// A list names more events than it may.
    #[error("`{field}` names {count} events, {max} are allowed")]
    TooMany {
        /// The field.
        field: &'static str,
        /// What it names.
        count: usize,
        /// What it may name.
        max: usize,
    },
    /// A create event carries a room id in a version where its own hash is the room id.
    #[error("the create event of this version must not have a `room_id`")]
    CreateWithRoomId,
    /// The bytes are not JSON of the canonical kind.
    #[error("not canonical JSON: {0}")]
    Form(#[from] DecodeError),
    /// The same where only the reader that is the quicker one finds fault.
    #[error("not canonical JSON")]
    Json(#[from] serde_json::Error),
    /// It could not be redacted, so it has no hash.
    #[error("cannot be redacted: {0}")]
    Redaction(#[from] CanonicalJsonFieldError),
    /// It could not be hashed or signed.
    #[error("cannot be hashed or signed: {0}")]
    Hash(#[from] JsonError),
}

impl Pdu {
    /// Completes, hashes and signs an event built here.
    ///
    /// For the create event of a v12 room `fields.room_id` is a placeholder: the room id is the
    /// event's own hash, and [`Pdu::fields`] of the result has it.
    pub fn sign(
        mut fields: PduFields,
        version: Version,
        key: &ServerKey,
    ) -> Result<Self, PduError> {
        check_lengths(&fields)?;
        fields.depth = fields.depth.min(DEPTH_MAX);
        fields.at.0 = fields.at.0.min(DEPTH_MAX);
        if let Some(id) = &fields.redacts
            && version.rules().redaction.content_field_redacts
        {
            let id = CanonicalJsonValue::String(id.to_string());
            fields.content.insert("redacts".to_owned(), id);
        }
        let (hash, json) = seal(&fields, version, key)?;
        Self::from_parts(fields, hash, Arc::from(json), version)
    }

    /// The canonical JSON of an event that another server is to complete and sign.
    pub fn template(fields: &PduFields, version: Version) -> Result<String, PduError> {
        template(fields, version)
    }

    /// This event with a signature of ours beside those that it has. Its id stays.
    pub fn countersigned(&self, version: Version, key: &ServerKey) -> Result<Self, PduError> {
        let json = countersigned(&self.json, version, key)?;
        check_size(&json)?;
        Ok(Self {
            json: Arc::from(json),
            ..self.clone()
        })
    }

    /// This event with another server's signature beside those that it has; whether it is one is for
    /// others to check.
    pub fn signed_by(
        &self,
        server: &ServerName,
        key: &str,
        signature: &str,
    ) -> Result<Self, PduError> {
        let json = signed_by(&self.json, server.as_str(), key, signature)?;
        check_size(&json)?;
        Ok(Self {
            json: Arc::from(json),
            ..self.clone()
        })
    }

    /// Reads an event of a room whose version is known. Checks form and size, and computes its id;
    /// does not check its hash or signatures.
    pub fn read(json: &str, version: Version) -> Result<Self, PduError> {
        check_size(json)?;
        let object = object(json)?;
        let fields = from_object(&object, version)?;
        check_lengths(&fields)?;
        let is_create = fields.kind == "m.room.create";
        if is_create && version.room_id_is_create_hash() && object.contains_key("room_id") {
            return Err(PduError::CreateWithRoomId);
        }
        let hash = decode_hash(&reference_hash(&object, version.rules())?);
        let canonical = serde_json::to_string(&object)?;
        check_size(&canonical)?;
        // The exact bytes, also where they are not canonical.
        Self::from_parts(fields, hash, Arc::from(json), version)
    }

    /// Reads back what this hub stored: the id is known, so nothing is hashed again.
    pub fn stored(
        hash: EventHash,
        room_id: &RoomId,
        json: Arc<str>,
        version: Version,
    ) -> Result<Self, PduError> {
        let object: CanonicalJsonObject = serde_json::from_str(&json)?;
        let mut fields = from_object(&object, version)?;
        room_id.clone_into(&mut fields.room_id);
        Ok(Self {
            id: event_id(hash),
            hash,
            fields,
            json,
        })
    }

    /// The event id: `$` and the reference hash.
    pub fn id(&self) -> &OwnedEventId {
        &self.id
    }

    /// The reference hash.
    pub fn hash(&self) -> EventHash {
        self.hash
    }

    /// What it says.
    pub fn fields(&self) -> &PduFields {
        &self.fields
    }

    /// Its exact bytes.
    pub fn json(&self) -> &Arc<str> {
        &self.json
    }

    /// Its bytes as an object, for views.
    ///
    /// # Panics
    ///
    /// Never: whatever is a [`Pdu`] was read or written as an object.
    pub fn object(&self) -> CanonicalJsonObject {
        serde_json::from_str(&self.json).expect("a Pdu's bytes were read or written as an object")
    }

    /// Whether it has a signature of a server; whether that is a good one is not checked here.
    pub fn is_signed_by(&self, server: &ServerName) -> bool {
        let object = self.object();
        let signatures = object.get("signatures").and_then(|all| all.as_object());
        let of_it = signatures.and_then(|all| all.get(server.as_str())?.as_object());
        of_it.is_some_and(|keys| !keys.is_empty())
    }

    /// The canonical JSON of this event with everything removed that redaction removes. Its hash,
    /// and so its id, stays the same.
    pub fn redacted_json(&self, version: Version) -> Result<String, PduError> {
        let redacted = redact(self.object(), &version.rules().redaction, None)?;
        Ok(CanonicalJsonValue::Object(redacted).to_string())
    }

    /// What is left of this event after its redaction: the same id, and the content that stays.
    pub fn redacted(&self, version: Version) -> Result<Self, PduError> {
        let json = self.redacted_json(version)?;
        Self::stored(self.hash, &self.fields.room_id, Arc::from(json), version)
    }

    fn from_parts(
        mut fields: PduFields,
        hash: EventHash,
        json: Arc<str>,
        version: Version,
    ) -> Result<Self, PduError> {
        check_size(&json)?;
        if fields.kind == "m.room.create" && version.room_id_is_create_hash() {
            fields.room_id = room_id_of_create(hash);
        }
        Ok(Self {
            id: event_id(hash),
            hash,
            fields,
            json,
        })
    }
}

/// Read by the quicker reader; of what that does not read, the other one says plainly what it is.
fn object(json: &str) -> Result<CanonicalJsonObject, PduError> {
    serde_json::from_str(json).map_err(|error| match text::read_object(json.as_bytes()) {
        Err(error) => error.into(),
        Ok(_) => error.into(),
    })
}

fn check_size(json: &str) -> Result<(), PduError> {
    if json.len() > EVENT_BYTES_MAX {
        return Err(PduError::TooLarge { bytes: json.len() });
    }
    Ok(())
}

/// `$` and the URL-safe base64 of a reference hash.
///
/// # Panics
///
/// Never: every hash spells an event id.
pub fn event_id(hash: EventHash) -> OwnedEventId {
    OwnedEventId::try_from(format!("${}", URL_SAFE_NO_PAD.encode(hash.0)))
        .expect("`$` and 43 base64 characters are an event id")
}

/// The hash an event id spells; nothing for ids of another form.
pub fn event_hash(id: &ruma::EventId) -> Option<EventHash> {
    let bytes = URL_SAFE_NO_PAD
        .decode(id.as_str().strip_prefix('$')?)
        .ok()?;
    Some(EventHash(bytes.try_into().ok()?))
}

/// spec: matrix-v12 §Room-ids
fn room_id_of_create(hash: EventHash) -> OwnedRoomId {
    OwnedRoomId::try_from(format!("!{}", URL_SAFE_NO_PAD.encode(hash.0)))
        .expect("`!` and 43 base64 characters are a room id")
}

fn decode_hash(base64: &str) -> EventHash {
    let bytes = URL_SAFE_NO_PAD
        .decode(base64)
        .expect("ruma wrote the hash in this alphabet");
    EventHash(bytes.try_into().expect("SHA-256 has 32 bytes"))
}

fn from_object(object: &CanonicalJsonObject, version: Version) -> Result<PduFields, PduError> {
    let kind = string(object, "type")?.to_owned();
    let content = match object.get("content") {
        Some(CanonicalJsonValue::Object(content)) => content.clone(),
        _ => {
            return Err(PduError::Field {
                field: "content",
                wanted: "an object",
            });
        }
    };
    let without_room = kind == "m.room.create" && version.room_id_is_create_hash();
    let room_id = if without_room {
        room_id_of_create(EventHash([0; 32])) // replaced as soon as the hash is known
    } else {
        id(string(object, "room_id")?, "room_id", "a room id")?
    };
    let redacts = if version.rules().redaction.content_field_redacts {
        content.get("redacts")
    } else {
        object.get("redacts")
    };
    let redacts = match redacts {
        // In other types the word means nothing.
        Some(CanonicalJsonValue::String(text)) if kind == "m.room.redaction" => {
            OwnedEventId::try_from(text.as_str()).ok()
        }
        _ => None,
    };
    Ok(PduFields {
        room_id,
        sender: id(string(object, "sender")?, "sender", "a user id")?,
        state_key: match object.get("state_key") {
            None => None,
            Some(CanonicalJsonValue::String(key)) => Some(key.clone()),
            Some(_) => {
                return Err(PduError::Field {
                    field: "state_key",
                    wanted: "a string",
                });
            }
        },
        redacts,
        at: Timestamp(unsigned(object, "origin_server_ts")?),
        depth: unsigned(object, "depth")?,
        prev: ids(object, "prev_events")?,
        auth: ids(object, "auth_events")?,
        kind,
        content,
    })
}

fn string<'a>(object: &'a CanonicalJsonObject, field: &'static str) -> Result<&'a str, PduError> {
    match object.get(field) {
        Some(CanonicalJsonValue::String(text)) => Ok(text),
        _ => Err(PduError::Field {
            field,
            wanted: "a string",
        }),
    }
}

fn unsigned(object: &CanonicalJsonObject, field: &'static str) -> Result<u64, PduError> {
    match object.get(field) {
        Some(CanonicalJsonValue::Integer(number)) => {
            u64::try_from(i64::from(*number)).map_err(|_| PduError::Field {
                field,
                wanted: "a whole number from 0",
            })
        }
        _ => Err(PduError::Field {
            field,
            wanted: "a whole number from 0",
        }),
    }
}

fn ids(object: &CanonicalJsonObject, field: &'static str) -> Result<Vec<OwnedEventId>, PduError> {
    let Some(CanonicalJsonValue::Array(items)) = object.get(field) else {
        return Err(PduError::Field {
            field,
            wanted: "an array of event ids",
        });
    };
    items
        .iter()
        .map(|item| match item {
            CanonicalJsonValue::String(text) => id(text, field, "an array of event ids"),
            _ => Err(PduError::Field {
                field,
                wanted: "an array of event ids",
            }),
        })
        .collect()
}

fn id<'a, T: TryFrom<&'a str>>(
    text: &'a str,
    field: &'static str,
    wanted: &'static str,
) -> Result<T, PduError> {
    T::try_from(text)
        .ok()
        .ok_or(PduError::Field { field, wanted })
}

/// spec: matrix-v12 §Size-limits
fn check_lengths(fields: &PduFields) -> Result<(), PduError> {
    let state_key = fields.state_key.as_deref().unwrap_or("");
    for (field, bytes) in [
        ("sender", fields.sender.as_str().len()),
        ("room_id", fields.room_id.as_str().len()),
        ("type", fields.kind.len()),
        ("state_key", state_key.len()),
    ] {
        if bytes > 255 {
            return Err(PduError::FieldTooLong { field, bytes });
        }
    }
    for (field, count, max) in [
        ("prev_events", fields.prev.len(), PREV_EVENTS_MAX),
        ("auth_events", fields.auth.len(), AUTH_EVENTS_MAX),
    ] {
        if count > max {
            return Err(PduError::TooMany { field, count, max });
        }
    }
    Ok(())
}
