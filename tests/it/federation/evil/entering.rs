//! Rooms of the evil peer that a user of ours wants to enter, and invites into them.

use libtest_mimic::Failed;
use ruma::RoomId;
use serde_json::{Value, json};
use tramline::client::Call;

use super::{Evil, MIB_MAX, hold, text};

impl Evil {
    async fn join(&mut self, room: &str) -> Result<Value, String> {
        let mut join = Call::post(&["join", room], json!({}));
        join.query = vec![("via", self.servers[0].clone())];
        let joined = self.ana.call("join", join).await;
        joined.map_err(|error| error.to_string())
    }

    fn asked(&mut self, endpoint: &str) -> Result<Vec<Value>, Failed> {
        let seen = json!({"op": "seen", "endpoint": endpoint, "clear": true});
        let told = self.ask(&seen)?;
        Ok(told["requests"].as_array().cloned().unwrap_or_default())
    }
}

#[expect(clippy::too_many_lines, reason = "it is one table")]
pub(super) fn a_template_is_compared_and_only_our_own_words_are_signed() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        let room = evil.ask(&json!({"op": "room", "version": "11"}))?;
        let room = text(&room["room_id"])?.to_owned();
        let other = evil.ask(&json!({"op": "room", "version": "11"}))?;
        let other = text(&other["room_id"])?.to_owned();
        let (ana, mal) = (evil.ana_id(), format!("@mal:{}", evil.servers[0]));
        let many: Vec<String> = (0..21).map(|n| format!("${n:043}")).collect();
        let lies = [
            ("another room", json!({"event.room_id": other}), "the room"),
            (
                "another type",
                json!({"event.type": "m.room.power_levels"}),
                "the type",
            ),
            (
                "a create event",
                json!({"event.type": "m.room.create"}),
                "the type",
            ),
            ("another sender", json!({"event.sender": mal}), "the sender"),
            ("another user", json!({"event.state_key": mal}), "the user"),
            ("no user", json!({"event.state_key": null}), "the user"),
            (
                "a ban",
                json!({"event.content": {"membership": "ban"}}),
                "the membership",
            ),
            (
                "a leave",
                json!({"event.content": {"membership": "leave"}}),
                "the membership",
            ),
            (
                "no membership",
                json!({"event.content": {}}),
                "the membership",
            ),
            (
                "who vouches is ours",
                json!({"event.content": {"membership": "join",
                "join_authorised_via_users_server": ana}}),
                "vouch",
            ),
            (
                "no events before it",
                json!({"event.prev_events": []}),
                "follows no event",
            ),
            (
                "21 events before it",
                json!({"event.prev_events": many}),
                "prev_events",
            ),
            (
                "21 events it leans on",
                json!({"event.auth_events": many}),
                "auth_events",
            ),
            ("a broken depth", json!({"event.depth": 1.5}), "template"),
            ("a negative depth", json!({"event.depth": -1}), "template"),
            ("a list", json!({"event": []}), "template"),
            ("no event", json!({"event": null}), ""),
            (
                "another version",
                json!({"room_version": "12"}),
                "no room of version 12",
            ),
            (
                "a version nobody speaks",
                json!({"room_version": "org.evil"}),
                "org.evil",
            ),
            ("version 1", json!({"room_version": "1"}), "1"),
        ];
        let mut wrong = Vec::new();
        for (name, patch, words) in lies {
            let lie = json!({"op": "override", "endpoint": "make_join", "patch": patch});
            evil.ask(&lie)?;
            let refused = evil.join(&room).await;
            let sent = evil.asked("send_join")?.len();
            match refused {
                Err(why) if why.contains(words) && sent == 0 => {}
                other => wrong.push(format!("{name}: {other:?}, {sent} joins sent")),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // What the template has beside that is not taken over.
        let extra = json!({"op": "override", "endpoint": "make_join", "patch": {
            "event.content": {"membership": "join", "displayname": "Mallory's", "power": 100},
            "event.redacts": "$x", "event.unsigned": {"a": 1}, "event.hashes": {"sha256": "x"},
            "event.signatures": {"x": {"y": "z"}}, "event.origin": "evil", "event.x": "y",
        }});
        evil.ask(&extra)?;
        evil.join(&room).await?;
        let sent = evil.asked("send_join")?;
        let join = &sent.first().ok_or("no join was sent")?["body"];
        let keys: Vec<&str> = join
            .as_object()
            .ok_or("no object")?
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "auth_events",
                "content",
                "depth",
                "hashes",
                "origin_server_ts",
                "prev_events",
                "room_id",
                "sender",
                "signatures",
                "state_key",
                "type"
            ]
        );
        assert!(!join["content"].to_string().contains("Mallory"), "{join}");
        assert_eq!(join["content"].get("power"), None, "{join}");
        evil.ask(&json!({"op": "honest"}))?;
        leaves(evil).await
    })
}

