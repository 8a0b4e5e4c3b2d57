//! A store is damaged in each way there is a word for, and the check finds it.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedUserId, canonical_json::CanonicalJsonValue,
    signatures::Ed25519KeyPair,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::{
    base::{Seq, Timestamp},
    room::{Membership, StateKey},
    store::{
        Batch, Change, Commits as _, Marker, MediaRecord, NewEvent, NewLogged, Rooms as _, Write,
        contract::Pen,
        media::MediaFiles,
        sqlite::{OpenOptions, Sqlite},
    },
    wire::matrix::{Pdu, PduFields, ServerKey, Version},
};

struct Scene {
    dir: TempDir,
    store: Sqlite,
    key: ServerKey,
    room: Pen,
}

fn name() -> OwnedServerName {
    OwnedServerName::try_from("hub.example").unwrap()
}

fn user(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:hub.example")).unwrap()
}

async fn open(dir: &TempDir) -> Sqlite {
    let options = OpenOptions::new(dir.path().join("store.db"), name());
    Sqlite::open(options).await.unwrap()
}

impl Scene {
    /// A room of signed events: a creation, two members, a topic, a redacted message, a fork
    /// whose resolution put the first topic back, and a merge.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        let der = Ed25519KeyPair::generate();
        let key = ServerKey::from_der(name(), &der, "a").unwrap();
        let room = Pen::new(&store, "checked");
        let mut scene = Self {
            dir,
            store,
            key,
            room,
        };
        scene.state("m.room.create", "", "room_version", "11");
        scene.member("ana", "join");
        scene.member("bob", "join");
        scene.member("bob", "leave");
        let first = scene.state("m.room.topic", "", "topic", "first");
        let message = scene.event("m.room.message", None, "body", "hello");
        let text = Pdu::read(&message.json, Version::V11).unwrap();
        let redacted = text.redacted_json(Version::V11).unwrap();
        let message = scene.room.append(message);
        let second = scene.state("m.room.topic", "", "topic", "second");
        scene.resolve_back_to(&first, &second);
        let because = scene.event("m.room.redaction", None, "reason", "x");
        let because = scene.room.append(because);
        scene.room.also(Write::Redact {
            event: message,
            because,
            json: redacted,
        });
        scene.commit().await;
        let last = scene.event("m.room.message", None, "body", "bye");
        scene.room.append(last);
        scene.commit().await;
        scene
    }

    fn event(&self, kind: &str, state_key: Option<&str>, field: &str, value: &str) -> NewEvent {
        let mut new = self.room.event(&self.store, kind, state_key);
        let value = CanonicalJsonValue::String(value.to_owned());
        let fields = PduFields {
            room_id: self.room.id.clone(),
            kind: kind.to_owned(),
            sender: user("ana"),
            state_key: state_key.map(str::to_owned),
            content: CanonicalJsonObject::from([(field.to_owned(), value)]),
            redacts: None,
            at: Timestamp(1_700_000_000_000),
            depth: new.depth,
            prev: self
                .room
                .heads
                .tips
                .iter()
                .map(|(id, _)| id.clone())
                .collect(),
            auth: Vec::new(),
        };
        let pdu = Pdu::sign(fields, Version::V11, &self.key).unwrap();
        new.hash = pdu.hash();
        new.json = Arc::clone(pdu.json());
        new
    }

    fn state(&mut self, kind: &str, state_key: &str, field: &str, value: &str) -> NewEvent {
        let event = self.event(kind, Some(state_key), field, value);
        let key = StateKey::new(kind, state_key);
        let old = self.room.model.insert(key.clone(), event.nid);
        let old = old.into_iter().collect();
        self.room.change_state(&self.store, vec![event.nid], old);
        self.room.append(event.clone());
        self.room.also(Write::Current {
            room: self.room.nid,
            key,
            event: Some(event.nid),
        });
        event
    }

    fn member(&mut self, who: &str, membership: &str) {
        let user = user(who);
        let event = self.state("m.room.member", user.as_str(), "membership", membership);
        self.room.also(Write::Membership {
            user,
            room: self.room.nid,
            membership: match membership {
                "join" => Membership::Join,
                _ => Membership::Leave,
            },
            event: event.nid,
        });
    }

    fn resolve_back_to(&mut self, first: &NewEvent, second: &NewEvent) {
        let key = StateKey::new("m.room.topic", "");
        let nids = (vec![first.nid], vec![second.nid]);
        self.room.change_state(&self.store, nids.0, nids.1);
        self.room.also(Write::Current {
            room: self.room.nid,
            key: key.clone(),
            event: Some(first.nid),
        });
        let id = |event: &NewEvent| crate::wire::matrix::event_id(event.hash);
        let marker = Marker::Changed(Change {
            key,
            old: Some(id(second)),
            new: Some(id(first)),
        });
        let bytes = marker.to_bytes();
        let hash = Sha256::digest(&bytes).into();
        self.room.entry(NewLogged::Marker(bytes), &hash);
    }

    async fn commit(&mut self) {
        let batch = Batch {
            writes: self.room.take(),
            may_conflict: false,
        };
        self.store.commit(&[batch]).await.unwrap();
    }

    async fn check(&self) -> Report {
        let mut seen = Vec::new();
        let report = fsck(&self.store, &mut |progress| seen.push(progress)).await;
        let report = report.unwrap();
        assert_eq!(seen.last(), Some(&report.checked));
        report
    }

    /// Damages the file from outside and checks it; gives what is wrong, and where.
    async fn damaged(sql: &'static str) -> Vec<(Option<u64>, Wrong)> {
        let scene = Self::new().await;
        scene.damage(sql).await;
        let report = scene.check().await;
        assert_eq!(report.more, 0);
        let findings = report.findings.into_iter();
        findings
            .map(|finding| (finding.seq.map(|seq| seq.0), finding.what))
            .collect()
    }

    async fn damage(&self, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.dir.path().join("store.db"))
            .foreign_keys(false);
        let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    }
}

