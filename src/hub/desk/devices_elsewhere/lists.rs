//! Device lists of other servers' users, kept in the store.
//!
//! A list is told to clients only while it is *good*: no change of it was missed, and a room has
//! been shared without a break since it was asked for, for only then does its server tell of every
//! change. One that is not good is asked for again by whoever needs it next; many who need it at
//! once ask once. That is how a gap is closed: the change itself wakes the clients that follow the
//! user, and the first of them to ask has the list fetched for all.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream,
};
use ruma::{
    OwnedUserId, UserId,
    api::federation::{
        device::get_devices,
        transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    },
};

use super::checked;
use crate::{
    api::{Code, PeerCommand, PeerReply, Refusal, Remote, Why},
    base::Position,
    hub::{
        Hub, Writer,
        desk::{
            access::ours,
            devices,
            turns::{Turns, keep_in_turn},
        },
        fanout::{Fanout, Touched},
    },
    store::{Batch, RemoteDevice, RemoteList, RemoteUser, SharedStore, Write},
};

/// How long another server may take to give a device list.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many device lists are asked for to answer one request, each by a request of its own so that it
/// can be kept.
pub(super) const LISTS_MAX: usize = 50;

/// How many of these at a time.
pub(super) const LISTS_AT_ONCE: usize = 8;

/// How many lists are asked for at once, over all servers.
const FETCHES_MAX: usize = 256;

/// How many local users are woken when a device list of another server's user changes. The others
/// see it with the next thing that wakes them.
const WOKEN_MAX: u32 = 10_000;

/// How many changes one change may say that it follows; more than a server has pending.
const PREVIOUS_MAX: usize = 100;

/// When to ask again for a list when too many are being asked for.
const BUSY_RETRY: Duration = Duration::from_secs(5);

type Fetched = Result<Arc<RemoteList>, Refusal>;
type Fetch = Shared<BoxFuture<'static, Fetched>>;

/// The lists that are being asked for.
#[derive(Clone, Default)]
pub(in crate::hub::desk) struct Fetches(Arc<Mutex<Under>>);

#[derive(Default)]
struct Under {
    /// How many there have been, to tell a fetch from a later one of the same user.
    begun: u64,
    way: HashMap<OwnedUserId, (u64, Fetch)>,
}

impl Fetches {
    fn under(&self) -> MutexGuard<'_, Under> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever asks from now on is not given what is being fetched: the list has changed since.
    fn outdate(&self, user: &UserId) {
        self.under().way.remove(user);
    }

    fn end(&self, user: &UserId, number: u64) {
        let mut under = self.under();
        if under.way.get(user).is_some_and(|(one, _)| *one == number) {
            under.way.remove(user);
        }
    }
}

/// The list of a user, if a good one is kept.
pub(super) async fn good(
    hub: &Hub,
    caller: &UserId,
    user: &UserId,
) -> Result<Option<RemoteList>, Refusal> {
    let list = hub.store.remote_list(user).await.map_err(ours)?;
    let Some(list) = list.filter(|list| !list.user.stale) else {
        return Ok(None);
    };
    let asked = list.user.asked;
    let in_touch = hub.store.in_touch_since(user, caller, asked).await;
    Ok(in_touch.map_err(ours)?.then_some(list))
}

/// The master keys of other servers' users that are known here, or can be: of the lists that are kept
/// (whoever signs a key has asked for it before, which makes them new), else of some that are asked for.
pub(in crate::hub::desk) async fn master_keys(
    hub: &Hub,
    caller: &UserId,
    users: Vec<OwnedUserId>,
) -> Result<BTreeMap<OwnedUserId, String>, Refusal> {
    let (mut known, mut to_fetch) = (BTreeMap::new(), Vec::new());
    for user in users {
        if let Some(list) = hub.store.remote_list(&user).await.map_err(ours)? {
            known.extend(list.user.master_key.map(|key| (user, key)));
        } else if to_fetch.len() < LISTS_MAX
            && hub.store.share_a_room(caller, &user).await.map_err(ours)?
        {
            to_fetch.push(user);
        }
    }
    let fetches = to_fetch.into_iter().map(async |user: OwnedUserId| {
        let list = fetch(hub, &user).await;
        (user, list)
    });
    let fetches = fetches.collect::<Vec<_>>();
    let mut fetches = stream::iter(fetches).buffer_unordered(LISTS_AT_ONCE);
    while let Some((user, list)) = fetches.next().await {
        match list {
            Ok(list) => known.extend(list.user.master_key.clone().map(|key| (user, key))),
            Err(refusal) => tracing::debug!(%user, why = refusal.message, "no master key is had"),
        }
    }
    Ok(known)
}

