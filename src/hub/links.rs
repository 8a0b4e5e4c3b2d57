//! Linked devices, as the doors ask for them: what is asked inside a handshake from memory, the
//! rest from the store.
//!
//! Memory follows the store: after every write that may have changed a device's link, also a
//! failed one, the link is read again ([`LinkTable::refresh`]). How a device comes to be linked is
//! in `desk::linking`.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{Hash, Hasher},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use async_trait::async_trait;
use ruma::{OwnedUserId, UserId};
use sha2::{Digest as _, Sha256};

use super::{Hub, WriteError, fanout::Fanout};
use crate::{
    api::{Code, Deliver, DeviceName, EdhocLink, Links, OscoreLink, Refusal, Registration, Secret},
    base::Short,
    session::oscore::Id,
    store::{Batch, LinkRecord, SharedStore, StoreError, Write},
    wire::thin::LinkProfile,
};

/// How many links are read at a time when the hub starts.
const PAGE: u32 = 1000;

/// How many OSCORE contexts are kept as they were read: the doors keep their own.
const CONTEXTS_MAX: usize = 1024;

/// How many ids are remembered as given and not yet used: of handshakes under way side by side.
const GIVEN_MAX: usize = 64;

/// How many ids are tried before a longer one is.
const TRIES: usize = 32;

/// When to try again when an id was taken by somebody faster.
const TAKEN_RETRY: Duration = Duration::from_secs(1);

/// The linked devices of a hub.
pub(super) struct LinkTable {
    store: SharedStore,
    fanout: Arc<Fanout>,
    kept: RwLock<Kept>,
    /// One at a time reads and takes over, so that what was read earlier is taken over earlier.
    refreshing: tokio::sync::Mutex<()>,
    restores: u64,
    began_empty: bool,
}

#[derive(Default)]
struct Kept {
    devices: HashSet<Named>,
    /// What devices said of their links; nearly nobody says anything.
    said: BTreeMap<Arc<DeviceName>, Said>,
    psks: HashSet<By<IDENTITY>>,
    spkis: HashSet<By<SPKI>>,
    recipients: HashSet<By<RECIPIENT>>,
    contexts: HashMap<Box<[u8]>, OscoreLink>,
    given: VecDeque<Vec<u8>>,
    /// Grows with every link that changes. A read that began before must not be kept after it.
    changes: u64,
}

/// What a device is found by, and what it said of its link. There is one for each device, so it is in
/// one piece of at most 96 bytes: keys are in place as long as they are of the usual length.
struct Known {
    device: Arc<DeviceName>,
    psk_identity: Short<22>,
    psk: Short<38>,
    /// Half of the hash of the QUIC key, zeros for none: told apart from others, and nothing else.
    spki: [u8; SPKI_BYTES],
    recipient_id: Id,
}

/// What a device said of its link.
struct Said {
    profile: LinkProfile,
    wake_url: Option<String>,
}

const IDENTITY: usize = 0;
const SPKI: usize = 1;
const RECIPIENT: usize = 2;

/// Nobody can make a key for a hash of 128 bits that is another's.
const SPKI_BYTES: usize = 16;

/// The name of a QUIC key; zeros for none.
fn spki_name(spki: &[u8]) -> [u8; SPKI_BYTES] {
    let mut name = [0; SPKI_BYTES];
    if !spki.is_empty() {
        let hash = Sha256::digest(spki);
        name.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    }
    name
}

impl Known {
    fn of(link: LinkRecord) -> Self {
        Self {
            psk_identity: link.psk_identity.as_bytes().into(),
            psk: link.psk.0.as_slice().into(),
            spki: spki_name(&link.quic_spki.unwrap_or_default()),
            recipient_id: Id::new(&link.oscore.recipient_id).unwrap_or_default(), // of three bytes at most
            device: link.oscore.device,
        }
    }

    /// What it is found by; nothing if it has no such key.
    fn part(&self, number: usize) -> &[u8] {
        match number {
            IDENTITY => self.psk_identity.as_slice(),
            RECIPIENT => self.recipient_id.as_bytes(),
            SPKI if self.spki != [0; SPKI_BYTES] => &self.spki,
            _ => &[],
        }
    }
}

/// A device as it is found by its name.
struct Named(Arc<Known>);

