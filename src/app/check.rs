//! `tramline fsck`: the check of the store and its files, as operators read it.
//!
//! A running hub was asked for its settings and no more, so that its files are those looked at
//! (`in_force`). The store is read here, from a snapshot: nothing this does holds up the hub, and what
//! a damaged store makes of the hub does not hold up the check. What it looks for is in
//! [`fsck`](crate::store::fsck).

use std::path::Path;

use serde_json::{Value as Json, json};

use super::{
    clock::SystemClock,
    config::Config,
    failure::Failure,
    open,
    output::{self, Format, counted, counted_as},
};
use crate::{
    base::{Clock as _, Position},
    store::{
        Commits as _, StoreError,
        fsck::{self, Finding, Progress, Report},
        media::MediaFiles,
    },
};

/// Checks the hub's store and files. Ends well only when nothing is wrong.
pub async fn run(config: &Config, format: Format) -> Result<(), Failure> {
    let snapshot = open::snapshot(config).await?;
    let now = SystemClock::new().now();
    let dir: &Path = config.store.media_dir.as_ref();
    let media = MediaFiles::reading(dir);
    let position = snapshot.position().await.ok();
    let mut last = Progress::default();
    let mut tell = |step: Progress| tell_some(step, &mut last);

    let mut report = fsck::fsck(&snapshot, &mut tell).await.map_err(failed)?;
    let strays = fsck::files(&snapshot, &media, now, &mut report, &mut tell).await;
    let strays = strays.map_err(failed)?;
    snapshot.close().await;
    if !strays.is_empty() {
        // What is not in the snapshot may have been uploaded since.
        let later = open::snapshot(config).await?;
        let told = fsck::unindexed(&later, &media, strays, &mut report).await;
        told.map_err(failed)?;
        later.close().await;
    }
    print(&report, position, format)?;
    if report.is_clean() {
        return Ok(());
    }
    let total = report.total();
    let reason = format!("{total} found; each is listed on stdout");
    Err(Failure::failed("FSCK_FINDINGS", reason))
}

fn failed(error: StoreError) -> Failure {
    Failure::failed("STORE", open::with_causes(&error))
}

/// Says how far it is after so many rooms, files or bytes of files.
pub(super) fn tell_some(step: Progress, last: &mut Progress) {
    if step.files_all == 0 && step.rooms - last.rooms >= ROOMS_PER_STEP {
        let Progress {
            rooms,
            rooms_all,
            entries,
            ..
        } = step;
        let rooms_all = counted(rooms_all, "room");
        let entries = counted_as(entries, "entry", "entries");
        output::note(&format!("{rooms} of {rooms_all}, {entries}"));
        *last = step;
    }
    if step.files - last.files >= FILES_PER_STEP || step.bytes - last.bytes >= BYTES_PER_STEP {
        let mib = step.bytes / MIB;
        let (files, all) = (step.files, counted(step.files_all, "file"));
        output::note(&format!("{files} of {all}, {mib} MiB"));
        *last = step;
    }
}

const MIB: u64 = 1024 * 1024;
/// After how many rooms, files or bytes it says how far it is: about every second or two.
const ROOMS_PER_STEP: u64 = 1000;
const FILES_PER_STEP: u64 = 1000;
const BYTES_PER_STEP: u64 = 512 * MIB;

/// How many findings people are shown; programs get all that the report kept.
const SHOWN_MAX: usize = 100;

/// Prints every finding, and what was looked at.
pub(super) fn print(
    report: &Report,
    position: Option<Position>,
    format: Format,
) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let findings = report.findings.iter().map(as_json);
            let summary = std::iter::once(summary(report, position));
            findings
                .chain(summary)
                .try_for_each(|object| output::line(&object.to_string()))
        }
        Format::Text => {
            let shown = report.findings.iter().take(SHOWN_MAX).map(as_text);
            let last = std::iter::once(summary_text(report, position));
            shown.chain(last).try_for_each(|text| output::line(&text))
        }
    }
}

