//! What is in no room's log: messages for devices, changes of device lists, who types, what has
//! been read. Each is of a user of the server that sends it, or is not taken; one that is wrong
//! spoils none of the others. What is unknown is passed over; so is presence, unless it is on here.

use std::collections::BTreeMap;

use ruma::{
    OwnedServerName, OwnedUserId, RoomId, UserId,
    api::federation::transactions::edu::{
        DirectDeviceContent, Edu, ReceiptContent, ReceiptData, TypingContent,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    edu_form,
    outcomes::{Outcomes, edu as part, kind_of},
    room_for,
};
use crate::{
    api::{Became, Refusal, Why},
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

/// What became of an EDU that could be read.
enum Took {
    All,
    /// What of it was not taken, in words.
    NotAll(String),
    /// This hub does nothing with it: the stable reason, and in words.
    Nothing(&'static str, String),
}

/// Why an EDU was not taken.
enum Not {
    /// It is wrong, or not for us; the others go on. The words are for the operator.
    Wanted(Box<Why>, String),
    /// It could not be stored: the whole transaction has to come again.
    Stored(Refusal),
}

impl Not {
    fn wanted(code: &'static str, said: impl Into<String>) -> Self {
        Self::Wanted(Box::new(Why::of(code)), said.into())
    }

    /// The same with the room.
    fn in_room(self, room: &RoomId) -> Self {
        match self {
            Self::Wanted(why, said) if why.room.is_none() => {
                Self::Wanted(Box::new(why.room(room)), said)
            }
            other => other,
        }
    }
}

impl From<Refusal> for Not {
    fn from(refusal: Refusal) -> Self {
        if refusal.status >= 500 || refusal.retry_after.is_some() {
            return Self::Stored(refusal);
        }
        let mut why = refusal.why.unwrap_or_default();
        why.code.get_or_insert("EDU_REFUSED");
        Self::Wanted(why, refusal.message)
    }
}

/// Takes what came beside the events of a transaction. When this returns, what has to last is
/// stored.
// spec: server-server §EDUs
pub(super) async fn receive(
    hub: &Hub,
    peer: &OwnedServerName,
    edus: &[Raw<Edu>],
    outcomes: &mut Outcomes,
) -> Result<(), Refusal> {
    let mut budget = Budget {
        receipts: RECEIPTS_MAX,
        mail_bytes: MAIL_BYTES_MAX,
    };
    for (at, edu) in edus.iter().enumerate() {
        let kind = kind(edu);
        let id = (part(at), kind.as_ref().ok().cloned());
        let took = match kind {
            Ok(kind) => one(hub, peer, (edu, &kind), &mut budget).await,
            Err(not) => Err(not),
        };
        match took {
            Ok(Took::All) => outcomes.fine(id.0, id.1, Became::Taken),
            Ok(Took::NotAll(said)) => {
                outcomes.not(id, Became::Taken, Why::default(), said);
            }
            Ok(Took::Nothing(code, said)) => {
                outcomes.not(id, Became::Ignored, Why::of(code), said);
            }
            Err(Not::Wanted(why, said)) => outcomes.not(id, Became::Refused, *why, said),
            Err(Not::Stored(refusal)) => return Err(refusal),
        }
    }
    Ok(())
}

/// The type of an EDU.
fn kind(edu: &Raw<Edu>) -> Result<String, Not> {
    let json = edu.json();
    let bytes = json.get().len();
    if bytes > EDU_BYTES_MAX {
        let said = format!("it has {bytes} bytes where {EDU_BYTES_MAX} are the most");
        return Err(Not::wanted("EDU_TOO_MUCH", said));
    }
    let wrong = |said: String| Not::wanted("EDU_FORM", said);
    let what = kind_of(json);
    if what != "an object" {
        return Err(wrong(format!("it is {what}, not an object")));
    }
    match edu.get_field::<Box<RawValue>>("edu_type") {
        Ok(Some(kind)) => serde_json::from_str(kind.get()).map_err(|_| {
            let what = kind_of(&kind);
            wrong(format!("`edu_type` is {what}, not a text"))
        }),
        Ok(None) => Err(wrong("`edu_type` is missing".to_owned())),
        Err(_) => Err(wrong("`edu_type` is there twice".to_owned())),
    }
}

async fn one(
    hub: &Hub,
    peer: &OwnedServerName,
    (edu, kind): (&Raw<Edu>, &str),
    budget: &mut Budget,
) -> Result<Took, Not> {
    if kind == PRESENCE {
        return present(hub, peer, edu).await;
    }
    let read = edu.deserialize();
    match read.map_err(|_| unlike(kind, edu))? {
        Edu::DirectToDevice(told) => messages(hub, peer, told, budget).await,
        Edu::DeviceListUpdate(told) => {
            must_be_of(peer, &told.user_id)?;
            lists::device_changed(hub, told).await?;
            Ok(Took::All)
        }
        Edu::SigningKeyUpdate(told) => {
            must_be_of(peer, &told.user_id)?;
            lists::signing_key_changed(hub, told).await?;
            Ok(Took::All)
        }
        Edu::Typing(told) => typing(hub, peer, told).await,
        Edu::Receipt(told) => read_up_to(hub, peer, told, budget).await,
        _ => Ok(Took::Nothing(
            "EDU_UNKNOWN",
            "this hub does nothing with this type".to_owned(),
        )),
    }
}

/// What is wrong with one whose type is known.
fn unlike(kind: &str, edu: &Raw<Edu>) -> Not {
    let said = edu_form::wrong(kind, edu.json().get());
    let said = said.unwrap_or_else(|| format!("its `content` is not as {kind} has it"));
    Not::wanted("EDU_FORM", said)
}

async fn present(hub: &Hub, peer: &OwnedServerName, edu: &Raw<Edu>) -> Result<Took, Not> {
    if hub.desk.presences.is_none() {
        let said = "`presence.enabled` is false here".to_owned();
        return Ok(Took::Nothing("EDU_PRESENCE_OFF", said));
    }
    let content = edu.get_field::<Box<RawValue>>("content");
    let content = content.map_err(|_| "`content` is there twice");
    let content = content.and_then(|content| content.ok_or("`content` is missing"));
    let content = content.map_err(|said| Not::wanted("EDU_FORM", said))?;
    match presence::elsewhere::hears(hub, peer, content.get()).await {
        Ok(None) => Ok(Took::All),
        Ok(Some(left)) if left.is_all => Err(Not::wanted(left.code, left.said)),
        Ok(Some(left)) => Ok(Took::NotAll(left.said)),
        Err(_) => Err(unlike(PRESENCE, edu)),
    }
}

/// A user that a server speaks for must be its own.
fn must_be_of(peer: &OwnedServerName, user: &UserId) -> Result<(), Not> {
    let refused = super::must_be_of(peer, user);
    refused.map_err(|refusal| Not::wanted("EDU_SENDER", refusal.message))
}

/// Messages for devices here, into their mailboxes; once, however often they come.
// spec: server-server §Send-to-device-messaging
async fn messages(
    hub: &Hub,
    peer: &OwnedServerName,
    told: DirectDeviceContent,
    budget: &mut Budget,
) -> Result<Took, Not> {
    must_be_of(peer, &told.sender)?;
    let kind = told.ev_type.to_string();
    let id = told.message_id.as_str();
    if kind.len() > TYPE_BYTES_MAX || id.len() > TXN_BYTES_MAX {
        let said = "`type` and `message_id` have at most 255 bytes each";
        return Err(Not::wanted("EDU_TOO_MUCH", said));
    }
    let mut post = Post::of(Full::PassOver);
    let mut is_for_us = false;
    for (user, messages) in told.messages {
        if keys::is_ours(hub, &user) {
            is_for_us = true;
            post.add(hub, &told.sender, &kind, user, messages).await?;
        }
    }
    budget.mail_bytes = budget.mail_bytes.checked_sub(post.bytes).ok_or_else(|| {
        let said = format!(
            "the messages of one transaction are more than {MAIL_BYTES_MAX} bytes for mailboxes"
        );
        Not::wanted("EDU_TOO_MUCH", said)
    })?;
    if !is_for_us {
        let said = "`messages` names no user of this hub".to_owned();
        return Ok(Took::Nothing("EDU_NOBODY_HERE", said));
    }
    if post.writes.is_empty() {
        if post.lost > 0 {
            return Err(Not::wanted("EDU_TOO_MUCH", full(post.lost)));
        }
        let said = "`messages` names no device of its users here".to_owned();
        return Ok(Took::Nothing("EDU_NOBODY_HERE", said));
    }
    let lost = post.lost;
    let mut writes = post.writes;
    writes.push(Write::RemoteMessage {
        origin: peer.clone(),
        id: id.to_owned(),
        at: hub.now(),
    });
    match hub.writer.write(contested(writes), post.touched).await {
        Ok(_) if lost > 0 => Ok(Took::NotAll(full(lost))),
        Ok(_) | Err(WriteError::Conflict(_)) => Ok(Took::All),
        Err(error) => Err(Not::Stored(error.into())),
    }
}

fn full(lost: usize) -> String {
    format!("{lost} of its messages were not: the mailboxes of their devices are full")
}

/// spec: server-server §Typing-Notifications
async fn typing(hub: &Hub, peer: &OwnedServerName, told: TypingContent) -> Result<Took, Not> {
    must_be_of(peer, &told.user_id).map_err(|not| not.in_room(&told.room_id))?;
    let room = room_for(hub, peer, &told.room_id).await?;
    must_be_joined(hub, &room, &told.user_id).await?;
    let until = told.typing.then(|| hub.now() + TYPING);
    receipts::types(hub, &room, &told.user_id, until).await?;
    Ok(Took::All)
}

async fn must_be_joined(hub: &Hub, room: &RoomRecord, user: &UserId) -> Result<(), Not> {
    let membership = hub.store.membership(user, room.nid).await.map_err(ours)?;
    if membership.is_some_and(|record| record.membership == Membership::Join) {
        return Ok(());
    }
    let said = format!("{user} is not in {}", room.id);
    Err(Not::wanted("EDU_NOT_JOINED", said).in_room(&room.id))
}

/// Receipts of one EDU that were not taken.
#[derive(Default)]
struct Left {
    count: usize,
    first: Option<(Box<Why>, String)>,
}

impl Left {
    fn note(&mut self, count: usize, why: Box<Why>, said: String) {
        self.count += count;
        self.first.get_or_insert((why, said));
    }
}

/// spec: server-server §Receipts
async fn read_up_to(
    hub: &Hub,
    peer: &OwnedServerName,
    told: ReceiptContent,
    budget: &mut Budget,
) -> Result<Took, Not> {
    let all = told.receipts.values().map(|told| told.read.len()).sum();
    let mut left = Left::default();
    for (room, told) in told.receipts {
        let count = told.read.len();
        match read_in(hub, peer, &room, told.read, (budget, &mut left)).await {
            Err(Not::Wanted(why, said)) => left.note(count, why, said),
            other => other?,
        }
    }
    let Left { count, first } = left;
    match first {
        None => Ok(Took::All),
        Some((why, said)) if count >= all => Err(Not::Wanted(why, said)),
        Some((_, said)) => Ok(Took::NotAll(format!(
            "{count} of its {all} receipts were not; the first: {said}"
        ))),
    }
}

async fn read_in(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomId,
    told: BTreeMap<OwnedUserId, ReceiptData>,
    (budget, left): (&mut Budget, &mut Left),
) -> Result<(), Not> {
    // The look at the room costs as much as one of them.
    let Some(rest) = budget.receipts.checked_sub(1) else {
        return Err(too_many());
    };
    budget.receipts = rest;
    let room = room_for(hub, peer, room).await?;
    let mut taken = Vec::new();
    for (user, told) in told {
        let one = match budget.receipts.checked_sub(1) {
            Some(rest) => {
                budget.receipts = rest;
                receipt(hub, peer, &room, user, told).await
            }
            None => Err(too_many()),
        };
        match one.map_err(|not| not.in_room(&room.id)) {
            Ok(receipt) => taken.push(receipt),
            Err(Not::Wanted(why, said)) => left.note(1, why, said),
            Err(error) => return Err(error),
        }
    }
    Ok(receipts::read_elsewhere(hub, room.nid, taken).await?)
}

fn too_many() -> Not {
    let said = format!("the receipts of one transaction are more than {RECEIPTS_MAX}");
    Not::wanted("EDU_TOO_MUCH", said)
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
    let event = event.ok_or_else(|| {
        let said = format!("the receipt of {user} names no event, or one with too long an id");
        Not::wanted("EDU_FORM", said)
    })?;
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