impl Borrow<DeviceName> for Named {
    fn borrow(&self) -> &DeviceName {
        &self.0.device
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.device.hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.device == other.0.device
    }
}

impl Eq for Named {}

/// A device as it is found by one of its keys.
struct By<const PART: usize>(Arc<Known>);

impl<const PART: usize> Borrow<[u8]> for By<PART> {
    fn borrow(&self) -> &[u8] {
        self.0.part(PART)
    }
}

impl<const PART: usize> Hash for By<PART> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.part(PART).hash(state);
    }
}

impl<const PART: usize> PartialEq for By<PART> {
    fn eq(&self, other: &Self) -> bool {
        self.0.part(PART) == other.0.part(PART)
    }
}

impl<const PART: usize> Eq for By<PART> {}

impl LinkTable {
    /// The devices that are linked in a store.
    pub(super) async fn load(store: SharedStore, fanout: Arc<Fanout>) -> Result<Self, StoreError> {
        let mut kept = Kept::default();
        let mut after = None;
        loop {
            let page = store.links(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(DeviceName::clone(&last.oscore.device));
            for link in page {
                kept.insert(link);
            }
        }
        let restores = store.restores().await?;
        Ok(Self {
            began_empty: kept.devices.is_empty(),
            store,
            fanout,
            kept: RwLock::new(kept),
            refreshing: tokio::sync::Mutex::default(),
            restores,
        })
    }

    /// A device's name as the table has it: one for all who keep it.
    pub(super) fn name(&self, device: &DeviceName) -> Option<Arc<DeviceName>> {
        let kept = self.read();
        let Named(known) = kept.devices.get(device)?;
        Some(Arc::clone(&known.device))
    }

    /// How often the store was restored; goes into every context that is agreed now.
    pub(super) const fn restores(&self) -> u64 {
        self.restores
    }

    /// Whether a QUIC key is some device's.
    pub(super) fn has_spki(&self, spki: &[u8]) -> bool {
        !spki.is_empty() && self.read().spkis.contains(&spki_name(spki)[..])
    }

    /// Takes over what the store now says of a device's link; tells whether it is linked. When the
    /// store cannot say, it is not: a device that was revoked must not get in.
    pub(super) async fn refresh(&self, device: &DeviceName) -> bool {
        let _turn = self.refreshing.lock().await;
        let found = self.store.link(&device.user, device.device.as_str()).await;
        let found = found.unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "a link cannot be read; its device is kept out");
            None
        });
        let mut kept = self.write();
        kept.changes += 1;
        kept.remove(device);
        let is_linked = found.is_some();
        if let Some(link) = found {
            kept.insert(link);
        }
        is_linked
    }

    /// Ends what devices have open, unless they are still there because nothing was stored.
    pub(super) async fn revoke(&self, devices: &[DeviceName], stored: bool) {
        for device in devices {
            let was_linked = self.read().devices.contains(device);
            let is_linked = was_linked && self.refresh(device).await;
            if stored || !is_linked {
                self.fanout.revoked(device);
            }
        }
    }

    fn context(&self, recipient_id: &[u8]) -> Found {
        let kept = self.read();
        match kept.contexts.get(recipient_id) {
            Some(link) => Found::Kept(Box::new(link.clone())),
            None if !kept.recipients.contains(recipient_id) => Found::Nobody,
            None => Found::Unread {
                changes: kept.changes,
            },
        }
    }

    fn keep_context(&self, link: &mut OscoreLink, changes: u64) {
        let mut kept = self.write();
        if kept.changes != changes {
            return;
        }
        if let Some(By(known)) = kept.recipients.get(&*link.recipient_id) {
            link.device = Arc::clone(&known.device); // one name for all who keep it
        }
        if kept.contexts.len() >= CONTEXTS_MAX {
            // Any will do: who is dropped costs one read.
            let dropped = kept.contexts.keys().next().cloned();
            dropped.and_then(|id| kept.contexts.remove(&id));
        }
        kept.contexts
            .insert(link.recipient_id.as_slice().into(), link.clone());
    }

    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What memory says of a kid.
enum Found {
    Kept(Box<OscoreLink>),
    Nobody,
    Unread { changes: u64 },
}

