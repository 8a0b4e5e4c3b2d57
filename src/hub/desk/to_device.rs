//! Messages to devices, put into their mailboxes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId, api::client::to_device::send_event_to_device::v3,
    events::AnyToDeviceEventContent, serde::Raw, to_device::DeviceIdOrAllDevices,
};
use serde_json::{Value, json};

use super::{access::ours, accounts::contested, devices};
use crate::{
    api::{Caller, Code, Refusal},
    base::limits::EVENT_BYTES_MAX,
    hub::{Hub, WriteError, fanout::Touched},
    store::{TxnAnswer, TxnKey, Write},
    wire,
};

/// How many messages one request may bring, wildcards counted by the devices they reach.
///
/// A key for a room of a thousand devices fits; body and commit stay within a few megabytes.
const MESSAGES_MAX: usize = 2000;

/// The longest event type, in bytes; as long as that of a room event.
const TYPE_BYTES_MAX: usize = 255;

/// The longest transaction id, in bytes.
const TXN_BYTES_MAX: usize = 255;

/// All that one request may put into mailboxes, in bytes: a wildcard must not turn a small request
/// into a large commit.
const TOTAL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many messages may wait for one device. One that fetches nothing for this long gets a fresh
/// start from its owner, not a flood.
const WAITING_MAX: u64 = 5000;

/// Their bytes altogether.
const WAITING_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// When to try again at a full mailbox: after the device may have synced.
const FULL_RETRY: Duration = Duration::from_mins(1);

/// See `api::Command::SendToDevice`.
// spec: client-server-e2ee §Send-to-device
pub(super) async fn send_to_device(
    hub: &Hub,
    caller: &Caller,
    request: v3::Request,
) -> Result<v3::Response, Refusal> {
    let kind = request.event_type.to_string();
    if kind.len() > TYPE_BYTES_MAX || request.txn_id.as_str().len() > TXN_BYTES_MAX {
        return Err(Refusal::invalid_param(
            "event type and transaction id have at most 255 bytes each",
        ));
    }
    let key = TxnKey {
        user: caller.user.clone(),
        device: caller.device.clone(),
        endpoint: format!("sendToDevice {kind}"),
        txn: request.txn_id.to_string(),
    };
    // Two requests with one key: the second must see what the first has stored.
    let _turn = hub.desk.turns.take(&key).await;
    if hub.store.txn(&key).await.map_err(ours)?.is_some() {
        return Ok(v3::Response::new());
    }
    let mut post = Post::default();
    for (user, messages) in request.messages {
        // Other servers' users cannot be reached before there is federation.
        if user.server_name() == hub.key.name() {
            post.add(hub, caller, &kind, user, messages).await?;
        }
    }
    let mut writes = post.writes;
    writes.push(Write::Txn {
        key: Arc::new(key),
        answer: TxnAnswer::Done,
        at: hub.now(),
    });
    // Whoever sends it again after hanging up comes before the first is stored: then this one
    // conflicts, and what it wants is done.
    match hub.writer.write(contested(writes), post.touched).await {
        Ok(_) | Err(WriteError::Conflict(_)) => Ok(v3::Response::new()),
        Err(error) => Err(error.into()),
    }
}

/// What goes into mailboxes.
#[derive(Default)]
struct Post {
    writes: Vec<Write>,
    touched: Vec<Touched>,
    bytes: usize,
}

impl Post {
    async fn add(
        &mut self,
        hub: &Hub,
        caller: &Caller,
        kind: &str,
        user: OwnedUserId,
        messages: BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>,
    ) -> Result<(), Refusal> {
        for (device, content) in messages {
            let json = letter(caller, kind, &user, &content)?;
            let devices: Vec<OwnedDeviceId> = match device {
                DeviceIdOrAllDevices::DeviceId(device) => vec![device],
                DeviceIdOrAllDevices::AllDevices => devices::ids(hub, &user).await?,
            };
            for device in &devices {
                must_have_room(hub, &user, device).await?;
            }
            self.bytes += json.len().saturating_mul(devices.len());
            self.writes
                .extend(devices.into_iter().map(|device| Write::Mail {
                    user: user.clone(),
                    device,
                    json: json.clone(),
                }));
            if self.writes.len() > MESSAGES_MAX || self.bytes > TOTAL_BYTES_MAX {
                return Err(Refusal::new(
                    Code::TooLarge,
                    format!("messages: at most {MESSAGES_MAX} and {TOTAL_BYTES_MAX} bytes at once"),
                ));
            }
        }
        self.touched.push(Touched::One(user));
        Ok(())
    }
}

async fn must_have_room(hub: &Hub, user: &UserId, device: &DeviceId) -> Result<(), Refusal> {
    let waiting = hub.store.mail_waiting(user, device.as_str()).await;
    let (count, bytes) = waiting.map_err(ours)?;
    if count < WAITING_MAX && bytes < WAITING_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the mailbox of {user}'s device {device} is full: {count} messages wait");
    Err(Refusal::new(Code::LimitExceeded, message).retry_after(FULL_RETRY))
}

/// What lies in a mailbox: `{"content", "sender", "type"}`.
fn letter(
    caller: &Caller,
    kind: &str,
    user: &OwnedUserId,
    content: &Raw<AnyToDeviceEventContent>,
) -> Result<String, Refusal> {
    let content = match wire::json::read_lax(content.json().get().as_bytes()) {
        Ok(Value::Object(content)) => content,
        Ok(_) => return Err(Refusal::bad_json(format!("messages.{user}: not an object"))),
        Err(error) => return Err(Refusal::bad_json(format!("messages.{user}: {error}"))),
    };
    let letter = json!({ "type": kind, "sender": caller.user, "content": content });
    let letter = letter.to_string();
    if letter.len() > EVENT_BYTES_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!(
                "messages.{user}: {} bytes, at most {EVENT_BYTES_MAX} fit",
                letter.len()
            ),
        ));
    }
    Ok(letter)
}
