//! What happened in a room, in words: one line per event.
//!
//! When, which event (the beginning of its id), who, what. What others wrote must not steer this
//! terminal nor pass for a line of ours; `--json` has everything as it is.

use std::fmt::Write as _;

use serde_json::Value as Json;

use crate::{app::output::visible, base::Timestamp};

/// One event as a line.
pub(super) fn event(event: &Json) -> String {
    let when = event["origin_server_ts"].as_u64();
    let when = when.map_or_else(|| "(no time)".to_owned(), |ms| Timestamp(ms).rfc3339());
    let id = short(&event["event_id"]);
    format!("{when} {id} {}", words(event))
}

/// Who invites, as the stripped state of an invitation tells it: the one member event that is an
/// invite.
pub(super) fn inviter(events: &[Json]) -> Option<String> {
    let invite = events.iter().find(|event| {
        event["type"] == "m.room.member" && event["content"]["membership"] == "invite"
    })?;
    invite["sender"].as_str().map(ToOwned::to_owned)
}

/// Where entries of a room are not told because one was not in it, as they come.
///
/// Between being out and being in again others may have spoken; if anything of that is shown, all of it is
/// that one may read.
#[derive(Default)]
pub(super) struct Absence {
    is_out: bool,
}

/// Said where that ends.
pub(super) const ABSENT: &str = "(messages while you were not in the room are not shown)";

impl Absence {
    /// Takes the next event of the room; tells whether something is left out before it.
    pub(super) fn ends_with(&mut self, event: &Json, me: &str) -> bool {
        let is_own = event["type"] == "m.room.member" && event["state_key"] == me;
        let was_out = self.is_out;
        self.is_out = match event["content"]["membership"].as_str().filter(|_| is_own) {
            Some("leave" | "ban") => true,
            Some("invite" | "knock") => was_out,
            _ => false,
        };
        is_own && was_out && !self.is_out
    }
}

/// Since when one is in a room no more, where these are the last events that one may read of it.
pub(super) fn ended(events: &[Json], me: &str) -> Option<String> {
    let mut of_member = events
        .iter()
        .rev()
        .filter(|event| event["type"] == "m.room.member" && event["state_key"] == me);
    let last = of_member.next()?;
    let is_out = ["leave", "ban"].contains(&last["content"]["membership"].as_str()?);
    let since = Timestamp(last["origin_server_ts"].as_u64()?).rfc3339();
    is_out.then(|| format!("-- you are not in this room any more, since {since}"))
}

/// Who did what, without when.
pub(super) fn words(event: &Json) -> String {
    let who = plain(&event["sender"]);
    let content = &event["content"];
    let kind = event["type"].as_str().unwrap_or_default();
    let redaction = &event["unsigned"]["redacted_because"];
    if redaction.is_object() && kind != "m.room.member" {
        let by = plain(&redaction["sender"]);
        return match kind {
            "m.room.message" => format!("{who}: (redacted by {by})"),
            _ => format!("{who}: ({}, redacted by {by})", visible(kind)),
        };
    }
    match kind {
        "m.room.message" => message(&who, content),
        "m.room.member" => member(&who, event),
        _ if event["state_key"].is_string() => format!("{who} {}", state(kind, event)),
        "m.room.encrypted" => format!("{who}: (encrypted)"),
        "m.room.redaction" => {
            let what = [&content["redacts"], &event["redacts"]];
            let what = what.into_iter().find(|id| id.is_string());
            let what = short(what.unwrap_or(&Json::Null));
            format!("{who} redacted {what}{}", because(content))
        }
        "m.reaction" => {
            let to = &content["m.relates_to"];
            let (key, what) = (quoted(&to["key"]), short(&to["event_id"]));
            format!("{who} reacted with {key} to {what}")
        }
        _ => format!("{who} sent {}", visible(kind)),
    }
}

fn message(who: &str, content: &Json) -> String {
    let Some(body) = content["body"].as_str() else {
        let empty = content.as_object().is_none_or(serde_json::Map::is_empty);
        return format!("{who}: {}", if empty { "(redacted)" } else { "(no text)" });
    };
    let body = visible(body);
    let relation = &content["m.relates_to"];
    if relation["rel_type"] == "m.replace" {
        return edit(who, &short(&relation["event_id"]), content);
    }
    let who = format!("{who}{}", reply(relation));
    match content["msgtype"].as_str() {
        Some("m.emote") => format!("* {who} {body}"),
        Some(kind @ ("m.image" | "m.file" | "m.audio" | "m.video" | "m.location")) => {
            let kind = kind.trim_start_matches("m.");
            format!("{who}: ({kind}) {body}")
        }
        _ => format!("{who}: {body}"),
    }
}

/// What a message answers. A message of a thread names the one before it for clients without threads.
fn reply(relation: &Json) -> String {
    let to = &relation["m.in_reply_to"]["event_id"];
    if !to.is_string() || relation["is_falling_back"] == true {
        return String::new();
    }
    format!(" (to {})", short(to))
}

/// What somebody wrote in the place of something else.
pub(super) fn edit(who: &str, what: &str, content: &Json) -> String {
    let new = [&content["m.new_content"]["body"], &content["body"]];
    let new = new.into_iter().find_map(Json::as_str).unwrap_or_default();
    format!("{who} edited {what}: {}", visible(new))
}

