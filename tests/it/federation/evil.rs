//! The evil peer: a homeserver that does all that no honest one does (`tests/peers/evil.py`), and
//! what must become of it. Each class of mischief is a trial, each case in it has a name and says
//! what must happen; whatever it is, the hub lives, its room stays as it was, and the events beside a
//! bad one are taken.

mod entering;
mod graph;
mod keys;
mod past;
mod pdus;
mod requests;
mod slow;

use std::time::Instant;

use libtest_mimic::{Failed, Trial};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tramline::client::{Call, Client};

use super::{Together, text};
use crate::{
    hub::block_on,
    peers::{self, Need, Peer},
};

pub(super) fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($module:ident::$name:ident),* $(,)?) => {
            vec![$(peers::trial(
                concat!("federation::evil::", stringify!($name)),
                Need::Required,
                &[Peer::Python],
                $module::$name,
            ),)*]
        };
    }
    trials![
        pdus::a_bad_event_spoils_nothing_but_itself,
        requests::a_bad_transaction_is_refused_and_the_next_is_taken,
        requests::what_comes_beside_the_events_is_believed_of_its_own_users_only,
        requests::a_path_and_a_body_that_disagree_are_refused,
        keys::a_server_that_lies_about_its_keys_is_not_believed,
        graph::whatever_lies_behind_a_gap_costs_little,
        graph::ten_thousand_forks_silence_nobody,
        entering::a_template_is_compared_and_only_our_own_words_are_signed,
        entering::a_room_that_is_not_as_it_is_told_is_not_entered,
        entering::a_bad_invite_is_refused_and_breaks_nobodys_sync,
        past::a_past_full_of_rejected_events_is_read_to_its_beginning,
        past::a_past_that_is_made_up_comes_to_an_end,
        slow::who_is_slow_holds_nobody_up,
        slow::nobody_is_led_astray,
    ]
}

/// What the hub may have in memory at its highest, in MiB: it has 70 when it has done nothing, and a
/// joined room is told in up to 64 MiB.
const MIB_MAX: u64 = 400;

#[expect(
    clippy::disallowed_methods,
    reason = "what is measured is how long others really wait"
)]
fn now() -> Instant {
    Instant::now()
}

/// A hub with Ana, the evil peer with a few servers, and what befalls both.
struct Evil {
    here: Together,
    ana: Client,
    /// The servers: the hub, and the evil ones.
    hub: String,
    servers: Vec<String>,
    said: u32,
}

impl Evil {
    /// Runs a trial; its failure brings the hub's log.
    fn trial(
        servers: usize,
        trial: impl AsyncFnOnce(&mut Self) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let here = Together::start("evil.py", servers)?;
        block_on(async {
            let mut evil = Self {
                ana: here.client("ana").await?,
                hub: here.hub.name().to_owned(),
                servers: here.scripted.servers.clone(),
                said: 0,
                here,
            };
            let told = trial(&mut evil).await;
            told.map_err(|error| {
                let said = error.message().unwrap_or_default().to_owned();
                let log = evil.here.hub.log_text();
                let tail: Vec<&str> = log.lines().rev().take(60).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                format!("{said}\n{}", tail.join("\n")).into()
            })
        })
    }

    fn ask(&mut self, command: &Value) -> Result<Value, Failed> {
        self.here.scripted.ask(command)
    }

    fn ana_id(&self) -> String {
        format!("@ana:{}", self.hub)
    }

    /// A public room of Ana's that Mal has joined.
    async fn room(&mut self, version: &str) -> Result<OwnedRoomId, Failed> {
        let wish = json!({"preset": "public_chat", "room_version": version});
        let room = self.ana.create_room(wish).await?;
        let join = json!({"op": "join", "via": self.hub, "room_id": room.as_str(), "user": "mal"});
        self.ask(&join)?;
        Ok(room)
    }

    /// The room's whole state by type and key: each piece's id and content.
    async fn state(&mut self, room: &RoomId) -> Result<Vec<String>, Failed> {
        let call = Call::get(&["rooms", room.as_str(), "state"], Vec::new());
        let state = self.ana.call("state", call).await?;
        let mut pieces: Vec<String> = state
            .as_array()
            .ok_or("no state")?
            .iter()
            .map(|piece| {
                let (kind, key) = (&piece["type"], &piece["state_key"]);
                format!("{kind} {key} {} {}", piece["event_id"], piece["content"])
            })
            .collect();
        pieces.sort();
        Ok(pieces)
    }

    /// Everything in the room that Ana may read.
    async fn timeline(&mut self, room: &RoomId) -> Result<Vec<Value>, Failed> {
        self.newest(room, usize::MAX).await
    }

    /// The same up to a page after so many events: what a server makes up has no beginning.
    async fn newest(&mut self, room: &RoomId, count: usize) -> Result<Vec<Value>, Failed> {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let page = self.ana.messages(room, from.as_deref(), true, 1000).await?;
            let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
            all.extend(chunk);
            from = page["end"].as_str().map(str::to_owned);
            if from.is_none() || all.len() >= count {
                return Ok(all);
            }
        }
    }

    /// The hub's memory at its highest, in MiB.
    fn peak_mib(&self) -> Result<u64, Failed> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.here.hub.id()?))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        Ok(kib.ok_or("no VmHWM")? / 1024)
    }

    /// Ana says something, and Mal's server is sent it: the hub lives.
    async fn still_talks(&mut self, room: &RoomId) -> Result<(), Failed> {
        self.said += 1;
        let txn = format!("alive{}", self.said);
        let sent = self.ana.say(room, &txn, "still here").await?;
        let heard = json!({"op": "heard", "room_id": room.as_str(), "event_id": sent});
        assert_eq!(self.ask(&heard)?["found"], true, "the hub sends no more");
        Ok(())
    }
}

/// Holds each case against what must be answered: its status, and words of the refusal. All that
/// differ are told.
fn hold(told: &Value, must: &[(&str, u64, &str)]) -> Result<(), Failed> {
    let cases = cases(told)?;
    let mut wrong = Vec::new();
    for (name, case) in &cases {
        let said = format!("{} {}", case["errcode"], case["error"]);
        match must.iter().find(|(named, _, _)| named == name) {
            Some((_, status, words)) if case["status"] == *status && said.contains(words) => {}
            Some((_, status, words)) => {
                let is = &case["status"];
                wrong.push(format!(
                    "{name}: must be {status} {words:?}, is {is} {said}"
                ));
            }
            None => wrong.push(format!(
                "{name}: nobody says what must be, is {} {said}",
                case["status"]
            )),
        }
    }
    for (name, _, _) in must {
        if !cases.iter().any(|(named, _)| named == name) {
            wrong.push(format!("{name}: was not tried"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(wrong.join("\n").into())
}

/// The cases of an answer, each with its name.
fn cases(told: &Value) -> Result<Vec<(String, Value)>, Failed> {
    let cases = told["cases"].as_array().ok_or("no cases")?;
    let named = cases
        .iter()
        .map(|case| Ok((text(&case["name"])?.to_owned(), case.clone())));
    named.collect()
}