/// The same of a template for a leave, and for a knock: nothing is signed that was not asked for.
async fn leaves(evil: &mut Evil) -> Result<(), Failed> {
    let (ana, mal) = (evil.ana_id(), format!("@mal:{}", evil.servers[0]));
    let lies = [
        json!({"event.type": "m.room.power_levels"}),
        json!({"event.content": {"membership": "join"}}),
        json!({"event.content": {"membership": "ban"}}),
        json!({"event.state_key": mal, "event.content": {"membership": "ban"}}),
        json!({"event.room_id": "!other:room"}),
        json!({"event.sender": mal}),
    ];
    for patch in &lies {
        let room = evil.ask(&json!({"op": "room", "version": "11", "join_rule": "invite"}))?;
        let room = text(&room["room_id"])?.to_owned();
        let invite = json!({"op": "invite", "to": evil.hub, "room_id": room, "user": ana});
        assert_eq!(evil.ask(&invite)?["status"], 200);
        evil.ask(&json!({"op": "override", "endpoint": "make_leave", "patch": patch}))?;
        // She is out, and nothing was sent.
        let leave = Call::post(&["rooms", &room, "leave"], json!({}));
        evil.ana.call("leave", leave).await?;
        assert_eq!(evil.asked("send_leave")?.len(), 0, "{patch}");
        evil.ask(&json!({"op": "honest"}))?;
    }
    let room = evil.ask(&json!({"op": "room", "version": "11", "join_rule": "knock"}))?;
    let room = text(&room["room_id"])?.to_owned();
    for patch in &lies {
        evil.ask(&json!({"op": "override", "endpoint": "make_knock", "patch": patch}))?;
        let mut knock = Call::post(&["knock", &room], json!({}));
        knock.query = vec![("via", evil.servers[0].clone())];
        let knocked = evil.ana.call("knock", knock).await;
        assert!(knocked.is_err(), "{patch}: {knocked:?}");
        assert_eq!(evil.asked("send_knock")?.len(), 0, "{patch}");
        evil.ask(&json!({"op": "honest"}))?;
    }
    Ok(())
}

pub(super) fn a_room_that_is_not_as_it_is_told_is_not_entered() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        // What of it must stop the join, and what is left out while she comes in.
        let refused = [
            "another_rooms_state",
            "another_rooms_create_event",
            "no_create_event",
            "no_power_levels_anywhere",
            "nothing_at_all",
            "lists_of_numbers",
            "members_omitted_and_no_state_to_ask_for",
            "the_user_is_banned",
            "the_room_is_closed",
            "two_events_of_a_kind",
            "a_message_as_state",
            "seventy_mebibytes",
            "another_version_of_the_founding",
            "cut_in_the_middle",
            "a_hundred_times_the_same",
        ];
        let entered = [
            "power_levels_without_the_power",
            "power_levels_signed_by_another_server",
            "a_changed_topic",
            "another_join",
            "honest",
        ];
        let mut wrong = Vec::new();
        for version in ["12", "11"] {
            for how in refused.into_iter().chain(entered) {
                let enter = json!({"op": "enter", "how": how, "version": version});
                let room = text(&evil.ask(&enter)?["room_id"])?.to_owned();
                let joined = evil.join(&room).await;
                evil.ask(&json!({"op": "honest"}))?;
                let rooms = evil.ana.joined_rooms().await?;
                let is_in = rooms.iter().any(|one| one.as_str() == room);
                if is_in != joined.is_ok() || joined.is_ok() != entered.contains(&how) {
                    wrong.push(format!("{version} {how}: {joined:?}, in: {is_in}"));
                }
                if is_in {
                    let state = evil
                        .state(<&RoomId>::try_from(room.as_str())?)
                        .await?
                        .join("\n");
                    if state.contains("false")
                        || state.contains("Mallory")
                        || state.contains("@x:y")
                    {
                        wrong.push(format!("{version} {how}: {state}"));
                    }
                }
            }
        }
        assert!(evil.peak_mib()? < MIB_MAX, "{} MiB", evil.peak_mib()?);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        evil.ana.sync(None, 0).await?;
        Ok(())
    })
}