/// A membership changed: who it is told of is not always who did it.
fn member(who: &str, event: &Json) -> String {
    let whom = plain(&event["state_key"]);
    let content = &event["content"];
    let now = content["membership"].as_str().unwrap_or_default();
    let before = &event["unsigned"]["prev_content"];
    let was = before["membership"].as_str().unwrap_or_default();
    let why = because(content);
    let own = who == whom;
    match (now, was) {
        ("join", "join") => match (&content["displayname"], &before["displayname"]) {
            (name, old) if name == old => format!("{whom} changed their picture"),
            (Json::String(_), _) => {
                format!("{whom} is now called {}", quoted(&content["displayname"]))
            }
            _ => format!("{whom} removed their display name"),
        },
        ("join", _) => format!("{whom} joined{why}"),
        ("invite", "knock") => format!("{who} let {whom} in: invited{why}"),
        ("invite", _) => format!("{who} invited {whom}{why}"),
        ("knock", _) => format!("{whom} asked to join{why}"),
        ("ban", _) => format!("{who} banned {whom}{why}"),
        ("leave", "invite") if own => format!("{whom} declined the invitation{why}"),
        ("leave", "invite") => format!("{who} took back the invitation of {whom}{why}"),
        ("leave", "knock") if own => format!("{whom} no longer asks to join{why}"),
        ("leave", "knock") => format!("{who} did not let {whom} in{why}"),
        ("leave", "ban") => format!("{who} unbanned {whom}{why}"),
        ("leave", _) if own => format!("{whom} left{why}"),
        ("leave", _) => format!("{who} removed {whom}{why}"),
        _ => format!(
            "{who} set the membership of {whom} to {}",
            quoted(&content["membership"])
        ),
    }
}

fn state(kind: &str, event: &Json) -> String {
    let content = &event["content"];
    let set = |what: &str, field: &str| match content[field].as_str() {
        None | Some("") => format!("removed {what}"),
        Some(_) => format!("set {what} to {}", quoted(&content[field])),
    };
    match kind {
        "m.room.create" => {
            let version = content["room_version"].as_str().unwrap_or("1");
            format!("created the room (version {})", visible(version))
        }
        "m.room.name" => set("the room's name", "name"),
        "m.room.topic" => set("the topic", "topic"),
        "m.room.canonical_alias" => set("the room's main alias", "alias"),
        "m.room.avatar" => "changed the room's picture".to_owned(),
        "m.room.join_rules" => match content["join_rule"].as_str() {
            Some("public") => "let anyone join".to_owned(),
            Some("invite") => "let only who is invited join".to_owned(),
            Some("knock") => "let people ask to join".to_owned(),
            _ => set("who may join", "join_rule"),
        },
        "m.room.history_visibility" => match content["history_visibility"].as_str() {
            Some("world_readable") => "let anyone read the history".to_owned(),
            Some("shared") => "let members read all of the history".to_owned(),
            Some("invited") => "let members read the history from their invitation on".to_owned(),
            Some("joined") => "let members read the history from their joining on".to_owned(),
            _ => set("who may read the history", "history_visibility"),
        },
        "m.room.guest_access" => match content["guest_access"].as_str() {
            Some("can_join") => "let guests join".to_owned(),
            _ => "kept guests out".to_owned(),
        },
        "m.room.power_levels" => power_levels(event),
        "m.room.encryption" => "switched on end-to-end encryption".to_owned(),
        "m.room.pinned_events" => "changed what is pinned".to_owned(),
        "m.room.server_acl" => "changed which servers may take part".to_owned(),
        "m.room.tombstone" => {
            let next = plain(&content["replacement_room"]);
            format!("closed the room; it goes on in {next}")
        }
        _ => match event["state_key"].as_str() {
            Some("") | None => format!("set {}", visible(kind)),
            Some(_) => format!("set {} for {}", visible(kind), quoted(&event["state_key"])),
        },
    }
}

/// Whose power level changed; the other levels are for `--json`.
fn power_levels(event: &Json) -> String {
    let before = &event["unsigned"]["prev_content"];
    if !before.is_object() {
        return "set the power levels".to_owned();
    }
    let (new, old) = (&event["content"]["users"], &before["users"]);
    let users = |levels: &Json| {
        let levels = levels.as_object().cloned().unwrap_or_default();
        levels.into_iter().map(|(user, _)| user).collect::<Vec<_>>()
    };
    let mut changed: Vec<_> = users(new).into_iter().chain(users(old)).collect();
    changed.sort();
    changed.dedup();
    changed.retain(|user| new[user] != old[user]);
    if changed.is_empty() {
        return "changed the power levels".to_owned();
    }
    let mut said = "set the power level of".to_owned();
    for (n, user) in changed.iter().take(POWER_LEVELS_SHOWN).enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let level = match &new[user] {
            Json::Null => "the default".to_owned(),
            level => visible(&level.to_string()),
        };
        let _ = write!(said, "{comma} {} to {level}", visible(user)); // a String takes it
    }
    if changed.len() > POWER_LEVELS_SHOWN {
        let _ = write!(said, " and {} more", changed.len() - POWER_LEVELS_SHOWN);
    }
    said
}

/// How many changed power levels are named in one line.
const POWER_LEVELS_SHOWN: usize = 5;

pub(super) fn because(content: &Json) -> String {
    match content["reason"].as_str() {
        None | Some("") => String::new(),
        Some(_) => format!(": {}", quoted(&content["reason"])),
    }
}

/// The beginning of an event's id: enough to tell the events on a screen apart.
pub(super) fn short(id: &Json) -> String {
    let id = id.as_str().unwrap_or("(no id)");
    let start: String = id.chars().take(ID_CHARS_SHOWN).collect();
    let more = if start.len() < id.len() { "…" } else { "" };
    format!("{}{more}", visible(&start))
}

/// The $ and eight of its 43 characters.
const ID_CHARS_SHOWN: usize = 9;

fn plain(value: &Json) -> String {
    visible(value.as_str().unwrap_or_default())
}

pub(super) fn quoted(value: &Json) -> String {
    format!("\"{}\"", plain(value).replace('"', "\\\""))
}

#[cfg(test)]
mod tests;
