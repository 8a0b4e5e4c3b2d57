//! `tramline explain`: why a request was refused, by which rule, and what would let it pass.
//!
//! Refusals are in the memory of the hub that runs, so that one is asked; there is nothing to open
//! where none runs.

use std::path::Path;

use serde_json::Value as Json;

use super::{
    config::Config,
    failure::Failure,
    init::shell_word,
    operate,
    operator::Request,
    output::{self, Format},
};

/// Explains one request, or lists the refusals of late.
pub async fn run(
    config: &Config,
    file: Option<&Path>,
    id: Option<String>,
    format: Format,
) -> Result<(), Failure> {
    let path = config.admin.socket.as_ref();
    let Some(mut hub) = operate::running(config).await? else {
        return Err(Failure::failed(
            "HUB_NOT_RUNNING",
            format!(
                "no hub answers on {}: refusals are remembered by the hub that runs, since its start; the \
                 log has each request's line by its id",
                path.display()
            ),
        ));
    };
    let is_list = id.is_none();
    let request = id.map_or(Request::RecentRefusals, |id| Request::Explain { id });
    let told = hub.ask(&request, |_| {}).await;
    let mut told = told.map_err(operate::asked_in_vain)?;
    if let Some(file) = file {
        name_file(&mut told, file);
    }
    let refusals = told.get("refusals").and_then(Json::as_array);
    let transaction = told.get("transaction").filter(|found| found.is_object());
    let all = refusals.map_or(&[][..], Vec::as_slice);
    let beneath = |refusal: &Json| format == Format::Text && is_listed(refusal, transaction);
    for refusal in all.iter().filter(|refusal| !beneath(refusal)) {
        let text = if is_list {
            line(refusal)
        } else {
            whole(refusal)
        };
        format.print(&text, refusal)?;
    }
    if let Some(transaction) = transaction {
        let mut line = transaction.clone();
        if let Some(line) = line.as_object_mut() {
            line.insert("event".to_owned(), "transaction".into());
        }
        format.print(&parts(transaction, all), &line)?;
    }
    if format == Format::Text {
        let more = told.get("more").and_then(Json::as_u64).unwrap_or(0);
        let since = told.get("since").and_then(Json::as_str).unwrap_or_default();
        if let Some(note) = note((more, all.len()), is_list, transaction.is_some(), since) {
            output::note(&note);
        }
    }
    Ok(())
}

/// What is said behind so many refusals, beside which there are more.
fn note(
    (more, told): (u64, usize),
    is_list: bool,
    of_transaction: bool,
    since: &str,
) -> Option<String> {
    Some(match (more, told) {
        (0, 0) if of_transaction => "nothing of it was refused".to_owned(),
        (0, 0) => format!("nothing was refused since {since}"),
        (0, 1) => return None,
        (0, _) if is_list => "newest first".to_owned(),
        (0, _) if of_transaction => return None, // its list says in which order they are
        (0, _) => "in the order in which they were refused".to_owned(),
        (more, _) if is_list => format!(
            "newest first; {more} older ones are remembered, and told by `tramline explain REQUEST-ID`"
        ),
        (more, _) if of_transaction => {
            format!("of {more} more of its parts it is remembered what would let them pass")
        }
        (more, _) => {
            format!("in the order in which they were refused; {more} later ones are remembered")
        }
    })
}

/// Whether the refusal is of a part that the list of the transaction names.
fn is_listed(refusal: &Json, transaction: Option<&Json>) -> bool {
    let listed = transaction.and_then(|transaction| transaction.get("parts")?.as_array());
    let part = text(refusal, "part");
    part.is_some() && listed.is_some_and(|parts| parts.iter().any(|one| text(one, "part") == part))
}

/// Adds the configuration that was named here to the commands that are advised.
fn name_file(told: &mut Json, file: &Path) {
    let refusals = told.get_mut("refusals").and_then(Json::as_array_mut);
    for refusal in refusals.into_iter().flatten() {
        if let Some(Json::String(advice)) = refusal.get_mut("do") {
            *advice = of_this_hub(advice, file);
        }
    }
}

/// A command of ours in an advice, with the configuration that was named here.
pub(super) fn of_this_hub(advice: &str, file: &Path) -> String {
    let file = shell_word(&file.to_string_lossy());
    let mut advice = advice.to_owned();
    for verb in ["serve", "fsck", "doctor", "config"] {
        let command = format!("tramline {verb}");
        advice = advice.replace(&command, &format!("{command} --config {file}"));
    }
    advice
}

fn text<'a>(refusal: &'a Json, name: &str) -> Option<&'a str> {
    refusal.get(name).and_then(Json::as_str)
}

/// Who asked, where the request named nobody, or nobody who can be believed to be named.
const UNNAMED: &str = "somebody who is not named";

