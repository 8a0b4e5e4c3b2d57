//! Which member of an EDU keeps it from being read, and what is right there.
//!
//! Whoever reads an EDU tells this to programmers of Rust, and of places in the text. So the members
//! that this hub reads are written down here, and looked through where reading failed. What is found
//! right here may still be unreadable: then there is nothing to be told.

use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::Value;

use crate::wire::json::kind_lax;

/// What a value must be.
enum Form {
    Text,
    UserId,
    RoomId,
    Truth,
    Number,
    Texts,
    /// Any object.
    Map,
    /// A list of such.
    List(&'static Self),
    /// An object with any keys, and such values.
    Each(&'static Self),
    /// An object with these members; whether one must be there.
    Object(&'static [(&'static str, bool, Self)]),
}

/// `` `typing`: expected true or false, found a text``: the first member that is not as `kind` has it
/// in its `content`.
pub(super) fn wrong(kind: &str, edu: &str) -> Option<String> {
    let form = form(kind)?;
    let edu: Value = serde_json::from_str(edu).ok()?;
    let Some(content) = edu.get("content") else {
        return Some("`content` is missing".to_owned());
    };
    let (way, wrong) = form.wrong(content).err()?;
    let place = shown(way);
    let place = if place.is_empty() { "content" } else { &place };
    Some(match wrong {
        Wrong::Missing => format!("`{place}` is missing, which {kind} must have"),
        Wrong::Kind(expected, found) => format!("`{place}`: expected {expected}, found {found}"),
    })
}

fn form(kind: &str) -> Option<&'static Form> {
    Some(match kind {
        "m.typing" => &TYPING,
        "m.receipt" => &RECEIPTS,
        "m.presence" => &PRESENCE,
        "m.direct_to_device" => &TO_DEVICE,
        "m.device_list_update" => &DEVICE,
        "m.signing_key_update" => &SIGNING_KEY,
        _ => return None,
    })
}

// spec: server-server §Typing-Notifications
const TYPING: Form = Form::Object(&[
    ("room_id", true, Form::RoomId),
    ("user_id", true, Form::UserId),
    ("typing", true, Form::Truth),
]);

// spec: server-server §Receipts
const RECEIPTS: Form = Form::Each(&Form::Object(&[(
    "m.read",
    true,
    Form::Each(&Form::Object(&[
        (
            "data",
            true,
            Form::Object(&[
                ("ts", false, Form::Number),
                ("thread_id", false, Form::Text),
            ]),
        ),
        ("event_ids", true, Form::Texts),
    ])),
)]));

const PRESENCE: Form = Form::Object(&[(
    "push",
    true,
    Form::List(&Form::Object(&[
        ("user_id", true, Form::UserId),
        ("presence", true, Form::Text),
    ])),
)]);

// spec: server-server §Send-to-device-messaging
const TO_DEVICE: Form = Form::Object(&[
    ("sender", true, Form::UserId),
    ("type", true, Form::Text),
    ("message_id", true, Form::Text),
    ("messages", true, Form::Each(&Form::Each(&Form::Map))),
]);

const DEVICE: Form = Form::Object(&[
    ("user_id", true, Form::UserId),
    ("device_id", true, Form::Text),
    ("device_display_name", false, Form::Text),
    ("stream_id", true, Form::Number),
    ("prev_id", false, Form::List(&Form::Number)),
    ("deleted", false, Form::Truth),
    ("keys", false, Form::Map),
]);

const SIGNING_KEY: Form = Form::Object(&[
    ("user_id", true, Form::UserId),
    ("master_key", false, Form::Map),
    ("self_signing_key", false, Form::Map),
]);

enum Wrong {
    Missing,
    /// What is expected, and what was found.
    Kind(&'static str, &'static str),
}

/// The way to what is wrong, innermost first.
type Way = Vec<String>;

