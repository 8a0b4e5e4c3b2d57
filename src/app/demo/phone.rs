//! Linked devices in the demo: the thin profile over OSCORE and over QUIC, and what it cost.
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null where there is nothing"
)]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use ruma::OwnedRoomId;
use serde_json::json;

use super::{Demo, child::HubProcess};
use crate::{
    app::clock::world,
    client::{
        Credentials,
        thin::{DoorChoice, Line, ThinDoor},
    },
    wire::thin::{Body, Record, Shown},
};

/// A device with the keys of `tramline link`.
pub(super) struct Phone {
    user: &'static str,
    door: &'static str,
    choice: DoorChoice,
    file: PathBuf,
    credentials: Credentials,
}

impl Phone {
    pub(super) fn link(
        hub: &HubProcess,
        dir: &Path,
        user: &'static str,
        choice: DoorChoice,
    ) -> anyhow::Result<Self> {
        let file = dir.join(format!("{user}-phone.json"));
        hub.link(user, "PHONE", &file)?;
        let credentials = Credentials::read(&file)?;
        let door = match choice {
            DoorChoice::Quic => "quic",
            DoorChoice::Auto | DoorChoice::Oscore => "oscore",
        };
        Ok(Self {
            user,
            door,
            choice,
            file,
            credentials,
        })
    }

    /// Where the hub is now: it was started again on other ports.
    pub(super) fn meet(&mut self, hub: &HubProcess) {
        let listen = &hub.ready()["listen"];
        let place = |door: &str| listen[door][0].as_str().map(str::to_owned);
        let server = &mut self.credentials.server;
        (server.coap, server.quic) = (place("coap"), place("quic"));
    }

    async fn open(&self) -> anyhow::Result<ThinDoor> {
        let door = ThinDoor::open(&self.file, &self.credentials, &world(), self.choice).await?;
        ensure!(door.door().0 == self.door, "{} has another door", self.user);
        Ok(door)
    }
}

/// Sends a text; gives its place and its bytes.
async fn say(door: &mut ThinDoor, room: &OwnedRoomId, text: &str) -> anyhow::Result<(u64, u64)> {
    let before = door.spent();
    door.queue(room.as_str(), Body::Text(text.to_owned()))?;
    let (flushed, ended) = door.flush().await;
    ended?;
    let sent = flushed.first().context("the message was not sent")?;
    let Line { up, down, .. } = door.spent();
    Ok((sent.outcome.clone()?, up + down - before.up - before.down))
}

/// What is new; it must have the text once.
async fn hear(door: &mut ThinDoor, text: &str) -> anyhow::Result<()> {
    let news = door.news().await?;
    door.keep_places()?;
    let is_it = |record: &&Record| matches!(&record.what, Shown::Entry { body: Body::Text(said), .. } if said == text);
    let times = news.iter().filter(is_it).count();
    ensure!(times == 1, "«{text}» came {times} times: {news:?}");
    Ok(())
}

impl Demo<'_> {
    /// Each says something and the other hears it, once.
    pub(super) async fn talk_thin(
        &mut self,
        phones: [&Phone; 2],
        room: &OwnedRoomId,
        round: u32,
    ) -> anyhow::Result<()> {
        let [one, other] = phones;
        let mut doors = [one.open().await?, other.open().await?];
        if round == 1 {
            for door in &mut doors {
                door.news().await?; // where it begins: what was before is for reading back
                door.keep_places()?;
            }
        }
        let [first, second] = &mut doors;
        let (said, answer) = (format!("Phone to all, {round}"), format!("Heard {round}"));
        let (seq, cost) = say(first, room, &said).await?;
        self.phone_did(one, &format!("«{said}»  number {seq}, for {cost} bytes"))?;
        hear(second, &said).await?;
        self.phone_did(other, "hears it, once")?;
        let (seq, cost) = say(second, room, &answer).await?;
        let what = format!("«{answer}»  number {seq}, for {cost} bytes");
        self.phone_did(other, &what)?;
        hear(first, &answer).await?;
        self.phone_did(one, "hears the answer, once")?;
        for door in &mut doors {
            door.close().await?;
        }
        Ok(())
    }

    fn phone_did(&mut self, phone: &Phone, what: &str) -> anyhow::Result<()> {
        let Phone { user, door, .. } = phone;
        if self.json {
            let line = json!({"event": "did", "who": user, "door": door, "what": what});
            return Ok(writeln!(self.out, "{line}")?);
        }
        Ok(writeln!(self.out, "  {user:<3} {door:<6} {what}")?)
    }

    /// What a phone has spent, counted at its socket.
    pub(super) async fn show_ledger(&mut self, phone: &Phone) -> anyhow::Result<()> {
        let book = phone.open().await?.book();
        ensure!(book.total().up > 0, "the ledger is empty");
        if !self.json {
            let head = format!(
                "the ledger of {}'s phone, over {} (`client ledger`), IP and UDP headers included:",
                phone.user, phone.door
            );
            writeln!(self.out, "{head}")?;
        }
        for (_, operation, line) in book.lines() {
            self.ledger_line(phone, operation, line)?;
        }
        self.ledger_line(phone, "total", book.total())
    }

    fn ledger_line(&mut self, phone: &Phone, operation: &str, line: Line) -> anyhow::Result<()> {
        let datagrams = line.datagrams_up + line.datagrams_down;
        if self.json {
            let line = json!({"event": "ledger", "who": phone.user, "door": phone.door,
                "operation": operation, "times": line.times,
                "bytes_up": line.up, "bytes_down": line.down, "datagrams": datagrams,
                "wakeups": line.wakeups});
            return Ok(writeln!(self.out, "{line}")?);
        }
        let Line { up, down, .. } = line;
        writeln!(
            self.out,
            "  {operation:<14} {up:>6} bytes up {down:>6} down {datagrams:>4} datagrams"
        )?;
        Ok(())
    }
}
