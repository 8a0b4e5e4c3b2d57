//! What rooms are called, beside their ids.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::{
    app::output::visible,
    client::{Call, Client},
};

/// A room's name and main alias; empty where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    pub(super) name: String,
    pub(super) alias: String,
}

impl Label {
    /// What state events say of it; none when they say nothing.
    pub(super) fn from<'a>(events: impl IntoIterator<Item = &'a Json>) -> Option<Self> {
        let mut label = None;
        for event in events {
            let content = |field: &str| {
                event["content"][field]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            match event["type"].as_str() {
                Some("m.room.name") => {
                    label.get_or_insert_with(Self::default).name = content("name");
                }
                Some("m.room.canonical_alias") => {
                    label.get_or_insert_with(Self::default).alias = content("alias");
                }
                _ => {}
            }
        }
        label
    }

    /// What stands behind the id: the name, or else the alias.
    pub(super) fn shown(&self) -> String {
        match (self.name.as_str(), self.alias.as_str()) {
            ("", "") => String::new(),
            ("", alias) => format!(" {}", visible(alias)),
            (name, _) => format!(" \"{}\"", visible(name)),
        }
    }
}

/// The labels of rooms seen so far; each is asked for once.
#[derive(Default)]
pub(super) struct Labels(BTreeMap<String, Label>);

impl Labels {
    /// The room's id and its label. `events` are what is at hand of it, oldest first; only what
    /// they do not tell is asked for.
    pub(super) async fn of(
        &mut self,
        client: &mut Client,
        room: &str,
        events: Vec<&Json>,
    ) -> String {
        let told = Label::from(events);
        let label = match (self.0.get_mut(room), told) {
            (None, Some(told)) => self.0.entry(room.to_owned()).or_insert(told),
            (Some(known), told) => {
                if let Some(told) = told {
                    known.update(told);
                }
                known
            }
            (None, None) => {
                let asked = ask(client, room).await;
                self.0.entry(room.to_owned()).or_insert(asked)
            }
        };
        format!("{}{}", visible(room), label.shown())
    }
}

impl Label {
    fn update(&mut self, told: Self) {
        if !told.name.is_empty() {
            self.name = told.name;
        }
        if !told.alias.is_empty() {
            self.alias = told.alias;
        }
    }
}

/// A label is only a help: a room that does not tell its own has none.
async fn ask(client: &mut Client, room: &str) -> Label {
    let mut label = Label::default();
    for (kind, field) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
        let path = ["rooms", room, "state", kind, ""];
        let answer = client.call("room name", Call::get(&path, Vec::new())).await;
        let text = answer
            .ok()
            .and_then(|content| content[field].as_str().map(str::to_owned));
        match (kind, text) {
            ("m.room.name", Some(name)) => {
                label.name = name;
                break; // who has a name needs no alias to be known by
            }
            (_, text) => label.alias = text.unwrap_or_default(),
        }
    }
    label
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_room_is_called_by_its_name_or_else_by_its_alias() {
        let name = json!({"type": "m.room.name", "content": {"name": "Cr\u{1b}ew"}});
        let alias = json!({"type": "m.room.canonical_alias", "content": {"alias": "#crew:h"}});
        let other = json!({"type": "m.room.topic", "content": {"topic": "x"}});

        let label = |events: &[&Json]| Label::from(events.iter().copied());
        assert_eq!(label(&[&other]), None);
        assert_eq!(label(&[&alias, &other]).unwrap().shown(), " #crew:h");
        let both = label(&[&name, &alias]).unwrap();
        assert_eq!(both.shown(), " \"Cr\\u{1b}ew\"");
    }
}
