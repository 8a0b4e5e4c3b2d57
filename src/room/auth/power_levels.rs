//! Rule 9 / 10: a change of power levels.

use ruma::{CanonicalJsonObject, UserId};

use super::{
    At, Auth, Clause,
    levels::{FIELDS, Level, integer, map},
};

/// spec: matrix-v12 §Authorization-rules
pub(super) fn check(auth: &Auth<'_>) -> Result<(), Clause> {
    let new = &auth.fields.content;
    form(auth, new)?;
    // 9.4 / 10.5. The first one is free.
    let Some(old) = auth.levels().content() else {
        return Ok(());
    };
    let sender = auth.fields.sender.as_str();
    let has = auth.levels().of(sender);
    numbers(auth, old, new, has)?;
    // 9.6, 9.7 / 10.7, 10.8. `events` and `notifications`: nothing above the sender.
    for name in ["events", "notifications"] {
        for (key, old, new) in changes(old, new, name) {
            if old.is_some_and(|old| Level::Finite(old) > has) {
                return Err(above(auth, At("9.6.1", "10.7.1"), name, key, old, has));
            }
            if new.is_some_and(|new| Level::Finite(new) > has) {
                return Err(above(auth, At("9.7.1", "10.8.1"), name, key, new, has));
            }
        }
    }
    // 9.8, 9.9 / 10.9, 10.10. `users`: nobody as high as the sender but itself, nobody to above.
    for (key, old, new) in changes(old, new, "users") {
        if key != sender && old.is_some_and(|old| Level::Finite(old) >= has) {
            return Err(above(auth, At("9.8.1", "10.9.1"), "users", key, old, has));
        }
        if new.is_some_and(|new| Level::Finite(new) > has) {
            return Err(above(auth, At("9.9.1", "10.10.1"), "users", key, new, has));
        }
    }
    // 9.10 / 10.10 (the text counts 10 twice). Otherwise, allow.
    Ok(())
}

/// 9.1 to 9.3 / 10.1 to 10.4. What can be said without looking at the room's levels.
fn form(auth: &Auth<'_>, new: &CanonicalJsonObject) -> Result<(), Clause> {
    // 9.1 / 10.1. The numbers must be integers: no strings, no null.
    for (name, _) in FIELDS {
        if let Some(value) = new.get(name)
            && integer(value).is_none()
        {
            return Err(auth.refuse(
                At("9.1", "10.1"),
                format!("`{name}` is {value}, not an integer"),
            ));
        }
    }
    // 9.2 / 10.2. `events` and `notifications` must be objects of integers.
    for name in ["events", "notifications"] {
        integers(auth, At("9.2", "10.2"), new, name)?;
    }
    // 9.3 / 10.3. `users` too, and its keys user ids. It may be absent: the text can be read
    // otherwise, but no server does, and rule 9.1's words «are present» are meant here too.
    integers(auth, At("9.3", "10.3"), new, "users")?;
    let users = map(new, "users");
    for user in users.into_iter().flat_map(CanonicalJsonObject::keys) {
        if <&UserId>::try_from(user.as_str()).is_err() {
            return Err(auth.refuse(
                At("9.3", "10.3"),
                format!("`users` names {user:?}, which is not a user id"),
            ));
        }
    }
    // 10.4, since v12. No creator may be named: their power is not a number.
    let rules = &auth.version.rules().authorization;
    if rules.explicitly_privilege_room_creators
        && let Some(users) = users
        && let Some(named) = auth.levels().creators().find(|id| users.contains_key(*id))
    {
        return Err(auth.refuse(
            At("9.3", "10.4"),
            format!("`users` names {named}, who is a creator of this room"),
        ));
    }
    Ok(())
}

fn integers(
    auth: &Auth<'_>,
    at: At,
    content: &CanonicalJsonObject,
    name: &str,
) -> Result<(), Clause> {
    let Some(value) = content.get(name) else {
        return Ok(());
    };
    let Some(entries) = value.as_object() else {
        return Err(auth.refuse(at, format!("`{name}` is {value}, not an object")));
    };
    match entries.iter().find(|(_, value)| integer(value).is_none()) {
        None => Ok(()),
        Some((key, value)) => Err(auth.refuse(
            at,
            format!("`{name}` gives {key} the level {value}, not an integer"),
        )),
    }
}

/// 9.5 / 10.6. The numbers: neither what is changed nor what it becomes may be above the sender.
/// An absent one stands for its default, as the text says of power levels in general; Synapse
/// compares only what is written.
fn numbers(
    auth: &Auth<'_>,
    old: &CanonicalJsonObject,
    new: &CanonicalJsonObject,
    has: Level,
) -> Result<(), Clause> {
    for (name, default) in FIELDS {
        let (old, new) = (
            old.get(name).and_then(integer),
            new.get(name).and_then(integer),
        );
        if old == new {
            continue;
        }
        let (old, new) = (old.unwrap_or(default), new.unwrap_or(default));
        if Level::Finite(old) > has {
            return Err(above(
                auth,
                At("9.5.1", "10.6.1"),
                "the level",
                name,
                Some(old),
                has,
            ));
        }
        if Level::Finite(new) > has {
            return Err(above(
                auth,
                At("9.5.2", "10.6.2"),
                "the level",
                name,
                Some(new),
                has,
            ));
        }
    }
    Ok(())
}

/// The entries of an object that were added, changed or removed: key, old and new value.
fn changes<'a>(
    old: &'a CanonicalJsonObject,
    new: &'a CanonicalJsonObject,
    name: &str,
) -> Vec<(&'a str, Option<i64>, Option<i64>)> {
    let (old, new) = (map(old, name), map(new, name));
    let value =
        |map: Option<&CanonicalJsonObject>, key: &str| map.and_then(|map| integer(map.get(key)?));
    let added = new.into_iter().flat_map(CanonicalJsonObject::keys);
    let added = added.filter(|key| old.is_none_or(|old| !old.contains_key(*key)));
    old.into_iter()
        .flat_map(CanonicalJsonObject::keys)
        .chain(added)
        .map(|key| (key.as_str(), value(old, key), value(new, key)))
        .filter(|(_, old, new)| old != new)
        .collect()
}

fn above(auth: &Auth<'_>, at: At, what: &str, key: &str, level: Option<i64>, has: Level) -> Clause {
    let level = level.unwrap_or_default();
    auth.refuse(
        at,
        format!("{what} `{key}` is {level}, out of reach of the sender's power level {has}"),
    )
}
