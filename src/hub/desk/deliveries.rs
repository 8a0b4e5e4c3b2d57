//! What became of what one sent, at other servers.

use crate::{
    api::{Caller, DeliveredTo, Deliveries, Refusal},
    base::Seq,
    hub::{
        Hub,
        desk::{access::ours, reading::visibility::Standing},
    },
    store::{Order, hash_of},
};

/// See `api::Command::Deliveries`. Only who sent an event is told.
pub(super) async fn deliveries(
    hub: &Hub,
    caller: &Caller,
    asked: &Deliveries,
) -> Result<Vec<DeliveredTo>, Refusal> {
    let standing = Standing::of(&hub.store, &caller.user, &asked.room).await?;
    standing.must_be_joined()?;
    let room = &standing.room;
    let nothing = || Refusal::not_found(format!("no event {} of yours in this room", asked.event));
    let hash = hash_of(&asked.event).ok_or_else(nothing)?;
    let record = hub.store.event(hash).await.map_err(ours)?;
    let record = record.filter(|record| record.room == room.nid);
    let record = record.ok_or_else(nothing)?;
    let is_theirs = record
        .pdu(room)
        .is_ok_and(|pdu| pdu.fields().sender == caller.user);
    let seq = record.seq.filter(|_| is_theirs).ok_or_else(nothing)?;
    let before = Seq(seq.0.saturating_sub(1));
    let log = hub
        .store
        .log(room.nid, before, seq, Order::Forward, 1)
        .await;
    let entry = log.map_err(ours)?.into_iter().next().ok_or_else(nothing)?;
    let Some(outbox) = &hub.outbox else {
        return Ok(Vec::new());
    };
    outbox.deliveries(room.nid, &entry).await.map_err(ours)
}
