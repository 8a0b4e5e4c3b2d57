//! What a device's numbers stand for, and which number a name has.
//!
//! A number is stored before anyone is told it. spec: thin-profile §9

use std::collections::{HashMap, HashSet};

use ruma::{OwnedRoomId, RoomAliasId, RoomId, UserId};

use super::called;
use crate::{
    api::{Caller, Code, Refusal},
    base::Position,
    hub::{
        Hub,
        desk::{access::ours, keep, reading::outsider::outsider, remote},
    },
    room::Membership,
    store::{ALIASES_MAX, Write},
    wire::thin::{Alias, FIRST_OWN_EVENT_TYPE, FIXED_EVENT_TYPES, Name, NameKind},
};

/// The longest name, in bytes: Matrix allows no longer id or event type.
const NAME_BYTES_MAX: usize = 255;

/// How many rooms one question learns the names of: each is some reads of the store.
const ROOM_NAMES_MAX: usize = 64;

/// The numbers of some names.
pub(super) struct Numbers(HashMap<(NameKind, String), Alias>);

impl Numbers {
    /// Looks names up in the order in which they came up, and numbers those that have no number.
    pub(super) async fn of(
        hub: &Hub,
        caller: &Caller,
        names: Vec<(NameKind, String)>,
    ) -> Result<Self, Refusal> {
        let mut known = HashMap::new();
        let mut asked = HashSet::new();
        let mut unknown = Vec::new();
        for name in names {
            match well_known(caller, name.0, &name.1) {
                Some(alias) => drop(known.insert(name, alias)),
                None if asked.insert(name.clone()) => unknown.push(name),
                None => {}
            }
        }
        let unknown = look_up(hub, caller, unknown, &mut known).await?;
        if unknown.is_empty() {
            return Ok(Self(known));
        }
        let write = Write::ThinNames {
            user: caller.user.clone(),
            device: caller.device.clone(),
            names: unknown.clone(),
        };
        keep(hub, vec![write], Vec::new()).await?;
        match look_up(hub, caller, unknown, &mut known).await?.first() {
            None => Ok(Self(known)),
            Some((_, name)) => Err(Refusal::new(
                Code::ResourceLimitExceeded,
                format!(
                    "no number is left for {name}: a device has {ALIASES_MAX} of a kind, or it \
                     was removed"
                ),
            )),
        }
    }

    /// The number of a name that was looked up.
    pub(super) fn get(&self, kind: NameKind, name: &str) -> Result<Alias, Refusal> {
        let alias = self.0.get(&(kind, name.to_owned()));
        alias.copied().ok_or_else(Refusal::internal)
    }
}

/// Moves what has a number to `known`, and gives back the rest.
async fn look_up(
    hub: &Hub,
    caller: &Caller,
    wanted: Vec<(NameKind, String)>,
    known: &mut HashMap<(NameKind, String), Alias>,
) -> Result<Vec<(NameKind, String)>, Refusal> {
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let (user, device) = (&caller.user, caller.device.as_str());
    let found = hub.store.thin_aliases(user, device, &wanted).await;
    let mut unknown = Vec::new();
    for (name, alias) in wanted.into_iter().zip(found.map_err(ours)?) {
        match alias {
            Some(alias) => drop(known.insert(name, alias)),
            None => unknown.push(name),
        }
    }
    Ok(unknown)
}

/// What needs no table.
fn well_known(caller: &Caller, kind: NameKind, name: &str) -> Option<Alias> {
    match kind {
        NameKind::Room | NameKind::RoomName => None,
        NameKind::User => (caller.user == name).then_some(0),
        NameKind::EventType => FIXED_EVENT_TYPES
            .iter()
            .zip(0..)
            .find_map(|(fixed, alias)| (*fixed == name).then_some(alias)),
    }
}

fn well_known_name(caller: &Caller, kind: NameKind, alias: Alias) -> Option<String> {
    match (kind, alias) {
        (NameKind::User, 0) => Some(caller.user.to_string()),
        (NameKind::EventType, alias) if alias < FIRST_OWN_EVENT_TYPE => {
            let fixed = FIXED_EVENT_TYPES.get(usize::try_from(alias).ok()?)?;
            Some((*fixed).to_owned())
        }
        _ => None,
    }
}

pub(super) async fn name(
    hub: &Hub,
    caller: &Caller,
    kind: NameKind,
    alias: Alias,
) -> Result<Option<String>, Refusal> {
    if let Some(name) = well_known_name(caller, kind, alias) {
        return Ok(Some(name));
    }
    let (user, device) = (&caller.user, caller.device.as_str());
    let found = hub.store.thin_names(user, device, &[(kind, alias)]).await;
    Ok(found.map_err(ours)?.into_iter().next().flatten())
}

/// The room of a number.
pub(super) async fn room(hub: &Hub, caller: &Caller, alias: Alias) -> Result<OwnedRoomId, Refusal> {
    let name = name(hub, caller, NameKind::Room, alias).await?;
    name.and_then(|name| OwnedRoomId::try_from(name).ok())
        .ok_or_else(|| Refusal::not_found(format!("no room has the number {alias} here")))
}