/// One refusal among others.
fn line(refusal: &Json) -> String {
    let text = |name| text(refusal, name).unwrap_or("-");
    let status = refusal.get("status").and_then(Json::as_u64).unwrap_or(0);
    let asked = match (self::text(refusal, "method"), self::text(refusal, "path")) {
        (Some(method), Some(path)) => format!("{method} {path}"),
        _ => text("endpoint").to_owned(),
    };
    format!(
        "{}  {}  {} {}  {status} {}  {}",
        text("request"),
        text("at"),
        text("door"),
        output::visible(&asked),
        text("reason"),
        from(refusal),
    )
}

/// Who asked, as far as that is known.
fn from(refusal: &Json) -> String {
    let is_claimed = refusal.get("from_is_claimed").and_then(Json::as_bool);
    match (text(refusal, "from"), is_claimed) {
        (None, _) => UNNAMED.to_owned(),
        (Some(from), Some(true)) => format!("claims to be {from}"),
        (Some(from), _) => from.to_owned(),
    }
}

/// What became of the parts of a transaction, a line each, and beneath it what is known of its refusal.
fn parts(transaction: &Json, refusals: &[Json]) -> String {
    let mut told: Vec<(String, &str)> = Vec::new();
    let parts = transaction.get("parts").and_then(Json::as_array);
    let mut lines = vec![format!(
        "transaction of {} in the order in which its parts were sent:",
        text(transaction, "from").unwrap_or(UNNAMED)
    )];
    for part in parts.into_iter().flatten() {
        let shown = |name| text(part, name).map(output::visible);
        let what = shown("event_id").or_else(|| shown("type"));
        let what = what.map(|what| format!(" {what}")).unwrap_or_default();
        let reason = shown("reason").map(|reason| format!(" {reason}"));
        let said = shown("said").map(|said| format!(": {said}"));
        lines.push(format!(
            "  {}{what}: {}{}{}",
            text(part, "part").unwrap_or("-"),
            text(part, "outcome").unwrap_or("-"),
            reason.unwrap_or_default(),
            said.unwrap_or_default(),
        ));
        let id = text(part, "part").unwrap_or("-");
        let of_it = |refusal: &&Json| text(refusal, "part") == Some(id);
        let details = refusals.iter().find(of_it).map(details);
        let details = details.filter(|details| !details.is_empty());
        let Some(details) = details.map(|details| details.join("\n    ")) else {
            continue;
        };
        if let Some((_, first)) = told.iter().find(|(before, _)| *before == details) {
            lines.push(format!("    as for {first}"));
        } else {
            lines.push(format!("    {details}"));
            told.push((details, id));
        }
    }
    let more = transaction.get("more").and_then(Json::as_u64);
    if let Some(more) = more.filter(|more| *more > 0) {
        lines.push(format!("  and {more} more"));
    }
    lines.join("\n")
}

/// What the line of a part does not say of its refusal.
fn details(refusal: &Json) -> Vec<String> {
    let shown = DETAILS.iter().filter_map(|(name, member)| {
        let value = output::visible(text(refusal, member)?);
        Some(format!("{name}: {value}"))
    });
    shown.collect()
}

/// What is behind a refusal, and its names in the output of this hub.
const DETAILS: [(&str, &str); 6] = [
    ("cause", "cause"),
    ("rule", "rule"),
    ("list version", "list_version"),
    ("room", "room_id"),
    ("passes when", "passes_when"),
    ("do", "do"),
];