/// Whether the findings are exactly one at each of these places that fits.
macro_rules! assert_found {
    ($sql:expr, $($seq:pat => $what:pat),+ $(,)?) => {
        let found = Scene::damaged($sql).await;
        assert!(matches!(found.as_slice(), [$(($seq, $what)),+]), "{found:#?}");
    };
}

#[tokio::test]
async fn a_sound_store_has_no_findings() {
    let scene = Scene::new().await;
    let report = scene.check().await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    let checked = Progress {
        rooms: 1,
        rooms_all: 1,
        entries: 10,
        ..Progress::default()
    };
    assert_eq!(report.checked, checked);
    let log = scene.store.log(
        scene.room.nid,
        Seq(5),
        Seq(6),
        crate::store::Order::Forward,
        1,
    );
    assert!(format!("{:?}", log.await.unwrap()).contains("redacted_because: Some"));
}

#[tokio::test]
async fn a_lost_entry_is_found() {
    assert_found!("DELETE FROM log WHERE seq = 6", Some(6) => Wrong::Missing { upto: None });
    assert_found!("DELETE FROM log WHERE seq = 10", Some(10) => Wrong::Missing { upto: None });
    assert_found!("DELETE FROM log WHERE seq > 7",
        Some(8) => Wrong::Missing { upto: Some(Seq(10)) }, None => Wrong::Current { .. });
}

#[tokio::test]
async fn an_entry_past_the_head_is_found() {
    assert_found!("INSERT INTO log SELECT room, 11, position, chain, event, marker, state FROM log WHERE seq = 10",
        Some(11) => Wrong::PastHead { head: Seq(10) });
}

#[tokio::test]
async fn a_changed_chain_is_found() {
    assert_found!("UPDATE log SET chain = zeroblob(32) WHERE seq = 4",
        Some(4) => Wrong::Chain { .. }, Some(5) => Wrong::Chain { .. });
    assert_found!("UPDATE rooms SET chain = zeroblob(32)", None => Wrong::HeadChain { .. });
}

#[tokio::test]
async fn a_position_out_of_order_is_found() {
    assert_found!("UPDATE log SET position = 0 WHERE seq = 10", Some(10) => Wrong::Position { .. });
    assert_found!("UPDATE log SET position = 9 WHERE seq = 10", Some(10) => Wrong::Position { .. });
}

