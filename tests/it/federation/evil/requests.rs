//! Whole requests that are wrong: transactions, what comes beside the events, and paths that name
//! something else than the body.

use libtest_mimic::Failed;
use serde_json::{Value, json};
use tramline::client::Call;

use super::{Evil, MIB_MAX, cases, hold};

pub(super) fn a_bad_transaction_is_refused_and_the_next_is_taken() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        let room = evil.room("12").await?;
        let command = json!({"op": "transactions", "to": evil.hub, "room_id": room.as_str()});
        let told = evil.ask(&command)?;
        let smuggled = json!({"op": "smuggle", "to": evil.hub});
        let smuggled = evil.ask(&smuggled)?;
        hold(
            &told,
            &[
                ("the_same_event_twice", 200, ""),
                ("the_same_event_again", 200, ""),
                ("fifty_events", 200, ""),
                ("fifty_one_events", 400, "M_INVALID_PARAM"),
                ("those_fifty_one_in_two", 200, ""),
                ("and_the_second", 200, ""),
                ("a_hundred_and_one_edus", 400, "M_INVALID_PARAM"),
                ("origin_is_another_server", 403, "M_FORBIDDEN"),
                ("signed_for_another_destination", 401, "M_UNAUTHORIZED"),
                ("signed_for_another_path", 401, "M_UNAUTHORIZED"),
                ("signed_over_another_body", 401, "M_UNAUTHORIZED"),
                (
                    "signed_in_the_name_of_another_server",
                    401,
                    "M_UNAUTHORIZED",
                ),
                ("signed_in_the_hubs_own_name", 401, "M_UNAUTHORIZED"),
                ("signed_with_a_key_nobody_has", 401, "M_UNAUTHORIZED"),
                ("not_signed", 401, "M_UNAUTHORIZED"),
                ("header_is_garbage", 401, "M_UNAUTHORIZED"),
                ("body_is_a_list", 400, "JSON"),
                ("body_is_null", 400, "JSON"),
                ("body_is_text", 400, "JSON"),
                ("body_is_cut", 400, "JSON"),
                ("body_is_empty", 400, "M_MISSING_PARAM"),
                ("body_has_its_keys_twice", 400, "JSON"),
                ("pdus_are_an_object", 400, "JSON"),
                ("pdus_are_missing", 400, "M_MISSING_PARAM"),
                ("a_hundred_thousand_numbers", 400, ""),
                ("a_million_empty_events", 400, ""),
                ("nested_a_hundred_thousand_deep", 200, ""),
                ("nine_mebibytes_beside", 200, ""),
                ("eleven_mebibytes", 413, "M_TOO_LARGE"),
                ("an_id_of_ten_thousand_bytes", 200, ""),
                ("fifty_of_the_largest", 200, ""),
                ("fifty_with_junk", 200, ""),
                ("and_an_honest_one", 200, ""),
            ],
        )?;
        // Each event that was sent is there once.
        let mut seen: Vec<String> = Vec::new();
        for event in evil.timeline(&room).await? {
            seen.push(event["event_id"].to_string());
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(count, seen.len(), "an event is shown twice");
        assert!(seen.contains(&told["last"].to_string()));
        for (name, case) in cases(&smuggled)? {
            let status = case["status"].as_str().unwrap_or_default();
            assert!(
                ["400", "401", "413", "414", "431", "501", "closed"].contains(&status),
                "{name}: {status}"
            );
        }
        assert!(evil.peak_mib()? < MIB_MAX, "{} MiB", evil.peak_mib()?);
        evil.still_talks(&room).await
    })
}

