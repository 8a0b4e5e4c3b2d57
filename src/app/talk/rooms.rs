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
    client::{Call, Client},
};

/// Only what names a room, of all rooms at once: one question, however many there are.
const NAMES_ONLY: &str = r#"{"room":{"state":{"types":["m.room.name","m.room.canonical_alias"]},"timeline":{"types":[]},"ephemeral":{"types":[]},"account_data":{"types":[]}},"presence":{"types":[]},"account_data":{"types":[]}}"#;

pub(super) async fn rooms(client: &mut Client, format: Format) -> Result<Said, Failure> {
    match known(client).await? {
        None => ask_all(client, format).await,
        Some(rooms) => {
            for (room, label) in &rooms {
                print(room, label, "join", None, format)?;
            }
            say_none(rooms.is_empty(), format);
            Ok(Said::Lines)
        }
    }
}

/// The rooms of a linked device, where it knows what each is called: then it is in all of them.
async fn known(client: &mut Client) -> Result<Option<Vec<(String, Label)>>, Failure> {
    let Some(door) = client.thin() else {
        return Ok(None);
    };
    if !door.has_titles() {
        return Ok(None);
    }
    let rooms = door.learn_rooms().await.map_err(wrong)?;
    let known = rooms.into_iter().map(|(_, room)| {
        let (name, alias) = door.title(&room)?;
        Some((room, Label { name, alias }))
    });
    Ok(known.collect())
}

/// Asks for all of it, and keeps what a device can use again.
async fn ask_all(client: &mut Client, format: Format) -> Result<Said, Failure> {
    let query = vec![("filter", NAMES_ONLY.to_owned())];
    let answer = client.call("rooms", Call::get(&["sync"], query)).await;
    let answer = answer.map_err(failed)?;
    let (mut titles, mut is_empty) = (BTreeMap::new(), true);
    for (section, state) in [
        ("join", "state"),
        ("invite", "invite_state"),
        ("knock", "knock_state"),
    ] {
        for (room, told) in section_of(&answer, section) {
            let events = events_of(&told[state]);
            let label = Label::from(events.iter()).unwrap_or_default();
            if section == "join" {
                let title = (label.name.clone(), label.alias.clone());
                titles.insert(room.to_owned(), title);
            }
            let inviter = (section == "invite").then(|| tell::inviter(&events));
            print(room, &label, section, inviter.flatten(), format)?;
            is_empty = false;
        }
    }
    say_none(is_empty, format);
    if let Some(door) = client.thin() {
        door.keep_titles(titles).map_err(wrong)?;
    }
    Ok(Said::Lines)
}

/// Nothing at all would look like something that went wrong; programs count the lines.
fn say_none(is_empty: bool, format: Format) {
    if is_empty && format == Format::Text {
        output::note("-- no rooms yet: `create` one, or `join` one");
    }
}

/// `section` is that of a sync: what the user is in the room.
fn print(
    room: &str,
    label: &Label,
    section: &str,
    inviter: Option<String>,
    format: Format,
) -> Result<(), Failure> {
    let line = [
        visible(room),
        label.shown().trim_start().to_owned(),
        if label.name.is_empty() {
            String::new()
        } else {
            visible(&label.alias)
        },
        match (section, &inviter) {
            ("invite", Some(inviter)) => format!("invited by {}", visible(inviter)),
            ("invite", None) => "invited".to_owned(),
            ("knock", _) => "asked to join".to_owned(),
            _ => String::new(),
        },
    ];
    let shown: Vec<_> = line.into_iter().filter(|part| !part.is_empty()).collect();
    format.print(&shown.join("  "), &told(room, label, section, inviter))
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
