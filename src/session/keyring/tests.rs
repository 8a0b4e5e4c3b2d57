use std::collections::BTreeMap;

use super::*;
use crate::wire::matrix::OldKey;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const DAY: Duration = Duration::from_hours(24);

fn id(version: &str) -> KeyId {
    format!("ed25519:{version}").parse().unwrap()
}

/// An answer with these keys in use, and these out of use since then.
fn said(current: &[(&str, u8)], old: &[(&str, u8, Timestamp)], until: Timestamp) -> ServerKeys {
    let object = serde_json::from_value(serde_json::json!({"server_name": "a"})).unwrap();
    ServerKeys {
        current: current
            .iter()
            .map(|(name, byte)| (id(name), PublicKey([*byte; 32])))
            .collect(),
        old: old
            .iter()
            .map(|(name, byte, expired)| {
                let public = PublicKey([*byte; 32]);
                let expired = *expired;
                (id(name), OldKey { public, expired })
            })
            .collect::<BTreeMap<_, _>>(),
        valid_until: until,
        object,
    }
}

fn knowing(keys: &ServerKeys) -> KnownKeys {
    let mut known = KnownKeys::default();
    known.learn(keys, NOW);
    known
}

#[test]
fn a_key_in_use_counts_for_requests_and_events_while_its_answer_is_valid() {
    let known = knowing(&said(&[("a", 1)], &[], NOW + DAY));
    let key = PublicKey([1; 32]);

    assert_eq!(known.for_request(&id("a"), NOW), Ok(key));
    assert_eq!(known.for_request(&id("a"), NOW + DAY), Ok(key));
    assert_eq!(known.for_event(&id("a"), Timestamp(5), NOW), Ok(key));
    let late = NOW + DAY + Duration::from_millis(1);
    assert!(matches!(
        known.for_request(&id("a"), late),
        Err(NoKey::NotThen { .. })
    ));
    assert!(matches!(
        known.for_event(&id("a"), late, NOW),
        Err(NoKey::NotThen { .. })
    ));
    assert_eq!(
        known.for_request(&id("b"), NOW),
        Err(NoKey::Unknown(id("b")))
    );
}

#[test]
fn no_answer_is_believed_for_more_than_seven_days() {
    let known = knowing(&said(&[("a", 1)], &[], Timestamp(u64::MAX)));

    assert!(known.for_request(&id("a"), NOW + DAY * 7).is_ok());
    assert!(
        known
            .for_request(&id("a"), NOW + DAY * 7 + Duration::from_millis(1))
            .is_err()
    );
    let ahead = known.for_event(&id("a"), NOW + DAY * 8, NOW).unwrap_err();
    assert!(!ahead.is_worth_asking(), "{ahead}");
}

#[test]
fn an_old_key_counts_for_events_of_its_time_only() {
    let expired = Timestamp(NOW.0 - 1000);
    let known = knowing(&said(&[("a", 1)], &[("o", 2, expired)], NOW + DAY));

    assert_eq!(
        known.for_event(&id("o"), expired, NOW),
        Ok(PublicKey([2; 32]))
    );
    assert!(
        known
            .for_event(&id("o"), Timestamp(expired.0 + 1), NOW)
            .is_err()
    );
    assert_eq!(
        known.for_request(&id("o"), NOW),
        Err(NoKey::Retired(id("o")))
    );
    let boast = knowing(&said(
        &[("a", 1)],
        &[("o", 2, Timestamp(u64::MAX))],
        NOW + DAY,
    ));
    assert!(boast.for_event(&id("o"), NOW + DAY, NOW).is_err());
}

#[test]
fn a_key_that_is_gone_from_the_answer_counts_for_what_was_before() {
    let mut known = knowing(&said(&[("a", 1)], &[], NOW + DAY));

    known.learn(
        &said(&[("b", 2)], &[], NOW + DAY),
        NOW + Duration::from_secs(9),
    );

    let gone = NOW + Duration::from_secs(9);
    assert_eq!(
        known.for_event(&id("a"), gone, gone),
        Ok(PublicKey([1; 32]))
    );
    assert!(
        known
            .for_event(&id("a"), gone + Duration::from_millis(1), gone)
            .is_err()
    );
    assert_eq!(
        known.for_request(&id("a"), gone),
        Err(NoKey::Retired(id("a")))
    );
    assert_eq!(known.for_request(&id("b"), gone), Ok(PublicKey([2; 32])));
}

#[test]
fn a_server_that_renews_its_keys_for_ever_is_not_remembered_for_ever() {
    let mut known = KnownKeys::default();
    for round in 0..400_u64 {
        let name = format!("k{round}");
        let now = Timestamp(NOW.0 + round);
        known.learn(&said(&[(&name, 1)], &[], NOW + DAY), now);
    }

    assert_eq!(known.keys.len(), 256);
    assert!(known.for_event(&id("k399"), NOW, NOW).is_ok());
    assert!(known.for_event(&id("k144"), NOW, NOW).is_ok());
    assert!(known.for_event(&id("k143"), NOW, NOW).is_err());
}

