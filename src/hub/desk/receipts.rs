//! What has been read and who types: told to a room, and in no room's log.

use std::{sync::Arc, time::Duration};

use ruma::{
    EventId, OwnedEventId, RoomId, UserId,
    api::client::{
        read_marker::set_read_marker::v3 as markers,
        receipt::create_receipt::v3::{self as receipts, ReceiptType},
        typing::create_typing_event::v3::{self as typing_now, Typing},
    },
    events::receipt::ReceiptThread,
};

pub(super) use self::board::TypingBoard;
use crate::{
    api::{Caller, Refusal},
    base::{Position, Seq, Timestamp},
    hub::{
        Hub,
        desk::{access::ours, reading::visibility::Standing},
        fanout::{ForServers, Touched},
        outbox::{Servers, Typing as TypingNote},
    },
    store::{Batch, ReceiptRecord, RoomNid, RoomRecord, Write, hash_of},
};

mod board;
#[cfg(test)]
mod tests;

/// How long someone types at most without saying so again.
const TYPING_MAX: Duration = Duration::from_mins(2);

/// See `api::Command::Receipt`.
///
/// spec: client-server-sync §Receipts
pub(super) async fn receipt(
    hub: &Hub,
    caller: &Caller,
    request: receipts::Request,
) -> Result<receipts::Response, Refusal> {
    let mut marks = Marks::of(hub, caller, &request.room_id).await?;
    let thread = thread(&request.thread)?;
    match request.receipt_type {
        ReceiptType::FullyRead if !thread.is_empty() => {
            return Err(Refusal::invalid_param(
                "`m.fully_read` is one for the room: it has no `thread_id`",
            ));
        }
        ReceiptType::FullyRead => marks.fully_read(&request.event_id).await?,
        ReceiptType::Read => marks.read(READ, &thread, request.event_id).await?,
        ReceiptType::ReadPrivate => marks.read(READ_PRIVATE, &thread, request.event_id).await?,
        other => {
            let message = format!("`receiptType` cannot be {:?}", other.as_str());
            return Err(Refusal::invalid_param(message));
        }
    }
    marks.store().await?;
    Ok(receipts::Response::new())
}

/// See `api::Command::ReadMarkers`.
///
/// spec: client-server-sync §Fully-read-markers
pub(super) async fn read_markers(
    hub: &Hub,
    caller: &Caller,
    request: markers::Request,
) -> Result<markers::Response, Refusal> {
    let mut marks = Marks::of(hub, caller, &request.room_id).await?;
    if let Some(event) = &request.fully_read {
        marks.fully_read(event).await?;
    }
    if let Some(event) = request.read_receipt {
        marks.read(READ, "", event).await?;
    }
    if let Some(event) = request.private_read_receipt {
        marks.read(READ_PRIVATE, "", event).await?;
    }
    marks.store().await?;
    Ok(markers::Response::new())
}

/// See `api::Command::Typing`.
///
/// spec: client-server-sync §Typing-notifications
pub(super) async fn typing(
    hub: &Hub,
    caller: &Caller,
    request: typing_now::Request,
) -> Result<typing_now::Response, Refusal> {
    if request.user_id != caller.user {
        return Err(Refusal::forbidden("one can type only as oneself"));
    }
    let standing = Standing::of(&hub.store, &caller.user, &request.room_id).await?;
    standing.must_be_joined()?;
    let until = match request.state {
        Typing::No => None,
        Typing::Yes(info) => Some(hub.now() + info.timeout.min(TYPING_MAX)),
    };
    types(hub, &standing.room, &caller.user, until).await?;
    Ok(typing_now::Response::new())
}

