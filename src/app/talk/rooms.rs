//! The verb `rooms`: the rooms a user is in, is invited to or has asked to join, by name.
//!
//! A linked device keeps the names, so that asking again costs no more than the list of ids.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{
    Said, failed,
    labels::Label,
    tell,
    thin::wrong,
    verbs::{events_of, section_of},
};
use crate::{
    app::{
        failure::Failure,
        output::{self, Format, visible},
    },
    client::{
        Call, Client,
        thin::{OpenRoom, ThinDoor},
    },
};

/// Only what names a room, of all rooms at once: one question, however many there are.
const NAMES_ONLY: &str = r#"{"room":{"state":{"types":["m.room.name","m.room.canonical_alias"]},"timeline":{"types":[]},"ephemeral":{"types":[]},"account_data":{"types":[]}},"presence":{"types":[]},"account_data":{"types":[]}}"#;

pub(super) async fn rooms(client: &mut Client, format: Format) -> Result<Said, Failure> {
    let rooms = match known(client).await? {
        Some(rooms) => rooms,
        None => ask_all(client).await?,
    };
    for room in &rooms {
        room.print(format)?;
    }
    say_none(rooms.is_empty(), format);
    Ok(Said::Lines)
}

/// A room, and what the user is to it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Room {
    /// The section of a sync: 0 to 2 for `join`, `invite`, `knock`.
    section: usize,
    id: String,
    label: Label,
    inviter: Option<String>,
}

/// The sections of a sync, as rooms are listed, and where each tells its state.
const SECTIONS: [(&str, &str); 3] = [
    ("join", "state"),
    ("invite", "invite_state"),
    ("knock", "knock_state"),
];

/// The rooms of a linked device, where it knows what each is called.
///
/// The list of rooms does not say which of them the user is only invited to: where an invitation was open,
/// it is asked whether the user is in.
async fn known(client: &mut Client) -> Result<Option<Vec<Room>>, Failure> {
    let Some(door) = client.thin() else {
        return Ok(None);
    };
    if !door.has_titles() {
        return Ok(None);
    }
    let mut rooms = Vec::new();
    for (_, id) in door.learn_rooms().await.map_err(wrong)? {
        let (section, (name, alias), inviter) = match (door.title(&id), door.open_room(&id)) {
            (Some(title), _) => (0, title, None),
            (None, Some(open)) => {
                let title = (open.name.clone(), open.alias.clone());
                (1, title, open.inviter.clone())
            }
            (None, None) => return Ok(None),
        };
        let label = Label { name, alias };
        rooms.push(Room {
            section,
            id,
            label,
            inviter,
        });
    }
    rooms.sort();
    if rooms.iter().any(|room| room.section > 0) {
        let joined = client.joined_rooms().await.map_err(failed)?;
        let is_in = |room: &Room| joined.iter().any(|one| one.as_str() == room.id);
        if rooms.iter().any(|room| (room.section == 0) != is_in(room)) {
            return Ok(None);
        }
    }
    Ok(Some(rooms))
}

/// What a session's user is to a room, as the sections of a sync call it, and the room's name; empty where
/// that is nothing.
pub(super) async fn standing(client: &mut Client, room: &str) -> Result<(String, String), Failure> {
    let rooms = ask_all(client).await?;
    let found = rooms.into_iter().find(|one| one.id == room);
    Ok(found.map_or_else(Default::default, |one| {
        (one.membership().to_owned(), one.label.name)
    }))
}

/// Asks for all of it, and keeps what a device can use again.
async fn ask_all(client: &mut Client) -> Result<Vec<Room>, Failure> {
    let query = vec![("filter", NAMES_ONLY.to_owned())];
    let answer = client.call("rooms", Call::get(&["sync"], query)).await;
    let answer = answer.map_err(failed)?;
    let mut rooms = Vec::new();
    for (section, (name, state)) in SECTIONS.iter().enumerate() {
        for (id, told) in section_of(&answer, name) {
            let events = events_of(&told[state]);
            rooms.push(Room {
                section,
                id: id.to_owned(),
                label: Label::from(events.iter()).unwrap_or_default(),
                inviter: (*name == "invite")
                    .then(|| tell::inviter(&events))
                    .flatten(),
            });
        }
    }
    if let Some(door) = client.thin() {
        keep(door, &rooms)?;
    }
    Ok(rooms)
}

fn keep(door: &mut ThinDoor, rooms: &[Room]) -> Result<(), Failure> {
    let (mut titles, mut open) = (BTreeMap::new(), BTreeMap::new());
    for room in rooms {
        let Label { name, alias } = room.label.clone();
        if room.section == 0 {
            titles.insert(room.id.clone(), (name, alias));
        } else {
            let known = OpenRoom {
                name,
                alias,
                inviter: room.inviter.clone(),
                membership: room.membership().to_owned(),
            };
            open.insert(room.id.clone(), known);
        }
    }
    door.keep_titles(titles, open).map_err(wrong)
}

/// Nothing at all would look like something that went wrong; programs count the lines.
fn say_none(is_empty: bool, format: Format) {
    if is_empty && format == Format::Text {
        output::note("-- no rooms yet: `create` one, or `join` one");
    }
}

impl Room {
    fn membership(&self) -> &'static str {
        SECTIONS.get(self.section).map_or("", |(name, _)| name)
    }

    fn print(&self, format: Format) -> Result<(), Failure> {
        let (label, membership) = (&self.label, self.membership());
        let line = [
            visible(&self.id),
            label.shown().trim_start().to_owned(),
            if label.name.is_empty() {
                String::new()
            } else {
                visible(&label.alias)
            },
            match (membership, &self.inviter) {
                ("invite", Some(inviter)) => format!("invited by {}", visible(inviter)),
                ("invite", None) => "invited".to_owned(),
                ("knock", _) => "asked to join".to_owned(),
                _ => String::new(),
            },
        ];
        let shown: Vec<_> = line.into_iter().filter(|part| !part.is_empty()).collect();
        let inviter = self.inviter.clone();
        format.print(
            &shown.join("  "),
            &told(&self.id, label, membership, inviter),
        )
    }
}

/// What a room has not is null.
fn told(room: &str, label: &Label, section: &str, inviter: Option<String>) -> Json {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({"room_id": room, "name": some(&label.name), "alias": some(&label.alias),
        "membership": section, "inviter": inviter})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_without_a_name_and_an_alias_has_null_for_them() {
        let none = told("!r", &Label::default(), "invite", Some("@bob:h".to_owned()));
        let wanted = json!({"room_id": "!r", "name": null, "alias": null,
            "membership": "invite", "inviter": "@bob:h"});
        assert_eq!(none, wanted);
        let label = Label {
            name: "Crew".to_owned(),
            alias: String::new(),
        };
        assert_eq!(told("!r", &label, "join", None)["name"], "Crew");
    }

    #[test]
    fn the_filter_for_names_is_json() {
        assert!(
            serde_json::from_str::<Json>(NAMES_ONLY)
                .unwrap()
                .is_object()
        );
    }
}