impl Kept {
    fn insert(&mut self, mut link: LinkRecord) {
        let said = Said {
            profile: link.profile,
            wake_url: link.wake_url.take(),
        };
        if said.profile != LinkProfile::default() || said.wake_url.is_some() {
            self.said.insert(Arc::clone(&link.oscore.device), said);
        }
        let known = Arc::new(Known::of(link));
        self.devices.replace(Named(Arc::clone(&known)));
        self.psks.replace(By(Arc::clone(&known)));
        if !known.part(SPKI).is_empty() {
            self.spkis.replace(By(Arc::clone(&known)));
        }
        self.recipients.replace(By(known));
    }

    fn remove(&mut self, device: &DeviceName) {
        let Some(Named(known)) = self.devices.take(device) else {
            return;
        };
        self.said.remove(device);
        self.psks.remove(known.part(IDENTITY));
        self.spkis.remove(known.part(SPKI));
        self.recipients.remove(known.part(RECIPIENT));
        self.contexts.remove(known.part(RECIPIENT));
    }

    /// The devices of a user that want to be knocked at.
    fn wake_hooks_of(&self, user: &UserId) -> impl Iterator<Item = (DeviceName, String)> {
        let first = DeviceName {
            user: user.to_owned(),
            device: "".into(),
        };
        let theirs = self.said.range(Arc::new(first.clone())..);
        theirs
            .take_while(move |(device, _)| device.user == first.user)
            .filter_map(wake_hook)
    }

    fn is_free(&self, id: &[u8]) -> bool {
        !self.recipients.contains(id) && !self.given.iter().any(|given| given == id)
    }
}

fn wake_hook((device, said): (&Arc<DeviceName>, &Said)) -> Option<(DeviceName, String)> {
    Some((DeviceName::clone(device), said.wake_url.clone()?))
}

impl Hub {
    /// A recipient id that nobody uses: as short as can be found in a few tries, so that the short
    /// ones are not searched for in vain when nearly all are taken.
    pub(super) fn unused_recipient_id(&self) -> Vec<u8> {
        for length in 1..=2 {
            for _ in 0..TRIES {
                let random = self.random::<2>();
                let id = random.get(..length).expect("one or two of two bytes");
                if self.links.read().is_free(id) {
                    return self.give(id.to_vec());
                }
            }
        }
        loop {
            let id = self.random::<3>(); // of 16 million most are free
            if self.links.read().is_free(&id) {
                return self.give(id.to_vec());
            }
        }
    }

    fn give(&self, id: Vec<u8>) -> Vec<u8> {
        let mut kept = self.links.write();
        if kept.given.len() >= GIVEN_MAX {
            kept.given.pop_front();
        }
        kept.given.push_back(id.clone());
        id
    }

    /// Stores what changes a device's link, and takes it over: also when whoever asked hangs up.
    pub(super) async fn write_link(
        &self,
        device: DeviceName,
        writes: Vec<Write>,
    ) -> Result<(), WriteError> {
        let stored = self.writer.begin(contested(writes), Vec::new())?;
        let links = Arc::clone(&self.links);
        let taken_over = tokio::spawn(async move {
            let stored = stored.await.unwrap_or(Err(WriteError::Busy));
            links.refresh(&device).await;
            stored
        });
        taken_over.await.map_err(|_| WriteError::Busy)?.map(drop)
    }

    async fn write_of_context(&self, write: Write) -> Result<(), Refusal> {
        let stored = self.writer.write(contested(vec![write]), Vec::new()).await;
        match stored {
            Ok(_) => Ok(()),
            Err(WriteError::Conflict(_)) => Err(Refusal::new(
                Code::UnknownToken,
                "this security context is not known (any more)",
            )),
            Err(error) => Err(error.into()),
        }
    }
}

fn contested(writes: Vec<Write>) -> Batch {
    Batch {
        writes,
        may_conflict: true,
    }
}

#[async_trait]
impl Links for Hub {
    async fn oscore(&self, recipient_id: &[u8]) -> Result<Option<OscoreLink>, Refusal> {
        let changes = match self.links.context(recipient_id) {
            Found::Kept(link) => return Ok(Some(*link)),
            Found::Nobody => return Ok(None),
            Found::Unread { changes } => changes,
        };
        let found = self.store.link_by_recipient(recipient_id).await;
        let valid = found
            .map_err(unread)?
            .filter(|link| link.generation == self.links.restores);
        let Some(mut link) = valid.map(|link| link.oscore) else {
            return Ok(None);
        };
        self.links.keep_context(&mut link, changes);
        Ok(Some(link))
    }

