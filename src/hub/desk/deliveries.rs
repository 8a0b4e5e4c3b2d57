//! What became of what one sent, at other servers.

use crate::{
    api::{Caller, Delivered, DeliveredTo, Deliveries, Refusal, Sent},
    base::Seq,
    hub::{
        Hub,
        desk::{access::ours, reading::outsider},
    },
    store::{LogRecord, Logged, Order, RoomRecord, hash_of},
};

/// How many of the newest messages are told of.
const MESSAGES_MAX: usize = 10;

/// How many of the newest changes of state are looked at for one that a server did not take, all in one
/// question to the store.
const STATES_LOOKED_AT_MAX: usize = 50;

/// How many entries of a room's log are looked through for them.
const LOOKED_AT_MAX: u32 = 500;

/// See `api::Command::Deliveries`. Only who sent an event is told.
pub(super) async fn deliveries(
    hub: &Hub,
    caller: &Caller,
    asked: &Deliveries,
) -> Result<Delivered, Refusal> {
    let standing = outsider::standing(hub, &caller.user, &asked.room).await?;
    // What was said before one was out goes its way all the same.
    if standing.ended.is_none() {
        standing.must_be_joined()?;
    }
    match &asked.event {
        Some(event) => {
            let entry = entry_of(hub, caller, &standing.room, event).await?;
            let servers = of_entry(hub, &standing.room, &entry).await?;
            Ok(Delivered::Servers(servers))
        }
        None => newest(hub, caller, &standing.room).await,
    }
}

async fn entry_of(
    hub: &Hub,
    caller: &Caller,
    room: &RoomRecord,
    event: &ruma::EventId,
) -> Result<LogRecord, Refusal> {
    let nothing = || Refusal::not_found(format!("no event {event} of yours in this room"));
    let hash = hash_of(event).ok_or_else(nothing)?;
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
    log.map_err(ours)?.into_iter().next().ok_or_else(nothing)
}

/// The newest messages of whoever asks, among the newest entries of the room, and what of state a server
/// did not take: of that, what was taken is seen in the room.
async fn newest(hub: &Hub, caller: &Caller, room: &RoomRecord) -> Result<Delivered, Refusal> {
    let head = room.heads.seq;
    let log = hub
        .store
        .log(room.nid, Seq::ZERO, head, Order::Backward, LOOKED_AT_MAX);
    let own = own(caller, room, log.await.map_err(ours)?);
    let states = own.iter().filter(|one| one.is_state);
    let states: Vec<Seq> = states.map(|one| one.entry.seq).collect();
    let lost = hub.store.lost(room.nid, &states).await.map_err(ours)?;
    let mut told = Vec::new();
    for mut one in own {
        if one.is_state && !lost.contains(&one.entry.seq) {
            continue;
        }
        let mut servers = of_entry(hub, room, &one.entry).await?;
        if one.is_state {
            servers.retain(|server| server.delivery.is_lost());
            if servers.is_empty() {
                continue;
            }
        }
        one.sent.servers = servers;
        told.push(one.sent);
    }
    Ok(Delivered::Messages(told))
}

/// An entry of whoever asks.
struct Own {
    entry: LogRecord,
    is_state: bool,
    /// What is told of it, without the servers.
    sent: Sent,
}

/// The first entries of whoever asks among these.
fn own(caller: &Caller, room: &RoomRecord, log: Vec<LogRecord>) -> Vec<Own> {
    let mut own = Vec::new();
    let (mut messages, mut states) = (0, 0);
    for entry in log {
        if messages == MESSAGES_MAX && states == STATES_LOOKED_AT_MAX {
            break;
        }
        let Logged::Event(event) = &entry.what else {
            continue;
        };
        let Ok(pdu) = event.pdu(room) else {
            continue; // nobody is shown it
        };
        let fields = pdu.fields();
        if fields.sender != caller.user {
            continue;
        }
        let is_state = fields.state_key.is_some();
        let (count, most) = if is_state {
            (&mut states, STATES_LOOKED_AT_MAX)
        } else {
            (&mut messages, MESSAGES_MAX)
        };
        if *count == most {
            continue;
        }
        *count += 1;
        let sent = Sent {
            event_id: pdu.id().clone(),
            seq: entry.seq,
            origin_server_ts: fields.at.0,
            kind: fields.kind.clone(),
            servers: Vec::new(),
        };
        own.push(Own {
            entry,
            is_state,
            sent,
        });
    }
    own
}

async fn of_entry(
    hub: &Hub,
    room: &RoomRecord,
    entry: &LogRecord,
) -> Result<Vec<DeliveredTo>, Refusal> {
    match &hub.outbox {
        Some(outbox) => outbox.deliveries(room.nid, entry).await.map_err(ours),
        None => Ok(Vec::new()),
    }
}
