//! What happened in a room, as programs read it with `--json`: the same keys over every door.
//!
//! A linked device is told seqs where a session is told event ids, and neither is told the other's:
//! such a key is null there. Words for people are in `tell`.

use serde_json::{Value as Json, json};

/// An entry of a room's log.
#[derive(Debug, Default)]
pub(super) struct Happened {
    pub(super) room_id: Json,
    pub(super) event_id: Json,
    pub(super) seq: Json,
    pub(super) sender: Json,
    pub(super) at_ms: Json,
    pub(super) event_type: Json,
    pub(super) state_key: Json,
    pub(super) content: Json,
    pub(super) unsigned: Json,
    pub(super) target_id: Json,
    pub(super) target_seq: Json,
}

impl Happened {
    /// As a Matrix event tells it.
    pub(super) fn by_event(room_id: &str, event: &Json) -> Self {
        let field = |name: &str| event[name].clone();
        let relation = &event["content"]["m.relates_to"];
        let target = [
            &relation["m.in_reply_to"]["event_id"],
            &relation["event_id"],
            &event["content"]["redacts"],
            &event["redacts"],
        ];
        let target = target.into_iter().find(|id| id.is_string());
        Self {
            room_id: room_id.into(),
            event_id: field("event_id"),
            seq: Json::Null,
            sender: field("sender"),
            at_ms: field("origin_server_ts"),
            event_type: field("type"),
            state_key: field("state_key"),
            content: field("content"),
            unsigned: field("unsigned"),
            target_id: target.cloned().unwrap_or_default(),
            target_seq: Json::Null,
        }
    }

    pub(super) fn json(self) -> Json {
        let kind = kind(&self.event_type, &self.content);
        let text = match kind {
            "text" | "notice" | "emote" => said(&self.content),
            "reaction" => self.content["m.relates_to"]["key"].clone(),
            "redaction" => self.content["reason"].clone(),
            _ => Json::Null,
        };
        json!({"kind": kind, "room_id": self.room_id, "event_id": self.event_id, "seq": self.seq,
            "sender": self.sender, "origin_server_ts": self.at_ms, "type": self.event_type,
            "state_key": self.state_key, "content": self.content, "unsigned": self.unsigned,
            "target_id": self.target_id, "target_seq": self.target_seq, "text": text})
    }
}

/// What a message says: of an edit, what now stands there.
fn said(content: &Json) -> Json {
    let new = &content["m.new_content"]["body"];
    if content["m.relates_to"]["rel_type"] == "m.replace" && new.is_string() {
        return new.clone();
    }
    content["body"].clone()
}

fn kind(event_type: &Json, content: &Json) -> &'static str {
    match event_type.as_str() {
        Some("m.room.message") => match content["msgtype"].as_str() {
            Some("m.text") => "text",
            Some("m.notice") => "notice",
            Some("m.emote") => "emote",
            _ => "event",
        },
        Some("m.reaction") => "reaction",
        Some("m.room.redaction") => "redaction",
        Some("m.room.member") => "member",
        Some("m.room.encrypted") => "encrypted",
        Some(_) => "event",
        None => "too large",
    }
}

/// Somebody has read up to an entry.
pub(super) fn receipt(room_id: &str, event_id: Json, seq: Json, sender: &str) -> Json {
    json!({"kind": "receipt", "room_id": room_id, "event_id": event_id, "seq": seq,
        "sender": sender})
}

/// These type, and nobody else.
pub(super) fn typing(room_id: &str, users: &Json) -> Json {
    json!({"kind": "typing", "room_id": room_id, "users": users})
}

/// What comes after the lines of a sync; a linked device notes itself where it goes on.
pub(super) fn end_of_sync(next: Json) -> Json {
    json!({ "next": next })
}

/// The lines of a sync's answer.
pub(super) fn lines_of_sync(news: &Json) -> Vec<Json> {
    let mut lines = Vec::new();
    let of = |section: &str| news["rooms"][section].as_object().into_iter().flatten();
    for (section, state) in [("invite", "invite_state"), ("knock", "knock_state")] {
        for (room, told) in of(section) {
            let own = events(&told[state]).find(|event| {
                event["type"] == "m.room.member" && event["content"]["membership"] == section
            });
            lines.extend(own.map(|event| Happened::by_event(room, event).json()));
        }
    }
    for section in ["join", "leave"] {
        for (room, told) in of(section) {
            let timeline = events(&told["timeline"]);
            lines.extend(timeline.map(|event| Happened::by_event(room, event).json()));
            for event in events(&told["ephemeral"]) {
                match event["type"].as_str() {
                    Some("m.typing") => lines.push(typing(room, &event["content"]["user_ids"])),
                    Some("m.receipt") => lines.extend(receipts(room, &event["content"])),
                    _ => {}
                }
            }
        }
    }
    lines
}

fn receipts<'a>(room: &'a str, content: &'a Json) -> impl Iterator<Item = Json> + 'a {
    let by_event = content.as_object().into_iter().flatten();
    by_event.flat_map(move |(event, by_type)| {
        let users = by_type["m.read"].as_object().into_iter().flatten();
        users.map(move |(user, _)| receipt(room, event.as_str().into(), Json::Null, user))
    })
}

fn events(told: &Json) -> impl Iterator<Item = &Json> {
    told["events"].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_edit_is_the_new_one() {
        let edit = json!({"type": "m.room.message", "event_id": "$2", "content": {
            "msgtype": "m.text", "body": "* fix", "m.new_content": {"body": "fix"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$1"}}});

        let line = Happened::by_event("!r", &edit).json();

        assert_eq!(
            (&line["text"], &line["target_id"]),
            (&"fix".into(), &"$1".into())
        );
    }

    #[test]
    fn a_sync_is_told_line_by_line_with_invitations_receipts_and_typing() {
        let invite = json!({"type": "m.room.member", "state_key": "@bob:h", "sender": "@ana:h",
            "content": {"membership": "invite"}});
        let said = json!({"type": "m.room.message", "event_id": "$2", "sender": "@ana:h",
            "origin_server_ts": 7, "content": {"msgtype": "m.text", "body": "hi",
            "m.relates_to": {"m.in_reply_to": {"event_id": "$1"}}}});
        let ephemeral = json!({"events": [
            {"type": "m.typing", "content": {"user_ids": ["@ana:h"]}},
            {"type": "m.receipt", "content": {"$2": {"m.read": {"@bob:h": {"ts": 8}}}}}]});
        let news = json!({"rooms": {
            "invite": {"!i": {"invite_state": {"events": [invite]}}},
            "join": {"!j": {"timeline": {"events": [said]}, "ephemeral": ephemeral}}}});

        let lines = lines_of_sync(&news);

        let kinds: Vec<_> = lines.iter().map(|line| &line["kind"]).collect();
        assert_eq!(kinds, ["member", "text", "typing", "receipt"]);
        assert_eq!(lines[0]["room_id"], "!i");
        let wanted = json!({"kind": "text", "room_id": "!j", "event_id": "$2", "seq": null,
            "sender": "@ana:h", "origin_server_ts": 7, "type": "m.room.message",
            "state_key": null, "content": said["content"], "unsigned": null,
            "target_id": "$1", "target_seq": null, "text": "hi"});
        assert_eq!(lines[1], wanted);
        assert_eq!(lines[3]["event_id"], "$2");
    }
}
