//! One entry, in full.

use super::{
    names::{self, Numbers},
    shown::Entry,
};
use crate::{
    api::{Caller, Refusal},
    base::Seq,
    hub::{
        Hub,
        desk::{access::ours, reading::visibility::Standing},
    },
    store::{EventRecord, Logged, Order, StateNid},
    wire::thin::{Alias, WholeEntry},
};

/// See [`crate::api::Thin::Entry`].
///
/// spec: thin-profile §8
pub(super) async fn entry(
    hub: &Hub,
    caller: &Caller,
    room: Alias,
    seq: Seq,
) -> Result<WholeEntry, Refusal> {
    let room = names::room(hub, caller, room).await?;
    let standing = Standing::of(&hub.store, &caller.user, &room).await?;
    let (event, before) = visible(hub, &standing, seq).await?;
    let entry = Entry::of(hub, caller, &standing.room, (&event, before)).await;
    let entry = entry.map_err(ours)?.ok_or_else(|| unknown(seq))?;
    let numbers = Numbers::of(hub, caller, entry.names().collect()).await?;
    entry.whole(&numbers)
}

/// The event at a place of the log, and the state before it. What is hidden and what is not there look alike.
pub(super) async fn visible(
    hub: &Hub,
    standing: &Standing,
    seq: Seq,
) -> Result<(EventRecord, StateNid), Refusal> {
    let before = Seq(seq.0.saturating_sub(1));
    let entries = hub
        .store
        .log(standing.room.nid, before, seq, Order::Forward, 1)
        .await
        .map_err(ours)?;
    let Some(Logged::Event(event)) = entries.into_iter().next().map(|entry| entry.what) else {
        return Err(unknown(seq));
    };
    let sees = standing.sees(&hub.store, &event).await.map_err(ours)?;
    let (before, _) = sees.ok_or_else(|| unknown(seq))?;
    Ok((event, before))
}

fn unknown(seq: Seq) -> Refusal {
    Refusal::not_found(format!("no entry {seq} that you may see in this room"))
}
