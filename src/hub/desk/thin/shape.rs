//! The table of kinds: what event a body makes, and which body shows an event exactly.
//!
//! Pure, and without numbers: whom and what an event names is text here, see `names`.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use super::content::to_cbor;
use crate::wire::thin::{Body, Membership, MlsGroup, NameKind, deflate};

/// The algorithm of the events that carry MLS messages.
pub(super) const MLS: &str = "org.tramline.mls.v1";

/// A body whose number, if it has one, is still to be filled in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) body: Body,
    /// The id of the event it refers to.
    pub(super) target: Option<String>,
    /// What the number in the body stands for.
    pub(super) named: Option<(NameKind, String)>,
}

/// What decides about the shape of an event.
pub(super) struct Facts<'a> {
    pub(super) kind: &'a str,
    pub(super) state_key: Option<&'a str>,
    pub(super) content: &'a CanonicalJsonObject,
    /// What it redacts, where the room version keeps that outside of the content.
    pub(super) redacts: Option<&'a str>,
}

/// The content of kinds 0 to 2.
pub(super) fn text(msgtype: &str, body: &str, reply_to: Option<&str>) -> CanonicalJsonObject {
    let mut content = CanonicalJsonObject::new();
    content.insert("msgtype".to_owned(), word(msgtype));
    content.insert("body".to_owned(), word(body));
    if let Some(target) = reply_to {
        let reply = object([("event_id", word(target))]);
        let relates = object([("m.in_reply_to", reply)]);
        content.insert(RELATES.to_owned(), relates);
    }
    content
}

/// The content of kind 3.
pub(super) fn reaction(key: &str, target: &str) -> CanonicalJsonObject {
    let relates = object([
        ("rel_type", word("m.annotation")),
        ("event_id", word(target)),
        ("key", word(key)),
    ]);
    CanonicalJsonObject::from([(RELATES.to_owned(), relates)])
}

/// The content of kinds 5 and 6.
pub(super) fn mls(message: &[u8]) -> CanonicalJsonObject {
    CanonicalJsonObject::from([
        ("algorithm".to_owned(), word(MLS)),
        (
            "ciphertext".to_owned(),
            word(&STANDARD_NO_PAD.encode(message)),
        ),
    ])
}

/// The group that a room's `m.room.encryption` states. spec: thin-profile §10
pub(super) fn mls_group(content: &CanonicalJsonObject) -> Option<MlsGroup> {
    let is_ours = str_in(content, "algorithm")? == MLS;
    let group_id = STANDARD_NO_PAD.decode(str_in(content, "group_id")?).ok()?;
    let CanonicalJsonValue::Integer(epoch) = content.get("epoch")? else {
        return None;
    };
    let epoch = u64::try_from(i64::from(*epoch)).ok()?;
    is_ours.then_some(MlsGroup { group_id, epoch })
}

/// The kind that shows an event exactly.
pub(super) fn of(facts: &Facts<'_>) -> Shape {
    let exact = match (facts.kind, facts.state_key) {
        ("m.room.message", None) => message(facts.content),
        ("m.reaction", None) => annotation(facts.content),
        ("m.room.redaction", None) => redaction(facts),
        ("m.room.encrypted", None) => encrypted(facts.content),
        ("m.room.member", Some(user)) => member(user, facts.content),
        _ => None,
    };
    exact.unwrap_or_else(|| Shape {
        target: edited(facts).map(ToOwned::to_owned),
        ..general(facts)
    })
}

/// What a message replaces. spec: thin-profile §7
fn edited<'a>(facts: &Facts<'a>) -> Option<&'a str> {
    let relates = relates(facts.content)?;
    let is_edit = facts.kind == "m.room.message"
        && facts.state_key.is_none()
        && str_in(relates, "rel_type") == Some("m.replace");
    str_in(relates, "event_id").filter(|_| is_edit)
}

/// Kinds 7 to 10, which show any event.
pub(super) fn general(facts: &Facts<'_>) -> Shape {
    let content = to_cbor(facts.content);
    // Ciphertext as text would shrink, but tells by how much.
    let smaller = (facts.kind != "m.room.encrypted")
        .then(|| deflate::deflate(&content))
        .flatten();
    let deflated = smaller.is_some();
    let content = smaller.unwrap_or(content);
    let body = match facts.state_key {
        None => Body::Event {
            event_type: 0,
            content,
            deflated,
        },
        Some(key) => Body::State {
            event_type: 0,
            state_key: key.to_owned(),
            content,
            deflated,
        },
    };
    Shape {
        body,
        target: None,
        named: Some((NameKind::EventType, facts.kind.to_owned())),
    }
}