/// One refusal with all that is known of it, a line each.
fn whole(refusal: &Json) -> String {
    let shown = |name| text(refusal, name).unwrap_or("-");
    let status = refusal.get("status").and_then(Json::as_u64).unwrap_or(0);
    let what = match shown("endpoint") {
        "Unknown" => "a request for nothing that is served,",
        endpoint => endpoint,
    };
    let mut lines = vec![format!(
        "request {} at {}: {what} by {}",
        shown("request"),
        shown("at"),
        shown("door"),
    )];
    let answer = match text(refusal, "errcode") {
        Some(errcode) => format!("{status} {errcode}: {}", shown("said")),
        None if text(refusal, "part").is_some_and(|part| part.starts_with("edus")) => {
            format!("{status}, and of this part: {}", shown("said"))
        }
        None => format!("{status}, and of this event: {}", shown("said")),
    };
    let from = from(refusal);
    let asked = text(refusal, "method").zip(text(refusal, "path"));
    let asked = asked.map(|(method, path)| format!("{method} {path}"));
    for (name, value) in [
        ("from", Some(from.as_str())),
        ("asked", asked.as_deref()),
        ("part", text(refusal, "part")),
        ("answer", Some(answer.as_str())),
        ("reason", text(refusal, "reason")),
        ("cause", text(refusal, "cause")),
        ("rule", text(refusal, "rule")),
        ("list version", text(refusal, "list_version")),
        ("room", text(refusal, "room_id")),
        ("event", text(refusal, "event_id")),
        ("passes when", text(refusal, "passes_when")),
        ("do", text(refusal, "do")),
    ] {
        if let Some(value) = value {
            lines.push(format!("  {name}: {}", output::visible(value)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_advised_command_names_the_configuration_that_was_named() {
        let mut told =
            json!({"refusals": [{"do": "tramline doctor --peer b.example"}, {"do": null}]});

        name_file(&mut told, Path::new("the hub/tramline.toml"));

        assert_eq!(
            told["refusals"][0]["do"],
            "tramline doctor --config 'the hub/tramline.toml' --peer b.example"
        );
    }

    #[test]
    fn a_refusal_is_told_with_all_that_is_known_and_nothing_that_is_not() {
        let refusal = json!({"request": "0000002a", "at": "2026-01-01T00:00:00Z", "from": "a.example",
            "door": "https", "endpoint": "MakeJoin", "status": 403, "errcode": "M_FORBIDDEN",
            "said": "no\nline", "reason": "FEDERATION_DENY", "rule": "deny", "list_version": "1 (00)",
            "room_id": null, "event_id": null, "passes_when": "it is off", "do": null});

        assert_eq!(
            whole(&refusal),
            "request 0000002a at 2026-01-01T00:00:00Z: MakeJoin by https\n  from: a.example\n  \
             answer: 403 M_FORBIDDEN: no\\nline\n  reason: FEDERATION_DENY\n  rule: deny\n  \
             list version: 1 (00)\n  passes when: it is off"
        );
        assert_eq!(
            line(&refusal),
            "0000002a  2026-01-01T00:00:00Z  https MakeJoin  403 FEDERATION_DENY  a.example"
        );
        let nobody = json!({"request": "0000002a", "from": null});
        assert!(line(&nobody).ends_with("  somebody who is not named"));
        assert!(whole(&nobody).contains("\n  from: somebody who is not named\n"));
    }

    #[test]
    fn who_is_not_verified_only_claims_to_be_somebody_and_what_was_asked_is_named() {
        let nowhere = json!({"request": "0000002a", "from": "a.example", "from_is_claimed": true,
            "endpoint": "Unknown", "door": "https",
            "method": "PATCH", "path": "/_matrix/federation/v1/x", "status": 404,
            "errcode": "M_UNRECOGNIZED", "said": "nothing is served at this path"});

        let told = whole(&nowhere);

        assert!(
            told.contains(": a request for nothing that is served, by https\n"),
            "{told}"
        );
        assert!(
            told.contains(
                "\n  from: claims to be a.example\n  asked: PATCH /_matrix/federation/v1/x\n"
            ),
            "{told}"
        );
        let line = line(&nowhere);
        assert!(
            line.contains(" PATCH /_matrix/federation/v1/x  404 "),
            "{line}"
        );
        assert!(line.ends_with("  claims to be a.example"), "{line}");
    }

    #[test]
    fn the_parts_of_a_transaction_are_told_a_line_each() {
        let transaction = json!({"from": "a.example", "more": 3, "parts": [
            {"part": "pdus[0]", "event_id": "$e", "outcome": "taken", "reason": null, "said": null},
            {"part": "pdus[1]", "event_id": null, "outcome": "refused", "reason": "EVENT_FORM",
                "said": "it is a number, not an object"},
            {"part": "edus[0]", "type": "m.\nx", "outcome": "ignored", "reason": "EDU_UNKNOWN",
                "said": "nothing is done"}]});

        assert_eq!(
            parts(&transaction, &[]),
            "transaction of a.example in the order in which its parts were sent:\n  \
             pdus[0] $e: taken\n  \
             pdus[1]: refused EVENT_FORM: it is a number, not an object\n  \
             edus[0] m.\\nx: ignored EDU_UNKNOWN: nothing is done\n  \
             and 3 more"
        );
    }

    #[test]
    fn what_lets_a_part_pass_stands_beneath_it_and_once() {
        let refused = |part, reason, passes| {
            json!({"request": "0000002a", "status": 200, "part": part, "said": "x", "reason": reason,
                "event_id": "$e", "passes_when": passes})
        };
        let listed = |part| json!({"part": part, "outcome": "refused", "reason": "R", "said": "x"});
        let refusals = [
            refused("pdus[1]", "R", "it is allowed"),
            refused("pdus[2]", "R", "it is allowed"),
            refused("edus[0]", "E", "it is of that server"),
        ];
        let transaction = json!({"from": "a.example", "more": 0, "parts": [
            {"part": "pdus[0]", "event_id": "$f", "outcome": "taken"},
            listed("pdus[1]"), listed("pdus[2]"), listed("edus[0]")]});

        assert!(
            refusals
                .iter()
                .all(|one| is_listed(one, Some(&transaction)))
        );
        assert_eq!(
            parts(&transaction, &refusals),
            "transaction of a.example in the order in which its parts were sent:\n  \
             pdus[0] $f: taken\n  \
             pdus[1]: refused R: x\n    passes when: it is allowed\n  \
             pdus[2]: refused R: x\n    as for pdus[1]\n  \
             edus[0]: refused R: x\n    passes when: it is of that server"
        );
        assert_eq!(note((0, 3), false, true, "-"), None);
        let edu = whole(&refusals[2]);
        assert!(edu.contains("answer: 200, and of this part: x"), "{edu}");
    }
}