impl Form {
    /// As deep as the forms above.
    fn wrong(&self, value: &Value) -> Result<(), (Way, Wrong)> {
        let all = |inner: &Self, members: &mut dyn Iterator<Item = (String, &Value)>| {
            for (step, value) in members {
                inside(step, inner.wrong(value))?;
            }
            Ok(())
        };
        match (self, value) {
            (Self::Object(known), Value::Object(members)) => known.iter().try_for_each(|known| {
                let (name, must_be, form) = known;
                match members.get(*name) {
                    Some(Value::Null) if !must_be => Ok(()),
                    Some(value) => inside((*name).to_owned(), form.wrong(value)),
                    None if *must_be => Err((vec![(*name).to_owned()], Wrong::Missing)),
                    None => Ok(()),
                }
            }),
            (Self::Each(form), Value::Object(members)) => all(
                form,
                &mut members.iter().map(|(key, value)| (key.clone(), value)),
            ),
            (Self::List(form), Value::Array(items)) => all(form, &mut indexed(items)),
            (Self::Texts, Value::Array(items)) => all(&Self::Text, &mut indexed(items)),
            (Self::Map, Value::Object(_))
            | (Self::Text, Value::String(_))
            | (Self::Truth, Value::Bool(_)) => Ok(()),
            (Self::Number, Value::Number(number)) if number.as_u64().is_some() => Ok(()),
            (Self::UserId, Value::String(id)) if OwnedUserId::try_from(&**id).is_ok() => Ok(()),
            (Self::RoomId, Value::String(id)) if OwnedRoomId::try_from(&**id).is_ok() => Ok(()),
            (Self::UserId | Self::RoomId, Value::String(_)) => {
                Err((Way::new(), Wrong::Kind(self.words(), "another text")))
            }
            _ => Err((Way::new(), Wrong::Kind(self.words(), kind_lax(value)))),
        }
    }

    const fn words(&self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::UserId => "a user id, such as `@name:server.example`",
            Self::RoomId => "a room id, such as `!name:server.example`",
            Self::Truth => "true or false",
            Self::Number => "a whole number from 0 on",
            Self::Texts | Self::List(_) => "a list",
            Self::Map | Self::Each(_) | Self::Object(_) => "an object",
        }
    }
}

fn indexed(items: &[Value]) -> impl Iterator<Item = (String, &Value)> {
    let items = items.iter().enumerate();
    items.map(|(index, item)| (format!("[{index}]"), item))
}

fn inside(step: String, found: Result<(), (Way, Wrong)>) -> Result<(), (Way, Wrong)> {
    found.map_err(|(mut way, wrong)| {
        way.push(step);
        (way, wrong)
    })
}

/// `push[2].user_id`; what is a key may be anything, and of any length.
fn shown(way: Way) -> String {
    let mut shown = String::new();
    for step in way.into_iter().rev() {
        if !shown.is_empty() && !step.starts_with('[') {
            shown.push('.');
        }
        let step = step.chars().filter(|c| !c.is_control());
        shown.extend(step.take(KEY_CHARS_MAX));
    }
    shown
}

/// The longest key that is told, in characters: an id of a user.
const KEY_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_in_an_edu_is_named_with_what_is_right() {
        let receipt = |data: Value| json!({"!a:b": {"m.read": {"@a:b": data}}});
        for (kind, content, said) in [
            (
                "m.typing",
                json!({"room_id": "!a:b", "user_id": "@a:b", "typing": "yes"}),
                "`typing`: expected true or false, found a text",
            ),
            (
                "m.typing",
                json!({"room_id": "!a:b", "typing": true}),
                "`user_id` is missing, which m.typing must have",
            ),
            (
                "m.typing",
                json!({"room_id": "a", "user_id": "@a:b", "typing": true}),
                "`room_id`: expected a room id, such as `!name:server.example`, found another text",
            ),
            (
                "m.typing",
                json!([]),
                "`content`: expected an object, found a list",
            ),
            (
                "m.receipt",
                receipt(json!({"data": {}, "event_ids": ["$a", 5]})),
                "`!a:b.m.read.@a:b.event_ids[1]`: expected a text, found a number",
            ),
            (
                "m.receipt",
                receipt(json!({"data": {"ts": "now"}, "event_ids": ["$a"]})),
                "`!a:b.m.read.@a:b.data.ts`: expected a whole number from 0 on, found a text",
            ),
            (
                "m.presence",
                json!({"push": [{"user_id": "@a:b", "presence": "online"}, {"presence": 1}]}),
                "`push[1].user_id` is missing, which m.presence must have",
            ),
        ] {
            let edu = json!({"edu_type": kind, "content": content}).to_string();
            assert_eq!(wrong(kind, &edu).as_deref(), Some(said), "{edu}");
        }
    }

    #[test]
    fn what_is_right_or_of_another_kind_has_nothing_wrong() {
        let right = json!({"content": {"room_id": "!a:b", "user_id": "@a:b", "typing": true}});
        assert_eq!(wrong("m.typing", &right.to_string()), None);
        assert_eq!(wrong("m.other", &right.to_string()), None);
    }
}
