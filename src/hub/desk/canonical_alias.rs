//! The aliases that a room's state shows: what is new there must be an alias, and name the room.
//!
//! Asked before the room's writer is: another server may have to say what its alias names. Who may not
//! write the state makes nobody be asked; in the end it is the room that decides who may.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId,
};
use serde_json::Value;

use super::{access::ours, aliases, remote};
use crate::{
    api::{Caller, Code, Refusal},
    hub::Hub,
    room::{Membership, Part, StateKey},
    store::RoomRecord,
};

/// The type of the state.
pub(super) const KIND: &str = "m.room.canonical_alias";

/// How many aliases one event may add: as many as a room may have here.
const NEW_MAX: usize = aliases::ALIASES_PER_ROOM_MAX;

/// How many aliases of other servers one event may add: each may have to be asked for there.
const NEW_ELSEWHERE_MAX: usize = 8;

/// Refuses a part that would show aliases which do not name the room. Aliases that it shows already
/// are not looked at.
// spec: client-server-rooms §Canonical-alias
pub(super) async fn check(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    part: &Part,
) -> Result<(), Refusal> {
    let Some(content) = is_shown_by(part) else {
        return Ok(());
    };
    let record = hub.store.room(room).await.map_err(ours)?;
    let Some(record) = record else { return Ok(()) };
    let membership = hub.store.membership(&caller.user, record.nid).await;
    let membership = membership.map_err(ours)?.map(|record| record.membership);
    // Whoever is not in it is refused by the room, and nobody is asked for them.
    if membership != Some(Membership::Join) {
        return Ok(());
    }
    let mut wanted = named(content)?;
    let known = shown(hub, &record).await?;
    wanted.retain(|(_, alias)| !known.contains(alias));
    // Levels that cannot be read are the room's to judge.
    let may_write = aliases::may_rename(hub, caller, record.nid).await;
    if !wanted.is_empty() && !may_write.unwrap_or(true) {
        return Err(Refusal::forbidden(format!(
            "you may not change which aliases {room} shows: its power levels ask for more than yours"
        )));
    }
    let wanted = read(wanted)?;
    must_be_few(hub, &wanted)?;
    let mut asked = Vec::new();
    for (place, alias) in &wanted {
        asked.push(must_name(hub, room, (place, alias)));
    }
    let mut answers = stream::iter(asked).buffered(NEW_ELSEWHERE_MAX);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

/// The content, if the part is this state.
pub(super) fn is_shown_by(part: &Part) -> Option<&CanonicalJsonObject> {
    match part {
        Part::Event {
            kind,
            state_key: Some(key),
            content,
        } if kind == KIND && key.is_empty() => Some(content),
        _ => None,
    }
}

/// Refuses state of a room that is only being made and shows other aliases than the one made with
/// it: none of them can name it yet.
pub(super) fn check_first(
    index: usize,
    content: &CanonicalJsonObject,
    alias: Option<&RoomAliasId>,
) -> Result<(), Refusal> {
    let about = |refusal: Refusal| Refusal {
        message: format!("`initial_state[{index}]`: {}", refusal.message),
        ..refusal
    };
    for (place, named) in read(named(content).map_err(about)?).map_err(about)? {
        if Some(&*named) != alias {
            let message = format!(
                "{place}: {named} cannot name a room that is only being made; `room_alias_name` gives it an alias"
            );
            return Err(about(Refusal::new(Code::BadAlias, message)));
        }
    }
    Ok(())
}

/// What the content names, with the place of each; an empty `alias` is none.
fn named(content: &CanonicalJsonObject) -> Result<Vec<(String, String)>, Refusal> {
    let mut named = Vec::new();
    match content.get("alias") {
        None | Some(CanonicalJsonValue::Null) => {}
        Some(CanonicalJsonValue::String(alias)) if alias.is_empty() => {}
        Some(CanonicalJsonValue::String(alias)) => {
            named.push(("`alias`".to_owned(), alias.clone()));
        }
        Some(_) => return Err(no_alias("`alias`", None)),
    }
    let others = match content.get("alt_aliases") {
        None | Some(CanonicalJsonValue::Null) => return Ok(named),
        Some(CanonicalJsonValue::Array(others)) => others,
        Some(_) => {
            let message = "`alt_aliases` must be a list of aliases";
            return Err(Refusal::invalid_param(message));
        }
    };
    for (index, other) in others.iter().enumerate() {
        let place = format!("`alt_aliases[{index}]`");
        match other {
            CanonicalJsonValue::String(alias) => named.push((place, alias.clone())),
            _ => return Err(no_alias(&place, None)),
        }
    }
    Ok(named)
}

/// The same as aliases, each once.
fn read(named: Vec<(String, String)>) -> Result<Vec<(String, OwnedRoomAliasId)>, Refusal> {
    let (mut aliases, mut seen) = (Vec::new(), BTreeSet::new());
    for (place, text) in named {
        let alias = OwnedRoomAliasId::try_from(text.as_str()).ok();
        let alias = alias.filter(|alias| !alias.alias().is_empty());
        let alias = alias.ok_or_else(|| no_alias(&place, Some(&text)))?;
        if seen.insert(alias.clone()) {
            aliases.push((place, alias));
        }
    }
    Ok(aliases)
}

fn no_alias(place: &str, text: Option<&str>) -> Refusal {
    let what = text.map_or_else(
        || "this is no text".to_owned(),
        |text| {
            let text: String = text.chars().take(QUOTED_CHARS_MAX).collect();
            format!("{text:?} is no alias")
        },
    );
    Refusal::invalid_param(format!(
        "{place}: {what}; an alias is #, a name, a colon and the server's name, as in #crew:hub.example"
    ))
}

/// How much of what is no alias is repeated, in characters.
const QUOTED_CHARS_MAX: usize = 80;

fn must_be_few(hub: &Hub, wanted: &[(String, OwnedRoomAliasId)]) -> Result<(), Refusal> {
    let is_far = |(_, alias): &&(_, OwnedRoomAliasId)| alias.server_name() != hub.key.name();
    let far = wanted.iter().filter(is_far).count();
    if wanted.len() <= NEW_MAX && far <= NEW_ELSEWHERE_MAX {
        return Ok(());
    }
    Err(Refusal::invalid_param(format!(
        "this adds {} aliases, {far} of them of other servers; at most {NEW_MAX} can be added at once, and \
         {NEW_ELSEWHERE_MAX} of other servers",
        wanted.len()
    )))
}

/// What the room shows now.
async fn shown(hub: &Hub, room: &RoomRecord) -> Result<BTreeSet<String>, Refusal> {
    let content = current(hub, room).await?;
    let alias = content.get("alias").and_then(Value::as_str);
    let others = content.get("alt_aliases").and_then(Value::as_array);
    let others = others.into_iter().flatten().filter_map(Value::as_str);
    Ok(alias.into_iter().chain(others).map(str::to_owned).collect())
}

/// The state as it is; null where there is none.
async fn current(hub: &Hub, room: &RoomRecord) -> Result<Value, Refusal> {
    let key = [StateKey::new(KIND, "")];
    let found = hub.store.current(room.nid, &key).await.map_err(ours)?;
    match found.into_iter().flatten().next() {
        Some(event) => aliases::field(&event, "content"),
        None => Ok(Value::Null),
    }
}

async fn must_name(
    hub: &Hub,
    room: &RoomId,
    (place, alias): (&str, &RoomAliasId),
) -> Result<(), Refusal> {
    let bad = |what: String| Err(Refusal::new(Code::BadAlias, format!("{place}: {what}")));
    match room_of(hub, alias).await {
        Ok(named) if named == *room => Ok(()),
        Ok(_) => bad(format!("{alias} names another room")),
        Err(refusal) if refusal.code == Code::NotFound => bad(format!(
            "{alias} names no room; make the alias first, then show it"
        )),
        Err(refusal) => {
            let message = format!(
                "{place}: whether {alias} names this room could not be asked: {}",
                refusal.message
            );
            if refusal.status >= 500 {
                return Err(Refusal { message, ..refusal });
            }
            // What the other server refuses us says nothing of what the caller may do here.
            let told = Refusal::new(Code::BadAlias, message);
            Err(match refusal.why {
                Some(why) => told.because(*why),
                None => told,
            })
        }
    }
}

async fn room_of(hub: &Hub, alias: &RoomAliasId) -> Result<OwnedRoomId, Refusal> {
    if alias.server_name() == hub.key.name() {
        return Ok(aliases::find(hub, alias).await?.room_id);
    }
    Ok(remote::alias(hub, alias).await?.room)
}

/// What is left of the state when an alias is gone; nothing where the room does not show it.
pub(super) async fn without(
    hub: &Hub,
    room: &RoomRecord,
    alias: &RoomAliasId,
) -> Result<Option<CanonicalJsonObject>, Refusal> {
    let mut content = current(hub, room).await?;
    let Some(fields) = content.as_object_mut() else {
        return Ok(None);
    };
    let is_it = |value: &Value| value.as_str() == Some(alias.as_str());
    let is_main = fields.get("alias").is_some_and(is_it);
    if is_main {
        fields.remove("alias");
    }
    let mut is_other = false;
    if let Some(Value::Array(others)) = fields.get_mut("alt_aliases") {
        let before = others.len();
        others.retain(|other| !is_it(other));
        is_other = others.len() < before;
    }
    if !is_main && !is_other {
        return Ok(None);
    }
    let left = CanonicalJsonValue::try_from(content).ok();
    Ok(left.and_then(|left| match left {
        CanonicalJsonValue::Object(left) => Some(left),
        _ => None,
    }))
}

#[cfg(test)]
mod tests;
