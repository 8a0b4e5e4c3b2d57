//! What a person on a thin link reads: invitations, what one is to a room, numbers, and what is left of the day.

use std::{fs, path::PathBuf, process::Command};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use tramline::client::Call;

use crate::{
    hub::{Hub, NAME, block_on, output, run, tramline},
    thin_client::{Follower, client, done, equal, holds, link, said_to_a_person},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "thin_words::rooms_costs_no_more_each_time_while_an_invitation_is_open",
            rooms,
        ),
        Trial::test(
            "thin_words::who_is_not_in_a_room_is_told_how_that_came_at_every_door",
            outside,
        ),
        Trial::test(
            "thin_words::a_file_beyond_the_daily_limit_is_refused_before_it_is_paid_for",
            limit,
        ),
        Trial::test(
            "thin_words::a_message_has_one_number_and_what_waits_has_a_price",
            numbers,
        ),
        Trial::test(
            "thin_words::a_device_that_logs_out_is_logged_out_over_every_door",
            logged_out,
        ),
    ]
}

/// Ana, over HTTPS.
fn ana(hub: &Hub, path: &[&str], body: Value) -> Result<Value, Failed> {
    block_on(async {
        let mut ana = hub.client("https", "ana").await?;
        Ok(ana.call("by ana", Call::post(path, body)).await?)
    })
}

fn made(hub: &Hub, wish: Value) -> Result<String, Failed> {
    let made = ana(hub, &["createRoom"], wish)?;
    Ok(made["room_id"].as_str().ok_or("no room")?.to_owned())
}

fn bytes(lines: &[Value]) -> Result<u64, Failed> {
    let cost = lines.iter().find_map(|line| line.get("cost"));
    let cost = cost.ok_or_else(|| format!("no cost in {lines:?}"))?;
    let way = |name: &str| cost[name].as_u64().ok_or("no bytes");
    Ok(way("bytes_up")? + way("bytes_down")?)
}

fn refused(command: &mut Command, wanted: &str) -> Result<(), Failed> {
    let output = output(command)?;
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    equal(&output.status.code(), &Some(1)).map_err(|_| why.clone())?;
    holds(&why, wanted)
}

fn rooms() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let bob = link(&hub, "bob")?;
    let guest = format!("@bob:{NAME}");
    let asked = ["-v", "--door", "oscore", "rooms"];
    done(&bob, &["create", "--name", "Own"])?;
    done(&bob, &asked)?;
    let quiet = bytes(&done(&bob, &asked)?)?;
    println!("rooms, one room, again: {quiet}");
    // README: 49 up and 92 down.
    equal(&(quiet <= 141), &true)?;
    // One that was made here is known.
    done(&bob, &["create", "--name", "Other"])?;
    let two = bytes(&done(&bob, &asked)?)?;
    println!("rooms, two rooms: {two}");
    equal(&(two <= 141 + 50), &true)?;

    let crew = made(&hub, json!({ "name": "Crew", "invite": [guest] }))?;
    let first = done(&bob, &asked)?;
    let again = done(&bob, &asked)?;
    println!(
        "rooms, an invitation: {}, again: {}",
        bytes(&first)?,
        bytes(&again)?
    );
    let without_cost = |lines: &[Value]| -> Vec<Value> {
        let lines = lines.iter().filter(|line| line.get("cost").is_none());
        lines.cloned().collect()
    };
    equal(&without_cost(&again), &without_cost(&first))?;
    let open = first.iter().find(|line| line["room_id"] == crew.as_str());
    let open = open.ok_or("the invitation is not listed")?;
    let wanted = json!({"room_id": crew, "name": "Crew", "alias": null,
        "membership": "invite", "inviter": format!("@ana:{NAME}")});
    equal(open, &wanted)?;
    // README: with an invitation 120 more and 45 for each room one is in; the invitation is in the list.
    equal(&(bytes(&again)? <= two + 50 + 120 + 2 * 45), &true)?;
    // Accepted by another device of bob's, it is a room he is in.
    block_on(async {
        let mut bob = hub.client("https", "bob").await?;
        Ok(bob.join(&crew).await.map(drop)?)
    })?;
    let lines = done(&bob, &asked)?;
    let joined = lines.iter().find(|line| line["room_id"] == crew.as_str());
    equal(
        &joined.ok_or("it is not listed")?["membership"],
        &"join".into(),
    )
}

