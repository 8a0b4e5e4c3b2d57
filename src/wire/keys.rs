//! The integer keys that MSC3079 gives to frequent JSON keys: version 1 of its table.
//!
//! A key's number is its place in the list, from 1. The MSC promises that later versions only add:
//! a number, once given, keeps its name for ever, so this list may grow at its end and change
//! nowhere else. Nothing here reads CBOR; see [`super::cbor`].

use std::{collections::HashMap, sync::LazyLock};

/// The version of the table, as `/versions` advertises it.
// spec: msc3079 §Versioning
pub const VERSION: u32 = 1;

/// The key a number stands for.
pub fn name(number: u64) -> Option<&'static str> {
    let place = usize::try_from(number).ok()?.checked_sub(1)?;
    NAMES.get(place).copied()
}

/// The number that stands for a key.
pub fn number(name: &str) -> Option<u8> {
    NUMBERS.get(name).copied()
}

static NUMBERS: LazyLock<HashMap<&'static str, u8>> =
    LazyLock::new(|| NAMES.iter().copied().zip(1..).collect());

/// How many keys have a number.
pub const COUNT: u8 = 104;

/// The names in the order of their numbers, the first of which is 1.
// spec: msc3079 §Appendix-A
const NAMES: [&str; COUNT as usize] = [
    "event_id",
    "type",
    "content",
    "state_key",
    "room_id",
    "sender",
    "user_id",
    "origin_server_ts",
    "unsigned",
    "prev_content",
    "state",
    "timeline",
    "events",
    "limited",
    "prev_batch",
    "transaction_id",
    "age",
    "redacted_because",
    "next_batch",
    "presence",
    "avatar_url",
    "account_data",
    "rooms",
    "join",
    "membership",
    "displayname",
    "body",
    "msgtype",
    "format",
    "formatted_body",
    "ephemeral",
    "invite_state",
    "leave",
    "third_party_invite",
    "is_direct",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "prev_state",
    "auth_events",
    "origin",
    "creator",
    "join_rule",
    "history_visibility",
    "ban",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
    "reason",
    "visibility",
    "room_alias_name",
    "name",
    "topic",
    "invite",
    "invite_3pid",
    "room_version",
    "creation_content",
    "initial_state",
    "preset",
    "servers",
    "identifier",
    "user",
    "medium",
    "address",
    "password",
    "token",
    "device_id",
    "initial_device_display_name",
    "access_token",
    "home_server",
    "well_known",
    "base_url",
    "device_lists",
    "to_device",
    "peek",
    "last_seen_ip",
    "display_name",
    "typing",
    "last_seen_ts",
    "algorithm",
    "sender_key",
    "session_id",
    "ciphertext",
    "one_time_keys",
    "timeout",
    "recent_rooms",
    "chunk",
    "m.fully_read",
    "device_keys",
    "failures",
    "device_display_name",
    "prev_sender",
    "replaces_state",
    "changed",
    "unstable_features",
    "versions",
    "devices",
    "errcode",
    "error",
    "room_alias",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PUBLISHED: &str = include_str!("../../conformance/vectors/msc3079/keys-v1.csv");

    #[test]
    fn the_table_is_the_published_one_in_both_directions() {
        let rows: Vec<(u64, &str)> = PUBLISHED
            .lines()
            .skip(1)
            .map(|row| row.split_once(',').unwrap())
            .map(|(number, name)| (number.parse().unwrap(), name))
            .collect();

        assert_eq!(rows.len(), usize::from(COUNT));
        for (wanted, published) in rows {
            assert_eq!(name(wanted), Some(published));
            assert_eq!(number(published).map(u64::from), Some(wanted));
        }
    }

    #[test]
    fn keys_that_older_peers_know_keep_their_numbers() {
        let known = [
            (1, "event_id"),
            (2, "type"),
            (8, "origin_server_ts"),
            (23, "rooms"),
        ];
        let known =
            known
                .into_iter()
                .chain([(24, "join"), (92, "m.fully_read"), (104, "room_alias")]);
        for (number, published) in known {
            assert_eq!(name(number), Some(published));
        }
    }

    #[test]
    fn no_name_has_two_numbers() {
        assert_eq!(NUMBERS.len(), NAMES.len());
    }

    #[test]
    fn numbers_outside_of_the_table_have_no_name() {
        for absent in [0, 105, 255, 256, u64::MAX] {
            assert_eq!(name(absent), None);
        }
        assert_eq!(number("105"), None);
    }

    proptest! {
        #[test]
        fn any_number_has_a_name_that_has_that_number_or_none(
            wanted in prop_oneof![0..300_u64, any::<u64>()], text in "\\PC{0,12}",
        ) {
            let found = name(wanted);
            prop_assert_eq!(found.is_some(), (1..=u64::from(COUNT)).contains(&wanted));
            prop_assert!(found.is_none_or(|found| number(found).map(u64::from) == Some(wanted)));
            prop_assert!(number(&text).is_none_or(|known| name(known.into()) == Some(&text)));
        }
    }
}
