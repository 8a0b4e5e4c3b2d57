//! A draft becomes an event, once: however often it comes, and also after a restart.
//!
//! The counter is the transaction id of the device, for all rooms together. A short hash of what
//! the draft was is kept with the event, beside the counter: so a retry is told from another draft
//! under the same counter without a table of its own.

use ruma::{CanonicalJsonObject, EventId, OwnedEventId, RoomId};
use sha2::{Digest, Sha256};

use super::{
    content::of_cbor,
    entry::visible,
    marks, names,
    shape::{self, MLS},
    shown::group,
};
use crate::{
    api::{Caller, Code, Refusal},
    base::Seq,
    hub::{
        Hub, Submission, WriteError,
        desk::{
            access::ours, canonical_alias, reading::visibility::Standing, rooms::refusal,
            sync::view::Stored,
        },
    },
    room::{Draft as Wanted, Part},
    store::{EventRecord, SentBy, TxnAnswer, TxnKey, hash_of},
    wire::{
        json,
        matrix::event_id,
        thin::{Alias, Body, Draft},
    },
};

/// The endpoint of a draft's transaction. The store does not forget those of this name.
const ENDPOINT: &str = "thin";

/// How many bytes of a hash tell one draft from another of the same device: no one else can send
/// under its counters.
const HASH_BYTES: usize = 8;

/// See [`crate::api::Thin::Append`].
///
/// spec: thin-profile §5
pub(super) async fn append(
    hub: &Hub,
    caller: &Caller,
    room: Alias,
    draft: Draft,
) -> Result<Seq, Refusal> {
    if draft.counter == 0 {
        return Err(Refusal::invalid_param("counters begin at 1"));
    }
    let room = names::room(hub, caller, room).await?;
    let key = TxnKey {
        user: caller.user.clone(),
        device: caller.device.clone(),
        endpoint: ENDPOINT.to_owned(),
        txn: draft.counter.to_string(),
    };
    let seq = once(hub, caller, &room, &draft, key).await?;
    if let Some(read) = draft.read
        && let Err(refusal) = marks::read(hub, caller, &room, Seq(read)).await
    {
        tracing::debug!(%refusal, "a draft was appended, its receipt was not taken");
    }
    Ok(seq)
}

/// Appends the draft, or tells where it was appended.
async fn once(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    draft: &Draft,
    key: TxnKey,
) -> Result<Seq, Refusal> {
    let mark = mark(room, draft);
    // Two rooms may be two writers, which do not see each other's transactions until they are
    // stored: a device's drafts go one after the other.
    let turns = &hub.desk.turns;
    let mut turn = turns.take((ENDPOINT, &key.user, &key.device)).await;
    if let Some(answer) = hub.store.txn(&key).await.map_err(ours)? {
        drop(turn);
        return replay(hub, caller, room, draft, &mark, answer).await;
    }
    hub.desk.rates().events(caller)?;
    let part = part(hub, caller, room, draft).await?;
    if canonical_alias::is_shown_by(&part).is_some() {
        // Other servers may be slow to answer, and the device's next drafts are not to wait for them; the
        // same draft may come again meanwhile.
        drop(turn);
        canonical_alias::check(hub, caller, room, &part).await?;
        turn = turns.take((ENDPOINT, &key.user, &key.device)).await;
        if let Some(answer) = hub.store.txn(&key).await.map_err(ours)? {
            drop(turn);
            return replay(hub, caller, room, draft, &mark, answer).await;
        }
    }
    let submission = Submission {
        draft: Wanted {
            sender: caller.user.clone(),
            parts: vec![part],
        },
        sent_by: Some(SentBy {
            device: caller.device.clone(),
            txn: mark.clone(),
        }),
        txn: Some(key.clone()),
    };
    let refused = match submit(hub, caller, room, submission, turn).await {
        Ok(seq) => return Ok(seq),
        Err(refused) => refused,
    };
    // The same draft may have come again, and been appended, while the words were looked for.
    match hub.store.txn(&key).await.map_err(ours)? {
        Some(answer) => replay(hub, caller, room, draft, &mark, answer).await,
        None => Err(refused),
    }
}

/// Appends in a turn, which ends only when the outcome is stored: also when whoever asked goes.
async fn submit(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    submission: Submission,
    turn: crate::hub::desk::turns::Turn,
) -> Result<Seq, Refusal> {
    let (writer, id) = (std::sync::Arc::clone(&hub.writer), room.to_owned());
    let submitted = tokio::spawn(async move {
        let submitted = writer.submit(&id, submission).await;
        drop(turn);
        submitted
    });
    let submitted = match submitted.await.map_err(|_| WriteError::Busy)? {
        Ok(submitted) => submitted,
        Err(error) => return Err(refusal(error, hub, caller, room).await),
    };
    match submitted.events.into_iter().next() {
        Some((_, Some(seq))) => Ok(seq),
        Some((id, None)) => {
            let event = stored(hub, &id).await?;
            event.seq.ok_or_else(Refusal::internal)
        }
        None => Err(Refusal::new(Code::BadState, "this would change nothing")),
    }
}

/// The first answer, if it was to the same draft.
async fn replay(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    draft: &Draft,
    mark: &str,
    answer: TxnAnswer,
) -> Result<Seq, Refusal> {
    let TxnAnswer::Event(id) = answer else {
        return Err(Refusal::internal());
    };
    let event = stored(hub, &id).await?;
    let counter = draft.counter;
    let sender = Stored::read(&event).map(|stored| stored.sender.into_owned());
    let own = counter_of(&event, sender.as_deref().unwrap_or_default(), caller);
    let is_same = match event.sent_by.as_ref().filter(|_| own == Some(counter)) {
        Some(sent) => sent.txn == mark,
        // State that was so already: what the draft says stands in it.
        None => is_as_wanted(&part(hub, caller, room, draft).await?, &event),
    };
    let seq = event.seq.filter(|_| is_same);
    seq.ok_or_else(|| {
        let message = format!("counter {counter} was another draft");
        Refusal::new(Code::DuplicateTxn, message)
    })
}

