//! What a destination is told beside the logs: parcels, changed devices, receipts, typing, presence.
//!
//! Parcels are kept until they are told. Changed devices and receipts are read where they are
//! stored, after the destination's place. Typing and presence are told while they are new, or never.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedUserId, ServerName};
use serde_json::{Value, json};

use super::hints::Typing;
use crate::{
    base::{Position, Timestamp},
    store::{ReceiptRecord, RoomNid, SharedStore, StoreError},
};

/// How many receipts go in one transaction.
const RECEIPTS_MAX: usize = 500;

/// The bytes of all EDUs of a transaction, about.
const BYTES_MAX: usize = 1024 * 1024;

/// For whom, from where, how much.
pub(super) struct Beside<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) ours: &'a ServerName,
    pub(super) server: &'a ServerName,
    /// Receipts and changed devices: from here …
    pub(super) since: Position,
    /// … to here.
    pub(super) upto: Position,
    /// The last parcel that was told.
    pub(super) parcels_after: (Position, u64),
    /// How many EDUs at most.
    pub(super) max: usize,
    /// Parcels from before are given up.
    pub(super) expired: Timestamp,
}

/// What goes into one transaction.
#[derive(Default)]
pub(super) struct Bundle {
    pub(super) edus: Vec<String>,
    /// Receipts and changed devices up to here are among them.
    pub(super) upto: Position,
    /// Parcels up to here are among them, or given up.
    pub(super) parcels: Option<(Position, u64)>,
    /// Whether there is more.
    pub(super) more: bool,
    /// EDUs that had no place, to be kept as parcels.
    pub(super) overflow: Vec<String>,
    /// Parcels up to here were given up.
    pub(super) expired: Option<(Position, u64)>,
}

impl Beside<'_> {
    pub(super) async fn gather(&self) -> Result<Bundle, StoreError> {
        let mut bundle = Bundle {
            upto: self.since,
            ..Bundle::default()
        };
        self.parcels(&mut bundle).await?;
        // An EDU is left for receipts.
        if bundle.more || bundle.edus.len() + 1 >= self.max.max(2) {
            bundle.more = true;
            return Ok(bundle);
        }
        if self.since >= self.upto {
            return Ok(bundle);
        }
        let mut upto = self.upto;
        let changed = self.changed_users(bundle.edus.len(), &mut upto).await?;
        let receipts = self.receipts(&mut upto).await?;
        for (position, user) in changed {
            if position <= upto {
                bundle.edus.push(self.device_list(&user, position).await?);
            }
        }
        if let Some(edu) = receipts_edu(self.store, receipts, upto).await? {
            bundle.edus.push(edu);
        }
        bundle.more = upto < self.upto;
        bundle.upto = upto;
        if bundle.edus.len() > self.max {
            // One commit may have more than a transaction: the rest is kept by itself.
            bundle.overflow = bundle.edus.split_off(self.max);
        }
        Ok(bundle)
    }

    async fn parcels(&self, bundle: &mut Bundle) -> Result<(), StoreError> {
        let limit = u32::try_from(self.max).unwrap_or(u32::MAX);
        let store = self.store;
        let parcels = store
            .parcels(self.server, self.parcels_after, limit)
            .await?;
        let is_page = parcels.len() >= self.max;
        let mut bytes = 0;
        for parcel in parcels {
            if parcel.at < self.expired {
                if bundle.edus.is_empty() {
                    bundle.expired = Some(parcel.place);
                }
                bundle.parcels = Some(parcel.place);
                continue;
            }
            bytes += parcel.edu.len();
            if bytes > BYTES_MAX && !bundle.edus.is_empty() {
                bundle.more = true;
                return Ok(());
            }
            bundle.parcels = Some(parcel.place);
            bundle.edus.push(parcel.edu);
        }
        bundle.more = is_page;
        Ok(())
    }

    /// Users of ours whose devices changed, each with the last change; as many as there is place
    /// for, and `upto` is how far they reach.
    async fn changed_users(
        &self,
        taken: usize,
        upto: &mut Position,
    ) -> Result<Vec<(Position, OwnedUserId)>, StoreError> {
        let store = self.store;
        let changes = store
            .devices_changed_for(self.server, self.since, *upto)
            .await?;
        let place = self.max.saturating_sub(taken + 1).max(1);
        let mut last: BTreeMap<OwnedUserId, Position> = BTreeMap::new();
        let mut newest = None;
        for (position, user) in changes {
            if user.server_name() != self.ours {
                continue;
            }
            let is_next_commit = newest.is_some_and(|newest| newest < position);
            if is_next_commit && last.len() >= place && !last.contains_key(&user) {
                *upto = Position(position.0.saturating_sub(1)).min(*upto);
                break;
            }
            newest = Some(position);
            last.insert(user, position);
        }
        let mut users: Vec<_> = last.into_iter().map(|(user, at)| (at, user)).collect();
        users.sort_unstable();
        Ok(users)
    }

    /// That a user's devices changed. What changed is not noted device by device, and one that is gone
    /// is named nowhere: so the update follows no other that the receiver knows, and it asks for the
    /// whole list. It names a device that is there, for who takes it at its word.
    // spec: server-server §Device-Management
    async fn device_list(
        &self,
        user: &OwnedUserId,
        position: Position,
    ) -> Result<String, StoreError> {
        let mut content = json!({
            "user_id": user,
            "device_id": NO_DEVICE,
            "stream_id": stream_id(position),
            "prev_id": [],
        });
        let device = self.store.device_keys(user).await?.into_iter().next();
        let Some(update) = content.as_object_mut() else {
            return Ok(edu(DEVICES, &content)); // it was made as one
        };
        if let Some(device) = device {
            update.insert("device_id".to_owned(), json!(device.device));
            if let Some(name) = device.name {
                update.insert("device_display_name".to_owned(), json!(name));
            }
            if let Ok(keys) = serde_json::from_str::<Value>(&device.json) {
                update.insert("keys".to_owned(), keys);
            }
        } else {
            update.insert("deleted".to_owned(), json!(true));
        }
        Ok(edu(DEVICES, &content))
    }

    /// Public receipts of our users, oldest first; where there are too many, `upto` is lowered.
    async fn receipts(
        &self,
        upto: &mut Position,
    ) -> Result<Vec<(RoomNid, ReceiptRecord)>, StoreError> {
        let mut found = Vec::new();
        for room in self.store.receipt_rooms(self.server, self.since).await? {
            for receipt in self.store.receipts(room, self.since).await? {
                let is_ours = receipt.user.server_name() == self.ours;
                if is_ours && receipt.kind == PUBLIC && receipt.position <= *upto {
                    found.push((room, receipt));
                }
            }
        }
        found.sort_by_key(|(_, receipt)| receipt.position);
        if let Some((_, first_left)) = found.get(RECEIPTS_MAX) {
            let before = Position(first_left.position.0.saturating_sub(1));
            *upto = before.max(self.since.next()).min(*upto);
        }
        Ok(found)
    }
}

