//! The keys that a server publishes, signed by themselves: the answer of `/_matrix/key/v2/server`.
//!
//! Ours is built here, others' are read and checked. Until when a key counts, and what was known of
//! it before, is `session::keyring`'s business; so is whom to ask.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName,
    signatures::{JsonError, KeyPair as _},
};
use thiserror::Error;

use super::{
    KeyId, KeyIdError, NameError, ObjectError, PublicKey, PublicKeyError, ServerKey, server_name,
    signing_key::text_to_sign,
};
use crate::{
    base::Timestamp,
    wire::{DecodeError, json},
};

/// A key that a server signed with once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// The key.
    pub public: PublicKey,
    /// Since when it is not used any more.
    pub expired: Timestamp,
}

/// What a server published, of which each key that counts has signed the whole.
// spec: server-server §Retrieving-server-keys
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKeys {
    /// The keys it signs with.
    pub current: BTreeMap<KeyId, PublicKey>,
    /// The keys it signed with.
    pub old: BTreeMap<KeyId, OldKey>,
    /// Until when it wants this to be believed.
    pub valid_until: Timestamp,
    /// The answer, for whoever asks us for it.
    pub object: CanonicalJsonObject,
}

/// An answer that gives nobody's keys.
#[derive(Debug, Error)]
pub enum ServerKeysError {
    /// Not JSON that could be signed.
    #[error(transparent)]
    Form(#[from] DecodeError),
    /// A member is absent or of another type.
    #[error("`{0}` is missing or of another type")]
    Member(&'static str),
    /// No server's name.
    #[error("`server_name`: {0}")]
    Name(#[from] NameError),
    /// Another server's keys.
    #[error("these are the keys of {found}, not of {expected}")]
    OtherServer {
        /// Who was asked.
        expected: String,
        /// Whose keys came.
        found: String,
    },
    /// More keys than anyone has.
    #[error("{found} keys, at most {max} are read")]
    Many {
        /// How many.
        found: usize,
        /// The ceiling.
        max: usize,
    },
    /// A key that cannot be read.
    #[error("`{id}`: {source}")]
    Key {
        /// Its id.
        id: KeyId,
        /// What is wrong with it.
        source: PublicKeyError,
    },
    /// A signature that is wrong.
    #[error("`{id}` did not sign this: {source}")]
    Signature {
        /// The key.
        id: KeyId,
        /// What is wrong.
        source: ObjectError,
    },
    /// No key that is in it has signed it.
    #[error("none of the keys in it has signed it")]
    Unsigned,
}

impl ServerKeys {
    /// Reads the answer of `expected`.
    ///
    /// A key without a signature of its own does not count: anyone could name another's as his. Ids
    /// of other kinds are passed over, a wrong signature spoils the whole.
    pub fn read(bytes: &[u8], expected: &ServerName) -> Result<Self, ServerKeysError> {
        let object = json::read_object(bytes)?;
        let found =
            text_of(&object, "server_name").ok_or(ServerKeysError::Member("server_name"))?;
        if found != expected.as_str() {
            let (expected, found) = (expected.to_string(), server_name(found)?.to_string());
            return Err(ServerKeysError::OtherServer { expected, found });
        }
        let valid_until =
            time_of(&object, "valid_until_ts").ok_or(ServerKeysError::Member("valid_until_ts"))?;
        let current = current(&object, expected)?;
        let old = old(&object)?;
        Ok(Self {
            current,
            old,
            valid_until,
            object,
        })
    }
}

fn current(
    object: &CanonicalJsonObject,
    name: &ServerName,
) -> Result<BTreeMap<KeyId, PublicKey>, ServerKeysError> {
    let listed = members(object, "verify_keys")?.ok_or(ServerKeysError::Member("verify_keys"))?;
    let mut current = BTreeMap::new();
    for (id, entry) in known_ids(listed) {
        let public = key_in(entry, &id)?;
        match public.verify_object(object, name.as_str(), &id) {
            Ok(()) => current.insert(id, public),
            Err(ObjectError::Absent { .. }) => continue,
            Err(source) => return Err(ServerKeysError::Signature { id, source }),
        };
    }
    if current.is_empty() {
        return Err(ServerKeysError::Unsigned);
    }
    Ok(current)
}

/// Nobody can sign with a key that is gone: the keys in use vouch for the old ones.
fn old(object: &CanonicalJsonObject) -> Result<BTreeMap<KeyId, OldKey>, ServerKeysError> {
    let mut old = BTreeMap::new();
    let Some(listed) = members(object, "old_verify_keys")? else {
        return Ok(old);
    };
    for (id, entry) in known_ids(listed) {
        let public = key_in(entry, &id)?;
        let expired = match entry {
            CanonicalJsonValue::Object(entry) => time_of(entry, "expired_ts"),
            _ => None,
        };
        let expired = expired.ok_or(ServerKeysError::Member("expired_ts"))?;
        old.insert(id, OldKey { public, expired });
    }
    Ok(old)
}

fn members<'a>(
    object: &'a CanonicalJsonObject,
    name: &'static str,
) -> Result<Option<&'a CanonicalJsonObject>, ServerKeysError> {
    match object.get(name) {
        None => Ok(None),
        Some(CanonicalJsonValue::Object(keys)) if keys.len() > KEYS_MAX => {
            Err(ServerKeysError::Many {
                found: keys.len(),
                max: KEYS_MAX,
            })
        }
        Some(CanonicalJsonValue::Object(keys)) => Ok(Some(keys)),
        Some(_) => Err(ServerKeysError::Member(name)),
    }
}

/// Keys of a kind that a later specification brings are not ours to refuse.
fn known_ids(keys: &CanonicalJsonObject) -> impl Iterator<Item = (KeyId, &CanonicalJsonValue)> {
    keys.iter().filter_map(|(id, entry)| {
        let id: Result<KeyId, KeyIdError> = id.parse();
        Some((id.ok()?, entry))
    })
}

fn key_in(entry: &CanonicalJsonValue, id: &KeyId) -> Result<PublicKey, ServerKeysError> {
    let text = match entry {
        CanonicalJsonValue::Object(entry) => text_of(entry, "key"),
        _ => None,
    };
    let public = text.unwrap_or_default().parse();
    public.map_err(|source| ServerKeysError::Key {
        id: id.clone(),
        source,
    })
}

fn text_of<'a>(object: &'a CanonicalJsonObject, name: &str) -> Option<&'a str> {
    match object.get(name)? {
        CanonicalJsonValue::String(text) => Some(text),
        _ => None,
    }
}