#[tokio::test]
async fn a_changed_event_is_found() {
    assert_found!("UPDATE events SET json = replace(json, 'bye', 'buy') WHERE seq = 10",
        Some(10) => Wrong::Content { .. });
    assert_found!("UPDATE events SET json = replace(json, '@ana', '@eve') WHERE seq = 10",
        Some(10) => Wrong::EventId { .. });
    assert_found!("UPDATE events SET json = '{' WHERE seq = 10",
        Some(10) => Wrong::Unreadable { .. });
    assert_found!("UPDATE events SET seq = 77 WHERE seq = 10",
        Some(10) => Wrong::Misplaced { seq: Some(Seq(77)), .. });
    assert_found!("UPDATE events SET hash = zeroblob(32) WHERE seq = 6",
        Some(6) => Wrong::EventId { .. }, Some(6) => Wrong::Chain { .. });
}

#[tokio::test]
async fn a_lost_event_is_found_and_the_others_are_checked() {
    assert_found!("DELETE FROM events WHERE seq = 6; UPDATE log SET chain = zeroblob(32) WHERE seq = 9",
        Some(6) => Wrong::Unreadable { .. },
        Some(9) => Wrong::Chain { .. }, Some(10) => Wrong::Chain { .. });
}

#[tokio::test]
async fn a_changed_marker_is_found() {
    assert_found!("UPDATE log SET marker = x'00' WHERE seq = 8",
        Some(8) => Wrong::Unreadable { .. }, Some(8) => Wrong::Chain { .. },
        None => Wrong::Current { .. });
}

#[tokio::test]
async fn a_wrong_current_state_is_found() {
    assert_found!("DELETE FROM current WHERE kind = 'm.room.topic'",
        None => Wrong::Current { found: None, .. }, None => Wrong::State { .. });
}

#[tokio::test]
async fn a_wrong_delta_is_found() {
    assert_found!("UPDATE states SET deltas = x'01' WHERE nid = 1", None => Wrong::Unreadable { .. });
    assert_found!("DELETE FROM states WHERE nid = 3", None => Wrong::Unreadable { .. });
    assert_found!("UPDATE states SET deltas = x'00' WHERE nid = 2",
        None => Wrong::State { .. }, None => Wrong::StateSize { .. });
}

#[tokio::test]
async fn wrong_tips_are_found() {
    assert_found!("UPDATE rooms SET tips = x''", None => Wrong::Unreadable { .. });
    assert_found!("UPDATE rooms SET tips = zeroblob(33)", None => Wrong::Tip { .. });
    assert_found!("UPDATE events SET depth = 55 WHERE seq = 10", None => Wrong::Tip { .. });
    assert_found!("UPDATE events SET status = 2 WHERE seq = 10", None => Wrong::Tip { .. });
}

#[tokio::test]
async fn a_wrong_membership_is_found() {
    assert_found!("UPDATE memberships SET membership = 1 WHERE user = '@bob:hub.example'",
        Some(4) => Wrong::Membership { .. });
    assert_found!("DELETE FROM memberships WHERE user = '@ana:hub.example'",
        Some(2) => Wrong::Membership { found: None, .. });
    assert_found!("INSERT INTO memberships VALUES ('@eve:hub.example', 1, 1, 1, 1, 0)",
        None => Wrong::Membership { expected: None, .. });
}

#[tokio::test]
async fn a_room_whose_row_cannot_be_read_is_found() {
    let found = Scene::damaged("UPDATE rooms SET version = '99'").await;
    assert!(
        matches!(found.as_slice(), [(None, Wrong::Room { .. })]),
        "{found:#?}"
    );
}