const PUBLIC: &str = "m.read";

const DEVICES: &str = "m.device_list_update";

/// What an update names of a user who has no device with keys.
const NO_DEVICE: &str = "_";

/// What a change at this position is numbered with: the same here and where the list is told.
/// Restores skip 2^32 positions each, and JSON's numbers end at 2^53.
pub fn stream_id(position: Position) -> u64 {
    position.0 & ((1 << 53) - 1)
}

async fn receipts_edu(
    store: &SharedStore,
    receipts: Vec<(RoomNid, ReceiptRecord)>,
    upto: Position,
) -> Result<Option<String>, StoreError> {
    let mut rooms: BTreeMap<RoomNid, BTreeMap<OwnedUserId, Value>> = BTreeMap::new();
    for (room, receipt) in receipts {
        if receipt.position > upto {
            continue;
        }
        let mut data = json!({ "ts": receipt.at.0 });
        if !receipt.thread.is_empty()
            && let Some(data) = data.as_object_mut()
        {
            data.insert("thread_id".to_owned(), json!(receipt.thread));
        }
        // An EDU has one receipt of a user in a room: the last one stands.
        let told = json!({ "event_ids": [receipt.event], "data": data });
        rooms.entry(room).or_default().insert(receipt.user, told);
    }
    let mut content = serde_json::Map::new();
    for (room, users) in rooms {
        if let Some(record) = store.room_by_nid(room).await? {
            content.insert(record.id.to_string(), json!({ PUBLIC: users }));
        }
    }
    let content = Value::Object(content);
    let is_some = content.as_object().is_some_and(|rooms| !rooms.is_empty());
    Ok(is_some.then(|| edu("m.receipt", &content)))
}

/// That someone types, or no longer.
pub(super) fn typing(note: &Typing) -> String {
    edu(
        "m.typing",
        &json!({ "room_id": note.room, "user_id": note.user, "typing": note.typing }),
    )
}

/// Who is there, of users of ours.
pub(super) fn presence(updates: &[Arc<Value>]) -> String {
    let updates: Vec<&Value> = updates.iter().map(AsRef::as_ref).collect();
    edu("m.presence", &json!({ "push": updates }))
}

fn edu(kind: &str, content: &Value) -> String {
    json!({ "edu_type": kind, "content": content }).to_string()
}