fn is_as_wanted(part: &Part, event: &EventRecord) -> bool {
    let Part::Event {
        kind,
        state_key,
        content,
    } = part
    else {
        return false;
    };
    Stored::read(event).is_some_and(|stored| {
        stored.kind == kind.as_str()
            && stored.state_key == *state_key
            && json::read_object(stored.content.get().as_bytes()).as_ref() == Ok(content)
    })
}

async fn stored(hub: &Hub, id: &EventId) -> Result<EventRecord, Refusal> {
    let hash = hash_of(id).ok_or_else(Refusal::internal)?;
    let event = hub.store.event(hash).await.map_err(ours)?;
    event.ok_or_else(Refusal::internal)
}

/// What the writer is asked for.
///
/// spec: thin-profile §6
async fn part(hub: &Hub, caller: &Caller, room: &RoomId, draft: &Draft) -> Result<Part, Refusal> {
    let target = target(hub, caller, room, draft).await?;
    let needed = || {
        let id = target.clone();
        id.ok_or_else(|| Refusal::bad_json("this kind needs a target"))
    };
    let said = |msgtype, said: &str| {
        let reply_to = target.as_ref().map(|id| id.as_str());
        event(MESSAGE, shape::text(msgtype, said, reply_to))
    };
    Ok(match &draft.body {
        Body::Text(text) => said("m.text", text),
        Body::Notice(text) => said("m.notice", text),
        Body::Emote(text) => said("m.emote", text),
        Body::Reaction(key) => event("m.reaction", shape::reaction(key, needed()?.as_str())),
        Body::Redaction(reason) => Part::Redact {
            target: needed()?,
            reason: (!reason.is_empty()).then(|| reason.clone()),
        },
        Body::MlsElided(elided) => {
            let message = rebuilt(hub, caller, room, elided).await?;
            event(ENCRYPTED, shape::mls(&message))
        }
        Body::MlsWhole(message) => event(ENCRYPTED, shape::mls(message)),
        general => any(hub, caller, general).await?,
    })
}

fn event(kind: &str, content: CanonicalJsonObject) -> Part {
    Part::Event {
        kind: kind.to_owned(),
        state_key: None,
        content,
    }
}

/// An event of any type, as kinds 7 to 10 have it.
async fn any(hub: &Hub, caller: &Caller, body: &Body) -> Result<Part, Refusal> {
    let (event_type, state_key, content, deflated) = match body {
        Body::Event {
            event_type,
            content,
            deflated,
        } => (event_type, None, content, deflated),
        Body::State {
            event_type,
            state_key,
            content,
            deflated,
        } => (event_type, Some(state_key.clone()), content, deflated),
        _ => return Err(Refusal::bad_json("only the hub sends this kind")),
    };
    Ok(Part::Event {
        kind: names::event_type(hub, caller, *event_type).await?,
        state_key,
        content: of_cbor(content, *deflated)?,
    })
}

/// The event a draft refers to, which its sender must see.
async fn target(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    draft: &Draft,
) -> Result<Option<OwnedEventId>, Refusal> {
    let Some(seq) = draft.target else {
        return Ok(None);
    };
    if draft.body.kind() > 4 {
        let message = format!("kind {} has no target", draft.body.kind());
        return Err(Refusal::bad_json(message));
    }
    let standing = Standing::of(&hub.store, &caller.user, room).await?;
    let (event, _) = visible(hub, &standing, Seq(seq)).await?;
    Ok(Some(event_id(event.hash)))
}

/// spec: thin-profile §10
async fn rebuilt(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    elided: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let standing = Standing::of(&hub.store, &caller.user, room).await?;
    standing.must_be_joined()?;
    let group = group(hub, standing.room.nid).await.map_err(ours)?;
    let group = group.ok_or_else(|| {
        let message = format!("this room's state names no group of {MLS}: send kind 6");
        Refusal::new(Code::BadState, message)
    })?;
    group.rebuild(elided).map_err(|error| {
        Refusal::bad_json(format!("{error}; the group is at epoch {}", group.epoch))
    })
}

/// What is kept with the event: the counter, and a short hash of room and draft.
fn mark(room: &RoomId, draft: &Draft) -> String {
    let hash = Sha256::new()
        .chain_update(room.as_bytes())
        .chain_update([0])
        .chain_update(draft.encode())
        .finalize();
    let hash = hash.get(..HASH_BYTES).unwrap_or_default();
    format!("{ENDPOINT} {} {}", draft.counter, hex::encode(hash))
}

fn counter_in(mark: &str) -> Option<u64> {
    let mut words = mark.split(' ');
    (words.next()? == ENDPOINT).then_some(())?;
    words.next()?.parse().ok()
}

/// The counter the caller's device gave to an event, if it sent it as a draft.
pub(super) fn counter_of(event: &EventRecord, sender: &str, caller: &Caller) -> Option<u64> {
    let sent = event.sent_by.as_ref()?;
    let is_own = sent.device == caller.device && sender == caller.user.as_str();
    is_own.then(|| counter_in(&sent.txn)).flatten()
}

const MESSAGE: &str = "m.room.message";
const ENCRYPTED: &str = "m.room.encrypted";
