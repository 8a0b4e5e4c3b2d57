//! What a destination is told beside the logs: parcels, changed devices, receipts, typing, presence.
//!
//! Parcels are kept until they are told. Changed devices and receipts are read where they are
//! stored, after the destination's place. Typing and presence are told while they are new, or never.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, ServerName};
use serde_json::{Value, json};

use super::hints::Typing;
use crate::{
    base::{Position, Timestamp},
    hub::vouched::{self, Vouched},
    store::{DeviceKeysRecord, KeysChange, ReceiptRecord, RoomNid, SharedStore, StoreError},
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
        for (user, changes) in changed {
            bundle
                .edus
                .extend(self.of_user(&user, changes, upto).await?);
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

    /// Users of ours whose keys changed, with what changed when; as many as there is place for, and
    /// `upto` is how far they reach.
    async fn changed_users(
        &self,
        taken: usize,
        upto: &mut Position,
    ) -> Result<BTreeMap<OwnedUserId, Vec<(Position, KeysChange)>>, StoreError> {
        let store = self.store;
        let changes = store
            .devices_changed_for(self.server, self.since, *upto)
            .await?;
        let place = self.max.saturating_sub(taken + 1).max(1);
        let mut users: BTreeMap<OwnedUserId, Vec<(Position, KeysChange)>> = BTreeMap::new();
        let (mut count, mut newest) = (0, None);
        for (position, user, what) in changes {
            if user.server_name() != self.ours {
                continue;
            }
            let is_next_commit = newest.is_some_and(|newest| newest < position);
            if is_next_commit && count >= place {
                *upto = Position(position.0.saturating_sub(1)).min(*upto);
                break;
            }
            newest = Some(position);
            let changes = users.entry(user).or_default();
            // What changed again needs no word of its own before.
            let before = changes.len();
            changes.retain(|(_, earlier)| *earlier != what);
            count += 1;
            count -= before - changes.len();
            changes.push((position, what));
        }
        Ok(users)
    }

    /// What is said of a user's changes up to a commit: one update for each device, each following the
    /// one before it; and the cross-signing keys.
    ///
    /// The first follows the last change that this server was told, by the same count: positions of
    /// commits outlast a restart. Where several devices changed at once, or nobody knows which, or it
    /// is not known what was told since a backup, the update follows nothing, which asks for the list.
    // spec: server-server §Device-Management
    async fn of_user(
        &self,
        user: &OwnedUserId,
        mut changes: Vec<(Position, KeysChange)>,
        upto: Position,
    ) -> Result<Vec<String>, StoreError> {
        changes.retain(|(position, _)| *position <= upto);
        let vouched = Vouched::of(&**self.store, user, user).await?;
        let mut edus = Vec::new();
        if changes
            .iter()
            .any(|(_, what)| *what == KeysChange::CrossSigning)
        {
            edus.extend(signing_keys(user, &vouched)?);
        }
        let listed = changes.iter().filter_map(|(position, what)| match what {
            KeysChange::Devices => Some((*position, None)),
            KeysChange::Device(device) => Some((*position, Some(device))),
            KeysChange::CrossSigning | KeysChange::SeenBy(_) => None,
        });
        let listed: Vec<_> = listed.collect();
        let Some((last, _)) = listed.last() else {
            return Ok(edus);
        };
        let known: BTreeMap<_, _> = self
            .store
            .device_keys(user)
            .await?
            .into_iter()
            .map(|record| (record.device.clone(), record))
            .collect();
        let distinct: BTreeSet<_> = listed.iter().map(|(position, _)| position).collect();
        let is_chain = distinct.len() == listed.len() && listed.len() <= CHAIN_MAX;
        if !is_chain || listed.iter().any(|(_, device)| device.is_none()) {
            // It names a device that is there, for who takes it at its word.
            let device = known.keys().next().cloned();
            let device = device.unwrap_or_else(|| NO_DEVICE.into());
            edus.push(device_list(
                user,
                (*last, None),
                &device,
                (&known, &vouched),
            )?);
            return Ok(edus);
        }
        let before = self.store.devices_changed_at(user, self.since).await?;
        let is_known = before > Position::ZERO && before.generation() == last.generation();
        let mut previous = Some(before).filter(|_| is_known);
        for (position, device) in listed {
            let Some(device) = device else { continue };
            edus.push(device_list(
                user,
                (position, previous),
                device,
                (&known, &vouched),
            )?);
            previous = Some(position);
        }
        Ok(edus)
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

const SIGNING_KEYS: &str = "m.signing_key_update";

/// How many devices of one user are told of one by one; who has more to be told of asks for the list,
/// which costs less.
const CHAIN_MAX: usize = 20;

/// What an update names of a user who has no device with keys.
const NO_DEVICE: &str = "_";

/// A user's devices that have keys.
type Known = BTreeMap<OwnedDeviceId, DeviceKeysRecord>;

/// How one device of a user is now, as of a change that follows another.
fn device_list(
    user: &OwnedUserId,
    (position, previous): (Position, Option<Position>),
    device: &DeviceId,
    (known, vouched): (&Known, &Vouched),
) -> Result<String, StoreError> {
    let previous: Vec<u64> = previous.into_iter().map(stream_id).collect();
    let mut content = json!({
        "user_id": user,
        "device_id": device,
        "stream_id": stream_id(position),
        "prev_id": previous,
    });
    let Some(update) = content.as_object_mut() else {
        return Ok(edu(DEVICES, &content)); // it was made as one
    };
    if let Some(record) = known.get(device) {
        if let Some(name) = &record.name {
            update.insert("device_display_name".to_owned(), json!(name));
        }
        let mut keys = vouched::read(&record.json)?;
        vouched.sign_device(device.as_str(), &mut keys);
        update.insert("keys".to_owned(), json!(keys));
    } else {
        update.insert("deleted".to_owned(), json!(true));
    }
    Ok(edu(DEVICES, &content))
}

/// The cross-signing keys that everyone is shown, if there are any.
fn signing_keys(user: &OwnedUserId, vouched: &Vouched) -> Result<Option<String>, StoreError> {
    let Some(master) = vouched.master()? else {
        return Ok(None);
    };
    let mut content = json!({ "user_id": user, "master_key": master });
    if let (Some(key), Some(content)) = (vouched.self_signing()?, content.as_object_mut()) {
        content.insert("self_signing_key".to_owned(), json!(key));
    }
    Ok(Some(edu(SIGNING_KEYS, &content)))
}

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
