//! Servers that lie about their keys. None is believed, and none makes the hub ask anybody else.

use libtest_mimic::Failed;
use serde_json::json;

use super::{Evil, MIB_MAX, hold};

pub(super) fn a_server_that_lies_about_its_keys_is_not_believed() -> Result<(), Failed> {
    const SERVERS: usize = 24;
    Evil::trial(SERVERS, async |evil| {
        let command = json!({"op": "keys", "to": evil.hub, "victim": evil.ana_id()});
        let told = evil.ask(&command)?;
        assert!(evil.peak_mib()? < MIB_MAX, "{} MiB", evil.peak_mib()?);
        hold(
            &told,
            &[
                ("honest", 200, ""),
                ("keys_of_another_server", 401, "M_UNAUTHORIZED"),
                ("signed_as_another_server", 401, "M_UNAUTHORIZED"),
                ("unsigned", 401, "M_UNAUTHORIZED"),
                ("signed_by_another_key", 401, "M_UNAUTHORIZED"),
                ("long_over", 401, "M_UNAUTHORIZED"),
                // believed for a week all the same: `session::keyring` has the test of that
                ("valid_since_ever_until_ever", 200, ""),
                ("valid_beyond_all_numbers", 401, "M_UNAUTHORIZED"),
                ("valid_until_a_word", 401, "M_UNAUTHORIZED"),
                ("ten_thousand_keys", 401, "M_UNAUTHORIZED"),
                ("a_key_of_31_bytes", 401, "M_UNAUTHORIZED"),
                ("no_key_at_all", 401, "M_UNAUTHORIZED"),
                ("keys_are_a_list", 401, "M_UNAUTHORIZED"),
                ("an_answer_that_is_no_object", 401, "M_UNAUTHORIZED"),
                ("retired_key_only", 401, "M_UNAUTHORIZED"),
                ("an_endless_answer", 401, "M_UNAUTHORIZED"),
                ("an_answer_of_ten_mebibytes", 401, "M_UNAUTHORIZED"),
                ("a_redirect_to_another_server", 401, "M_UNAUTHORIZED"),
                ("a_redirect_to_the_hub_itself", 401, "M_UNAUTHORIZED"),
                ("an_answer_of_status_500", 401, "M_UNAUTHORIZED"),
                ("no_answer_but_a_closed_door", 401, "M_UNAUTHORIZED"),
                ("another_length_than_it_says", 401, "M_UNAUTHORIZED"),
                ("the_redirected_to_was_asked", 0, ""),
                ("another_key_of_the_same_name", 401, "M_UNAUTHORIZED"),
                ("and_the_one_that_was_known", 200, ""),
            ],
        )
    })
}