#[test]
fn the_last_answer_is_there_for_others_while_it_is_valid() {
    let known = knowing(&said(&[("a", 1)], &[], NOW + DAY));

    assert_eq!(known.answer(NOW + DAY), Some(r#"{"server_name":"a"}"#));
    assert_eq!(known.answer(NOW + DAY * 2), None);
    assert_eq!(KnownKeys::default().answer(Timestamp(0)), None);
}

#[test]
fn what_is_known_survives_being_written() {
    let known = knowing(&said(&[("a", 1)], &[("o", 2, NOW)], NOW + DAY));
    let text = serde_json::to_string(&known).unwrap();
    assert_eq!(serde_json::from_str::<KnownKeys>(&text).unwrap(), known);
}

#[test]
fn a_server_that_does_not_answer_is_asked_ever_more_rarely() {
    let mut pace = Pace::default();
    let mut pauses = Vec::new();
    let mut now = NOW;
    for _ in 0..10 {
        assert!(pace.is_due(Wanted::ForEvent, now));
        pace.asked(false, now);
        let asked = now;
        while !pace.is_due(Wanted::ForEvent, now) {
            now = now + Duration::from_secs(5);
        }
        pauses.push(now.since(asked).as_secs());
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 640, 640]);
    pace.asked(false, now);
    assert!(pace.is_due(Wanted::ForRequest, now + Duration::from_secs(20)));
    pace.asked(true, now);
    assert!(!pace.is_due(Wanted::ForRequest, now + Duration::from_secs(29)));
    assert!(pace.is_due(Wanted::ForEvent, now + Duration::from_secs(30)));
}

#[test]
fn what_others_tell_counts_for_events_and_never_for_requests() {
    let mut known = KnownKeys::default();
    assert!(known.is_empty());
    let ended = Timestamp(NOW.0 - 1000);
    let expired = Timestamp(NOW.0 - 5000);
    known.hear(&said(&[("a", 1)], &[("o", 2, expired)], ended), NOW);

    assert_eq!(
        known.for_event(&id("a"), ended, NOW),
        Ok(PublicKey([1; 32]))
    );
    assert_eq!(
        known.for_event(&id("o"), expired, NOW),
        Ok(PublicKey([2; 32]))
    );
    assert!(
        known
            .for_event(&id("a"), Timestamp(ended.0 + 1), NOW)
            .is_err()
    );
    assert!(known.for_event(&id("o"), ended, NOW).is_err());
    assert_eq!(
        known.for_request(&id("a"), ended),
        Err(NoKey::Retired(id("a")))
    );
    // A later word reaches further; an earlier one takes nothing back, nor does another key.
    known.hear(&said(&[("a", 1)], &[], NOW), NOW);
    known.hear(&said(&[("a", 1)], &[], expired), NOW);
    known.hear(&said(&[("a", 9)], &[], NOW + DAY), NOW);
    assert_eq!(known.for_event(&id("a"), NOW, NOW), Ok(PublicKey([1; 32])));
    assert!(known.for_event(&id("a"), NOW + DAY, NOW).is_err());
    assert!(
        !known.has_signed(&said(&[("a", 1)], &[], NOW)),
        "it was never said by itself"
    );
}

#[test]
fn a_servers_own_word_is_better_than_what_others_say_of_it() {
    let mut known = knowing(&said(&[("a", 1)], &[("o", 2, Timestamp(5))], NOW));
    assert!(known.has_signed(&said(&[("a", 1), ("b", 3)], &[], NOW)));
    assert!(!known.has_signed(&said(&[("a", 7)], &[], NOW)));
    assert!(
        !known.has_signed(&said(&[("o", 2)], &[], NOW)),
        "it is out of use"
    );

    known.hear(&said(&[("o", 2)], &[], NOW), NOW);
    assert!(
        known.for_event(&id("o"), Timestamp(6), NOW).is_err(),
        "it ended then"
    );
    known.hear(&said(&[("a", 1), ("b", 3)], &[], NOW + DAY), NOW);
    assert!(known.for_event(&id("a"), NOW + DAY, NOW).is_ok());
    assert!(known.for_event(&id("b"), NOW + DAY, NOW).is_ok());
    assert!(known.answer(NOW + DAY).is_some());
    // It is back, and knows nothing of one of them.
    known.learn(&said(&[("a", 1)], &[], NOW + DAY), NOW);
    assert_eq!(
        known.for_event(&id("b"), NOW, NOW),
        Err(NoKey::Unknown(id("b")))
    );
    assert!(known.for_request(&id("a"), NOW).is_ok());
}

#[test]
fn keys_that_were_kept_before_others_could_tell_any_are_read() {
    let known = knowing(&said(&[("a", 1)], &[], NOW));
    let kept = serde_json::to_string(&known).unwrap();
    let before = kept.replace(",\"heard\":false", "");
    assert_ne!(before, kept);
    assert_eq!(serde_json::from_str::<KnownKeys>(&before).unwrap(), known);
}
