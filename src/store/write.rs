//! What is written. A [`Batch`] is stored whole or not at all.

use std::sync::Arc;

use ruma::{OwnedDeviceId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};

use crate::{
    api::{DeviceName, OscoreLink, Registration},
    base::{ChainHash, EventHash, Position, Seq, Timestamp},
    room::{Heads, Membership, StateKey},
    store::{
        CrossSigningWrite, EventNid, KeysChange, LinkRecord, MediaRecord, OutboxWrite,
        OutsideRecord, ReceiptRecord, RemoteUser, RoomNid, SentBy, StateHead, StateNid, Status,
        TxnAnswer, TxnKey,
    },
    wire::{
        matrix::Version,
        thin::{LinkProfile, NameKind},
    },
};

/// Writes that belong together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What to write, in order.
    pub writes: Vec<Write>,
    /// Whether it may conflict with what is stored (a name already taken). It is then tried on its
    /// own inside the commit, and refused without harm to the batches beside it. What the room
    /// shards write never conflicts.
    pub may_conflict: bool,
}

impl Batch {
    /// About how many bytes it holds.
    pub fn bytes(&self) -> usize {
        let texts: usize = self.writes.iter().map(Write::text_bytes).sum();
        texts + self.writes.len() * WRITE_BYTES
    }
}

/// What a write holds besides its JSON, about: itself, ids, hashes and names.
const WRITE_BYTES: usize = 512;

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its position.
    pub position: Position,
    /// For each batch, what its claims got, or that it conflicted and left no trace.
    pub outcomes: Vec<Result<Vec<Claimed>, Conflict>>,
}

/// A batch was refused because something with its name is already there, or no longer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What disagreed.
    pub what: String,
}

/// What a [`Write::ClaimKey`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The user asked for.
    pub user: OwnedUserId,
    /// The device asked for.
    pub device: OwnedDeviceId,
    /// Key id (`algorithm:id`) and key as JSON; none when there was no key left.
    pub key: Option<(String, String)>,
}

