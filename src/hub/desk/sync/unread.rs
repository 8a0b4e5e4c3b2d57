//! How much a user has not read in a room, by the push rules everyone starts with.

use std::collections::BTreeMap;

use ruma::{
    Int, OwnedUserId, UInt,
    api::client::sync::sync_events::UnreadNotificationsCount,
    events::AnySyncTimelineEvent,
    power_levels::NotificationPowerLevels,
    push::{PushConditionPowerLevelsCtx, PushConditionRoomCtx},
    room_version_rules::RoomPowerLevelsRules,
    serde::Raw,
};
use serde::Deserialize;

use crate::{
    base::Seq,
    hub::desk::{
        receipts::{READ, READ_PRIVATE},
        sync::{Round, view::Stored},
    },
    room::StateKey,
    store::{EventRecord, Logged, Order, RoomRecord, StoreError, hash_of},
};

/// How many events are looked at to count what is unread; clients show «99+» beyond.
const UNREAD_MAX: u32 = 100;

/// How many of them are read at once: in most rooms the user spoke or read lately.
const CHUNK: u32 = 25;

/// The member count given to the rules. They only ask whether it is two, and whatever the answer
/// they notify; reading every member of a large room for that would cost more than the sync.
const MEMBERS_ASSUMED: u32 = 3;

/// Counts what notifies after what the user has read, up to `head`.
///
/// spec: client-server-sync §Receiving-notifications
pub(super) async fn count(
    round: &Round<'_>,
    room: &RoomRecord,
    head: Seq,
) -> Result<UnreadNotificationsCount, StoreError> {
    let unread = unread(round, room, head).await?;
    let (mut notified, mut highlighted) = (0_u32, 0_u32);
    if !unread.is_empty() {
        let context = context(round, room).await?;
        for event in &unread {
            let Ok(raw) = Raw::<AnySyncTimelineEvent>::from_json_string(event.json.to_string())
            else {
                continue; // logged where it was read
            };
            let rule = round.rules.get_match(&raw, &context).await;
            if let Some(rule) = rule.filter(|rule| rule.triggers_notification()) {
                notified += 1;
                highlighted += u32::from(rule.triggers_highlight());
            }
        }
    }
    let mut counts = UnreadNotificationsCount::new();
    counts.notification_count = Some(UInt::from(notified));
    counts.highlight_count = Some(UInt::from(highlighted));
    Ok(counts)
}

/// Events after the user's receipts and after the last thing they did here themselves.
async fn unread(
    round: &Round<'_>,
    room: &RoomRecord,
    head: Seq,
) -> Result<Vec<EventRecord>, StoreError> {
    let read = read_up_to(round, room).await?;
    let mut unread = Vec::new();
    let (mut to, mut scanned) = (head, 0);
    while scanned < UNREAD_MAX && to > read {
        let entries = round
            .hub
            .store
            .log(room.nid, read, to, Order::Backward, CHUNK)
            .await?;
        if entries.is_empty() {
            break;
        }
        scanned += CHUNK;
        for entry in entries {
            to = Seq(entry.seq.0.saturating_sub(1));
            let Logged::Event(event) = entry.what else {
                continue;
            };
            let Some(stored) = Stored::read(&event) else {
                continue;
            };
            if stored.sender == round.caller.user.as_str() {
                return Ok(unread);
            }
            if event.redacted_because.is_none() {
                unread.push(event);
            }
        }
    }
    Ok(unread)
}

/// The entry up to which the user has read: by whichever receipt is further on.
async fn read_up_to(round: &Round<'_>, room: &RoomRecord) -> Result<Seq, StoreError> {
    let store = &round.hub.store;
    let receipts = store.receipts_of(room.nid, &round.caller.user).await?;
    let mut read = Seq::ZERO;
    for receipt in receipts {
        let of_the_room = matches!(receipt.thread.as_str(), "" | "main");
        let counts = matches!(receipt.kind.as_str(), READ | READ_PRIVATE);
        let Some(hash) = hash_of(&receipt.event).filter(|_| of_the_room && counts) else {
            continue;
        };
        let event = store.event(hash).await?;
        if let Some(seq) = event.and_then(|event| event.seq) {
            read = read.max(seq);
        }
    }
    Ok(read)
}

async fn context(round: &Round<'_>, room: &RoomRecord) -> Result<PushConditionRoomCtx, StoreError> {
    let keys = [
        StateKey::new("m.room.power_levels", ""),
        StateKey::new("m.room.create", ""),
    ];
    let mut found = round.hub.store.current(room.nid, &keys).await?.into_iter();
    let levels = found.next().flatten();
    let create = found.next().flatten();
    Ok(PushConditionRoomCtx::new(
        room.id.clone(),
        UInt::from(MEMBERS_ASSUMED),
        round.caller.user.clone(),
        String::new(), // no rule of the server looks for display names any more
    )
    .with_power_levels(levels_of(room, levels.as_ref(), create.as_ref())))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LevelsContent {
    users: BTreeMap<OwnedUserId, Int>,
    users_default: Int,
    notifications: Option<NotificationPowerLevels>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CreateContent {
    additional_creators: Vec<OwnedUserId>,
}

fn levels_of(
    room: &RoomRecord,
    levels: Option<&EventRecord>,
    create: Option<&EventRecord>,
) -> PushConditionPowerLevelsCtx {
    let levels: LevelsContent = content_of(levels);
    let mut creators = content_of::<CreateContent>(create).additional_creators;
    creators.extend(
        create
            .and_then(Stored::read)
            .and_then(|stored| OwnedUserId::try_from(stored.sender.as_ref()).ok()),
    );
    PushConditionPowerLevelsCtx::new(
        levels.users,
        levels.users_default,
        levels.notifications.unwrap_or_default(),
        RoomPowerLevelsRules::new(&room.version.rules().authorization, creators),
    )
}

fn content_of<T: Default + for<'a> Deserialize<'a>>(event: Option<&EventRecord>) -> T {
    event
        .and_then(Stored::read)
        .and_then(|stored| serde_json::from_str(stored.content.get()).ok())
        .unwrap_or_default()
}