/// Someone who is in the room types until then, or no longer.
pub(super) async fn types(
    hub: &Hub,
    room: &RoomRecord,
    user: &UserId,
    until: Option<Timestamp>,
) -> Result<(), Refusal> {
    let nid = room.nid;
    if let Some(before) = hub.desk.typing.set((nid, &*room.id), user, until) {
        let audience = audience(hub, nid).await?;
        hub.fanout.typed(before, &audience);
        let others = if user.server_name() == hub.key.name() {
            servers(hub, nid).await?
        } else {
            None
        };
        let note = TypingNote {
            room: room.id.clone(),
            user: user.to_owned(),
            typing: until.is_some(),
        };
        if let Some(servers) = &others {
            hub.fanout
                .typed_elsewhere(Arc::clone(servers), note.clone());
        }
        if until.is_some() && hub.desk.typing.begin_watch(nid, user) {
            let board = hub.desk.typing.clone();
            let (clock, fanout) = (Arc::clone(&hub.clock), Arc::clone(&hub.fanout));
            tokio::spawn(board.watch(nid, user.to_owned(), clock, move |before| {
                fanout.typed(before, &audience);
                if let Some(servers) = others {
                    let note = TypingNote {
                        typing: false,
                        ..note
                    };
                    fanout.typed_elsewhere(servers, note);
                }
            }));
        }
    }
    Ok(())
}

/// Receipts of another server's users, who are in the room. One for an event that is not in its log
/// says nothing to anyone here, and is passed over like one that would go back.
pub(super) async fn read_elsewhere(
    hub: &Hub,
    room: RoomNid,
    receipts: Vec<ReceiptRecord>,
) -> Result<(), Refusal> {
    let mut writes = Vec::new();
    for receipt in receipts {
        let before = hub.store.receipts_of(room, &receipt.user).await;
        let before = before.map_err(ours)?;
        if is_newer(hub, room, &before, &receipt).await? == Than::Newer {
            writes.push(Write::Receipt { room, receipt });
        }
    }
    if writes.is_empty() {
        return Ok(());
    }
    let touched = vec![audience(hub, room).await?];
    keep_receipts(hub, room, writes, touched).await
}

/// What one request marks in one room.
struct Marks<'a> {
    hub: &'a Hub,
    caller: &'a Caller,
    room: RoomNid,
    room_id: &'a RoomId,
    before: Vec<ReceiptRecord>,
    writes: Vec<Write>,
    /// Whether others are told too.
    public: bool,
    /// Whether a receipt is among them.
    receipts: bool,
}

impl<'a> Marks<'a> {
    async fn of(hub: &'a Hub, caller: &'a Caller, room_id: &'a RoomId) -> Result<Self, Refusal> {
        let standing = Standing::of(&hub.store, &caller.user, room_id).await?;
        standing.must_be_joined()?;
        let room = standing.room.nid;
        let before = hub.store.receipts_of(room, &caller.user).await;
        Ok(Self {
            hub,
            caller,
            room,
            room_id,
            before: before.map_err(ours)?,
            writes: Vec::new(),
            public: false,
            receipts: false,
        })
    }

    async fn fully_read(&mut self, event: &EventId) -> Result<(), Refusal> {
        self.must_be_here(event).await?;
        self.writes.push(Write::AccountData {
            user: self.caller.user.clone(),
            room: Some(self.room_id.to_owned()),
            kind: "m.fully_read".to_owned(),
            json: serde_json::json!({ "event_id": event }).to_string(),
        });
        Ok(())
    }

    /// A receipt; one that would go back in the log is passed over.
    async fn read(&mut self, kind: &str, thread: &str, event: OwnedEventId) -> Result<(), Refusal> {
        let receipt = ReceiptRecord {
            user: self.caller.user.clone(),
            kind: kind.to_owned(),
            thread: thread.to_owned(),
            event,
            at: self.hub.now(),
            position: Position::ZERO, // the commit's, which the store knows
        };
        match is_newer(self.hub, self.room, &self.before, &receipt).await? {
            Than::Unknown => return Err(not_here(&receipt.event)),
            Than::Older => return Ok(()),
            Than::Newer => {}
        }
        self.public |= kind == READ;
        self.receipts = true;
        self.writes.push(Write::Receipt {
            room: self.room,
            receipt,
        });
        Ok(())
    }