fn as_json(finding: &Finding) -> Json {
    json!({
        "event": "finding",
        "code": finding.what.code(),
        "room": finding.room,
        "seq": finding.seq,
        "event_id": finding.event,
        "file": finding.file,
        "what": finding.what.to_string(),
        "means": finding.what.means(),
        "fix": finding.what.fix(),
    })
}

fn as_text(finding: &Finding) -> String {
    let (means, fix) = (finding.what.means(), finding.what.fix());
    format!("{finding}\n    means: {means}\n    do: {fix}")
}

fn summary(report: &Report, position: Option<Position>) -> Json {
    let Progress {
        rooms,
        entries,
        files,
        bytes,
        ..
    } = report.checked;
    json!({
        "event": "summary", "snapshot_position": position,
        "snapshot_generation": position.map(Position::generation), "rooms": rooms, "entries": entries,
        "files": files, "file_bytes": bytes, "findings": report.total(), "not_listed": report.more,
    })
}

fn summary_text(report: &Report, position: Option<Position>) -> String {
    let Progress {
        rooms,
        entries,
        files,
        ..
    } = report.checked;
    let at = position.map_or_else(String::new, |position| format!(" ({})", place(position)));
    let looked = format!(
        "Looked at the store as it stood when this began{at}: {}, {}, {}.",
        counted(rooms, "room"),
        counted_as(entries, "entry", "entries"),
        counted(files, "file"),
    );
    match report.total() {
        0 => format!("{looked} Nothing is wrong."),
        total => {
            let shown = report.findings.len().min(SHOWN_MAX);
            let kept = report.findings.len();
            let rest = total - shown as u64;
            let more = if rest == 0 {
                String::new()
            } else {
                format!(", {rest} not shown (`--json` lists {kept})")
            };
            let findings = counted(total, "finding");
            format!("{looked} {findings}{more}.")
        }
    }
}

/// A position for people: `position 78`, and after restores `position 1.78` with what that is.
pub(super) fn place(position: Position) -> String {
    match position.generation() {
        0 => format!("position {position}"),
        restores => format!(
            "position {restores}.{}, counted after {}",
            position.in_generation(),
            counted(restores, "restore")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{
        config::{Inputs, load},
        init,
    };

    async fn config(dir: &Path) -> Config {
        init::init("hub.example", dir).unwrap();
        let file = dir.join("tramline.toml");
        open::create(&file).await.unwrap();
        let inputs = Inputs {
            file: Some(file),
            ..Inputs::default()
        };
        load(&inputs).unwrap().config
    }

    #[test]
    fn a_position_says_how_often_the_hub_was_restored() {
        assert_eq!(place(Position(78)), "position 78");
        assert_eq!(
            place(Position((1 << 32) + 78)),
            "position 1.78, counted after 1 restore"
        );
    }

    #[test]
    fn one_of_each_is_said_as_one() {
        let mut report = Report::default();
        (report.checked.rooms, report.checked.entries) = (1, 1);
        (report.checked.files, report.checked.files_all) = (1, 1);

        let said = summary_text(&report, None);

        assert!(said.contains(": 1 room, 1 entry, 1 file. "), "{said}");
    }

    #[tokio::test]
    async fn a_new_hub_has_nothing_wrong_running_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path()).await;

        run(&config, Format::Json).await.unwrap();
        let _running = open::store(&config, None).await.unwrap();
        run(&config, Format::Text).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_nothing_knows_is_a_finding_and_ends_with_1() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path()).await;
        let media: &Path = config.store.media_dir.as_ref();
        std::fs::create_dir_all(media).unwrap();
        let path = media.join("stray");
        std::fs::write(&path, "x").unwrap();
        // Now it might be an upload under way.
        run(&config, Format::Text).await.unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();

        let failure = run(&config, Format::Text).await.unwrap_err();

        assert_eq!(failure.exit, super::super::failure::Exit::Failed);
        assert!(failure.to_string().starts_with("error[FSCK_FINDINGS]"));
    }

    #[tokio::test]
    async fn another_hubs_store_ends_with_3() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path()).await;
        config.server_name = "other.example".try_into().unwrap();

        let failure = run(&config, Format::Text).await.unwrap_err();

        assert_eq!(failure.exit, super::super::failure::Exit::Store);
    }
}