fn signed_in(hub: &Hub, user: &str) -> Result<PathBuf, Failed> {
    let file = hub.path().join(format!("{user}-laptop.json"));
    let mut command = tramline();
    command.args(["client", "--login", &hub.https(), user, "--ca"]);
    command.arg(hub.ca()).arg("--password-file");
    command.arg(hub.path().join(format!("password-{user}")));
    run(command.arg("--save").arg(&file))?;
    Ok(file)
}

fn outside() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let (phone, laptop) = (link(&hub, "bob")?, signed_in(&hub, "bob")?);
    let guest = format!("@bob:{NAME}");
    done(&phone, &["create", "--name", "Own"])?;
    done(&phone, &["sync"])?; // where a device begins
    let visibility = json!([{"type": "m.room.history_visibility", "state_key": "",
        "content": {"history_visibility": "joined"}}]);
    let wish = json!({ "name": "Crew", "invite": [guest], "initial_state": visibility });
    let crew = made(&hub, wish)?;
    let by_ana = |what: &str| {
        let body = json!({ "user_id": guest });
        ana(&hub, &["rooms", &crew, what], body)
    };
    let says = |text: &str| -> Result<(), Failed> {
        block_on(async {
            let mut ana = hub.client("https", "ana").await?;
            let room: ruma::OwnedRoomId = crew.as_str().try_into()?;
            Ok(ana.say(&room, text, text).await.map(drop)?)
        })
    };
    let at_both = |verbs: &[&str], wanted: &str| -> Result<(), Failed> {
        for file in [&phone, &laptop] {
            for verb in verbs {
                let mut args = vec![*verb, &crew];
                args.extend((*verb == "send").then_some("hi"));
                refused(&mut client(file, &args), wanted)?;
            }
        }
        Ok(())
    };
    let invited = format!("you are invited to {crew}; join it first");
    at_both(&["send", "read", "status"], &invited)?;
    done(&phone, &["join", &crew])?;
    done(&phone, &["send", &crew, "hello"])?;
    by_ana("kick")?;
    at_both(&["send"], &format!("you were removed from {crew}"))?;
    for file in [&phone, &laptop] {
        let told = said_to_a_person(file, &["read", &crew])?;
        holds(&told[1], "-- you are not in this room any more, since 20")?;
        equal(&done(file, &["status", &crew])?.len(), &1)?;
    }
    said_to_a_person(&phone, &["sync"])?;
    says("behind his back")?;
    by_ana("invite")?;
    done(&phone, &["join", &crew])?;
    says("welcome back")?;
    let absent = "(messages while you were not in the room are not shown)";
    for said in [
        &said_to_a_person(&phone, &["sync"])?[0],
        &said_to_a_person(&phone, &["read", &crew])?[0],
        &said_to_a_person(&laptop, &["read", &crew])?[0],
    ] {
        holds(said, absent)?;
        holds(said, "welcome back")?;
        equal(&said.contains("behind his back"), &false)?;
    }
    by_ana("ban")?;
    let banned = format!("you are banned from {crew}");
    at_both(&["send", "leave", "join"], &banned)?;

    let away = "!31hneApxJ_1o-63DmFrpeqnkFFWppnzWso1JvH3ogLM";
    for file in [&phone, &laptop] {
        let left = output(&mut client(file, &["leave", away]))?;
        let why = String::from_utf8_lossy(&left.stderr).into_owned();
        equal(&left.status.code(), &Some(1))?;
        equal(&why.contains("via"), &false).map_err(|_| why)?;
    }
    Ok(())
}

fn limit() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let ana = link(&hub, "ana")?;
    let [photo, out] = ["photo", "out"].map(|name| hub.path().join(name));
    fs::write(&photo, vec![7; 30_000])?;
    let (photo, out) = (photo.display().to_string(), out.display().to_string());
    let up = done(&ana, &["upload", &photo])?;
    let uri = up[0]["content_uri"].as_str().ok_or("no address")?;
    let class = ["link-class", "broadband", "--daily-kilobytes", "50"];
    done(&ana, &class)?;
    for door in ["oscore", "quic", "auto"] {
        let spent = |file: &PathBuf| -> Result<u64, Failed> {
            let total = done(file, &["ledger"])?.pop().ok_or("no ledger")?;
            let way = |name: &str| total[name].as_u64().unwrap_or_default();
            Ok(way("bytes_up") + way("bytes_down"))
        };
        let before = spent(&ana)?;
        let args = ["--door", door, "upload", &photo];
        refused(&mut client(&ana, &args), "DAILY_LIMIT")?;
        refused(&mut client(&ana, &args), "of today's 50 kB")?;
        refused(
            &mut client(&ana, &args),
            "--beyond-limit goes on all the same",
        )?;
        let args = ["--door", door, "download", uri, "--out", &out];
        refused(&mut client(&ana, &args), "DAILY_LIMIT")?;
        equal(&fs::exists(&out)?, &false)?;
        let after = spent(&ana)?;
        println!("{door}: four refusals cost {}", after - before);
        // Over QUIC as the only way a download has a connection, and its beginning is on its way at once.
        equal(&(door == "quic" || after - before < 2500), &true)?;
    }
    done(&ana, &["upload", &photo, "--beyond-limit"])?;
    done(&ana, &["download", uri, "--out", &out, "--beyond-limit"])?;
    equal(&fs::read(&out)?.len(), &30_000)?;
    // Without a limit nothing is asked for.
    done(&ana, &["link-class", "broadband", "--daily-kilobytes", "0"])?;
    done(&ana, &["upload", &photo]).map(drop)
}

