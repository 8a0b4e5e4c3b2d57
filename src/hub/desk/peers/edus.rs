//! What is in no room's log: messages for devices, changes of device lists, who types, what has
//! been read. Each is of a user of the server that sends it, or is not taken; one that is wrong
//! spoils none of the others. What is unknown is passed over; so is presence, unless it is on here.

use std::collections::BTreeMap;

use ruma::{
    OwnedServerName, OwnedUserId, UserId,
    api::federation::transactions::edu::{
        DirectDeviceContent, Edu, ReceiptContent, ReceiptData, TypingContent,
    },
    serde::Raw,
};

use super::{must_be_of, room_for};
use crate::{
    api::Refusal,
    base::{Position, Timestamp},
    hub::{
        Hub, WriteError,
        desk::{
            access::ours,
            accounts::contested,
            devices_elsewhere::lists,
            keys, presence,
            receipts::{self, READ},
            to_device::{Full, Post, TXN_BYTES_MAX, TYPE_BYTES_MAX},
        },
    },
    room::Membership,
    store::{ReceiptRecord, RoomRecord, Write},
};

/// The largest EDU that is read, in bytes: messages for many devices, from a server that does not
/// split them.
const EDU_BYTES_MAX: usize = 1024 * 1024;

/// What is read by itself.
const PRESENCE: &str = "m.presence";

/// How many receipts of one transaction are looked at.
const RECEIPTS_MAX: usize = 1000;

/// All that the messages of one transaction may put into mailboxes, in bytes: `*` must not turn a
/// small request into a large commit.
const MAIL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long someone types without their server saying so again. Synapse says so every 40 seconds.
const TYPING: std::time::Duration = std::time::Duration::from_mins(1);

/// The longest id of an event or thread in a receipt, in bytes.
const ID_BYTES_MAX: usize = 255;

/// What the EDUs of one transaction may still cost.
struct Budget {
    receipts: usize,
    mail_bytes: usize,
}

/// Why an EDU was not taken.
enum Not {
    /// It is wrong, or not for us; the others go on.
    Wanted(String),
    /// It could not be stored: the whole transaction has to come again.
    Stored(Refusal),
}

impl From<Refusal> for Not {
    fn from(refusal: Refusal) -> Self {
        if refusal.status >= 500 || refusal.retry_after.is_some() {
            Self::Stored(refusal)
        } else {
            Self::Wanted(refusal.message)
        }
    }
}

/// Takes what came beside the events of a transaction. When this returns, what has to last is
/// stored.
// spec: server-server §EDUs
pub(super) async fn receive(
    hub: &Hub,
    peer: &OwnedServerName,
    edus: &[Raw<Edu>],
) -> Result<(), Refusal> {
    let mut budget = Budget {
        receipts: RECEIPTS_MAX,
        mail_bytes: MAIL_BYTES_MAX,
    };
    for edu in edus {
        match one(hub, peer, edu, &mut budget).await {
            Ok(()) => {}
            Err(Not::Wanted(why)) => tracing::debug!(%peer, why, "an EDU is not taken"),
            Err(Not::Stored(refusal)) => return Err(refusal),
        }
    }
    Ok(())
}

async fn one(
    hub: &Hub,
    peer: &OwnedServerName,
    edu: &Raw<Edu>,
    budget: &mut Budget,
) -> Result<(), Not> {
    let bytes = edu.json().get().len();
    if bytes > EDU_BYTES_MAX {
        return Err(Not::Wanted(format!(
            "{bytes} bytes where {EDU_BYTES_MAX} are the most"
        )));
    }
    if hub.desk.presences.is_some()
        && matches!(edu.get_field::<String>("edu_type"), Ok(Some(kind)) if kind == PRESENCE)
    {
        presence::elsewhere::hears(hub, peer, edu.json().get()).await;
        return Ok(());
    }
    let edu = edu.deserialize();
    match edu.map_err(|error| Not::Wanted(error.to_string()))? {
        Edu::DirectToDevice(told) => messages(hub, peer, told, budget).await,
        Edu::DeviceListUpdate(told) => {
            must_be_of(peer, &told.user_id)?;
            Ok(lists::device_changed(hub, told).await?)
        }
        Edu::SigningKeyUpdate(told) => {
            must_be_of(peer, &told.user_id)?;
            Ok(lists::signing_key_changed(hub, told).await?)
        }
        Edu::Typing(told) => typing(hub, peer, told).await,
        Edu::Receipt(told) => read(hub, peer, told, budget).await,
        _ => Ok(()),
    }
}

