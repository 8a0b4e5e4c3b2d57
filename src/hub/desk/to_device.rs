//! Messages to devices: put into their mailboxes, or handed to the outbox for other servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::client::to_device::send_event_to_device::v3, events::AnyToDeviceEventContent, serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::{Map, Value, json};

use super::{access::ours, accounts::contested, devices, words};
use crate::{
    api::{Caller, Code, Refusal},
    base::limits::EVENT_BYTES_MAX,
    hub::{
        Hub, WriteError,
        fanout::{ForServers, Touched},
    },
    store::{Pile, TxnAnswer, TxnKey, Write},
    wire,
};

/// How many messages one request may bring, wildcards counted by the devices they reach.
///
/// A key for a room of a thousand devices fits; body and commit stay within a few megabytes.
const MESSAGES_MAX: usize = 2000;

/// The longest event type, in bytes; as long as that of a room event.
pub(super) const TYPE_BYTES_MAX: usize = 255;

/// The longest transaction id, in bytes.
pub(super) const TXN_BYTES_MAX: usize = 255;

/// All that one request may put into mailboxes, in bytes: a wildcard must not turn a small request
/// into a large commit.
const TOTAL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many messages may wait for one device. One that fetches nothing for this long gets a fresh
/// start from its owner, not a flood.
const WAITING_MAX: u64 = 5000;

/// Their bytes altogether.
const WAITING_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How much of both is for users of other servers, so that strangers cannot keep out who is at home.
/// Of it each server may fill as much as all of them leave free: one alone half of it, the next a
/// quarter. Who has a dozen names fills it all the same, and still not what is for who is at home.
const ELSEWHERE_ONE_IN: u64 = 2;

/// How large the contents of one EDU are together, in bytes, unless a single one is larger: what
/// Synapse sends and expects.
const EDU_BYTES_MAX: usize = 60 * 1024;

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
            "`eventType` and `txnId` have at most 255 bytes each",
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
    let mut post = Post::of(Full::Refuse);
    let mut parcels = Parcels::of(&caller.user, &kind);
    for (user, messages) in request.messages {
        if user.server_name() == hub.key.name() {
            post.add(hub, &caller.user, &kind, user, messages).await?;
        } else {
            parcels.add(&user, messages)?;
        }
    }
    let mut writes = post.writes;
    let edus = parcels.edus(|| words::random::<18>(hub));
    let servers: BTreeSet<_> = edus.iter().map(|(to, _)| to.clone()).collect();
    if !servers.is_empty() {
        let servers = Touched::Servers(Arc::new(servers), ForServers::Beside);
        post.touched.push(servers);
    }
    let at = hub.now();
    let parcels = edus.into_iter();
    writes.extend(parcels.map(|(to, edu)| Write::Parcel { to, edu, at }));
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
pub(super) struct Post {
    pub(super) writes: Vec<Write>,
    pub(super) touched: Vec<Touched>,
    pub(super) bytes: usize,
    /// Messages passed over because a mailbox is full.
    pub(super) lost: usize,
    full: Full,
}

/// What to do at a mailbox that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Tell the sender, who is to try again.
    Refuse,
    /// Pass it over: a sender of another server is not asked to try again. For them there is less
    /// room ([`ELSEWHERE_ONE_IN`]), and none of their servers has all of it.
    PassOver,
}

impl Post {
    /// Nothing yet.
    pub(super) fn of(full: Full) -> Self {
        Self {
            writes: Vec::new(),
            touched: Vec::new(),
            bytes: 0,
            lost: 0,
            full,
        }
    }

