//! What a device knows of aliases: the last that it was told, both ways, also after it was read back.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::{super::StateDir, *};
use crate::wire::thin::{Alias, NameKind};

const KINDS: [NameKind; 3] = [NameKind::Room, NameKind::User, NameKind::EventType];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn an_alias_stands_for_what_the_hub_said_last_and_is_read_back_the_same(
        all in vec(vec((select(&KINDS[..]), 0_u64..9, "[ -~é\\t]{0,9}"), 0..6), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k1.json");
        StateDir::begin(&file, &credentials()).unwrap();
        let mut known: BTreeMap<(NameKind, Alias), String> = BTreeMap::new();
        for told in all {
            let mut state = StateDir::open(&file, &credentials()).unwrap();
            state.named(told.clone()).unwrap();
            known.extend(told.into_iter().map(|(kind, alias, name)| ((kind, alias), name)));
            let written = serde_json::to_value(state.state()).unwrap();
            drop(state);

            let again = StateDir::open(&file, &credentials()).unwrap();
            prop_assert_eq!(serde_json::to_value(again.state()).unwrap(), written);
            for ((kind, alias), name) in &known {
                prop_assert_eq!(again.state().name(*kind, *alias), Some(name.as_str()));
                let back = again.state().alias(*kind, name).unwrap();
                prop_assert_eq!(known.get(&(*kind, back)), Some(name));
            }
            prop_assert_eq!(again.state().name(NameKind::Room, 9), None);
        }
    }
}