#[tokio::test]
async fn a_head_beyond_all_reason_is_one_finding_and_ends() {
    assert_found!("UPDATE rooms SET seq = 9000000000000000000",
        Some(11) => Wrong::Missing { upto: Some(Seq(9_000_000_000_000_000_000)) });
    // Also when what cannot be read stands behind the gap.
    assert_found!("UPDATE rooms SET seq = 9000000000000000000;
        INSERT INTO log SELECT room, 8000000000000000000, position, chain, 99, NULL, NULL FROM log WHERE seq = 10",
        Some(11) => Wrong::Missing { .. },
        Some(8_000_000_000_000_000_000) => Wrong::Unreadable { .. },
        Some(8_000_000_000_000_000_001) => Wrong::Missing { .. });
}

#[tokio::test]
async fn rows_that_are_not_text_are_findings_and_the_rest_is_checked() {
    assert_found!("UPDATE events SET json = CAST(x'7bff7d' AS TEXT) WHERE seq = 10;
        UPDATE log SET chain = zeroblob(32) WHERE seq = 6",
        Some(6) => Wrong::Chain { .. }, Some(7) => Wrong::Chain { .. },
        Some(10) => Wrong::Unreadable { .. },
        None => Wrong::Tip { .. });
    // A piece of current state that cannot be read does not hide the others.
    let found = Scene::damaged(
        "UPDATE events SET sent_device = CAST(x'ff' AS TEXT) WHERE seq = 5;
        UPDATE current SET event = 1 WHERE kind = 'm.room.member' AND key LIKE '@bob%'",
    )
    .await;
    let unreadable = |(_, wrong): &&(_, Wrong)| matches!(wrong, Wrong::Unreadable { .. });
    let current = |(_, wrong): &&(_, Wrong)| matches!(wrong, Wrong::Current { .. });
    // The entry, the marker that names it, and the current topic, which it is.
    assert_eq!(found.iter().filter(unreadable).count(), 3, "{found:#?}");
    assert!(found.iter().any(|found| current(&found)), "{found:#?}");
    assert_found!("INSERT INTO memberships VALUES (CAST(x'40ff' AS TEXT), 1, 1, 1, 1, 0)",
        None => Wrong::Unreadable { .. });
    assert_found!("UPDATE hub SET rooms = -1", None => Wrong::Totals { .. });
}

#[tokio::test]
async fn a_finding_says_where_what_it_means_and_what_to_do() {
    let scene = Scene::new().await;
    scene
        .damage("UPDATE events SET json = replace(json, 'bye', 'buy') WHERE seq = 10")
        .await;

    let report = scene.check().await;

    let [finding] = report.findings.as_slice() else {
        panic!("{:#?}", report.findings)
    };
    let text = finding.to_string();
    assert!(
        text.starts_with("[EVENT_CHANGED] room !checked:hub.example entry 10 event $"),
        "{text}"
    );
    assert!(finding.what.means().contains("does not deliver it"));
    assert!(finding.what.fix().contains("copy"));
}

#[tokio::test]
async fn no_more_findings_are_kept_than_a_screen_can_bear_and_the_rest_is_counted() {
    let mut report = Report::default();
    for _ in 0..FINDINGS_MAX + 5 {
        let why = String::new();
        report.add(Finding::of_store(Wrong::Totals { why }));
    }
    assert_eq!((report.findings.len(), report.more), (FINDINGS_MAX, 5));
    assert_eq!(report.total(), 1005);
}

/// A store that knows four files, which are there; and what a check of them finds after `damage`.
async fn files_after(sql: &'static str, damage: impl FnOnce(&MediaFiles)) -> Vec<(String, Wrong)> {
    let scene = Scene::new().await;
    let media = MediaFiles::new(scene.dir.path().join("media"))
        .await
        .unwrap();
    for text in ["one", "two", "three", "four"] {
        let bytes = stream::iter([Ok::<_, Infallible>(Bytes::from_static(text.as_bytes()))]);
        let kept = media.keep(media.receive(bytes, 9).await.unwrap()).await;
        let kept = kept.unwrap();
        let file = MediaRecord {
            id: text.to_owned(),
            user: user("ana"),
            hash: kept.hash,
            size: kept.size,
            content_type: None,
            filename: None,
            created: Timestamp(1),
        };
        let batch = Batch {
            writes: vec![Write::Media(file)],
            may_conflict: false,
        };
        scene.store.commit(&[batch]).await.unwrap();
    }
    scene.damage(sql).await;
    damage(&media);
    let mut report = Report::default();
    let later = Timestamp(u64::MAX / 4_000_000); // long after every file on this disk
    let mut seen = Vec::new();
    let mut tell = |progress: Progress| seen.push(progress.files);
    let strays = files(&scene.store, &media, later, &mut report, &mut tell).await;
    let strays = strays.unwrap();
    assert_eq!(seen.last(), Some(&report.checked.files));
    assert!(report.checked.files_all >= 3);
    unindexed(&scene.store, &media, strays, &mut report)
        .await
        .unwrap();
    let found = report.findings.into_iter();
    found
        .map(|finding| (finding.file.unwrap(), finding.what))
        .collect()
}