    /// Adds messages for one user of this hub.
    pub(super) async fn add(
        &mut self,
        hub: &Hub,
        sender: &UserId,
        kind: &str,
        user: OwnedUserId,
        messages: BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>,
    ) -> Result<(), Refusal> {
        let origin = (self.full == Full::PassOver).then(|| sender.server_name());
        for (device, content) in messages {
            let json = letter(sender, kind, &user, &content)?;
            let mut devices: Vec<OwnedDeviceId> = match device {
                DeviceIdOrAllDevices::DeviceId(device) => vec![device],
                DeviceIdOrAllDevices::AllDevices => devices::ids(hub, &user).await?,
            };
            let mut have_room = Vec::with_capacity(devices.len());
            for device in devices.drain(..) {
                match must_have_room(hub, (&user, &device), origin).await {
                    Ok(()) => have_room.push(device),
                    Err(refusal) if self.full == Full::PassOver && refusal.status == 429 => {
                        tracing::warn!(%user, %device, %sender, "a full mailbox: a message is lost");
                        self.lost += 1;
                    }
                    Err(refusal) => return Err(refusal),
                }
            }
            self.bytes += json.len().saturating_mul(have_room.len());
            self.writes
                .extend(have_room.into_iter().map(|device| Write::Mail {
                    user: user.clone(),
                    device,
                    origin: origin.map(ToOwned::to_owned),
                    json: json.clone(),
                }));
            if self.writes.len() > MESSAGES_MAX || self.bytes > TOTAL_BYTES_MAX {
                return Err(too_much());
            }
        }
        self.touched.push(Touched::One(user));
        Ok(())
    }
}

fn too_much() -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("messages: at most {MESSAGES_MAX} and {TOTAL_BYTES_MAX} bytes at once"),
    )
}

/// Whether a mailbox takes one more message: of a user here, or of one of the server `origin`.
async fn must_have_room(
    hub: &Hub,
    (user, device): (&UserId, &DeviceId),
    origin: Option<&ServerName>,
) -> Result<(), Refusal> {
    let waiting = hub.store.mail_waiting(user, device.as_str(), origin);
    let waiting = waiting.await.map_err(ours)?;
    let has_room = |max: u64, of: fn(Pile) -> u64| {
        let free = (max / ELSEWHERE_ONE_IN).saturating_sub(of(waiting.elsewhere));
        of(waiting.all) < max && (origin.is_none() || of(waiting.origin) < free)
    };
    if has_room(WAITING_MAX, |pile| pile.count) && has_room(WAITING_BYTES_MAX, |pile| pile.bytes) {
        return Ok(());
    }
    let count = waiting.all.count;
    let message = format!("the mailbox of {user}'s device {device} is full: {count} messages wait");
    Err(Refusal::new(Code::LimitExceeded, message).retry_after(FULL_RETRY))
}

/// What lies in a mailbox: `{"content", "sender", "type"}`.
fn letter(
    sender: &UserId,
    kind: &str,
    user: &UserId,
    content: &Raw<AnyToDeviceEventContent>,
) -> Result<String, Refusal> {
    let content = checked_content(user, content)?;
    let letter = json!({ "type": kind, "sender": sender, "content": content });
    let letter = letter.to_string();
    must_fit(user, letter.len())?;
    Ok(letter)
}

fn checked_content(
    user: &UserId,
    content: &Raw<AnyToDeviceEventContent>,
) -> Result<Map<String, Value>, Refusal> {
    let content = wire::json::read_lax_object(content.json().get().as_bytes());
    content.map_err(|error| {
        let error = error.in_member(user.as_str()).in_member("messages");
        Refusal::bad_json(error.to_string())
    })
}

fn must_fit(user: &UserId, bytes: usize) -> Result<(), Refusal> {
    if bytes > EVENT_BYTES_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("messages.{user}: {bytes} bytes, at most {EVENT_BYTES_MAX} fit"),
        ));
    }
    Ok(())
}

/// What goes to devices of other servers' users: for each server, one or several EDUs of bounded
/// size.
struct Parcels<'a> {
    sender: &'a UserId,
    kind: &'a str,
    /// By server, the messages of each EDU and their bytes.
    servers: BTreeMap<OwnedServerName, Vec<(Messages, usize)>>,
    count: usize,
    bytes: usize,
}

