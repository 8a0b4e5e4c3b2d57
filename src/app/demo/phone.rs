//! A linked device in the demo: the thin profile over OSCORE, and what it cost.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use ruma::OwnedRoomId;
use serde_json::json;

use super::{Demo, User, child::HubProcess};
use crate::{
    app::clock::world,
    client::{
        Credentials, Target,
        thin::{Line, ThinDoor},
    },
    wire::thin::{Body, Shown},
};

/// A device with the keys of `tramline link`.
pub(super) struct Phone {
    file: PathBuf,
    credentials: Credentials,
}

impl Phone {
    pub(super) fn link(hub: &HubProcess, dir: &Path, user: &str) -> anyhow::Result<Self> {
        let file = dir.join(format!("{user}-phone.json"));
        hub.link(user, "PHONE", &file)?;
        let credentials = Credentials::read(&file)?;
        Ok(Self { file, credentials })
    }

    /// Where the hub is now: it was started again on another port.
    pub(super) fn meet(&mut self, hub: &HubProcess) -> anyhow::Result<()> {
        if let Target::Coap(address) = hub.target("coap")? {
            self.credentials.server.coap = Some(address.to_string());
        }
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<ThinDoor> {
        Ok(ThinDoor::open(&self.file, &self.credentials, &world()).await?)
    }
}

impl Demo<'_> {
    /// The phone sends, the other reads and answers, the phone hears of it: once each.
    pub(super) async fn talk_thin(
        &mut self,
        phone: &Phone,
        other: &mut User,
        room: &OwnedRoomId,
        round: u32,
    ) -> anyhow::Result<()> {
        let mut door = phone.open().await?;
        if round == 1 {
            door.news().await?; // where it begins: what was before is for reading back
            door.keep_places()?;
        }
        let (said, answer) = (format!("Phone to all, {round}"), format!("Heard {round}"));
        let before = door.spent();
        door.queue(room.as_str(), Body::Text(said.clone()))?;
        let (flushed, ended) = door.flush().await;
        ended?;
        let sent = flushed.first().context("the message was not sent")?;
        let seq = sent.outcome.clone()?;
        let Line { up, down, .. } = door.spent();
        let cost = up + down - before.up - before.down;
        self.phone_did(&format!("«{said}»  number {seq}, for {cost} bytes"))?;

        let page = other.client.messages(room, None, true, 10).await?;
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        let times = chunk
            .iter()
            .filter(|event| event["content"]["body"] == said.as_str());
        ensure!(
            times.count() == 1,
            "{} does not read it once: {page}",
            other.name
        );
        let txn = format!("heard-{round}");
        other.client.say(room, &txn, &answer).await?;
        self.did(other, &format!("reads it and answers «{answer}»"))?;

        let news = door.news().await?;
        door.keep_places()?;
        let heard = news.iter().filter(|record| {
            matches!(&record.what, Shown::Entry { body: Body::Text(text), .. } if *text == answer)
        });
        ensure!(
            heard.count() == 1,
            "the phone does not hear it once: {news:?}"
        );
        self.phone_did("hears the answer, once")
    }

    fn phone_did(&mut self, what: &str) -> anyhow::Result<()> {
        if self.json {
            let line = json!({"event": "did", "who": "ana", "door": "oscore", "what": what});
            return Ok(writeln!(self.out, "{line}")?);
        }
        Ok(writeln!(self.out, "  ana oscore {what}")?)
    }

    /// What the phone has spent, counted at its socket.
    pub(super) async fn show_ledger(&mut self, phone: &Phone) -> anyhow::Result<()> {
        let book = phone.open().await?.book();
        ensure!(book.total().up > 0, "the ledger is empty");
        if !self.json {
            let head = "the phone's ledger (`client ledger`), IP and UDP headers included:";
            writeln!(self.out, "{head}")?;
        }
        for (_, operation, line) in book.lines() {
            self.ledger_line(operation, line)?;
        }
        self.ledger_line("total", book.total())
    }

    fn ledger_line(&mut self, operation: &str, line: Line) -> anyhow::Result<()> {
        let datagrams = line.datagrams_up + line.datagrams_down;
        if self.json {
            let line = json!({"event": "ledger", "operation": operation, "times": line.times,
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