/// The body with the number of what it names.
pub(super) fn numbered(mut body: Body, number: u64) -> Body {
    match &mut body {
        Body::Event { event_type, .. } | Body::State { event_type, .. } => *event_type = number,
        Body::Member { user, .. } => *user = number,
        _ => {}
    }
    body
}

fn message(content: &CanonicalJsonObject) -> Option<Shape> {
    let msgtype = str_in(content, "msgtype")?;
    let said = str_in(content, "body")?;
    let target = relates(content).and_then(|relates| match relates.get("m.in_reply_to") {
        Some(CanonicalJsonValue::Object(reply)) => str_in(reply, "event_id"),
        _ => None,
    });
    let body = match msgtype {
        "m.text" => Body::Text(said.to_owned()),
        "m.notice" => Body::Notice(said.to_owned()),
        "m.emote" => Body::Emote(said.to_owned()),
        _ => return None,
    };
    (text(msgtype, said, target) == *content).then(|| plain(body, target))
}

fn annotation(content: &CanonicalJsonObject) -> Option<Shape> {
    let relates = relates(content)?;
    let (key, target) = (str_in(relates, "key")?, str_in(relates, "event_id")?);
    let is_exact = reaction(key, target) == *content;
    is_exact.then(|| plain(Body::Reaction(key.to_owned()), Some(target)))
}

fn redaction(facts: &Facts<'_>) -> Option<Shape> {
    let target = str_in(facts.content, "redacts").or(facts.redacts)?;
    let reason = match facts.content.get("reason") {
        None => "",
        Some(CanonicalJsonValue::String(reason)) if !reason.is_empty() => reason,
        Some(_) => return None,
    };
    let mut others = facts.content.keys();
    let is_exact = others.all(|key| matches!(key.as_str(), "redacts" | "reason"));
    is_exact.then(|| plain(Body::Redaction(reason.to_owned()), Some(target)))
}

fn encrypted(content: &CanonicalJsonObject) -> Option<Shape> {
    let message = STANDARD_NO_PAD
        .decode(str_in(content, "ciphertext")?)
        .ok()?;
    let is_exact = mls(&message) == *content;
    is_exact.then(|| plain(Body::MlsWhole(message), None))
}

fn member(user: &str, content: &CanonicalJsonObject) -> Option<Shape> {
    let membership = match str_in(content, "membership")? {
        "join" => Membership::Join,
        "invite" => Membership::Invite,
        "leave" => Membership::Leave,
        "ban" => Membership::Ban,
        "knock" => Membership::Knock,
        _ => return None,
    };
    let display_name = match content.get("displayname") {
        None => "",
        Some(CanonicalJsonValue::String(name)) if !name.is_empty() => name,
        Some(_) => return None,
    };
    let members = 1 + usize::from(!display_name.is_empty());
    (content.len() == members).then(|| Shape {
        body: Body::Member {
            user: 0,
            membership,
            display_name: display_name.to_owned(),
        },
        target: None,
        named: Some((NameKind::User, user.to_owned())),
    })
}

fn plain(body: Body, target: Option<&str>) -> Shape {
    Shape {
        body,
        target: target.map(ToOwned::to_owned),
        named: None,
    }
}

fn relates(content: &CanonicalJsonObject) -> Option<&CanonicalJsonObject> {
    match content.get(RELATES)? {
        CanonicalJsonValue::Object(relates) => Some(relates),
        _ => None,
    }
}

fn str_in<'a>(object: &'a CanonicalJsonObject, member: &str) -> Option<&'a str> {
    object.get(member)?.as_str()
}

