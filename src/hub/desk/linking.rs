//! Linking a device: a signed-in device approves a new one and gets a code, the new one redeems
//! it; or the operator links it. Either way the device gets an access token and keys for every
//! door, in one commit.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    access::{self, log_as, token_hash, turn_of_sessions},
    accounts::{self, DEVICE_ID_BYTES_MAX, DeviceWish, NewSession, must_fit_in},
    devices,
    tickets::Tickets,
};
use crate::{
    api::{
        Code, DeviceCredentials, DeviceName, Linked, Linking, Origin, OscoreLink, Refusal, Reply,
        Secret,
    },
    hub::{Hub, WriteError},
    store::{LinkRecord, Write},
    wire::{link_code, thin::LinkProfile},
};

/// How long a code lives: time enough to type it on the other device.
pub(super) const CODE_LIFETIME: Duration = Duration::from_mins(10);

/// How many codes of one user may be open at a time.
const CODES_PER_USER_MAX: usize = 8;

/// How many codes may be open altogether. At about 200 bytes each this is 2 MB.
const CODES_MAX: usize = 10_000;

/// What a DTLS key is made of. As text it has 16 characters: tinydtls, by which small devices speak
/// DTLS, holds no more of a key, and some clients take a key as text only.
const PSK_RANDOM_BYTES: usize = 12;

/// How often other random keys are tried when some device has one of them already.
const TRIES: usize = 4;

/// A `SubjectPublicKeyInfo` of Ed25519 before the key's 32 bytes (RFC 8410 §4).
const SPKI_ED25519: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The same of P-256 before the point's 64 bytes, uncompressed (RFC 5480 §2).
const SPKI_P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Codes given out. A code is looked up by its SHA-256, so the time tells nothing of it.
pub(super) struct Codes(Tickets<Approved>);

/// What a code was given for.
struct Approved {
    user: OwnedUserId,
    device: OwnedDeviceId,
    by: OwnedDeviceId,
}

impl Default for Codes {
    fn default() -> Self {
        Self(Tickets::new(CODE_LIFETIME, CODES_MAX))
    }
}

impl Codes {
    /// Voids what was given to a user.
    pub(super) fn forget(&self, user: &UserId) {
        self.0.void(|approved| approved.user == user);
    }
}

/// A device somebody wants linked.
pub struct LinkWish {
    /// The new device's id.
    pub device: OwnedDeviceId,
    /// Its EDHOC public key, x coordinate; made on it.
    pub edhoc_public_x: Option<[u8; 32]>,
    /// Its QUIC public key as `SubjectPublicKeyInfo`; made on it.
    pub quic_spki: Option<Vec<u8>>,
    /// Whether it orders notifications by the outer Observe option.
    pub outer_observe_counted: bool,
}

impl Hub {
    /// Makes a device of an account and links it. For the operator.
    pub async fn link_device(
        &self,
        user: &UserId,
        wish: LinkWish,
    ) -> Result<DeviceCredentials, Refusal> {
        accounts::must_exist(self, user).await?;
        must_be_plain(&wish.device)?;
        check_keys(wish.edhoc_public_x.as_ref(), wish.quic_spki.as_deref())?;
        link(self, user, wish).await
    }

    /// Ends a device on every door. For the operator.
    pub async fn remove_device(&self, user: &UserId, device: &DeviceId) -> Result<(), Refusal> {
        accounts::must_exist(self, user).await?;
        let there = devices::ids(self, user).await?;
        if !there.iter().any(|known| known == device) {
            return Err(Refusal::not_found(format!(
                "{user} has no device {device:?}"
            )));
        }
        devices::remove(self, user, &[device.to_owned()]).await
    }
}

/// See `api::Command::Linking`.
pub(super) async fn linking(hub: &Hub, origin: &Origin, asked: Linking) -> Result<Reply, Refusal> {
    let linked = match asked {
        Linking::Approve { device } => approve(hub, origin, device).await?,
        Linking::Redeem {
            secret,
            edhoc_public_x,
            quic_spki,
        } => {
            hub.desk.rates().redeem(origin.address)?;
            check_keys(edhoc_public_x.as_ref(), quic_spki.as_deref())?;
            let approved = redeemed(hub, &secret).await?;
            let wish = LinkWish {
                device: approved.device,
                edhoc_public_x,
                quic_spki,
                outer_observe_counted: false,
            };
            Linked::Redeemed(Box::new(link(hub, &approved.user, wish).await?))
        }
    };
    Ok(Reply::Linking(Box::new(linked)))
}

async fn approve(hub: &Hub, origin: &Origin, device: OwnedDeviceId) -> Result<Linked, Refusal> {
    let caller = access::caller(hub, origin).await?;
    let device = accounts::checked_device_id(device)?;
    must_be_plain(&device)?;
    must_be_new(
        &caller.user,
        &devices::ids(hub, &caller.user).await?,
        &device,
    )?;
    let codes = &hub.desk.codes.0;
    let now = hub.now();
    let open = codes.count(|approved| approved.user == caller.user, now);
    if open >= CODES_PER_USER_MAX {
        let message = format!("{open} codes of this account are open; each is void after a while");
        return Err(Refusal::new(Code::LimitExceeded, message).retry_after(CODE_LIFETIME));
    }
    let secret = hub.random::<{ link_code::SECRET_BYTES }>();
    let approved = Approved {
        user: caller.user,
        device,
        by: caller.device,
    };
    codes.give(hash(&secret), approved, now)?;
    Ok(Linked::Approved {
        secret: Secret(secret.to_vec()),
    })
}