fn time_of(object: &CanonicalJsonObject, name: &str) -> Option<Timestamp> {
    match object.get(name)? {
        CanonicalJsonValue::Integer(ms) => u64::try_from(i64::from(*ms)).ok().map(Timestamp),
        _ => None,
    }
}

/// Our own answer, signed.
// spec: server-server §Retrieving-server-keys
pub fn publish(
    key: &ServerKey,
    old: &BTreeMap<KeyId, OldKey>,
    valid_until: Timestamp,
) -> Result<CanonicalJsonObject, JsonError> {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let mut object = CanonicalJsonObject::new();
    object.insert("server_name".to_owned(), text(key.name().as_str()));
    object.insert("valid_until_ts".to_owned(), integer(valid_until));
    let ours = [("key".to_owned(), text(&PublicKey(key.public()).base64()))];
    let current = [(key.id(), CanonicalJsonValue::Object(ours.into()))];
    object.insert(
        "verify_keys".to_owned(),
        CanonicalJsonValue::Object(current.into()),
    );
    let old = old.iter().map(|(id, old)| {
        let entry = [
            ("key".to_owned(), text(&old.public.base64())),
            ("expired_ts".to_owned(), integer(old.expired)),
        ];
        (id.to_string(), CanonicalJsonValue::Object(entry.into()))
    });
    object.insert(
        "old_verify_keys".to_owned(),
        CanonicalJsonValue::Object(old.collect()),
    );
    let signature = key.pair().sign(text_to_sign(&object)?.as_bytes());
    let by_key = [(signature.id(), text(&signature.base64()))];
    let by_us = [(
        key.name().to_string(),
        CanonicalJsonValue::Object(by_key.into()),
    )];
    object.insert(
        "signatures".to_owned(),
        CanonicalJsonValue::Object(by_us.into()),
    );
    Ok(object)
}

/// What is past the integers of JSON lies far enough ahead as it is.
fn integer(time: Timestamp) -> CanonicalJsonValue {
    let int = i64::try_from(time.0).ok();
    let int = int.and_then(|ms| ruma::Int::try_from(ms).ok());
    CanonicalJsonValue::Integer(int.unwrap_or(ruma::Int::MAX))
}