/// The event type of a number.
pub(super) async fn event_type(
    hub: &Hub,
    caller: &Caller,
    alias: Alias,
) -> Result<String, Refusal> {
    let name = name(hub, caller, NameKind::EventType, alias).await?;
    name.ok_or_else(|| Refusal::not_found(format!("no event type has the number {alias} here")))
}

/// See [`crate::api::Thin::Names`]. Numbers that nobody gave are left out.
pub(super) async fn names(
    hub: &Hub,
    caller: &Caller,
    wanted: &[(NameKind, Alias)],
) -> Result<Vec<Name>, Refusal> {
    if wanted.is_empty() {
        return rooms(hub, caller).await;
    }
    let (user, device) = (&caller.user, caller.device.as_str());
    let found = hub.store.thin_names(user, device, wanted).await;
    let found = found.map_err(ours)?;
    let names = wanted.iter().zip(found);
    let names = names.filter_map(|((kind, alias), stored)| {
        let text = well_known_name(caller, *kind, *alias).or(stored)?;
        Some(Name {
            kind: *kind,
            alias: *alias,
            text,
        })
    });
    let mut names: Vec<_> = names.collect();
    let titles = wanted
        .iter()
        .filter(|(kind, _)| *kind == NameKind::RoomName);
    for (kind, alias) in titles.take(ROOM_NAMES_MAX) {
        let text = called::room(hub, caller, *alias).await?;
        names.extend(text.map(|text| Name {
            kind: *kind,
            alias: *alias,
            text,
        }));
    }
    Ok(names)
}

/// The rooms the device is in or invited to.
async fn rooms(hub: &Hub, caller: &Caller) -> Result<Vec<Name>, Refusal> {
    let all = hub.store.memberships(&caller.user, None).await;
    let all = all.map_err(ours)?.into_iter();
    let mut ids: Vec<String> = all
        .filter(|record| is_inside(record.membership))
        .map(|record| record.room_id.to_string())
        .collect();
    for record in remote::standings(hub, &caller.user, Position::ZERO).await? {
        let id = record.room_id.to_string();
        if record.membership == Membership::Invite && !ids.contains(&id) {
            ids.push(id);
        }
    }
    let wanted = ids.iter().map(|id| (NameKind::Room, id.clone())).collect();
    let numbers = Numbers::of(hub, caller, wanted).await?;
    let mut names = Vec::with_capacity(ids.len());
    for text in ids {
        names.push(Name {
            kind: NameKind::Room,
            alias: numbers.get(NameKind::Room, &text)?,
            text,
        });
    }
    Ok(names)
}

fn is_inside(membership: Membership) -> bool {
    matches!(membership, Membership::Join | Membership::Invite)
}

/// See [`crate::api::Thin::Alias`].
pub(super) async fn alias(
    hub: &Hub,
    caller: &Caller,
    kind: NameKind,
    text: String,
) -> Result<Alias, Refusal> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        let message = format!("a name has 1 to {NAME_BYTES_MAX} bytes, not {}", text.len());
        return Err(Refusal::invalid_param(message));
    }
    let text = match kind {
        NameKind::Room => room_named(hub, caller, &text).await?.to_string(),
        NameKind::User => <&UserId>::try_from(text.as_str())
            .map_err(|_| {
                Refusal::invalid_param(format!(
                    "{text:?}: expected a user id, such as `@name:server.example`"
                ))
            })?
            .to_string(),
        NameKind::EventType => text,
        NameKind::RoomName => {
            let message = "a room has a number by its id or alias, not by what it is called";
            return Err(Refusal::invalid_param(message));
        }
    };
    let numbers = Numbers::of(hub, caller, vec![(kind, text.clone())]).await?;
    numbers.get(kind, &text)
}

/// A room the caller is in, was in or is invited to, by its id or an alias.
async fn room_named(hub: &Hub, caller: &Caller, text: &str) -> Result<OwnedRoomId, Refusal> {
    let id = if text.starts_with('#') {
        let alias = <&RoomAliasId>::try_from(text).map_err(|_| {
            Refusal::invalid_param(format!(
                "{text:?}: expected a room alias, such as `#name:server.example`"
            ))
        })?;
        if alias.server_name() == hub.key.name() {
            let record = hub.store.alias(alias).await.map_err(ours)?;
            let none = || Refusal::not_found(format!("no room has the alias {alias}"));
            record.ok_or_else(none)?.room_id
        } else {
            remote::alias(hub, alias).await?.room
        }
    } else {
        <&RoomId>::try_from(text)
            .map_err(|_| {
                Refusal::invalid_param(format!(
                    "{text:?}: expected a room id, such as `!name:server.example`"
                ))
            })?
            .to_owned()
    };
    let elsewhere = remote::standing(hub, &caller.user, &id).await?;
    if elsewhere.is_some_and(|record| record.membership == Membership::Invite) {
        return Ok(id);
    }
    let Some(record) = hub.store.room(&id).await.map_err(ours)? else {
        return Err(outsider(hub, &caller.user, &id).await);
    };
    let membership = hub.store.membership(&caller.user, record.nid).await;
    match membership.map_err(ours)? {
        // Who was in reads on, as far as they were.
        Some(known) if !known.forgotten => Ok(id),
        _ => Err(outsider(hub, &caller.user, &id).await),
    }
}