fn path_of(media: &MediaFiles, text: &str) -> std::path::PathBuf {
    media.path(&Sha256::digest(text).into())
}

#[tokio::test]
async fn files_that_are_as_they_were_uploaded_are_no_findings() {
    let found = files_after("", |media| {
        std::fs::write(media.dir().join("unfinished-x"), "half").unwrap();
    })
    .await;
    assert_eq!(found, []);
}

#[tokio::test]
async fn a_lost_a_shortened_and_a_changed_file_are_found() {
    let mut found = files_after("", |media| {
        std::fs::remove_file(path_of(media, "one")).unwrap();
        std::fs::write(path_of(media, "two"), "t").unwrap();
        std::fs::write(path_of(media, "three"), "thref").unwrap();
    })
    .await;
    found.sort_by_key(|(_, wrong)| wrong.code());
    let [changed, missing, short] = found.as_slice() else {
        panic!("{found:#?}")
    };
    assert!(matches!(changed.1, Wrong::FileContent { .. }));
    assert!(matches!(missing.1, Wrong::FileMissing { uses: 1 }));
    assert!(matches!(
        short.1,
        Wrong::FileSize {
            expected: 3,
            found: 1
        }
    ));
    assert!(changed.0.ends_with(&hex::encode(Sha256::digest("three"))));
}

#[tokio::test]
async fn a_file_that_nobody_uploaded_is_found() {
    let found = files_after("DELETE FROM media WHERE id = 'four'", |media| {
        std::fs::write(media.dir().join("notes.txt"), "mine").unwrap();
    })
    .await;
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found
            .iter()
            .all(|(_, wrong)| *wrong == Wrong::FileUnindexed)
    );
}

#[tokio::test]
async fn a_row_of_a_file_that_is_not_text_is_found_and_the_others_are_checked() {
    let found = files_after(
        "UPDATE media SET id = CAST(x'61ff' AS TEXT), hash = x'00' WHERE id = 'four'",
        |media| std::fs::remove_file(path_of(media, "two")).unwrap(),
    )
    .await;
    let [row, missing, stray] = found.as_slice() else {
        panic!("{found:#?}")
    };
    assert!(matches!(row.1, Wrong::FileRow { .. }));
    assert!(matches!(missing.1, Wrong::FileMissing { .. }));
    assert!(matches!(stray.1, Wrong::FileUnindexed));
}

#[tokio::test]
async fn a_file_whose_upload_is_under_way_is_no_finding() {
    let scene = Scene::new().await;
    let media = MediaFiles::new(scene.dir.path().join("media"))
        .await
        .unwrap();
    let bytes = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"new"))]);
    media
        .keep(media.receive(bytes, 9).await.unwrap())
        .await
        .unwrap();
    let modified = std::fs::metadata(path_of(&media, "new"))
        .unwrap()
        .modified();
    let age = modified
        .unwrap()
        .duration_since(std::time::SystemTime::UNIX_EPOCH);
    let now = Timestamp(u64::try_from(age.unwrap().as_millis()).unwrap() + 1000);
    let mut report = Report::default();
    let young = files(&scene.store, &media, now, &mut report, &mut |_| {}).await;
    assert_eq!(young.unwrap(), []);
    let much_later = Timestamp(now.0 + 3_600_000);
    let strays = files(&scene.store, &media, much_later, &mut report, &mut |_| {}).await;
    assert_eq!(strays.unwrap().len(), 1);
}
