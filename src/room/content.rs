//! What the contents of known state events must look like that our own users send.
//!
//! Only what the specification gives a form, and only where another form would be of no use to anybody
//! or against the rules: further members are whoever's they are, and what is absent is left absent.
//! What other servers send is not looked at here; nor what the room has already, which a client that
//! changes something else repeats (power levels as texts, in rooms before version 10).

use ruma::{CanonicalJsonObject, CanonicalJsonValue as Value, UserId};

use super::{Refusal, decide::wrong};

/// What a member must be.
enum Form {
    Text,
    Truth,
    Integer,
    /// A list of texts.
    Texts,
    /// A list of objects.
    Objects,
    /// An object of integers.
    Integers,
    /// An object of integers by the ids of users.
    Users,
    /// Present, and one of these, or a word of somebody's own (with a dot in it).
    Word(&'static [&'static str]),
}

/// Refuses the content of a state event with the empty key that is not of its form, where it differs
/// from the present one.
///
/// spec: client-server-rooms §Room-Events
pub(super) fn check(
    kind: &str,
    content: &CanonicalJsonObject,
    now: Option<&CanonicalJsonObject>,
) -> Result<(), Refusal> {
    for (name, form) in forms(kind) {
        let wanted = content.get(*name);
        let present = now.and_then(|now| now.get(*name));
        if now.is_some() && present == wanted {
            continue;
        }
        let Err((at, right)) = form.check(wanted, present) else {
            continue;
        };
        return Err(wrong(kind, &format!("`{name}{at}`"), &right));
    }
    Ok(())
}

fn forms(kind: &str) -> &'static [(&'static str, Form)] {
    match kind {
        "m.room.name" => &[("name", Form::Text)],
        "m.room.topic" => &[("topic", Form::Text)],
        "m.room.tombstone" => &[("replacement_room", Form::Text)],
        "m.room.encryption" => &[("algorithm", Form::Text)],
        "m.room.join_rules" => &[
            ("join_rule", Form::Word(JOIN_RULES)),
            ("allow", Form::Objects),
        ],
        "m.room.history_visibility" => &[("history_visibility", Form::Word(VISIBILITIES))],
        "m.room.guest_access" => &[("guest_access", Form::Word(&["can_join", "forbidden"]))],
        "m.room.server_acl" => &[
            ("allow", Form::Texts),
            ("deny", Form::Texts),
            ("allow_ip_literals", Form::Truth),
        ],
        "m.room.power_levels" => POWER_LEVELS,
        _ => &[],
    }
}

impl Form {
    /// Where in the value something is of another form that is not in the present one, and what it
    /// must be.
    fn check(&self, value: Option<&Value>, now: Option<&Value>) -> Result<(), (String, String)> {
        let here = |right| {
            if right {
                return Ok(());
            }
            Err((String::new(), self.words()))
        };
        let Some(value) = value else {
            return here(!matches!(self, Self::Word(_)));
        };
        match (self, value) {
            (Self::Text, value) => here(value.is_string()),
            (Self::Truth, value) => here(value.is_bool()),
            (Self::Integer, value) => here(value.is_integer()),
            (Self::Word(words), Value::String(word)) => {
                here(words.contains(&word.as_str()) || word.contains('.'))
            }
            (Self::Texts, Value::Array(items)) => all(items, now, (Value::is_string, "a text")),
            (Self::Objects, Value::Array(items)) => {
                all(items, now, (Value::is_object, "an object"))
            }
            (Self::Integers | Self::Users, Value::Object(members)) => {
                let now = now.and_then(Value::as_object);
                let is_named = |name: &str| {
                    matches!(self, Self::Integers) || <&UserId>::try_from(name).is_ok()
                };
                for (name, value) in members {
                    if now.and_then(|now| now.get(name)) == Some(value) {
                        continue;
                    }
                    if !is_named(name) {
                        return Err((format!(".{name}"), USER_ID.to_owned()));
                    }
                    if !value.is_integer() {
                        return Err((format!(".{name}"), "a whole number".to_owned()));
                    }
                }
                Ok(())
            }
            _ => here(false),
        }
    }

    fn words(&self) -> String {
        let words = match self {
            Self::Text => "a text",
            Self::Truth => "true or false",
            Self::Integer => "a whole number",
            Self::Texts => "a list of texts",
            Self::Objects => "a list of objects",
            Self::Integers => "an object of whole numbers",
            Self::Users => "an object of whole numbers, by user ids",
            Self::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                return format!("one of {}", words.join(", "));
            }
        };
        words.to_owned()
    }
}

/// Whether each item is right, or was there before, in this order: of long lists each item is looked at
/// once.
fn all(
    items: &[Value],
    now: Option<&Value>,
    (is_right, right): (fn(&Value) -> bool, &str),
) -> Result<(), (String, String)> {
    let now = now.and_then(Value::as_array);
    let mut known = now.into_iter().flatten();
    for (index, item) in items.iter().enumerate() {
        if !is_right(item) && !known.any(|known| known == item) {
            return Err((format!("[{index}]"), right.to_owned()));
        }
    }
    Ok(())
}

/// What a level of somebody must stand under.
const USER_ID: &str = "under a user id, such as `@name:server.example`";