fn numbers() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&["ana"])?;
    let (phone, laptop) = (link(&hub, "ana")?, signed_in(&hub, "ana")?);
    let room = done(&phone, &["create", "--name", "Crew"])?;
    let room = room[0]["room_id"].as_str().ok_or("no room")?.to_owned();
    let sent = done(&phone, &["send", &room, "one"])?;
    let seq = sent[0]["seq"].as_u64().ok_or("no number")?;
    let [told, _] = said_to_a_person(&phone, &["status", &room])?;
    equal(&told.starts_with(&format!("number {seq}  20")), &true).map_err(|_| told)?;
    let [read, _] = said_to_a_person(&laptop, &["read", &room, "--limit", "1"])?;
    let id = read.split(' ').nth(1).ok_or("no id")?;
    let [told, _] = said_to_a_person(&laptop, &["status", &room])?;
    holds(&told, &format!("{id}  20"))?;

    // An edit says of what.
    let content = json!({"msgtype": "m.text", "body": "* two", "m.new_content":
        {"msgtype": "m.text", "body": "two"}, "m.relates_to": {"rel_type": "m.replace",
        "event_id": done(&laptop, &["read", &room, "--limit", "1"])?[0]["event_id"]}});
    block_on(async {
        let mut ana = hub.client("https", "ana").await?;
        let path = ["rooms", &room, "send", "m.room.message", "edit"];
        Ok(ana
            .call("edit", Call::put(&path, content))
            .await
            .map(drop)?)
    })?;
    let [read, _] = said_to_a_person(&phone, &["read", &room, "--limit", "1"])?;
    holds(&read, &format!("@ana:{NAME} edited {seq}: two"))?;
    let [read, _] = said_to_a_person(&laptop, &["read", &room, "--limit", "1"])?;
    holds(&read, &format!("@ana:{NAME} edited {id}: two"))?;

    done(&phone, &["sync"])?; // where a device begins
    // What it cost is said once.
    for file in [&phone, &laptop] {
        let told = said_to_a_person(file, &["status", "-v"])?;
        equal(&told.concat().matches("cost: ").count(), &1)?;
        // SIGTERM ends what follows, as Ctrl-C does, with a last line.
        let follower = Follower::of(file)?;
        let other = if file == &phone { &laptop } else { &phone };
        done(other, &["send", &room, "three"])?;
        follower.texts_until("three")?;
        let last = follower.terminated()?.pop().ok_or("no last line")?;
        let is_whole = last.get("next").is_some() && last["cost"]["bytes_up"].is_u64();
        equal(&is_whole, &true).map_err(|_| last.to_string())?;
    }

    hub.kill()?;
    let unsent = output(&mut client(&phone, &["send", &room, "later"]))?;
    equal(&unsent.status.code(), &Some(1))?;
    let queued: Value = serde_json::from_slice(&unsent.stdout)?;
    equal(&queued["queued"], &true.into())?;
    equal(&queued["cost"]["bytes_up"].is_u64(), &true)
}

/// The answer to a logout may be overtaken by what ends the device at its door.
fn logged_out() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    for (user, door) in [("ana", "oscore"), ("bob", "quic")] {
        let device = link(&hub, user)?;
        let said = run(&mut client(&device, &["--door", door, "logout"]))?;
        holds(&said, r#""token_removed":true"#)?;
        let refused = output(&mut client(&device, &["--door", door, "rooms"]))?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        holds(&why, "is logged out; link it again")?;
    }
    Ok(())
}
