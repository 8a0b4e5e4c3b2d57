//! Hashes and signs an event built here, and spells its canonical JSON, each field once.
//!
//! Three texts are wanted of nearly the same object: what the content hash covers, what the
//! signature and the reference hash cover, and the event itself. Every message pays for this, so
//! they are put together from the same pieces instead of being made from a tree three times.
//! Whether an event may be sent, and reading one, are not here.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    canonical_json::{redact, redact_content_in_place},
    signatures::KeyPair as _,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    base::EventHash,
    wire::matrix::{PduError, PduFields, ServerKey, Version},
};

/// The pieces of an event, in the order of canonical JSON. `hashes` comes after `depth`,
/// `signatures` after `from`.
struct Pieces {
    auth: Vec<u8>,
    content: Vec<u8>,
    /// What redaction leaves of the content.
    kept: Vec<u8>,
    depth: Vec<u8>,
    time_and_prev: Vec<u8>,
    /// Only before v11; redaction takes it away.
    redacts: Vec<u8>,
    from: Vec<u8>,
    kind: Vec<u8>,
}

/// The reference hash and the bytes of an event. Its content must already hold `redacts`, where
/// that belongs in it.
///
/// spec: server-server §Signing-events
pub(super) fn seal(
    fields: &PduFields,
    version: Version,
    key: &ServerKey,
) -> Result<(EventHash, String), PduError> {
    let pieces = Pieces::of(fields, version)?;
    let hashes = pieces.hashes();
    let covered = pieces.covered(&hashes);
    let signature = key.pair().sign(&covered);
    let mut signatures = Vec::new();
    put(&mut signatures, ",\"signatures\":{", key.name())?;
    put(&mut signatures, ":{", &signature.id())?;
    put(&mut signatures, ":", &signature.base64())?;
    signatures.extend_from_slice(b"}}");
    let json = pieces.event(&hashes, &signatures);
    let json = String::from_utf8(json).expect("JSON is text");
    Ok((EventHash(Sha256::digest(&covered).into()), json))
}

/// The canonical JSON of an event without hashes and signatures: what another server is given to
/// complete.
pub(super) fn template(fields: &PduFields, version: Version) -> Result<String, PduError> {
    let json = Pieces::of(fields, version)?.event(&[], &[]);
    Ok(String::from_utf8(json).expect("JSON is text"))
}

/// An event with a signature of ours beside those that it has.
pub(super) fn countersigned(
    json: &str,
    version: Version,
    key: &ServerKey,
) -> Result<String, PduError> {
    let mut event: CanonicalJsonObject = serde_json::from_str(json)?;
    let mut covered = redact(event.clone(), &version.rules().redaction, None)?;
    covered.remove("signatures");
    covered.remove("unsigned");
    let signature = key.pair().sign(&serde_json::to_vec(&covered)?);
    add_signature(
        &mut event,
        key.name().as_str(),
        (signature.id(), signature.base64()),
    );
    Ok(serde_json::to_string(&event)?)
}

/// An event with one more signature.
pub(super) fn signed_by(
    json: &str,
    server: &str,
    key: &str,
    signature: &str,
) -> Result<String, PduError> {
    let mut event: CanonicalJsonObject = serde_json::from_str(json)?;
    add_signature(&mut event, server, (key.to_owned(), signature.to_owned()));
    Ok(serde_json::to_string(&event)?)
}

/// A server may sign with several keys: with that for its own events, and with a policy key.
fn add_signature(event: &mut CanonicalJsonObject, server: &str, (id, signature): (String, String)) {
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let signatures = event.entry("signatures".to_owned()).or_insert_with(empty);
    let CanonicalJsonValue::Object(signatures) = signatures else {
        return;
    };
    let theirs = signatures.entry(server.to_owned()).or_insert_with(empty);
    if let CanonicalJsonValue::Object(theirs) = theirs {
        theirs.insert(id, signature.into());
    }
}

impl Pieces {
    fn of(fields: &PduFields, version: Version) -> Result<Self, PduError> {
        let rules = &version.rules().redaction;
        let is_create = fields.kind == "m.room.create";
        let (mut auth, mut redacts, mut kind) = (Vec::new(), Vec::new(), Vec::new());
        let (mut depth, mut from, mut time_and_prev) = (Vec::new(), Vec::new(), Vec::new());
        put(&mut auth, "{\"auth_events\":", &fields.auth)?;
        auth.extend_from_slice(b",\"content\":");
        put(&mut depth, ",\"depth\":", &fields.depth)?;
        put(&mut time_and_prev, ",\"origin_server_ts\":", &fields.at.0)?;
        put(&mut time_and_prev, ",\"prev_events\":", &fields.prev)?;
        if let Some(id) = fields
            .redacts
            .as_ref()
            .filter(|_| !rules.content_field_redacts)
        {
            put(&mut redacts, ",\"redacts\":", id)?;
        }
        if !(is_create && version.room_id_is_create_hash()) {
            put(&mut from, ",\"room_id\":", &fields.room_id)?;
        }
        put(&mut from, ",\"sender\":", &fields.sender)?;
        if let Some(state_key) = &fields.state_key {
            put(&mut kind, ",\"state_key\":", state_key)?;
        }
        put(&mut kind, ",\"type\":", &fields.kind)?;
        kind.push(b'}');
        Ok(Self {
            auth,
            content: serde_json::to_vec(&fields.content)?,
            kept: kept(&fields.content, &fields.kind, version)?,
            depth,
            time_and_prev,
            redacts,
            from,
            kind,
        })
    }

    /// The content hash, of everything but hashes and signatures, as the field that holds it.
    fn hashes(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        for piece in [
            &self.auth,
            &self.content,
            &self.depth,
            &self.time_and_prev,
            &self.redacts,
            &self.from,
            &self.kind,
        ] {
            hash.update(piece);
        }
        let hash = STANDARD_NO_PAD.encode(hash.finalize());
        format!(",\"hashes\":{{\"sha256\":\"{hash}\"}}").into_bytes()
    }

    /// What the signature and the reference hash cover: what redaction leaves, without signatures.
    fn covered(&self, hashes: &[u8]) -> Vec<u8> {
        [
            &self.auth,
            &self.kept,
            &self.depth,
            hashes,
            &self.time_and_prev,
            &self.from,
            &self.kind,
        ]
        .concat()
    }

    fn event(&self, hashes: &[u8], signatures: &[u8]) -> Vec<u8> {
        [
            &self.auth,
            &self.content,
            &self.depth,
            hashes,
            &self.time_and_prev,
            &self.redacts,
            &self.from,
            signatures,
            &self.kind,
        ]
        .concat()
    }
}

fn kept(content: &CanonicalJsonObject, kind: &str, version: Version) -> Result<Vec<u8>, PduError> {
    let mut kept = content.clone();
    redact_content_in_place(&mut kept, &version.rules().redaction, kind);
    Ok(serde_json::to_vec(&kept)?)
}

fn put(
    piece: &mut Vec<u8>,
    name: &str,
    value: &(impl Serialize + ?Sized),
) -> Result<(), serde_json::Error> {
    piece.extend_from_slice(name.as_bytes());
    serde_json::to_writer(piece, value)
}
