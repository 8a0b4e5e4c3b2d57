//! A backup beside a busy hub, a restore of it, and what is left of one that is killed.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use libtest_mimic::{Failed, Trial};
use ruma::OwnedEventId;
use serde_json::{Value, json};
use tokio::{sync::watch, task::spawn_blocking};
use tramline::{app::clock::world, client::Client};

use crate::{
    durability::history,
    hub::{Hub, block_on, run, tramline},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "backup::what_was_acked_before_a_backup_of_a_busy_hub_is_in_the_restored_one",
            busy,
        ),
        Trial::test(
            "backup::a_kill_in_the_middle_leaves_nothing_under_the_backups_name",
            killed,
        ),
    ]
}

const SENDERS: usize = 16;
const ACKED_BEFORE: usize = 200;
const ACKED_AFTER: usize = 100;

fn busy() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&["ana"])?;
    let beside = tempfile::tempdir()?;
    let (out, there) = (beside.path().join("backup"), beside.path().join("hub"));
    let mut command = tramline();
    command.args(["backup", "--json", "--config"]);
    command.arg(hub.config()).arg("--out").arg(&out);
    let (room, token, since, acked) = block_on(async {
        let mut ana = hub.client("https", "ana").await?;
        let room = ana.create_room(json!({"preset": "public_chat"})).await?;
        let token = ana.token().expect("logged in").to_owned();
        let acked = Arc::new(Mutex::new(Vec::<(String, OwnedEventId)>::new()));
        let (acks, mut counted) = watch::channel(0_usize);
        let (stop, stopped) = watch::channel(false);
        let senders: Vec<_> = (0..SENDERS)
            .map(|index| {
                let (acked, acks, stopped) = (Arc::clone(&acked), acks.clone(), stopped.clone());
                let (target, token, room) = (hub.target("https"), token.clone(), room.clone());
                tokio::spawn(async move {
                    let mut client = Client::resume(&target?, &token, &world()).await?;
                    for number in 0.. {
                        if *stopped.borrow() {
                            break;
                        }
                        let text = format!("{index}-{number}");
                        let event = client.say(&room, &text, &text).await?;
                        let mut acked = acked.lock().unwrap_or_else(PoisonError::into_inner);
                        acked.push((text, event));
                        acks.send_modify(|acks| *acks += 1);
                    }
                    Ok::<_, Failed>(())
                })
            })
            .collect();
        counted.wait_for(|acks| *acks >= ACKED_BEFORE).await?;
        let before = acked.lock().expect("nobody panics").clone();
        let made = spawn_blocking(move || run(&mut command)).await??;
        let made: Value = serde_json::from_str(&made)?;
        if made["event"] != "backup" || made["chain_heads"] != 1 {
            return Err(made.to_string().into());
        }
        // The lost time: acknowledged by the original, and by it alone.
        let more = *counted.borrow() + ACKED_AFTER;
        counted.wait_for(|acks| *acks >= more).await?;
        stop.send_replace(true);
        for sender in senders {
            sender.await??;
        }
        let synced = ana.sync(None, 0).await?;
        let since = synced["next_batch"].as_str().unwrap_or_default().to_owned();
        Ok((room, token, since, before))
    })?;
    hub.kill()?;

    let restored = run(tramline()
        .args(["restore", "--json", "--dir"])
        .arg(&there)
        .arg(&out))?;

    let restored: Value = serde_json::from_str(&restored)?;
    if restored["event"] != "restored" || restored["rooms_checked"] != 1 {
        return Err(restored.to_string().into());
    }
    let mut hub = Hub::adopt(&there);
    hub.start()?;
    again(&tramline_output(&out, &there, 3)?, "HUB_RUNNING")?;
    block_on(async {
        // The access token is still one.
        let log = history(&hub, &room, &token).await?;
        let known: BTreeSet<&str> = log.iter().map(String::as_str).collect();
        if known.len() != log.len() {
            return Err("an event is in the log twice".into());
        }
        if let Some((text, _)) = acked.iter().find(|(_, id)| !known.contains(id.as_str())) {
            return Err(format!("{text} was acked before the backup and is gone").into());
        }
        let mut ana = Client::resume(&hub.target("https")?, &token, &world()).await?;
        let (text, id) = acked.last().ok_or("nothing was acked")?;
        if ana.say(&room, text, text).await? != *id {
            return Err("a transaction key was forgotten".into());
        }
        // Who was told of the lost time is told what came instead of it.
        let new = ana.say(&room, "after", "after the restore").await?;
        let synced = ana.sync(Some(&since), 0).await?;
        let told = synced["rooms"]["join"][room.as_str()]["timeline"]["events"].to_string();
        if !told.contains(new.as_str()) {
            return Err(format!("not told since {since}: {synced}").into());
        }
        Ok(())
    })?;
    if hub.stop()? != 0 {
        return Err("SIGTERM must end in exit code 0".into());
    }
    let (code, report) = hub.fsck()?;
    if code != 0 {
        return Err(format!("fsck found something: {report}").into());
    }
    again(&tramline_output(&out, &there, 1)?, "RESTORE_NOT_EMPTY")
}

/// What a restore that must be refused with `code` says.
fn tramline_output(
    out: &std::path::Path,
    there: &std::path::Path,
    code: i32,
) -> Result<String, Failed> {
    let mut command = tramline();
    command.arg("restore").arg(out).arg("--dir").arg(there);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() != Some(code) {
        return Err(format!("{:?}, not {code}: {said}", output.status).into());
    }
    Ok(said)
}

fn again(said: &str, wanted: &str) -> Result<(), Failed> {
    if said.contains(wanted) {
        Ok(())
    } else {
        Err(format!("{wanted} is not in: {said}").into())
    }
}

/// So much takes longer to copy than a kill to arrive; it is never written.
const LARGE: u64 = 8 << 30;

fn killed() -> Result<(), Failed> {
    let hub = Hub::init()?;
    fs::File::create(hub.path().join("keys/large"))?.set_len(LARGE)?;
    let beside = tempfile::tempdir()?;
    let out = beside.path().join("backup");
    let mut command = tramline();
    command.args(["backup", "--config"]).arg(hub.config());
    let mut child = command
        .arg("--out")
        .arg(&out)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let said = child.stderr.take().ok_or("no stderr")?;
    let first = BufReader::new(said).lines().next();

    child.kill()?;
    child.wait()?;

    let first = first.ok_or("it ended without a word")??;
    again(&first, "the store is copied")?;
    let left: Vec<_> = fs::read_dir(beside.path())?.collect::<Result<_, _>>()?;
    let left: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
    let [rest] = left.as_slice() else {
        return Err(format!("{left:?}").into());
    };
    again(&rest.to_string_lossy(), ".backup.unfinished-")?;
    // What is left is no backup, and in nobody's way.
    fs::remove_file(hub.path().join("keys/large"))?;
    let unfinished = beside.path().join(rest);
    again(
        &tramline_output(&unfinished, &beside.path().join("r"), 1)?,
        "BACKUP_DAMAGED",
    )?;
    run(tramline()
        .args(["backup", "--config"])
        .arg(hub.config())
        .arg("--out")
        .arg(&out))?;
    Ok(())
}