/// Asks for the list of a user with whom a room is shared, and keeps it.
pub(super) async fn fetch(hub: &Hub, user: &UserId) -> Fetched {
    let fetches = &hub.desk.fetches;
    let fetch = {
        let mut under = fetches.under();
        under.begun += 1;
        let (number, busy) = (under.begun, under.way.len() >= FETCHES_MAX);
        match under.way.entry(user.to_owned()) {
            Entry::Occupied(there) => there.get().1.clone(),
            Entry::Vacant(_) if busy => {
                let message = "too many device lists are being asked for";
                return Err(Refusal::new(Code::LimitExceeded, message).retry_after(BUSY_RETRY));
            }
            Entry::Vacant(free) => {
                let errand = Errand::of(hub, user);
                let fetches = fetches.clone();
                // On its own: who asked first may hang up, and others wait for it too.
                let task = tokio::spawn(async move {
                    let outcome = errand.run().await;
                    fetches.end(&errand.user, number);
                    outcome
                });
                let fetch = task
                    .map(|ended| ended.unwrap_or_else(|_| Err(Refusal::internal())))
                    .boxed()
                    .shared();
                free.insert((number, fetch.clone()));
                fetch
            }
        }
    };
    fetch.await
}

/// One list being asked for.
struct Errand {
    user: OwnedUserId,
    store: SharedStore,
    remote: Arc<dyn Remote>,
    writer: Arc<Writer>,
    fanout: Arc<Fanout>,
    turns: Arc<Turns>,
    server: ruma::OwnedServerName,
}

impl Errand {
    fn of(hub: &Hub, user: &UserId) -> Self {
        Self {
            user: user.to_owned(),
            store: Arc::clone(&hub.store),
            remote: Arc::clone(&hub.remote),
            writer: Arc::clone(&hub.writer),
            fanout: Arc::clone(&hub.fanout),
            turns: Arc::clone(&hub.desk.turns),
            server: hub.key.name().clone(),
        }
    }

    async fn run(&self) -> Fetched {
        let asked = self.fanout.position();
        let before = self.store.remote_list(&self.user).await.map_err(ours)?;
        let list = self.ask(asked).await?;
        let _turn = self.turns.take(turn_of(&self.user)).await;
        let now = self.store.remote_list(&self.user).await.map_err(ours)?;
        let state = |list: &Option<RemoteList>| list.as_ref().map(|list| list.user.clone());
        if state(&now) == state(&before) {
            self.keep(&list, before.as_ref()).await?;
        } // else a change came meanwhile, and whether this list has it nobody knows
        Ok(Arc::new(list))
    }

    async fn ask(&self, asked: Position) -> Result<RemoteList, Refusal> {
        let request = get_devices::v1::Request::new(self.user.clone());
        let command = PeerCommand::UserDevices(Box::new(request));
        let server = self.user.server_name();
        match self.remote.ask(server, command, PATIENCE).await? {
            PeerReply::UserDevices(told) => {
                checked::list(&self.user, asked, &told).map_err(|why| {
                    let reason = Why::of("PEER_ANSWER").rule(&why).of_server(server);
                    let refusal = Refusal::new(Code::Unknown, why).with_status(502);
                    refusal.because(reason)
                })
            }
            other => {
                tracing::error!(told = other.name(), "another answer than was asked for");
                Err(Refusal::internal())
            }
        }
    }

    async fn keep(&self, list: &RemoteList, before: Option<&RemoteList>) -> Result<(), Refusal> {
        let user = &self.user;
        let mut writes = vec![
            Write::RemoteUser {
                user: user.clone(),
                state: list.user.clone(),
            },
            Write::ForgetRemoteDevices { user: user.clone() },
        ];
        writes.extend(list.devices.iter().map(|device| Write::RemoteDevice {
            user: user.clone(),
            device: device.device.clone(),
            known: Some((device.name.clone(), device.keys.clone())),
        }));
        // Changed without a word: those who have the old one do not know yet.
        let is_news = before.is_some_and(|before| !before.user.stale && differ(before, list));
        let mut touched = Vec::new();
        if is_news {
            writes.push(devices::changed(user));
            let near = self.store.neighbours_of(user, &self.server, WOKEN_MAX);
            let near = near.await.map_err(ours)?;
            touched.push(Touched::Many(Arc::new(near.into_iter().collect())));
        }
        let batch = Batch {
            writes,
            may_conflict: false,
        };
        self.writer.write(batch, touched).await?;
        Ok(())
    }
}

fn differ(one: &RemoteList, other: &RemoteList) -> bool {
    let keys = |list: &RemoteList| {
        let user = &list.user;
        (user.master_key.clone(), user.self_signing_key.clone())
    };
    one.devices != other.devices || keys(one) != keys(other)
}

fn turn_of(user: &UserId) -> (&'static str, &UserId) {
    ("elsewhere", user)
}

/// Takes an `m.device_list_update`, whose user is of the server that sent it.
// spec: server-server §Device-Management
pub(in crate::hub::desk) async fn device_changed(
    hub: &Hub,
    update: DeviceListUpdateContent,
) -> Result<(), Refusal> {
    let user = update.user_id.clone();
    changed(hub, &user, |list| match list {
        Some(list) => follow(list, &update),
        // Noted although nothing is kept: a list that is under way may be from before.
        None => Some(vec![stale(&user, &RemoteUser::default(), &update)]),
    })
    .await
}

