//! Bad events, each between two good ones in one transaction. The first names an event of theirs
//! in `evil.py` by what is wrong with it.

use std::collections::HashMap;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::{Evil, cases, text};

/// What must become of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// Taken as it is.
    BeTaken,
    /// Taken without its content, which is not what was signed.
    BeRedacted,
    /// Refused under its id, for a reason in which these words are.
    BeRefused(&'static str),
    /// Refused or passed over; it depends on the room's version.
    NotBeTaken,
    /// Passed over: what it is has no id under which it could be answered.
    BePassedOver,
    /// The transaction is no JSON with it: none of it is read, and its sender told so.
    EndItsBatch,
}
use Must::{BePassedOver, BeRedacted, BeRefused, BeTaken, EndItsBatch, NotBeTaken};

#[rustfmt::skip]
const CASES: &[(&str, Must)] = &[
    ("signature_is_changed", BeRefused("signature verification failed")),
    ("signature_is_garbage", BeRefused("base64")),
    ("signatures_are_missing", BeRefused("has not signed it")),
    ("signatures_are_a_list", BeRefused("has not signed it")),
    ("key_was_never_published", BeRefused("is not known")),
    ("key_has_a_published_name_and_another_secret", BeRefused("signature verification failed")),
    ("signed_by_another_server", BeRefused("has not signed it")),
    ("signed_by_another_server_in_our_name", BeRefused("signature verification failed")),
    ("sender_is_of_another_server", BeRefused("has not signed it")),
    ("sender_is_of_the_hub_and_so_is_the_signature_by_its_word", BeRefused("is not known")),
    ("old_key_after_its_end", BeRefused("known to be valid until")),
    ("old_key_before_its_end", BeTaken),
    ("key_of_a_time_far_ahead", BeRefused("no key can be known")),
    ("a_hundred_signatures_of_strangers", BeTaken),
    ("a_hundred_wrong_keys_beside_the_right_one", BeRefused("is not known")),
    ("hash_is_of_another_content", BeRedacted),
    ("hashes_are_missing", BeRefused("missing field: `hashes`")),
    ("hash_is_no_text", BeRefused("hashes.sha256")),
    ("auth_events_of_another_room", BeRefused("events before it could not be had")),
    ("auth_events_with_one_of_another_room", BeRefused("events before it could not be had")),
    ("auth_events_are_unknown", BeRefused("events before it could not be had")),
    ("auth_events_are_none", NotBeTaken),
    ("auth_events_without_the_sender", BeRefused("must be joined")),
    ("auth_events_with_one_of_no_use", BeRefused("it has no use for")),
    ("auth_events_twice_the_same", BeRefused("twice (")),
    ("auth_events_with_an_older_one_of_the_same_key", BeRefused("twice (")),
    ("auth_events_with_a_rejected_one", BeRefused("which was rejected")),
    ("auth_events_with_the_create_event_or_without", NotBeTaken),
    ("auth_events_are_eleven", BePassedOver),
    ("auth_events_are_no_list", BePassedOver),
    ("auth_events_are_numbers", BePassedOver),
    ("prev_events_are_none", BeRefused("only the first event")),
    ("prev_events_are_twenty_one", BePassedOver),
    ("prev_events_of_another_room", BeRefused("events before it could not be had")),
    ("prev_events_are_unknown_to_all", BeRefused("events before it could not be had")),
    ("prev_events_are_words", BePassedOver),
    ("prev_events_twice_the_same", BeTaken),
    ("depth_is_two_to_the_53", BePassedOver),
    ("depth_is_the_largest", BeTaken),
    ("depth_is_negative", BePassedOver),
    ("depth_is_a_word", BePassedOver),
    ("depth_is_missing", BePassedOver),
    ("depth_is_broken", BePassedOver),
    ("room_is_another_one", BePassedOver),
    ("room_is_missing", BePassedOver),
    ("room_is_a_number", BePassedOver),
    ("sender_is_nobody", BePassedOver),
    ("sender_has_no_server", BePassedOver),
    ("sender_is_too_long", BePassedOver),
    ("sender_is_not_in_the_room", BeRefused("must be joined")),
    ("type_is_missing", BePassedOver),
    ("type_is_too_long", BePassedOver),
    ("state_key_is_too_long", BePassedOver),
    ("state_key_is_a_number", BePassedOver),
    ("content_is_a_list", BePassedOver),
    ("content_is_missing", BePassedOver),
    ("time_is_negative", BePassedOver),
    ("time_is_missing", BePassedOver),
    ("event_is_a_number", BePassedOver),
    ("event_is_a_list", BePassedOver),
    ("event_is_empty", BePassedOver),
    ("redacts_is_a_number", BeTaken),
    ("bytes_are_one_too_many", BePassedOver),
    ("bytes_are_the_most", BeTaken),
    ("unsigned_is_a_megabyte", BePassedOver),
    ("number_is_a_fraction", BePassedOver),
    ("number_is_an_exponent", BePassedOver),
    ("number_is_out_of_range", BePassedOver),
    ("number_has_four_hundred_digits", BePassedOver),
    ("number_is_infinite", BePassedOver),
    ("number_is_none", EndItsBatch),
    ("key_is_given_twice", BeRefused("the same key twice")),
    ("sender_is_given_twice", BeRefused("the same key twice")),
    ("text_has_a_nul", BeTaken),
    ("type_has_a_nul", BeTaken),
    ("text_has_half_a_character", BePassedOver),
    ("text_is_not_utf_8", EndItsBatch),
    ("nesting_is_a_thousand_deep", BePassedOver),
    ("nesting_is_thirty_thousand_deep", BePassedOver),
    ("white_space_is_half_a_megabyte", BePassedOver),
    ("room_is_founded_again", NotBeTaken),
    ("create_event_in_the_middle", NotBeTaken),
    ("power_for_oneself", BeRefused("needs power level")),
    ("power_without_a_state_key", BeRefused("needs power level")),
    ("power_in_words", BeRefused("needs power level")),
    ("rules_opened", BeRefused("needs power level")),
    ("ban_of_the_founder", BeRefused("needs power level")),
    ("kick_of_the_founder", BeRefused("needs power level")),
    ("join_for_somebody_else", BeRefused("cannot join for")),
    ("member_without_membership", BeRefused("content.membership")),
    ("member_of_unknown_membership", BeRefused("is unknown")),
    ("member_key_is_no_user", BeRefused("names no user")),
    ("join_vouched_for_by_the_hub_without_its_signature", BeRefused("has not signed it")),
    ("state_under_another_users_name", BeRefused("needs power level")),
    ("acl_that_bans_everybody", BeRefused("needs power level")),
    ("tombstone", BeRefused("needs power level")),
    ("redaction_of_what_is_not_ours", BeTaken),
];