    /// Refused when the event is of another room.
    async fn must_be_here(&self, event: &EventId) -> Result<(), Refusal> {
        let seq = seq(self.hub, self.room, event).await?;
        seq.map(drop).ok_or_else(|| not_here(event))
    }

    async fn store(self) -> Result<(), Refusal> {
        if self.writes.is_empty() {
            return Ok(());
        }
        let mut touched = Vec::new();
        if self.public {
            touched.push(audience(self.hub, self.room).await?);
            let servers = servers(self.hub, self.room).await?;
            let servers = servers.map(|servers| Touched::Servers(servers, ForServers::Beside));
            touched.extend(servers);
        } else {
            touched.push(Touched::Beside(Arc::new([self.caller.user.clone()].into())));
        }
        if self.receipts {
            keep_receipts(self.hub, self.room, self.writes, touched).await
        } else {
            super::keep(self.hub, self.writes, touched).await
        }
    }
}

async fn keep_receipts(
    hub: &Hub,
    room: RoomNid,
    writes: Vec<Write>,
    touched: Vec<Touched>,
) -> Result<(), Refusal> {
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    // Noted before and after: a sync that sees the commit must see the note.
    let now = hub.fanout.position();
    let noted = hub.desk.typing.expect_receipts(room, now);
    let (position, _) = hub.writer.write(batch, touched).await?;
    noted.settle(position);
    Ok(())
}

/// What a receipt is beside the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Than {
    Newer,
    /// For the same event, or for one earlier in the log.
    Older,
    /// For an event that is not in this room's log.
    Unknown,
}

async fn is_newer(
    hub: &Hub,
    room: RoomNid,
    before: &[ReceiptRecord],
    receipt: &ReceiptRecord,
) -> Result<Than, Refusal> {
    let Some(at) = seq(hub, room, &receipt.event).await? else {
        return Ok(Than::Unknown);
    };
    let is_same =
        |one: &&ReceiptRecord| (&one.kind, &one.thread) == (&receipt.kind, &receipt.thread);
    let Some(before) = before.iter().find(is_same) else {
        return Ok(Than::Newer);
    };
    let before = seq(hub, room, &before.event).await?;
    let is_older = before.is_some_and(|before| before >= at);
    Ok(if is_older { Than::Older } else { Than::Newer })
}

/// Where an event stands in a room's log.
async fn seq(hub: &Hub, room: RoomNid, event: &EventId) -> Result<Option<Seq>, Refusal> {
    let Some(hash) = hash_of(event) else {
        return Ok(None);
    };
    let record = hub.store.event(hash).await.map_err(ours)?;
    Ok(record
        .filter(|record| record.room == room)
        .and_then(|record| record.seq))
}

fn not_here(event: &EventId) -> Refusal {
    Refusal::not_found(format!("no event {event} in this room"))
}

async fn audience(hub: &Hub, room: RoomNid) -> Result<Touched, Refusal> {
    let users = hub.store.audience(room, hub.key.name()).await;
    Ok(Touched::Beside(Arc::new(
        users.map_err(ours)?.into_iter().collect(),
    )))
}

/// The other servers in a room, where this hub tells any.
async fn servers(hub: &Hub, room: RoomNid) -> Result<Option<Servers>, Refusal> {
    if hub.outbox.is_none() {
        return Ok(None);
    }
    let servers = hub.store.residents(room).await.map_err(ours)?;
    Ok((!servers.is_empty()).then(|| Arc::new(servers.into_iter().collect())))
}

pub(super) fn thread(thread: &ReceiptThread) -> Result<String, Refusal> {
    match thread {
        ReceiptThread::Unthreaded => Ok(String::new()),
        ReceiptThread::Main => Ok("main".to_owned()),
        ReceiptThread::Thread(root) => Ok(root.to_string()),
        other => {
            let message = format!("`thread_id` cannot be {:?}", other.as_str().unwrap_or(""));
            Err(Refusal::invalid_param(message))
        }
    }
}

pub(super) const READ: &str = "m.read";
pub(super) const READ_PRIVATE: &str = "m.read.private";
