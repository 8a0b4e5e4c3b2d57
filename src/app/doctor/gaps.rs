//! Gaps of rooms that stay open, as the running hub knows them: what was told of the events that are
//! missing is not believed, or nothing was told.

use serde_json::Value as Json;

use super::{Finding, Level};
use crate::app::operator::{Client, Request};

/// The gaps of the hub that runs.
pub(super) async fn open(hub: &mut Client) -> Vec<Finding> {
    let told = hub.ask(&Request::ListGaps, |_| {}).await;
    match told {
        Ok(told) => findings(&told),
        Err(error) => vec![Finding::new(
            "GAPS",
            Level::Warn,
            "rooms",
            format!("whether events are missing is not known: {error}"),
        )],
    }
}

fn findings(told: &Json) -> Vec<Finding> {
    let gaps = told.get("gaps").and_then(Json::as_array);
    let mut findings: Vec<Finding> = gaps.into_iter().flatten().map(finding).collect();
    let more = told.get("more").and_then(Json::as_u64).unwrap_or(0);
    if more > 0 {
        let cause = format!("events are missing in {more} rooms more");
        let finding = Finding::new("GAP_OPEN", Level::Warn, "other rooms", cause);
        findings.push(finding.mended_by("mend those above first, then look again"));
    }
    findings
}

fn finding(gap: &Json) -> Finding {
    let text = |name: &str| gap.get(name).and_then(Json::as_str);
    let server = text("server").unwrap_or("another server");
    let missing = match gap.get("missing").and_then(Json::as_u64) {
        Some(1) => "an event is missing".to_owned(),
        Some(missing) => format!("{missing} events are missing"),
        None => "events are missing".to_owned(),
    };
    let cause = format!(
        "{missing} which {server} builds on, since {}, and what it says after that is not taken: {}: {} \
         (this ends when: {})",
        text("since").unwrap_or("-"),
        text("reason").unwrap_or("-"),
        text("cause").unwrap_or("-"),
        text("passes_when").unwrap_or("-"),
    );
    let about = text("room_id").unwrap_or("a room");
    let finding = Finding::new("GAP_OPEN", Level::Warn, about, cause);
    match text("request") {
        Some(request) => finding.mended_by(format!(
            "tramline explain {request}, tramline doctor --peer {server}"
        )),
        None => finding.mended_by(format!("tramline doctor --peer {server}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_open_gap_is_to_be_watched_and_names_room_server_cause_and_commands() {
        let told = json!({"more": 2, "gaps": [{"room_id": "!r:a.example", "server": "a.example",
            "missing": 3, "reason": "EVENT_SIGNATURE", "cause": "a.example told $e: forged",
            "passes_when": "it is signed", "since": "2026-01-01T00:00:00Z", "request": "0000002a"}]});

        let findings = findings(&told);

        let text = findings[0].text();
        for said in [
            "warn  GAP_OPEN !r:a.example: 3 events are missing which a.example builds on",
            "EVENT_SIGNATURE: a.example told $e: forged",
            "do: tramline explain 0000002a, tramline doctor --peer a.example",
        ] {
            assert!(text.contains(said), "{said} in {text}");
        }
        assert!(findings[1].text().contains("2 rooms more"));
    }
}