/// Keys of one kind in one answer. Servers have one, some two or three; old ones gather over years.
const KEYS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use ruma::server_name as name;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::matrix::tests::key;

    const UNTIL: Timestamp = Timestamp(1_652_262_000_000);

    fn old_keys() -> BTreeMap<KeyId, OldKey> {
        let old = OldKey {
            public: PublicKey([7; 32]),
            expired: Timestamp(1_532_645_052_628),
        };
        [("ed25519:0ldk3y".parse().unwrap(), old)].into()
    }

    /// What the origin publishes, changed before it is signed.
    fn signed(change: impl FnOnce(&mut Value)) -> String {
        let key = key("example.org");
        let mut object = serde_json::to_value(publish(&key, &old_keys(), UNTIL).unwrap()).unwrap();
        object.as_object_mut().unwrap().remove("signatures");
        change(&mut object);
        let mut object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
        key.sign_object(&mut object).unwrap();
        json::canonical(&object)
    }

    fn read(text: &str) -> Result<ServerKeys, ServerKeysError> {
        ServerKeys::read(text.as_bytes(), name!("example.org"))
    }

    #[test]
    fn what_is_published_here_is_read_back() {
        let key = key("example.org");
        let object = publish(&key, &old_keys(), UNTIL).unwrap();

        let keys = read(&json::canonical(&object)).unwrap();

        assert_eq!(
            keys.current,
            [(key.key_id(), PublicKey(key.public()))].into()
        );
        assert_eq!(keys.old, old_keys());
        assert_eq!(keys.valid_until, UNTIL);
        assert_eq!(keys.object, object);
    }

    #[test]
    fn what_is_published_has_the_form_of_the_specification() {
        let object = publish(&key("example.org"), &old_keys(), UNTIL).unwrap();
        let object = serde_json::to_value(object).unwrap();

        let public = object["verify_keys"]["ed25519:1"]["key"].as_str().unwrap();
        let signature = object["signatures"]["example.org"]["ed25519:1"].as_str();
        assert_eq!(public, "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI");
        assert_eq!(signature.unwrap().len(), 86);
        assert_eq!(object["valid_until_ts"], 1_652_262_000_000_u64);
        assert_eq!(object["server_name"], "example.org");
        let old = &object["old_verify_keys"]["ed25519:0ldk3y"];
        assert_eq!(old["expired_ts"], 1_532_645_052_628_u64);
    }

    #[test]
    fn a_key_that_did_not_sign_does_not_count() {
        let text = signed(|object| {
            object["verify_keys"]["ed25519:other"] = json!({"key": PublicKey([9; 32]).base64()});
            object["verify_keys"]["rsa:1"] = json!({"key": "unread"});
        });

        let keys = read(&text).unwrap();

        assert_eq!(keys.current.len(), 1);
    }

    #[test]
    fn an_answer_that_lies_is_refused_as_a_whole() {
        let good = signed(|_| ());
        assert!(read(&good).is_ok());
        let other = ServerKeys::read(good.as_bytes(), name!("other.example"));
        assert!(matches!(other, Err(ServerKeysError::OtherServer { .. })));
        let changed = good.replace("1652262000000", "1652262000001");
        assert!(matches!(
            read(&changed),
            Err(ServerKeysError::Signature { .. })
        ));
        let unsigned = good.replace("\"signatures\"", "\"signaturez\"");
        assert!(matches!(read(&unsigned), Err(ServerKeysError::Unsigned)));
        let short = signed(|object| object["verify_keys"]["ed25519:x"] = json!({"key": "AAAA"}));
        assert!(matches!(read(&short), Err(ServerKeysError::Key { .. })));
        let float = good.replace("1652262000000", "1.5");
        assert!(matches!(read(&float), Err(ServerKeysError::Form(_))));
        let late = signed(|object| object["valid_until_ts"] = json!("soon"));
        assert!(matches!(
            read(&late),
            Err(ServerKeysError::Member("valid_until_ts"))
        ));
        let old = signed(|object| {
            object["old_verify_keys"]["ed25519:x"] = json!({"key": PublicKey([1; 32]).base64()})
        });
        assert!(matches!(
            read(&old),
            Err(ServerKeysError::Member("expired_ts"))
        ));
        let many = signed(|object| {
            for number in 0..=KEYS_MAX {
                object["old_verify_keys"][format!("ed25519:k{number}")] = json!({});
            }
        });
        assert!(matches!(read(&many), Err(ServerKeysError::Many { .. })));
    }

    #[test]
    fn another_may_sign_beside_it() {
        let mut object = read(&signed(|_| ())).unwrap().object;
        let notary = key("notary.example");

        notary.sign_object(&mut object).unwrap();

        assert!(read(&json::canonical(&object)).is_ok());
        let by = PublicKey(notary.public());
        by.verify_object(&object, "notary.example", &notary.key_id())
            .unwrap();
        let object = serde_json::to_value(object).unwrap();
        assert_eq!(object["signatures"].as_object().unwrap().len(), 2);
    }
}