pub(super) fn what_comes_beside_the_events_is_believed_of_its_own_users_only() -> Result<(), Failed>
{
    Evil::trial(2, async |evil| {
        let room = evil.room("12").await?;
        let elsewhere = evil
            .ana
            .create_room(json!({"preset": "private_chat"}))
            .await?;
        let event = evil.ana.say(&room, "event", "event").await?;
        let since = evil.ana.sync(None, 0).await?["next_batch"].clone();
        let since = since.as_str().ok_or("no token")?.to_owned();
        let foreign = format!("@theirs:{}", evil.servers[1]);
        let told = evil.ask(&json!({
            "op": "edus", "to": evil.hub, "room_id": room.as_str(), "victim": evil.ana_id(),
            "foreign": foreign, "elsewhere": elsewhere.as_str(), "event": event, "flood": 3,
        }))?;
        println!(
            "flood: {} s, peak {} MiB",
            told["flooded"],
            evil.peak_mib()?
        );
        for (name, case) in cases(&told)? {
            // One that is wrong spoils none beside it: the transaction was taken.
            assert_eq!(case["status"], 200, "{name}: {case}");
        }
        let news = evil.ana.sync(Some(&since), 0).await?;
        let shown = news["rooms"]["join"].to_string();
        let only = news["rooms"]["join"][room.as_str()]["ephemeral"]["events"].clone();
        let typing = only
            .as_array()
            .into_iter()
            .flatten()
            .find(|event| event["type"] == "m.typing");
        let theirs = format!("@mal:{}", evil.servers[0]);
        assert_eq!(
            typing.ok_or("nobody types")?["content"]["user_ids"],
            json!([theirs]),
            "{news}"
        );
        assert!(!shown.contains(&foreign), "{shown}");
        let mail = news["to_device"]["events"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let honest = format!("@good:{}", evil.servers[1]);
        for message in &mail {
            let sender = &message["sender"];
            assert!(*sender == theirs || *sender == honest, "{message}");
        }
        let changed = &news["device_lists"]["changed"];
        assert!(!changed.to_string().contains(&evil.ana_id()), "{changed}");
        evil.still_talks(&room).await?;
        // What another server says behind the flood comes, once what is before it was read; of the
        // flood there is what fits into half of the room that there is for other servers.
        let (mut since, mut good, mut flood) = (since, false, 0);
        for _ in 0..100 {
            let news = evil.ana.sync(Some(&since), 0).await?;
            news["next_batch"]
                .as_str()
                .ok_or("no token")?
                .clone_into(&mut since);
            let mail = news["to_device"]["events"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let is_good = |message: &Value| message["type"] == "org.good.message";
            good |= mail.iter().any(is_good);
            flood += mail.iter().filter(|message| !is_good(message)).count();
            if good || mail.is_empty() {
                break;
            }
        }
        assert!(good, "what stands behind the flood never came");
        assert!((200..220).contains(&flood), "{flood} of 300 messages");
        Ok(())
    })
}

pub(super) fn a_path_and_a_body_that_disagree_are_refused() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        for version in ["12", "10"] {
            let room = evil.room(version).await?;
            let wish = json!({"preset": "private_chat", "room_version": version});
            let secret = evil.ana.create_room(wish).await?;
            let hers = evil.ana.say(&secret, "hers", "a secret").await?;
            let before = (evil.state(&room).await?, evil.state(&secret).await?);
            let told = evil.ask(&json!({
                "op": "paths", "to": evil.hub, "room_id": room.as_str(), "victim": evil.ana_id(),
                "elsewhere": secret.as_str(), "hers": hers,
            }))?;
            hold(
                &told,
                &[
                    ("joins_under_another_id", 400, "M_INVALID_PARAM"),
                    ("joins_another_room_by_the_path", 400, "M_INVALID_PARAM"),
                    ("joins_another_room_by_the_body", 400, "M_INVALID_PARAM"),
                    ("joins_with_a_leave", 400, "M_INVALID_PARAM"),
                    ("joins_with_a_invite", 400, "M_INVALID_PARAM"),
                    ("joins_with_a_ban", 400, "M_INVALID_PARAM"),
                    ("joins_with_a_knock", 400, "M_INVALID_PARAM"),
                    ("joins_with_a_message", 400, "M_INVALID_PARAM"),
                    ("joins_for_another_user", 400, "M_INVALID_PARAM"),
                    ("joins_for_another_server", 403, "M_FORBIDDEN"),
                    ("joins_for_the_hubs_own_user", 403, "M_FORBIDDEN"),
                    ("joins_after_nothing", 403, "M_FORBIDDEN"),
                    ("joins_after_what_nobody_knows", 400, "M_INVALID_PARAM"),
                    ("joins_leaning_on_nothing", 403, "M_FORBIDDEN"),
                    ("joins_unsigned", 403, "M_FORBIDDEN"),
                    ("joins_with_a_list", 400, "JSON"),
                    ("leaves_with_a_join", 400, "M_INVALID_PARAM"),
                    ("knocks_with_a_join", 400, "M_INVALID_PARAM"),
                    (
                        "asks_for_a_join_of_another_servers_user",
                        403,
                        "M_FORBIDDEN",
                    ),
                    ("asks_for_a_join_into_a_secret_room", 403, "M_FORBIDDEN"),
                    ("asks_for_a_leave_of_the_hubs_own_user", 403, "M_FORBIDDEN"),
                    ("reads_a_secret_state", 403, "M_FORBIDDEN"),
                    ("reads_secret_state_ids", 403, "M_FORBIDDEN"),
                    ("reads_a_secret_event", 403, "M_FORBIDDEN"),
                    ("reads_what_a_secret_leans_on", 403, "M_FORBIDDEN"),
                    ("reads_secrets_backwards", 403, "M_FORBIDDEN"),
                    (
                        "reads_a_secret_by_the_name_of_an_open_room",
                        404,
                        "M_NOT_FOUND",
                    ),
                    (
                        "reads_secret_ids_by_the_name_of_an_open_room",
                        404,
                        "M_NOT_FOUND",
                    ),
                    ("reads_what_it_leans_on_by_an_open_room", 404, "M_NOT_FOUND"),
                    ("asks_for_a_file_outside", 404, "M_NOT_FOUND"),
                    ("walks_up_the_path", 404, "M_UNRECOGNIZED"),
                    ("asks_for_a_user_of_another_server", 400, "M_INVALID_PARAM"),
                    ("reads_backwards_from_a_secret", 200, "0 events"),
                    ("asks_what_is_missing_before_a_secret", 200, "0 events"),
                ],
            )
            .map_err(|error| {
                format!(
                    "version {version}:\n{}",
                    error.message().unwrap_or_default()
                )
            })?;
            let after = (evil.state(&room).await?, evil.state(&secret).await?);
            assert_eq!(before, after);
            evil.still_talks(&room).await?;
            let members = Call::get(&["rooms", secret.as_str(), "joined_members"], Vec::new());
            let members = evil.ana.call("members", members).await?;
            assert_eq!(
                members["joined"]
                    .as_object()
                    .map_or(0, serde_json::Map::len),
                1
            );
        }
        Ok(())
    })
}