/// One thing to write.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "fields are named after the records they become"
)]
pub enum Write {
    /// A room that was not there.
    NewRoom {
        nid: RoomNid,
        id: OwnedRoomId,
        version: Version,
    },
    /// Where a room now stands; its position becomes the commit's.
    Heads {
        room: RoomNid,
        heads: Heads,
        state: StateHead,
    },
    /// An event that was not there.
    Event(NewEvent),
    /// What an event that came as an outlier is, now that the graph around it is known.
    Grafted {
        event: EventNid,
        status: Status,
        soft_failed: bool,
        state_after: StateNid,
    },
    /// A state that was not there.
    State(NewState),
    /// The next entry of a room's log.
    Entry(NewEntry),
    /// A place for an event without a seq: before the entry `anchor`.
    Place {
        room: RoomNid,
        anchor: Seq,
        depth: u64,
        event: EventNid,
    },
    /// A piece of a room's current state, now `event`; gone when none.
    Current {
        room: RoomNid,
        key: StateKey,
        event: Option<EventNid>,
    },
    /// A membership, now as given and not forgotten.
    Membership {
        user: OwnedUserId,
        room: RoomNid,
        membership: Membership,
        event: EventNid,
    },
    /// What a user is to a room that this hub is not in. `position` is the commit's.
    Outside(Box<OutsideRecord>),
    /// Nothing any more.
    NotOutside {
        user: OwnedUserId,
        room_id: OwnedRoomId,
    },
    /// The user no longer wants to hear of the room.
    Forget { user: OwnedUserId, room: RoomNid },
    /// The event's bytes become what redaction leaves.
    Redact {
        event: EventNid,
        because: EventNid,
        json: String,
    },
    /// A transaction and its answer.
    Txn {
        key: Arc<TxnKey>,
        answer: TxnAnswer,
        at: Timestamp,
    },
    /// Transactions answered before `before` may be forgotten, but for those of the endpoint
    /// `thin`: a draft of the thin profile is answered alike however much later it comes again.
    ForgetTxns { before: Timestamp },
    /// What this hub decided on an event as a policy server; the first decision stays.
    PolicyDecided {
        event: EventHash,
        refused: Option<String>,
        at: Timestamp,
    },
    /// Decisions made before `before` may be forgotten.
    ForgetPolicyDecisions { before: Timestamp },
    /// An alias; conflicts when it exists.
    NewAlias {
        alias: OwnedRoomAliasId,
        room: RoomNid,
        creator: OwnedUserId,
    },
    /// An alias goes; conflicts when it does not exist.
    RemoveAlias { alias: OwnedRoomAliasId },
    /// Whether everyone may find a room in the directory.
    Listed { room: RoomNid, listed: bool },
    /// A receipt replaces the user's older one of its kind and thread. `position` is the commit's.
    Receipt {
        room: RoomNid,
        receipt: ReceiptRecord,
    },
    /// An account; conflicts when it exists.
    NewUser {
        user: OwnedUserId,
        password: Option<String>,
        admin: bool,
        at: Timestamp,
    },
    /// An account's password as a PHC string.
    Password { user: OwnedUserId, password: String },
    /// Whether an account is disabled. Its devices are removed by who disables it.
    Disabled { user: OwnedUserId, disabled: bool },
    /// A device with a session: replaces the device's earlier token, keeps its keys only when the
    /// device already existed for this user.
    Session {
        user: OwnedUserId,
        device: OwnedDeviceId,
        token: [u8; 32],
        name: Option<String>,
        at: Timestamp,
    },
    /// A device's name.
    DeviceName {
        user: OwnedUserId,
        device: OwnedDeviceId,
        name: Option<String>,
    },
    /// When and from where a device was seen.
    DeviceSeen {
        user: OwnedUserId,
        device: OwnedDeviceId,
        at: Timestamp,
        from: Option<String>,
    },
    /// A device goes, with its token, keys, mailbox and link.
    RemoveDevice {
        user: OwnedUserId,
        device: OwnedDeviceId,
    },
    /// A profile field as JSON; gone when none.
    Profile {
        user: OwnedUserId,
        field: String,
        json: Option<String>,
    },
    /// Account data as JSON.
    AccountData {
        user: OwnedUserId,
        room: Option<OwnedRoomId>,
        kind: String,
        json: String,
    },
    /// A filter under a number the caller chose.
    Filter {
        user: OwnedUserId,
        id: u64,
        json: String,
    },
    /// A device's identity keys as JSON.
    DeviceKeys {
        user: OwnedUserId,
        device: OwnedDeviceId,
        json: String,
    },
    /// A one-time key, `key_id` as `algorithm:id`.
    OneTimeKey {
        user: OwnedUserId,
        device: OwnedDeviceId,
        key_id: String,
        json: String,
    },
    /// The fallback key of its algorithm, unused.
    FallbackKey {
        user: OwnedUserId,
        device: OwnedDeviceId,
        key_id: String,
        json: String,
    },
    /// Takes a one-time key away for good, or else the fallback key, then marked used. `spare`: the
    /// one-time keys are left to others.
    ClaimKey {
        user: OwnedUserId,
        device: OwnedDeviceId,
        algorithm: String,
        spare: bool,
    },
    /// Keys by which users here vouch, and their signatures.
    CrossSigning(CrossSigningWrite),
    /// The user's devices or keys changed, as of this commit.
    DevicesChanged { user: OwnedUserId, what: KeysChange },
    /// Of the changes before `before` those may be forgotten that a later one before it says as well,
    /// and of a user with too many the oldest.
    ForgetDeviceChanges { before: Position },
    /// A message for a device, of another server's user when that is named; dropped when the device
    /// does not exist.
    Mail {
        user: OwnedUserId,
        device: OwnedDeviceId,
        origin: Option<OwnedServerName>,
        json: String,
    },
    /// The device has everything up to `to`.
    MailRead {
        user: OwnedUserId,
        device: OwnedDeviceId,
        to: Position,
    },
    /// A device is linked, by these keys alone. Conflicts when one of them is another device's.
    Link(Box<LinkRecord>),
    /// A linked device's OSCORE context, in place of the one before and of its registrations.
    /// Conflicts when the recipient id is taken or the device is not linked.
    Oscore {
        link: Box<OscoreLink>,
        generation: u64,
    },
    /// Sequence numbers below `below` may be used. Conflicts when the context is gone.
    Reserve { recipient_id: Vec<u8>, below: u64 },
    /// A registration, in place of one with the same context and token; the oldest of a context
    /// with too many goes. Conflicts when the context is gone.
    Register(Box<Registration>),
    /// A registration goes.
    Deregister {
        recipient_id: Vec<u8>,
        token: Vec<u8>,
    },
    /// Numbers for the names of a thin device that have none, in order. Dropped when the device does
    /// not exist or has too many.
    ThinNames {
        user: OwnedUserId,
        device: OwnedDeviceId,
        names: Vec<(NameKind, String)>,
    },
    /// What a linked device says of its link; dropped when it is not linked.
    LinkProfile {
        device: DeviceName,
        profile: LinkProfile,
    },
    /// Where to knock when something waits for a linked device; dropped when it is not linked.
    WakeUrl {
        device: DeviceName,
        url: Option<String>,
    },
    /// Something for another server that is in no log: `{"edu_type", "content"}` as JSON.
    Parcel {
        to: OwnedServerName,
        edu: String,
        at: Timestamp,
    },
    /// What other servers are told.
    Outbox(OutboxWrite),
    /// A stored file.
    Media(MediaRecord),
    /// What is known of another server's keys, as JSON, instead of what was. Of too many servers
    /// those not heard of for longest are forgotten.
    PeerKeys {
        server: OwnedServerName,
        json: String,
    },
    /// Where the device list of another server's user stands.
    RemoteUser {
        user: OwnedUserId,
        state: RemoteUser,
    },
    /// A device of another server's user: its name and keys; gone when none.
    RemoteDevice {
        user: OwnedUserId,
        device: OwnedDeviceId,
        known: Option<(Option<String>, String)>,
    },
    /// All devices of another server's user go.
    ForgetRemoteDevices { user: OwnedUserId },
    /// All that is kept of another server's user goes: devices, keys, and that they changed.
    ForgetRemoteUser { user: OwnedUserId },
    /// A message for devices came from another server; conflicts when it came before. The oldest
    /// of a server with too many is forgotten.
    RemoteMessage {
        origin: OwnedServerName,
        id: String,
        at: Timestamp,
    },
    /// Messages of other servers that came before `before` may be forgotten.
    ForgetRemoteMessages { before: Timestamp },
}