/// Messages for devices here, into their mailboxes; once, however often they come.
// spec: server-server §Send-to-device-messaging
async fn messages(
    hub: &Hub,
    peer: &OwnedServerName,
    told: DirectDeviceContent,
    budget: &mut Budget,
) -> Result<(), Not> {
    must_be_of(peer, &told.sender)?;
    let kind = told.ev_type.to_string();
    let id = told.message_id.as_str();
    if kind.len() > TYPE_BYTES_MAX || id.len() > TXN_BYTES_MAX {
        let why = "type and id have at most 255 bytes each";
        return Err(Not::Wanted(why.to_owned()));
    }
    let mut post = Post::of(Full::PassOver);
    for (user, messages) in told.messages {
        if keys::is_ours(hub, &user) {
            post.add(hub, &told.sender, &kind, user, messages).await?;
        }
    }
    budget.mail_bytes = budget
        .mail_bytes
        .checked_sub(post.bytes)
        .ok_or_else(|| Not::Wanted("too much for mailboxes at once".to_owned()))?;
    if post.writes.is_empty() {
        return Ok(());
    }
    let mut writes = post.writes;
    writes.push(Write::RemoteMessage {
        origin: peer.clone(),
        id: id.to_owned(),
        at: hub.now(),
    });
    match hub.writer.write(contested(writes), post.touched).await {
        Ok(_) | Err(WriteError::Conflict(_)) => Ok(()),
        Err(error) => Err(Not::Stored(error.into())),
    }
}

/// spec: server-server §Typing-Notifications
async fn typing(hub: &Hub, peer: &OwnedServerName, told: TypingContent) -> Result<(), Not> {
    must_be_of(peer, &told.user_id)?;
    let room = room_for(hub, peer, &told.room_id).await?;
    must_be_joined(hub, &room, &told.user_id).await?;
    let until = told.typing.then(|| hub.now() + TYPING);
    Ok(receipts::types(hub, &room, &told.user_id, until).await?)
}

async fn must_be_joined(hub: &Hub, room: &RoomRecord, user: &UserId) -> Result<(), Not> {
    let membership = hub.store.membership(user, room.nid).await.map_err(ours)?;
    if membership.is_some_and(|record| record.membership == Membership::Join) {
        return Ok(());
    }
    Err(Not::Wanted(format!("{user} is not in {}", room.id)))
}

/// spec: server-server §Receipts
async fn read(
    hub: &Hub,
    peer: &OwnedServerName,
    told: ReceiptContent,
    budget: &mut Budget,
) -> Result<(), Not> {
    for (room, told) in told.receipts {
        if budget.receipts == 0 {
            return Err(Not::Wanted("too many receipts at once".to_owned()));
        }
        match read_in(hub, peer, &room, told.read, budget).await {
            Err(Not::Wanted(why)) => tracing::debug!(%peer, %room, why, "receipts not taken"),
            other => other?,
        }
    }
    Ok(())
}

async fn read_in(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &ruma::RoomId,
    told: BTreeMap<OwnedUserId, ReceiptData>,
    budget: &mut Budget,
) -> Result<(), Not> {
    budget.receipts = budget.receipts.saturating_sub(1); // the look at the room
    let room = room_for(hub, peer, room).await?;
    let mut taken = Vec::new();
    for (user, told) in told {
        let Some(left) = budget.receipts.checked_sub(1) else {
            break;
        };
        budget.receipts = left;
        match receipt(hub, peer, &room, user, told).await {
            Ok(receipt) => taken.push(receipt),
            Err(Not::Wanted(why)) => tracing::debug!(%peer, why, "a receipt is not taken"),
            Err(error) => return Err(error),
        }
    }
    Ok(receipts::read_elsewhere(hub, room.nid, taken).await?)
}

async fn receipt(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomRecord,
    user: OwnedUserId,
    told: ReceiptData,
) -> Result<ReceiptRecord, Not> {
    must_be_of(peer, &user)?;
    must_be_joined(hub, room, &user).await?;
    let thread = receipts::thread(&told.data.thread)?;
    // Several for a branched graph; in a line, the last one says it.
    let event = told.event_ids.into_iter().next_back();
    let event = event.filter(|event| event.as_str().len() <= ID_BYTES_MAX);
    let event = event.filter(|_| thread.len() <= ID_BYTES_MAX);
    let event = event.ok_or_else(|| Not::Wanted("a receipt names an event".to_owned()))?;
    let at = told
        .data
        .ts
        .map_or_else(|| hub.now(), |at| Timestamp(at.get().into()));
    Ok(ReceiptRecord {
        user,
        kind: READ.to_owned(),
        thread,
        event,
        at: at.min(hub.now()),
        position: Position::ZERO, // the commit's, which the store knows
    })
}
