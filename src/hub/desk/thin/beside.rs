//! What moves beside the logs, for who is being told of news: receipts and typing of others.
//!
//! It is worth less than any entry: what does not fit is left out, and a look that fails costs
//! nothing but what it would have told.

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};

use super::names::{self, Numbers};
use crate::{
    api::{Beside, Caller, Refusal, ThinReply},
    base::Position,
    hub::{
        Hub,
        desk::{access::ours, receipts::READ},
    },
    room::Membership,
    store::{RoomNid, StoreError, hash_of},
    wire::thin::{Alias, NameKind, Record, Shown},
};

/// Receipts that one look reads in one room, the newest: more than a push has place for.
const RECEIPTS_MAX: usize = 64;

/// Rooms that one look goes through. A push of the largest size has no place for more.
const ROOMS_MAX: usize = 256;

/// How many who type are named: nobody reads more, and each may cost the device a look-up.
const TYPING_USERS_MAX: usize = 8;

/// What moved in a room, before its names have numbers.
struct Moved {
    room: String,
    read: Vec<(OwnedUserId, u64)>,
    types: Option<Vec<OwnedUserId>>,
}

/// See [`crate::api::Thin::Beside`].
///
/// spec: thin-profile §7
pub(super) async fn beside(
    hub: &Hub,
    caller: &Caller,
    room: Option<Alias>,
    since: Beside,
    bytes_max: u32,
) -> Result<ThinReply, Refusal> {
    let only = match room {
        Some(alias) => Some(names::room(hub, caller, alias).await?.to_string()),
        None => None,
    };
    let moved = moved(hub, caller, only.as_deref(), since).await;
    let moved = moved.map_err(ours)?;
    let named = moved.iter().flat_map(Moved::names).collect();
    let numbers = Numbers::of(hub, caller, named).await?;
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let (mut records, mut bytes, mut before) = (Vec::new(), 0, None);
    for one in &moved {
        let alias = numbers.get(NameKind::Room, &one.room)?;
        for what in one.shown(&numbers)? {
            let names_room = room.is_none() && before != Some(alias);
            let record = Record {
                room: names_room.then_some(alias),
                what,
            };
            let more = record.encoded_len();
            if bytes + more <= bytes_max {
                bytes += more;
                before = Some(alias);
                records.push(record);
            }
        }
    }
    Ok(ThinReply::Records {
        records,
        through: None,
        more: false,
    })
}

/// What moved in the rooms the caller is in, or in one of them.
async fn moved(
    hub: &Hub,
    caller: &Caller,
    only: Option<&str>,
    since: Beside,
) -> Result<Vec<Moved>, StoreError> {
    let board = &hub.desk.typing;
    let mut rooms: BTreeMap<RoomNid, Option<Vec<OwnedUserId>>> = BTreeMap::new();
    if let Some(position) = since.receipts {
        // What the board does not know any more is not worth looking for in every room.
        let known = board.receipts_since(position, hub.fanout.position());
        rooms.extend(known.into_iter().flatten().map(|room| (room, None)));
    }
    if let Some(version) = since.typing {
        let changed = board.changed(Some(version), board.version());
        rooms.extend(changed.into_iter().map(|one| (one.room, Some(one.users))));
    }
    let mut found = Vec::new();
    for (nid, typing) in rooms {
        let record = hub.store.membership(&caller.user, nid).await?;
        let record = record.filter(|record| record.membership == Membership::Join);
        let Some(record) = record else { continue };
        let room = record.room_id.to_string();
        if only.is_some_and(|only| only != room) {
            continue;
        }
        let read = match since.receipts {
            Some(position) => read(hub, &caller.user, nid, position).await?,
            None => Vec::new(),
        };
        let types = typing.map(|users| {
            let others = users.into_iter().filter(|user| *user != caller.user);
            others.take(TYPING_USERS_MAX).collect()
        });
        found.push(Moved { room, read, types });
        if found.len() >= ROOMS_MAX {
            break;
        }
    }
    Ok(found)
}

/// How far others have read, as far as that is new and told to all.
async fn read(
    hub: &Hub,
    own: &UserId,
    room: RoomNid,
    since: Position,
) -> Result<Vec<(OwnedUserId, u64)>, StoreError> {
    let mut receipts = hub.store.receipts(room, since).await?;
    receipts.retain(|one| {
        let is_of_the_room = matches!(&*one.thread, "" | "main");
        one.kind == READ && is_of_the_room && one.user != own
    });
    receipts.sort_by_key(|one| std::cmp::Reverse(one.position));
    let mut furthest: BTreeMap<OwnedUserId, u64> = BTreeMap::new();
    for receipt in receipts.into_iter().take(RECEIPTS_MAX) {
        let Some(hash) = hash_of(&receipt.event) else {
            continue;
        };
        let event = hub.store.event(hash).await?;
        let seq = event.filter(|event| event.room == room);
        if let Some(seq) = seq.and_then(|event| event.seq) {
            let at = furthest.entry(receipt.user).or_default();
            *at = seq.0.max(*at);
        }
    }
    Ok(furthest.into_iter().collect())
}

impl Moved {
    fn names(&self) -> impl Iterator<Item = (NameKind, String)> {
        let read = self.read.iter().map(|(user, _)| user);
        let users = read.chain(self.types.iter().flatten());
        let room = (NameKind::Room, self.room.clone());
        std::iter::once(room).chain(users.map(|user| (NameKind::User, user.to_string())))
    }

    fn shown(&self, numbers: &Numbers) -> Result<Vec<Shown>, Refusal> {
        let mut shown = Vec::new();
        for (user, seq) in &self.read {
            let user = numbers.get(NameKind::User, user.as_str())?;
            shown.push(Shown::Receipt { seq: *seq, user });
        }
        if let Some(users) = &self.types {
            let users = users.iter();
            let users = users.map(|user| numbers.get(NameKind::User, user.as_str()));
            shown.push(Shown::Typing(users.collect::<Result<_, _>>()?));
        }
        Ok(shown)
    }
}