impl Write {
    /// How long its JSON is, the only thing in it that can be long.
    fn text_bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.json.len(),
            Self::Outside(outside) => outside.event.len() + outside.state.len(),
            Self::Profile { json, .. } => json.as_ref().map_or(0, String::len),
            Self::Redact { json, .. }
            | Self::AccountData { json, .. }
            | Self::Filter { json, .. }
            | Self::DeviceKeys { json, .. }
            | Self::OneTimeKey { json, .. }
            | Self::FallbackKey { json, .. }
            | Self::Mail { json, .. }
            | Self::PeerKeys { json, .. }
            | Self::CrossSigning(CrossSigningWrite::Key {
                json: Some(json), ..
            }) => json.len(),
            Self::Parcel { edu, .. } => edu.len(),
            Self::RemoteDevice {
                known: Some((_, keys)),
                ..
            } => keys.len(),
            Self::RemoteUser { state, .. } => {
                let keys = [&state.master_key, &state.self_signing_key];
                keys.into_iter().flatten().map(String::len).sum()
            }
            _ => 0,
        }
    }
}

/// A new event.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its number.
    pub nid: EventNid,
    /// Its room.
    pub room: RoomNid,
    /// Its reference hash.
    pub hash: EventHash,
    /// Its type.
    pub kind: String,
    /// Its state key, when it is state.
    pub state_key: Option<String>,
    /// Its depth.
    pub depth: u64,
    /// What it is to the room.
    pub status: Status,
    /// Whether it is in the graph but hidden from readers.
    pub soft_failed: bool,
    /// The room's state after it.
    pub state_after: StateNid,
    /// Its `prev_events`, by hash.
    pub prev: Vec<EventHash>,
    /// Its `auth_events`, by hash.
    pub auth: Vec<EventHash>,
    /// The local device that sent it.
    pub sent_by: Option<SentBy>,
    /// Its exact bytes.
    pub json: Arc<str>,
}

/// A new state: another one with events taken out and put in.
#[derive(Clone, Debug)]
pub struct NewState {
    /// Its number.
    pub nid: StateNid,
    /// Its room.
    pub room: RoomNid,
    /// The state it differs from; 0 for the empty one.
    pub parent: StateNid,
    /// Events in it that are not in its parent.
    pub added: Vec<EventNid>,
    /// Events of its parent that are not in it.
    pub removed: Vec<EventNid>,
    /// Whether it is also written whole.
    pub snapshot: bool,
}

/// A new entry of a log.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// The room.
    pub room: RoomNid,
    /// Its number: the room's last one and 1.
    pub seq: Seq,
    /// The chain up to it.
    pub chain: ChainHash,
    /// The room's current state after it, where that is not the event's own. A marker has one.
    pub state: Option<StateNid>,
    /// What it is.
    pub what: NewLogged,
}

/// What a new entry is.
#[derive(Clone, Debug)]
pub enum NewLogged {
    /// An event.
    Event(EventNid),
    /// A marker's bytes.
    Marker(Vec<u8>),
}