pub(super) fn a_bad_invite_is_refused_and_breaks_nobodys_sync() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        let told = evil.ask(&json!({
            "op": "invites", "to": evil.hub, "victim": evil.ana_id(), "flood": 120,
        }))?;
        // Of one server she has a hundred open, and then it is told so.
        let taken = told["flood"]["200"].as_u64().unwrap_or_default();
        assert!((80..=100).contains(&taken), "{}", told["flood"]);
        hold(
            &told,
            &[
                ("honest_12", 200, ""),
                ("honest_11", 200, ""),
                ("honest_10", 200, ""),
                ("another_room_in_the_path", 400, "M_INVALID_PARAM"),
                ("another_event_in_the_path", 400, "M_INVALID_PARAM"),
                ("sender_of_another_server", 403, "M_FORBIDDEN"),
                ("sender_of_the_hub", 403, "M_FORBIDDEN"),
                ("signed_by_another_server", 403, "M_FORBIDDEN"),
                ("user_of_another_server", 400, "M_INVALID_PARAM"),
                ("user_that_does_not_exist", 404, "M_NOT_FOUND"),
                ("user_that_is_none", 400, "M_INVALID_PARAM"),
                ("membership_is_join", 400, "M_INVALID_PARAM"),
                ("membership_is_leave", 400, "M_INVALID_PARAM"),
                ("membership_is_ban", 400, "M_INVALID_PARAM"),
                ("membership_is_knock", 400, "M_INVALID_PARAM"),
                ("membership_is_?", 400, "M_INVALID_PARAM"),
                ("no_membership", 403, "content.membership"),
                ("another_version_than_it_has", 400, "M_INVALID_PARAM"),
                (
                    "a_version_that_nobody_speaks",
                    400,
                    "M_INCOMPATIBLE_ROOM_VERSION",
                ),
                ("a_version_that_is_a_number", 400, "JSON"),
                ("content_was_changed", 200, ""),
                ("unsigned", 403, "M_FORBIDDEN"),
                ("event_is_a_list", 400, "JSON"),
                ("event_is_missing", 400, ""),
                ("state_of_a_hundred_pieces", 400, "M_INVALID_PARAM"),
                ("state_of_a_mebibyte", 413, "M_TOO_LARGE"),
                ("state_of_two_mebibytes", 413, "M_TOO_LARGE"),
                ("state_of_numbers", 400, "JSON"),
                ("state_is_text", 400, "JSON"),
                ("state_with_content_of_the_wrong_type", 200, ""),
                ("state_of_stripped_pieces_in_12", 400, "M_INVALID_PARAM"),
                ("state_of_another_room_in_12", 400, "M_INVALID_PARAM"),
                (
                    "state_without_the_create_event_in_12",
                    400,
                    "M_INVALID_PARAM",
                ),
                ("state_nested_deep", 200, ""),
            ],
        )?;
        let news = evil.ana.sync(None, 0).await?;
        let shown = news["rooms"]["invite"].as_object().ok_or("no invites")?;
        assert_eq!(shown.len(), 100);
        for (room, invite) in shown {
            let pieces = invite["invite_state"]["events"]
                .as_array()
                .ok_or("no pieces")?;
            for piece in pieces {
                assert!(
                    piece["content"].is_object() && piece["type"].is_string(),
                    "{room}: {piece}"
                );
            }
        }
        Ok(())
    })
}