fn word(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

fn object<const N: usize>(members: [(&str, CanonicalJsonValue); N]) -> CanonicalJsonValue {
    let members = members.into_iter();
    CanonicalJsonValue::Object(
        members
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

const RELATES: &str = "m.relates_to";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::wire::json::strict_object;

    fn kind_of(kind: &str, key: Option<&str>, content: serde_json::Value) -> u8 {
        let content = strict_object(content.as_object().unwrap().clone()).unwrap();
        let facts = Facts {
            kind,
            state_key: key,
            content: &content,
            redacts: None,
        };
        of(&facts).body.kind()
    }

    #[test]
    fn a_kind_shows_only_what_it_makes() {
        let message = |content| kind_of("m.room.message", None, content);
        assert_eq!(message(json!({"msgtype": "m.text", "body": "a"})), 0);
        assert_eq!(message(json!({"msgtype": "m.notice", "body": "a"})), 1);
        assert_eq!(message(json!({"msgtype": "m.emote", "body": "a"})), 2);
        let reply = json!({"m.in_reply_to": {"event_id": "$a"}});
        assert_eq!(
            message(json!({"msgtype": "m.text", "body": "a", "m.relates_to": reply})),
            0
        );
        let is_general = |kind: u8| matches!(kind, 7..=10);
        let thread = json!({"m.in_reply_to": {"event_id": "$a"}, "rel_type": "m.thread"});
        for content in [
            json!({}),
            json!({"msgtype": "m.text"}),
            json!({"msgtype": "m.text", "body": 1}),
            json!({"msgtype": "m.image", "body": "a"}),
            json!({"msgtype": "m.text", "body": "a", "more": 1}),
            json!({"msgtype": "m.text", "body": "a", "m.relates_to": thread}),
        ] {
            assert!(is_general(message(content)));
        }
        let member = |content| kind_of("m.room.member", Some("@a:b"), content);
        assert_eq!(member(json!({"membership": "join"})), 11);
        assert_eq!(member(json!({"membership": "ban", "displayname": "A"})), 11);
        for content in [
            json!({"membership": "join", "displayname": ""}),
            json!({"membership": "join", "avatar_url": "mxc://a/b"}),
            json!({"membership": "gone"}),
        ] {
            assert!(is_general(member(content)));
        }
        let redaction = |content| kind_of("m.room.redaction", None, content);
        assert_eq!(redaction(json!({"redacts": "$a"})), 4);
        assert!(is_general(redaction(
            json!({"redacts": "$a", "reason": ""})
        )));
        assert!(is_general(redaction(json!({}))));
        let encrypted = |content| kind_of("m.room.encrypted", None, content);
        assert_eq!(
            encrypted(json!({"algorithm": MLS, "ciphertext": "AAAA"})),
            6
        );
        assert_eq!(
            encrypted(json!({"algorithm": MLS, "ciphertext": "AAAA", "x": 1})),
            7
        );
        assert_eq!(
            encrypted(json!({"algorithm": MLS, "ciphertext": "AB"})),
            7,
            "base64 with bits to spare does not come back"
        );
    }

    proptest! {
        #[test]
        fn what_a_kind_makes_is_shown_as_that_kind(
            said in any::<String>(),
            reply in proptest::option::of("\\$[a-z]{1,9}"),
            message in proptest::collection::vec(any::<u8>(), 0..200),
            which in 0_usize..5,
        ) {
            let reply_to = reply.as_deref();
            let id = reply_to.unwrap_or("$id");
            let (kind, content, body, target) = match which {
                0 => ("m.room.message", text("m.text", &said, reply_to), Body::Text(said), reply_to),
                1 => ("m.room.message", text("m.notice", &said, reply_to), Body::Notice(said), reply_to),
                2 => ("m.room.message", text("m.emote", &said, reply_to), Body::Emote(said), reply_to),
                3 => ("m.reaction", reaction(&said, id), Body::Reaction(said), Some(id)),
                _ => ("m.room.encrypted", mls(&message), Body::MlsWhole(message), None),
            };
            let facts = Facts { kind, state_key: None, content: &content, redacts: None };
            prop_assert_eq!(of(&facts), plain(body, target));
        }

        #[test]
        fn content_shown_in_general_comes_back(
            keys in proptest::collection::btree_map("[a-z_.]{0,12}|body|msgtype", any::<i32>(), 0..30),
        ) {
            let content: CanonicalJsonObject =
                keys.into_iter().map(|(key, n)| (key, CanonicalJsonValue::Integer(n.into()))).collect();
            let facts = Facts { kind: "a.b", state_key: Some("k"), content: &content, redacts: None };
            match of(&facts).body {
                Body::State { content: cbor, deflated, .. } => {
                    let back = super::super::content::of_cbor(&cbor, deflated);
                    prop_assert_eq!(back, Ok(content));
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