pub(super) fn a_bad_event_spoils_nothing_but_itself() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        for version in ["12", "11", "10"] {
            let told = in_version(evil, version).await;
            told.map_err(|error| {
                let said = error.message().unwrap_or_default().to_owned();
                Failed::from(format!("version {version}: {said}"))
            })?;
        }
        Ok(())
    })
}

async fn in_version(evil: &mut Evil, version: &str) -> Result<(), Failed> {
    let room = evil.room(version).await?;
    let hers = evil.ana.say(&room, "hers", "hers").await?;
    let command = json!({
        "op": "pdus", "to": evil.hub, "room_id": room.as_str(), "victim": evil.ana_id(),
        "other": 1, "hers": hers,
    });
    let before = evil.state(&room).await?;
    let told = cases(&evil.ask(&command)?)?;
    // Nothing of it is state but that Mal has another name now, which is an honest event.
    let after = evil.state(&room).await?;
    let is_mal = |piece: &&String| piece.contains("@mal:");
    let others = |state: &[String]| -> Vec<String> {
        state
            .iter()
            .filter(|piece| !is_mal(piece))
            .cloned()
            .collect()
    };
    assert_eq!(others(&before), others(&after));
    assert_eq!(before.len(), after.len());

    let seen: HashMap<String, Value> = evil
        .timeline(&room)
        .await?
        .into_iter()
        .map(|event| (event["event_id"].to_string(), event))
        .collect();
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        CASES.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    for ((name, case), (_, must)) in told.iter().zip(CASES) {
        let judged = judged(case, *must, &seen);
        judged.map_err(|why| format!("{name} must {must:?}: {why}: {case}"))?;
    }
    let hers = seen
        .get(&json!(hers).to_string())
        .ok_or("her message is gone")?;
    assert_eq!(hers["content"]["body"], "hers");
    evil.still_talks(&room).await
}

fn judged(case: &Value, must: Must, seen: &HashMap<String, Value>) -> Result<(), String> {
    if must == EndItsBatch {
        let is_refused = case["status"] == 400 && case["body"]["errcode"].is_string();
        return is_refused.then_some(()).ok_or_else(|| "not 400".to_owned());
    }
    // The good ones beside it were taken, and nothing is answered that was not sent.
    if case["status"] != 200 || case["before"] != json!({}) || case["after"] != json!({}) {
        return Err("the events beside it were not taken".to_owned());
    }
    for id in case["ids"].as_array().into_iter().flatten() {
        if !seen.contains_key(&id.to_string()) {
            return Err(format!("{id} is not shown"));
        }
    }
    if case["answered"] != json!([]) {
        return Err("an id was answered that nobody sent".to_owned());
    }
    let shown = seen.get(&case["id"].to_string());
    let said = text(&case["said"]).unwrap_or_default();
    let is_so = match must {
        BeTaken => case["bad"] == "taken" && shown.is_some(),
        BeRedacted => {
            case["bad"] == "taken" && shown.is_some_and(|event| event["content"] == json!({}))
        }
        BeRefused(words) => case["bad"] == "error" && said.contains(words) && shown.is_none(),
        NotBeTaken => case["bad"] != "taken" && shown.is_none(),
        BePassedOver => case["bad"] == "unnamed" && shown.is_none(),
        EndItsBatch => false,
    };
    is_so
        .then_some(())
        .ok_or_else(|| "it was not so".to_owned())
}