/// What a code was for; it is void from here on. So is every code of a device that is gone.
async fn redeemed(hub: &Hub, secret: &Secret) -> Result<Approved, Refusal> {
    let invalid = || Refusal::forbidden("this code is not valid (any more); ask for another one");
    let approved = hub.desk.codes.0.redeem(&hash(&secret.0), hub.now());
    let approved = approved.ok_or_else(invalid)?;
    log_as(&approved.user);
    let there = devices::ids(hub, &approved.user).await?;
    if there.contains(&approved.by) {
        Ok(approved)
    } else {
        Err(invalid())
    }
}

fn hash(secret: &[u8]) -> [u8; 32] {
    token_hash(&hex::encode(secret))
}

/// Makes and links a device. The keys in `wish` have been checked.
async fn link(hub: &Hub, user: &UserId, wish: LinkWish) -> Result<DeviceCredentials, Refusal> {
    let _turn = turn_of_sessions(hub, user).await;
    accounts::must_be_enabled(hub, user).await?;
    let there = devices::ids(hub, user).await?;
    must_be_new(user, &there, &wish.device)?;
    must_fit_in(&there)?;
    if let Some(spki) = &wish.quic_spki
        && hub.links.has_spki(spki)
    {
        return Err(Refusal::invalid_param(
            "quic_spki: another device has this key",
        ));
    }
    let session = NewSession::of(
        hub,
        DeviceWish {
            id: Some(wish.device.clone()),
            name: None,
        },
    )?;
    for _ in 0..TRIES {
        let record = record(hub, user, &wish);
        let writes = vec![
            session.write(hub, user),
            Write::Link(Box::new(record.clone())),
        ];
        let device = DeviceName::clone(&record.oscore.device);
        match hub.write_link(device, writes).await {
            Ok(()) => return Ok(credentials(hub, record, session.token)),
            Err(WriteError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::internal())
}

/// The id of a linked device is written in commands, file names and logs: nothing in it may need
/// quotes, or look like an option.
fn must_be_plain(device: &DeviceId) -> Result<(), Refusal> {
    let text = device.as_str();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && text.len() <= DEVICE_ID_BYTES_MAX && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(Refusal::invalid_param(format!(
        "device_id: {text:?} is no id for a linked device: write a letter or digit, then letters, \
         digits and ._- only, at most {DEVICE_ID_BYTES_MAX} bytes; such as TRACKER-2"
    )))
}

fn must_be_new(
    user: &UserId,
    there: &[OwnedDeviceId],
    device: &OwnedDeviceId,
) -> Result<(), Refusal> {
    if there.contains(device) {
        return Err(Refusal::invalid_param(format!(
            "device_id: {user} has a device {device} already; remove it first, or choose another id"
        )));
    }
    Ok(())
}

fn record(hub: &Hub, user: &UserId, wish: &LinkWish) -> LinkRecord {
    LinkRecord {
        oscore: OscoreLink {
            device: Arc::new(DeviceName {
                user: user.to_owned(),
                device: wish.device.clone(),
            }),
            master_secret: Secret(hub.random::<16>().to_vec()),
            master_salt: hub.random::<8>().to_vec(),
            id_context: None,
            recipient_id: hub.unused_recipient_id(),
            sender_id: Vec::new(), // nobody has to tell hubs apart by it
            reserved_below: 0,
            outer_observe_counted: wish.outer_observe_counted,
        },
        generation: hub.links.restores(),
        // No name in it: it crosses the network in clear.
        psk_identity: hex::encode(hub.random::<5>()),
        psk: Secret(
            STANDARD_NO_PAD
                .encode(hub.random::<PSK_RANDOM_BYTES>())
                .into_bytes(),
        ),
        edhoc_kid: hub.random::<3>().to_vec(),
        edhoc_public_x: wish.edhoc_public_x,
        quic_spki: wish.quic_spki.clone(),
        profile: LinkProfile::default(),
        wake_url: None,
    }
}

fn credentials(hub: &Hub, record: LinkRecord, access_token: String) -> DeviceCredentials {
    DeviceCredentials {
        device: DeviceName::clone(&record.oscore.device),
        access_token: Secret(access_token.into_bytes()),
        master_secret: record.oscore.master_secret,
        master_salt: record.oscore.master_salt,
        sender_id: record.oscore.recipient_id,
        recipient_id: record.oscore.sender_id,
        psk_identity: record.psk_identity,
        psk: record.psk,
        hub_edhoc_public_x: hub.edhoc_public_x,
        edhoc_kid: record.edhoc_kid,
    }
}

/// Refuses keys that no handshake could go through with.
fn check_keys(edhoc_public_x: Option<&[u8; 32]>, quic_spki: Option<&[u8]>) -> Result<(), Refusal> {
    if let Some(x) = edhoc_public_x
        && p256_013::PublicKey::from_sec1_bytes(&[&[2], x.as_slice()].concat()).is_err()
    {
        return Err(Refusal::invalid_param(
            "edhoc_public: not the x coordinate of a point of P-256",
        ));
    }
    if quic_spki.is_some_and(|spki| !is_known_spki(spki)) {
        return Err(Refusal::invalid_param(
            "quic_spki: neither an Ed25519 nor a P-256 public key",
        ));
    }
    Ok(())
}

fn is_known_spki(spki: &[u8]) -> bool {
    spki.strip_prefix(SPKI_ED25519)
        .is_some_and(|key| key.len() == 32)
        || spki.strip_prefix(SPKI_P256).is_some_and(|point| {
            let sec1 = [&[4], point].concat();
            point.len() == 64 && p256_013::PublicKey::from_sec1_bytes(&sec1).is_ok()
        })
}
