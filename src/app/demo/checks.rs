//! What the demo claims, checked.
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null where there is nothing"
)]

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::Value;

use crate::{
    app::open,
    base::{ChainHash, Seq},
    client::Client,
    store::{Logged, Order, Rooms as _, fsck},
    wire::{chain, matrix},
};

/// A room's events as a client pages them, oldest first.
pub(super) async fn history(client: &mut Client, room: &OwnedRoomId) -> anyhow::Result<Vec<Value>> {
    let mut from: Option<String> = None;
    let mut events = Vec::new();
    loop {
        let page = client.messages(room, from.as_deref(), true, 100).await?;
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        let end = page["end"].as_str().map(ToOwned::to_owned);
        let more = !chunk.is_empty() && end.is_some();
        events.extend(chunk);
        if !more {
            break;
        }
        from = end;
    }
    events.reverse();
    Ok(events)
}

/// Every acknowledged event stands in the log once, and each sender's in the order they sent them.
pub(super) fn once_and_in_order(log: &[Value], acked: &[Vec<OwnedEventId>]) -> anyhow::Result<()> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, event) in log.iter().enumerate() {
        let id = event["event_id"].as_str().context("an event with an id")?;
        ensure!(
            places.insert(id, place).is_none(),
            "{id} stands in the log twice"
        );
    }
    for sender in acked {
        let mut last = None;
        for id in sender {
            let place = places
                .get(id.as_str())
                .with_context(|| format!("{id} is gone"))?;
            ensure!(
                last < Some(place),
                "{id} stands before what was sent earlier"
            );
            last = Some(place);
        }
    }
    Ok(())
}

/// How often each text of the stream stands in the log.
pub(super) fn bodies(log: &[Value]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for body in log
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
    {
        *counts.entry(body).or_default() += 1;
    }
    counts
}

/// One stored entry.
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) chain: String,
    pub(super) kind: String,
    pub(super) id: OwnedEventId,
}

/// The log as it is on disk, and fsck over all of it.
pub(super) async fn read_log(dir: &Path, room: &OwnedRoomId) -> anyhow::Result<Vec<Line>> {
    let store = open::store_of(&dir.join("tramline.toml"))
        .await
        .map_err(|failure| anyhow::anyhow!("{failure}"))?;
    let report = fsck::fsck(&store, &mut |_| {}).await?;
    ensure!(report.is_clean(), "fsck found: {report:?}");
    let record = store.room(room).await?.context("the room is stored")?;
    let limit = u32::try_from(record.heads.seq.0)?;
    let log = store
        .log(
            record.nid,
            Seq::ZERO,
            record.heads.seq,
            Order::Forward,
            limit,
        )
        .await?;
    log.into_iter()
        .map(|entry| {
            let Logged::Event(event) = entry.what else {
                anyhow::bail!("no peer forked this room, yet it has a marker");
            };
            let pdu = event.pdu(&record)?;
            let kind = pdu.fields().kind.clone();
            let chain = hex::encode(entry.chain.0);
            Ok(Line {
                seq: entry.seq.0,
                chain,
                kind,
                id: pdu.id().clone(),
            })
        })
        .collect()
}

/// The chain recomputed from nothing but the ids.
pub(super) fn chain(room: &OwnedRoomId, log: &[Line]) -> anyhow::Result<()> {
    let mut before: ChainHash = chain::genesis(room.as_str());
    for (index, line) in log.iter().enumerate() {
        let seq = Seq(index as u64 + 1);
        ensure!(line.seq == seq.0, "a gap before {}", line.seq);
        let hash = matrix::event_hash(&line.id).context("an id that spells a hash")?;
        before = chain::link(room.as_str(), seq, before, &hash.0);
        ensure!(
            hex::encode(before.0) == line.chain,
            "the chain breaks at {seq}"
        );
    }
    Ok(())
}