/// Contents by user and device.
type Messages = BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>>;

impl<'a> Parcels<'a> {
    fn of(sender: &'a UserId, kind: &'a str) -> Self {
        Self {
            sender,
            kind,
            servers: BTreeMap::new(),
            count: 0,
            bytes: 0,
        }
    }

    fn add(
        &mut self,
        user: &UserId,
        messages: BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>,
    ) -> Result<(), Refusal> {
        for (device, content) in messages {
            let device = device.to_string();
            let bytes = content.json().get().len() + user.as_str().len() + device.len() + 16;
            must_fit(user, bytes)?;
            self.count += 1;
            self.bytes += bytes;
            if self.count > MESSAGES_MAX || self.bytes > TOTAL_BYTES_MAX {
                return Err(too_much());
            }
            let content = checked_content(user, &content)?;
            let edus = self.servers.entry(user.server_name().to_owned());
            let edus = edus.or_default();
            if edus
                .last()
                .is_none_or(|(_, full)| full + bytes > EDU_BYTES_MAX)
            {
                edus.push((Messages::new(), 0));
            }
            if let Some((messages, full)) = edus.last_mut() {
                *full += bytes;
                let devices = messages.entry(user.to_owned()).or_default();
                devices.insert(device, content);
            }
        }
        Ok(())
    }

    /// Each with an id of its own, by which it is taken once.
    fn edus(self, mut message_id: impl FnMut() -> String) -> Vec<(OwnedServerName, String)> {
        let mut told = Vec::new();
        for (server, edus) in self.servers {
            for (messages, _) in edus {
                let edu = json!({
                    "edu_type": "m.direct_to_device",
                    "content": {
                        "sender": self.sender,
                        "type": self.kind,
                        "message_id": message_id(),
                        "messages": messages,
                    },
                });
                told.push((server.clone(), edu.to_string()));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn what_goes_to_another_server_is_split_by_size_and_each_part_has_an_id() {
        let (ana, zed) = (user_id!("@ana:hub.example"), user_id!("@zed:far"));
        let yan = user_id!("@yan:near");
        let mut parcels = Parcels::of(ana, "m.room.encrypted");
        let content =
            |bytes: usize| Raw::from_json_string(json!({ "c": "x".repeat(bytes) }).to_string());
        let devices = (0..5).map(|number| {
            let device = DeviceIdOrAllDevices::try_from(format!("D{number}").as_str()).unwrap();
            (device, content(25_000).unwrap())
        });
        parcels.add(zed, devices.collect()).unwrap();
        let all = [(DeviceIdOrAllDevices::AllDevices, content(5).unwrap())];
        parcels.add(yan, all.into()).unwrap();
        let large = [(DeviceIdOrAllDevices::AllDevices, content(70_000).unwrap())];
        assert_eq!(
            parcels.add(yan, large.into()).unwrap_err().code,
            Code::TooLarge
        );

        let mut count = 0;
        let edus = parcels.edus(|| {
            count += 1;
            format!("id{count}")
        });
        let read = |json: &String| serde_json::from_str::<Value>(json).unwrap();
        let edus: Vec<_> = edus
            .iter()
            .map(|(to, edu)| (to.as_str(), read(edu)))
            .collect();
        let to: Vec<_> = edus.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, ["far", "far", "far", "near"]);
        let devices = |edu: &Value| {
            edu["content"]["messages"]["@zed:far"]
                .as_object()
                .unwrap()
                .len()
        };
        assert_eq!(
            edus[..3].iter().map(|(_, edu)| devices(edu)).sum::<usize>(),
            5
        );
        assert_eq!(
            edus[3].1,
            json!({ "edu_type": "m.direct_to_device", "content": {
                "sender": ana, "type": "m.room.encrypted", "message_id": "id4",
                "messages": { yan.as_str(): { "*": { "c": "xxxxx" } } },
            }})
        );
    }
}
