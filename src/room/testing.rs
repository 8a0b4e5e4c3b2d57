//! A room on a table: a staged room, a store that is a map, and everything that was appended.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedUserId, UserId,
    serde::Base64,
    signatures::{PublicKeyMap, Verified, verify_event},
};
use sha2::{Digest as _, Sha256};

use crate::{
    base::{Seq, Timestamp},
    room::{Effect, Evidence, Founding, MemberChange, Part, Refusal, Room, StateKey, found},
    wire::{
        chain,
        matrix::{Pdu, ServerKey, Version},
    },
};

pub(crate) const ANA: &str = "@ana:hub";
pub(crate) const BEN: &str = "@ben:hub";
pub(crate) const CAT: &str = "@cat:hub";

/// The key of the specification's test vectors, as PKCS#8.
pub(crate) fn key(name: &str) -> ServerKey {
    const SEED: &str = "6090c103d5e7af6b15a970fd563ed75549e6159719ae5c3c31dee4316fb75c0d";
    let der = format!("302e020100300506032b657004220420{SEED}");
    ServerKey::from_der(name.try_into().unwrap(), &hex::decode(der).unwrap(), "1").unwrap()
}

/// Another server's policy key.
pub(crate) fn policy_key(name: &str) -> ServerKey {
    let seed = hex::encode(Sha256::digest(name.as_bytes()));
    let der = hex::decode(format!("302e020100300506032b657004220420{seed}")).unwrap();
    let version = crate::room::POLICY_KEY_VERSION;
    ServerKey::from_der(name.try_into().unwrap(), &der, version).unwrap()
}

pub(crate) fn user(id: &str) -> OwnedUserId {
    OwnedUserId::try_from(id).unwrap()
}

pub(crate) fn json(value: serde_json::Value) -> CanonicalJsonObject {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn message(body: &str) -> Part {
    Part::Event {
        kind: "m.room.message".to_owned(),
        state_key: None,
        content: json(serde_json::json!({ "body": body, "msgtype": "m.text" })),
    }
}

pub(crate) fn state(kind: &str, content: serde_json::Value) -> Part {
    Part::Event {
        kind: kind.to_owned(),
        state_key: Some(String::new()),
        content: json(content),
    }
}

pub(crate) fn member(target: &str, change: MemberChange) -> Part {
    Part::Member {
        target: user(target),
        change,
        content: CanonicalJsonObject::new(),
    }
}

pub(crate) struct Table {
    pub(crate) key: ServerKey,
    pub(crate) room: Room,
    pub(crate) stored: BTreeMap<StateKey, Arc<Pdu>>,
    pub(crate) log: Vec<Arc<Pdu>>,
    pub(crate) now: Timestamp,
}

impl Table {
    /// A room with its create event and nothing else.
    pub(crate) fn founded(version: Version, content: serde_json::Value) -> Result<Self, Refusal> {
        let key = key("hub");
        let now = Timestamp(1_700_000_000_000);
        let founding = Founding {
            creator: user(ANA),
            version,
            room_id: "!first:hub".try_into().unwrap(),
            content: json(content),
        };
        let (room, create) = found(
            &founding,
            &Evidence {
                now,
                key: &key,
                target: None,
            },
        )?;
        let mut table = Self {
            key,
            room,
            stored: BTreeMap::new(),
            log: Vec::new(),
            now,
        };
        table.apply(&Effect::Append(create));
        Ok(table)
    }

    /// A room its creator has joined.
    pub(crate) fn joined(version: Version) -> Self {
        let mut table = Self::founded(version, serde_json::json!({})).unwrap();
        table.take(ANA, &member(ANA, MemberChange::Join)).unwrap();
        table
    }

    /// The same, public, with power levels, and with Ben and Cat in it.
    pub(crate) fn busy(version: Version) -> Self {
        let mut table = Self::joined(version);
        let users = if version == Version::V12 {
            serde_json::json!({})
        } else {
            serde_json::json!({ ANA: 100 })
        };
        for (kind, content) in [
            ("m.room.power_levels", serde_json::json!({ "users": users })),
            (
                "m.room.join_rules",
                serde_json::json!({ "join_rule": "public" }),
            ),
        ] {
            table.take(ANA, &state(kind, content)).unwrap();
        }
        table.take(BEN, &member(BEN, MemberChange::Join)).unwrap();
        table.take(CAT, &member(CAT, MemberChange::Join)).unwrap();
        table
    }

    /// Needs, learn, decide, apply.
    pub(crate) fn take(&mut self, sender: &str, part: &Part) -> Result<Vec<Effect>, Refusal> {
        let sender = <&UserId>::try_from(sender).unwrap();
        self.now.0 += 1;
        let needs = self.room.needs(sender, part);
        for key in needs.state {
            let event = self.stored.get(&key).cloned();
            self.room.learn(key, event);
        }
        let target = needs.event.and_then(|id| self.event(&id).cloned());
        let evidence = Evidence {
            now: self.now,
            key: &self.key,
            target: target.as_deref(),
        };
        let effects = self.room.decide(sender, part, &evidence)?;
        for effect in &effects {
            self.apply(effect);
        }
        Ok(effects)
    }

    /// The event that taking the part appended.
    pub(crate) fn append(&mut self, sender: &str, part: &Part) -> Arc<Pdu> {
        match self.take(sender, part).unwrap().first() {
            Some(Effect::Append(pdu)) => Arc::clone(pdu),
            other => unreachable!("{part:?} gave {other:?}"),
        }
    }

    pub(crate) fn refused(&mut self, sender: &str, part: &Part) -> Refusal {
        let before = self.room.heads().clone();
        let refusal = self.take(sender, part).unwrap_err();
        assert_eq!(*self.room.heads(), before);
        refusal
    }

    pub(crate) fn event(&self, id: &OwnedEventId) -> Option<&Arc<Pdu>> {
        self.log.iter().find(|event| event.id() == id)
    }

    fn apply(&mut self, effect: &Effect) {
        let applied = self.room.apply(effect);
        match effect {
            Effect::Append(pdu) => {
                assert_eq!(applied.unwrap().seq.0, self.log.len() as u64 + 1);
                self.log.push(Arc::clone(pdu));
                if let Some(key) = &pdu.fields().state_key {
                    let key = StateKey::new(&pdu.fields().kind, key);
                    self.stored.insert(key, Arc::clone(pdu));
                }
            }
            Effect::Redact { target, .. } => {
                let version = self.room.version();
                let events = self.stored.values_mut().chain(&mut self.log);
                for event in events.filter(|event| event.id() == target) {
                    *event = Arc::new(event.redacted(version).unwrap());
                }
            }
            Effect::Already { .. } => assert_eq!(applied, None),
        }
    }

    /// Every event's hash and signature, by ruma's eyes, and the chain over all of them.
    pub(crate) fn verify(&self) {
        let room = self.room.id().as_str();
        let mut link = chain::genesis(room);
        for (n, event) in (1..).map(Seq).zip(&self.log) {
            link = chain::link(room, n, link, &event.hash().0);
        }
        assert_eq!(self.room.heads().chain, link);
        let public = Base64::new(self.key.public().to_vec());
        let keys = PublicKeyMap::from([(
            self.key.name().to_string(),
            [(self.key.id(), public)].into(),
        )]);
        let rules = self.room.version().rules();
        for event in &self.log {
            let verified = verify_event(&keys, &event.object(), rules).unwrap();
            assert_eq!(verified, Verified::All, "{}", event.json());
            let read = Pdu::read(event.json(), self.room.version()).unwrap();
            assert_eq!(read, **event);
        }
    }
}