    async fn renew_oscore(&self, link: OscoreLink) -> Result<(), Refusal> {
        let device = DeviceName::clone(&link.device);
        let write = Write::Oscore {
            link: Box::new(link),
            generation: self.links.restores,
        };
        match self.write_link(device, vec![write]).await {
            Ok(()) => Ok(()),
            Err(WriteError::Conflict(_)) => Err(Refusal::busy(TAKEN_RETRY)),
            Err(error) => Err(error.into()),
        }
    }

    async fn free_recipient_id(&self) -> Result<Vec<u8>, Refusal> {
        Ok(self.unused_recipient_id())
    }

    async fn reserve(&self, recipient_id: &[u8], reserved_below: u64) -> Result<(), Refusal> {
        self.write_of_context(Write::Reserve {
            recipient_id: recipient_id.to_vec(),
            below: reserved_below,
        })
        .await?;
        let mut kept = self.links.write();
        kept.changes += 1; // a read that began before has the old number
        if let Some(link) = kept.contexts.get_mut(recipient_id) {
            link.reserved_below = link.reserved_below.max(reserved_below);
        }
        Ok(())
    }

    async fn edhoc(&self, kid: &[u8]) -> Result<Option<EdhocLink>, Refusal> {
        let found = self.store.link_by_kid(kid).await.map_err(unread)?;
        Ok(found.and_then(|link| {
            Some(EdhocLink {
                device: DeviceName::clone(&link.oscore.device),
                public_x: link.edhoc_public_x?,
                kid: link.edhoc_kid,
            })
        }))
    }

    fn psk(&self, identity: &[u8]) -> Option<(DeviceName, Secret)> {
        let kept = self.links.read();
        let By(known) = kept.psks.get(identity)?;
        let key = Secret(known.psk.as_slice().to_vec());
        Some((DeviceName::clone(&known.device), key))
    }

    fn spki(&self, spki: &[u8]) -> Option<DeviceName> {
        let kept = self.links.read();
        let By(known) = kept.spkis.get(&spki_name(spki)[..])?;
        Some(DeviceName::clone(&known.device))
    }

    async fn registrations(&self) -> Result<Vec<Registration>, Refusal> {
        self.store.registrations().await.map_err(unread)
    }

    async fn register(&self, registration: Registration) -> Result<(), Refusal> {
        self.write_of_context(Write::Register(Box::new(registration)))
            .await
    }

    async fn deregister(&self, recipient_id: &[u8], token: &[u8]) -> Result<(), Refusal> {
        self.write_of_context(Write::Deregister {
            recipient_id: recipient_id.to_vec(),
            token: token.to_vec(),
        })
        .await
    }

    async fn link_profile(&self, device: &DeviceName) -> Result<LinkProfile, Refusal> {
        let kept = self.links.read();
        let said = kept.said.get(device);
        Ok(said.map_or_else(LinkProfile::default, |said| said.profile))
    }

    async fn wake_hooks(
        &self,
        users: Option<&[OwnedUserId]>,
    ) -> Result<Vec<(DeviceName, String)>, Refusal> {
        let kept = self.links.read();
        Ok(match users {
            None => kept.said.iter().filter_map(wake_hook).collect(),
            Some(users) => users
                .iter()
                .flat_map(|user| kept.wake_hooks_of(user))
                .collect(),
        })
    }

    fn started_with_store(&self) -> bool {
        self.links.began_empty
    }

    fn tell(&self, listener: Arc<dyn Deliver>) {
        self.fanout.tell(&listener);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "reads best in map_err")]
fn unread(error: StoreError) -> Refusal {
    tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
    Refusal::internal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_linked_device_is_small_and_its_usual_keys_in_place() {
        assert!(size_of::<Known>() <= 96);
        assert_eq!(spki_name(b""), [0; SPKI_BYTES]);
        assert_ne!(spki_name(b"a"), spki_name(b"b"));
    }
}