/// Takes an `m.signing_key_update`, whose user is of the server that sent it.
pub(in crate::hub::desk) async fn signing_key_changed(
    hub: &Hub,
    update: SigningKeyUpdateContent,
) -> Result<(), Refusal> {
    let user = update.user_id.clone();
    changed(hub, &user, |list| {
        let Some(list) = list else {
            return Some(Vec::new());
        };
        let mut state = list.user.clone();
        for (told, usage, kept) in [
            (&update.master_key, checked::MASTER, &mut state.master_key),
            (
                &update.self_signing_key,
                checked::SELF_SIGNING,
                &mut state.self_signing_key,
            ),
        ] {
            let Some(told) = told else { continue };
            match checked::cross_signing_key(&user, usage, told) {
                Ok(key) => *kept = Some(key),
                Err(why) => tracing::debug!(%user, usage, why, "a key of another server's user"),
            }
        }
        (state != list.user).then(|| {
            vec![Write::RemoteUser {
                user: user.clone(),
                state,
            }]
        })
    })
    .await
}

/// Stores what a change of a user's keys makes of the list, and tells everyone who follows the
/// user; nothing when nobody here shares a room with them or there is nothing new.
async fn changed(
    hub: &Hub,
    user: &UserId,
    decide: impl FnOnce(Option<&RemoteList>) -> Option<Vec<Write>>,
) -> Result<(), Refusal> {
    let near = hub.store.neighbours_of(user, hub.key.name(), WOKEN_MAX);
    let near = near.await.map_err(ours)?;
    if near.is_empty() {
        return Ok(());
    }
    let turn = hub.desk.turns.take(turn_of(user)).await;
    let list = hub.store.remote_list(user).await.map_err(ours)?;
    let Some(mut writes) = decide(list.as_ref()) else {
        return Ok(());
    };
    writes.push(devices::changed(user));
    let touched = vec![Touched::Many(Arc::new(near.into_iter().collect()))];
    // Before anyone is told: whoever asks because of it must not be given what was asked for before.
    hub.desk.fetches.outdate(user);
    keep_in_turn(hub, turn, writes, touched).await
}

/// What a change makes of a list; nothing when it was known.
fn follow(list: &RemoteList, update: &DeviceListUpdateContent) -> Option<Vec<Write>> {
    let state = &list.user;
    let stream: u64 = update.stream_id.into();
    if stream == state.stream {
        return None; // sent again
    }
    let known = known_after(list, update);
    let Some(known) = known.filter(|_| follows(state, update)) else {
        return Some(vec![stale(&update.user_id, state, update)]);
    };
    Some(vec![
        Write::RemoteUser {
            user: update.user_id.clone(),
            state: RemoteUser {
                stream,
                ..state.clone()
            },
        },
        Write::RemoteDevice {
            user: update.user_id.clone(),
            device: update.device_id.clone(),
            known,
        },
    ])
}

/// Whether there is no other change between what is known and this one.
///
/// Servers count up. A list that was asked for is often of a later count than its newest change, so
/// the next one may name an earlier one as the one before it: that one is in the list.
fn follows(state: &RemoteUser, update: &DeviceListUpdateContent) -> bool {
    let previous = &update.prev_id;
    !state.stale
        && !previous.is_empty()
        && previous.len() <= PREVIOUS_MAX
        && u64::from(update.stream_id) > state.stream
        && previous
            .iter()
            .all(|previous| u64::from(*previous) <= state.stream)
}

/// What is known of the device after a change; nothing when what came cannot be kept.
#[expect(
    clippy::option_option,
    reason = "outside: readable; inside: still there"
)]
fn known_after(
    list: &RemoteList,
    update: &DeviceListUpdateContent,
) -> Option<Option<checked::Known>> {
    let (user, device) = (&update.user_id, &update.device_id);
    let Some(keys) = update
        .keys
        .as_ref()
        .filter(|_| update.deleted != Some(true))
    else {
        return Some(None); // gone, or without keys, which is the same to whoever asks for these
    };
    let is_new = |there: &RemoteDevice| there.device != *device;
    if list.devices.len() >= checked::DEVICES_MAX && list.devices.iter().all(is_new) {
        return None;
    }
    let (name, keys) = checked::device_keys(user, device, keys)
        .inspect_err(|why| tracing::debug!(%user, %device, why, "keys that cannot be kept"))
        .ok()?;
    let told = update.device_display_name.clone();
    Some(Some((told.filter(checked::fits).or(name), keys)))
}

/// «A change was missed»: the list has to be asked for.
fn stale(user: &UserId, state: &RemoteUser, update: &DeviceListUpdateContent) -> Write {
    Write::RemoteUser {
        user: user.to_owned(),
        state: RemoteUser {
            stale: true,
            // Another one than before, so that a list that is under way is not taken for newer.
            stream: update.stream_id.into(),
            ..state.clone()
        },
    }
}
