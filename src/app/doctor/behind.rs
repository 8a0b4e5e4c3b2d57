//! What waits for other servers, as the running hub tells it, and whether this hub's own lists let
//! anybody in at all.

use ruma::ServerName;
use serde_json::Value as Json;

use super::{Finding, Level};
use crate::{
    app::{config::Config, output::counted},
    session::server_list::ServerList,
};

/// How many events may wait for a server that takes what it is told: a busy room fills so much in a
/// moment, and the outbox empties it as soon.
const WAITING_OK: u64 = 500;

/// Who is behind, each with how much waits for it and why.
pub(super) fn behind(peers: &[Json], lists: &ServerList) -> Vec<Finding> {
    let finding = |peer| of_peer(peer, lists);
    peers.iter().filter_map(finding).collect()
}

fn of_peer(peer: &Json, lists: &ServerList) -> Option<Finding> {
    let text = |name: &str| peer.get(name).and_then(Json::as_str);
    let server = text("server")?;
    let waiting = peer.get("waiting").and_then(Json::as_u64).unwrap_or(0);
    let is_failing = text("failing_since").is_some() && text("state") != Some("up to date");
    if !is_failing && waiting <= WAITING_OK {
        return None;
    }
    let is_all = peer.get("waiting_is_all").and_then(Json::as_bool) == Some(true);
    let at_least = if is_all { "" } else { "at least " };
    let mut cause = format!("{at_least}{} waiting for it", counted(waiting, "event"));
    for (name, said) in [
        ("failing_since", "it takes nothing since"),
        ("next_try", "the next try is at"),
        ("last_error", "the last time:"),
    ] {
        if let Some(value) = text(name) {
            cause = format!("{cause}; {said} {value}");
        }
    }
    let barred = <&ServerName>::try_from(server)
        .ok()
        .and_then(|server| lists.welcomes(server).err());
    let mend = if let Some(barred) = barred {
        format!(
            "leave it, where it is kept out on purpose (what is older than a week expires), or edit \
             `federation.deny` and `federation.allow`, then `kill -HUP` the hub: {barred}"
        )
    } else if is_failing {
        format!(
            "mend what fails at {server} below, or ask its operator; what is older than a week expires: \
             `tramline peer status {server}`"
        )
    } else {
        format!(
            "it takes events, but slower than they come; watch it: `tramline peer status {server}`"
        )
    };
    Some(Finding::new("PEER_BEHIND", Level::Warn, server, cause).mended_by(mend))
}

/// Whether the lists let anybody in.
pub(super) fn lists(config: &Config) -> Finding {
    of_lists(&config.federation.lists())
}

fn of_lists(lists: &ServerList) -> Finding {
    let (code, about) = ("FEDERATION_LISTS", "federation.allow, federation.deny");
    if let Some(why) = lists.why_nobody() {
        let cause = format!("no other server can pass, neither to this hub nor from it: {why}");
        return Finding::new(code, Level::Fail, about, cause).mended_by(
            "edit `federation.allow` and `federation.deny`, then `kill -HUP` the hub; for a hub that is to be \
             alone, set `federation.enabled = false` and start it again",
        );
    }
    let cause = match (&lists.allow, lists.deny.len()) {
        (None, 0) => "every server may pass".to_owned(),
        (None, denied) => {
            let denied = counted(denied.try_into().unwrap_or(u64::MAX), "pattern");
            format!("every server may pass but those of {denied}")
        }
        (Some(_), 0) => "only servers that `federation.allow` names may pass".to_owned(),
        (Some(_), _) => {
            "only servers that `federation.allow` names, and `federation.deny` does not, may pass"
                .to_owned()
        }
    };
    Finding::ok(code, about, cause)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::matrix::Glob;

    #[test]
    fn a_server_that_takes_nothing_is_a_finding_with_cause_and_command() {
        let failing = json!({"server": "far.example", "state": "backing off", "waiting": 3,
            "waiting_is_all": true, "failing_since": "2026-01-01T00:00:00Z",
            "next_try": "2026-01-01T01:00:00Z", "last_error": "far.example does not answer"});
        let slow = json!({"server": "slow.example", "state": "in flight", "waiting": 1000,
            "waiting_is_all": false, "failing_since": null, "next_try": null, "last_error": null});
        let well = json!({"server": "well.example", "state": "queued", "waiting": 7,
            "waiting_is_all": true, "failing_since": null});

        let denied = json!({"server": "bad.example", "state": "backing off", "waiting": 1,
            "waiting_is_all": true, "failing_since": "2026-01-01T00:00:00Z"});
        let lists = ServerList {
            allow: None,
            deny: vec![Glob::new("bad.*")],
        };

        let found = behind(&[failing, slow, well, denied], &lists);
        let [failing, slow, denied] = &found[..] else {
            panic!("three are behind")
        };
        let mend = denied.mend.as_deref().unwrap();
        assert!(
            mend.contains("`federation.deny`") && !mend.contains("below"),
            "{mend}"
        );

        assert_eq!(
            (failing.level, &*failing.about),
            (Level::Warn, "far.example")
        );
        for said in [
            "3 events waiting",
            "since 2026-01-01T00:00:00Z",
            "does not answer",
        ] {
            assert!(failing.cause.contains(said), "{failing:?}");
        }
        let mend = failing.mend.as_deref().unwrap();
        assert!(mend.contains("tramline peer status far.example"), "{mend}");
        assert!(slow.cause.starts_with("at least 1000 events"), "{slow:?}");
    }

    #[test]
    fn lists_that_let_nobody_in_fail() {
        let globs = |patterns: &[&str]| patterns.iter().map(|one| Glob::new(*one)).collect();
        let lists = |allow: Option<&[&str]>, deny: &[&str]| ServerList {
            allow: allow.map(globs),
            deny: globs(deny),
        };
        for (lists, level) in [
            (lists(None, &[]), Level::Ok),
            (lists(None, &["evil.*"]), Level::Ok),
            (
                lists(Some(&["a.example", "b.example"]), &["a.example"]),
                Level::Ok,
            ),
            (lists(Some(&["*.example"]), &["a.example"]), Level::Ok),
            (lists(Some(&[]), &[]), Level::Fail),
            (lists(None, &["*"]), Level::Fail),
            (lists(Some(&["a.example"]), &["**"]), Level::Fail),
            (lists(Some(&["a.example"]), &["a.*"]), Level::Fail),
        ] {
            let found = of_lists(&lists);
            assert_eq!(found.level, level, "{lists:?}: {found:?}");
            assert_eq!(found.mend.is_some(), level == Level::Fail);
        }
    }
}
