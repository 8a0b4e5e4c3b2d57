//! Linked devices, as the doors see them: keys to recognise a device by, what must survive a restart of the
//! security layer, and who wants to be told of news.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedUserId};

use super::Refusal;
use crate::{base::Position, wire::thin::LinkProfile};

/// A device that the security layer has authenticated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    /// The user.
    pub user: OwnedUserId,
    /// The user's device.
    pub device: OwnedDeviceId,
}

/// A key that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The OSCORE context of a device, from the hub's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OscoreLink {
    /// Whose; shared with whoever else has much to keep of the device.
    pub device: Arc<DeviceName>,
    /// Common secret, 16 bytes.
    pub master_secret: Secret,
    /// Common salt, 8 bytes.
    pub master_salt: Vec<u8>,
    /// The context id, when contexts were derived anew (EDHOC: none).
    pub id_context: Option<Vec<u8>>,
    /// What the device puts into kid; unique in this hub.
    pub recipient_id: Vec<u8>,
    /// What the hub's own kid is, to the device.
    pub sender_id: Vec<u8>,
    /// Sender sequence numbers below this may have been used.
    pub reserved_below: u64,
    /// Whether the device orders notifications by the outer Observe option, which then counts.
    /// Fixed when it is linked; [`Links::renew_oscore`] does not change it.
    pub outer_observe_counted: bool,
}

/// What a device linked by EDHOC is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdhocLink {
    /// Whose.
    pub device: DeviceName,
    /// The device's static P-256 public key, x coordinate, 32 bytes.
    pub public_x: [u8; 32],
    /// The device's kid.
    pub kid: Vec<u8>,
}

/// A durable Observe registration of an OSCORE device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Whose context, by its recipient id.
    pub recipient_id: Vec<u8>,
    /// The CoAP token.
    pub token: Vec<u8>,
    /// The OSCORE binding of the request (kid, partial IV, kid context), as `session::oscore` writes it.
    pub binding: Vec<u8>,
    /// The request's inner code, options and body, encoded as a CoAP message without token.
    pub request: Vec<u8>,
    /// The address that was last confirmed.
    pub address: SocketAddr,
}

/// What a code is for, and what it becomes.
#[derive(Clone, Debug)]
pub enum Linking {
    /// A signed-in device approves a new one: gives a code.
    Approve {
        /// The new device's id.
        device: OwnedDeviceId,
    },
    /// The new device redeems its code.
    Redeem {
        /// The code's secret part.
        secret: Secret,
        /// The new device's EDHOC public key, x coordinate; generated on it.
        edhoc_public_x: Option<[u8; 32]>,
        /// The new device's QUIC public key, as `SubjectPublicKeyInfo`.
        quic_spki: Option<Vec<u8>>,
    },
}

/// The answer to a [`Linking`].
#[derive(Clone, Debug)]
pub enum Linked {
    /// The code's secret part, at least 64 bits; the door adds the hub key's hash.
    Approved {
        /// Valid once, for ten minutes.
        secret: Secret,
    },
    /// The device's credentials, whole.
    Redeemed(Box<DeviceCredentials>),
}

/// Everything a linked device needs; ids from the device's side.
#[derive(Clone, Debug)]
pub struct DeviceCredentials {
    /// Who it is.
    pub device: DeviceName,
    /// For HTTPS and MSC3079.
    pub access_token: Secret,
    /// Common secret of OSCORE.
    pub master_secret: Secret,
    /// Common salt of OSCORE.
    pub master_salt: Vec<u8>,
    /// The device's sender id.
    pub sender_id: Vec<u8>,
    /// The device's recipient id.
    pub recipient_id: Vec<u8>,
    /// PSK identity.
    pub psk_identity: String,
    /// PSK.
    pub psk: Secret,
    /// The hub's static EDHOC public key, x coordinate.
    pub hub_edhoc_public_x: [u8; 32],
    /// The kid the device is known by in EDHOC.
    pub edhoc_kid: Vec<u8>,
}

/// The table of linked devices, behind the doors that authenticate by key.
#[async_trait]
pub trait Links: Send + Sync + 'static {
    /// The context of a kid; none for an unknown, revoked or void one.
    async fn oscore(&self, recipient_id: &[u8]) -> Result<Option<OscoreLink>, Refusal>;

    /// Replaces a device's context after EDHOC, durably, and gives the id the device is to use as kid.
    async fn renew_oscore(&self, link: OscoreLink) -> Result<(), Refusal>;

    /// A recipient id that no context of this hub uses.
    async fn free_recipient_id(&self) -> Result<Vec<u8>, Refusal>;

    /// Allows sender sequence numbers below `reserved_below`, durably, before any of them is used.
    async fn reserve(&self, recipient_id: &[u8], reserved_below: u64) -> Result<(), Refusal>;

    /// The device an EDHOC credential names.
    async fn edhoc(&self, kid: &[u8]) -> Result<Option<EdhocLink>, Refusal>;

    /// The device of a PSK identity, and its key. From memory: it is asked inside a handshake.
    fn psk(&self, identity: &[u8]) -> Option<(DeviceName, Secret)>;

    /// The device of a QUIC raw public key. From memory.
    fn spki(&self, spki: &[u8]) -> Option<DeviceName>;

    /// All durable registrations, once, at the start.
    async fn registrations(&self) -> Result<Vec<Registration>, Refusal>;

    /// Keeps a registration, in place of one with the same context and token.
    async fn register(&self, registration: Registration) -> Result<(), Refusal>;

    /// Forgets a registration.
    async fn deregister(&self, recipient_id: &[u8], token: &[u8]) -> Result<(), Refusal>;

    /// What a device last said of its link; the default if it never did.
    async fn link_profile(&self, device: &DeviceName) -> Result<LinkProfile, Refusal> {
        let _ = device;
        Ok(LinkProfile::default())
    }

    /// The devices of these users (none: of all) that want to be knocked at, and where.
    async fn wake_hooks(
        &self,
        users: Option<&[OwnedUserId]>,
    ) -> Result<Vec<(DeviceName, String)>, Refusal> {
        let _ = users;
        Ok(Vec::new())
    }

    /// Whether this process has held all of a context's replay state since it was made (false after a restart).
    fn started_with_store(&self) -> bool;

    /// From now on `listener` is told; dropped listeners are forgotten.
    fn tell(&self, listener: Arc<dyn Deliver>);
}

/// Who wants to know that there is something to read. Must not block.
pub trait Deliver: Send + Sync + 'static {
    /// The hub is at `position`, and something in it concerns these users.
    fn news(&self, position: Position, users: &mut dyn Iterator<Item = &ruma::UserId>);

    /// Something may concern anyone.
    fn news_for_all(&self, position: Position);

    /// Something moved beside the logs, which these users may be shown: receipts, typing. Worth less
    /// than news: who does not push such things need not listen.
    fn beside(&self, since: Beside, users: &mut dyn Iterator<Item = &ruma::UserId>) {
        let _ = (since, users);
    }

    /// A device was revoked: its sessions end now.
    fn revoked(&self, device: &DeviceName);
}

/// From where on to look for what moves beside the logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Receipts stored after this; none: there are no new ones.
    pub receipts: Option<Position>,
    /// Typing that changed after this version of the hub's board; none: it did not.
    pub typing: Option<u64>,
}

impl Beside {
    /// From where on there is what either says.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let receipts = self.receipts.into_iter().chain(other.receipts).min();
        let typing = self.typing.into_iter().chain(other.typing).min();
        Self { receipts, typing }
    }
}