const JOIN_RULES: &[&str] = &[
    "public",
    "knock",
    "invite",
    "private",
    "restricted",
    "knock_restricted",
];

const VISIBILITIES: &[&str] = &["invited", "joined", "shared", "world_readable"];

const POWER_LEVELS: &[(&str, Form)] = &[
    ("ban", Form::Integer),
    ("events_default", Form::Integer),
    ("invite", Form::Integer),
    ("kick", Form::Integer),
    ("redact", Form::Integer),
    ("state_default", Form::Integer),
    ("users_default", Form::Integer),
    ("events", Form::Integers),
    ("notifications", Form::Integers),
    ("users", Form::Users),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::json::strict;

    fn said(kind: &str, content: serde_json::Value) -> Option<String> {
        let Ok(Value::Object(content)) = strict(content) else {
            panic!("no object")
        };
        check(kind, &content, None)
            .err()
            .map(|refusal| refusal.to_string())
    }

    #[test]
    fn what_the_room_has_already_is_not_looked_at_and_what_is_new_in_it_is() {
        let object = |value| match strict(value) {
            Ok(Value::Object(object)) => object,
            other => panic!("{other:?}"),
        };
        let levels = json!({"ban": "50", "users": {"@a:b.example": "100"}});
        let acl = json!({"allow": ["*", 5, "a", null]});
        for (kind, now, wanted, odd) in [
            ("m.room.power_levels", &levels, levels.clone(), None),
            (
                "m.room.power_levels",
                &levels,
                json!({"ban": "50", "kick": 50, "users": {"@a:b.example": "100", "@c:b.example": 50}}),
                None,
            ),
            (
                "m.room.power_levels",
                &levels,
                json!({"ban": "60", "users": {"@a:b.example": "100"}}),
                Some("`ban`"),
            ),
            (
                "m.room.power_levels",
                &levels,
                json!({"users": {"@a:b.example": "100", "@c:b.example": "100"}}),
                Some("`users.@c:b.example`"),
            ),
            (
                "m.room.server_acl",
                &acl,
                json!({"allow": ["b", 5, null, "*"]}),
                None,
            ),
            (
                "m.room.server_acl",
                &acl,
                json!({"allow": ["*", 5, 6]}),
                Some("`allow[2]`"),
            ),
            ("m.room.join_rules", &json!({}), json!({"x": 1}), None),
        ] {
            let said = check(kind, &object(wanted.clone()), Some(&object(now.clone())));
            let said = said.err().map(|refusal| refusal.to_string());
            match odd {
                None => assert_eq!(said, None, "{wanted}"),
                Some(odd) => assert!(said.clone().unwrap().contains(odd), "{said:?}"),
            }
        }
    }

    #[test]
    fn what_is_of_no_use_to_anybody_is_named() {
        for (kind, content, named) in [
            ("m.room.name", json!({"name": 5}), "`name` must be a text"),
            (
                "m.room.topic",
                json!({"topic": ["x"]}),
                "`topic` must be a text",
            ),
            (
                "m.room.join_rules",
                json!({"join_rule": "everybody"}),
                "`join_rule` must be one of `public`, ",
            ),
            ("m.room.join_rules", json!({}), "`join_rule` must be"),
            (
                "m.room.join_rules",
                json!({"join_rule": "restricted", "allow": [{}, 5]}),
                "`allow[1]` must be an object",
            ),
            (
                "m.room.history_visibility",
                json!({"history_visibility": "all"}),
                "`history_visibility` must be one of `invited`, ",
            ),
            (
                "m.room.power_levels",
                json!({"users": {"@a:b.example": "100"}}),
                "`users.@a:b.example` must be a whole number",
            ),
            (
                "m.room.power_levels",
                json!({"ban": "50"}),
                "`ban` must be a whole number",
            ),
            (
                "m.room.server_acl",
                json!({"allow": "*"}),
                "`allow` must be a list of texts",
            ),
            (
                "m.room.join_rules",
                json!({"join_rule": "restricted", "allow": 3}),
                "`allow` must be a list of objects",
            ),
            (
                "m.room.power_levels",
                json!({"users": {"@a:b.example": 100, "bad": 50}}),
                "`users.bad` must be under a user id, such as",
            ),
            (
                "m.room.power_levels",
                json!({"events": 5}),
                "`events` must be an object of whole numbers",
            ),
            (
                "m.room.server_acl",
                json!({"allow": ["*"], "deny": ["a", 5]}),
                "`deny[1]` must be a text",
            ),
        ] {
            let said = said(kind, content.clone());
            let said = said.unwrap_or_else(|| panic!("{kind} {content} is taken"));
            assert!(said.contains(named), "{said}");
            assert!(said.contains(kind), "{said}");
        }
    }

    #[test]
    fn what_is_absent_or_of_somebodys_own_is_left_alone() {
        for (kind, content) in [
            ("m.room.name", json!({})),
            ("m.room.topic", json!({"topic": "", "m.topic": 5})),
            (
                "m.room.join_rules",
                json!({"join_rule": "org.example.rule", "org.example.x": [1]}),
            ),
            ("m.room.power_levels", json!({"org.example.x": "50"})),
            ("m.room.server_acl", json!({})),
            ("org.example.state", json!({"name": 5})),
        ] {
            assert_eq!(said(kind, content), None, "{kind}");
        }
    }
}
