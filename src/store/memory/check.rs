//! What an ordinary batch can get wrong, looked for before anything is changed.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use super::{Tables, write::Stop};
use crate::{
    base::Seq,
    store::{Batch, NewEntry, NewLogged, RoomNid, Write},
};

/// Walks what a run of batches writes without changing anything.
pub(super) fn check(tables: &Tables, run: &[Batch]) -> Result<(), Stop> {
    let mut rooms: BTreeMap<RoomNid, Walk> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let mut txns = BTreeSet::new();
    for write in run.iter().flat_map(|batch| &batch.writes) {
        match write {
            Write::NewRoom { nid, .. } => {
                rooms.insert(*nid, Walk::default());
            }
            Write::Event(event) => {
                let there = !known.insert(event.nid) || tables.events.contains_key(&event.nid);
                if there {
                    return Err(twice("event", event.nid.0));
                }
            }
            Write::Txn { key, .. } => {
                let there = !txns.insert(key) || tables.txns.contains_key(&**key);
                if there && !run.iter().any(|batch| batch.may_conflict) {
                    return Err(twice("transaction", &key.txn));
                }
            }
            Write::Entry(entry) => {
                if let NewLogged::Event(nid) = entry.what
                    && !known.contains(&nid)
                    && !tables.events.contains_key(&nid)
                {
                    return Err(Stop::Damaged(format!("there is no event {}", nid.0)));
                }
                Walk::of(&mut rooms, tables, entry.room)?.entry(entry)?;
            }
            Write::Heads { room, heads, .. } => {
                Walk::of(&mut rooms, tables, *room)?.heads = Some(heads.seq);
            }
            _ => {}
        }
    }
    rooms
        .into_iter()
        .try_for_each(|(room, walk)| walk.end(room))
}

fn twice(what: &str, which: impl std::fmt::Display) -> Stop {
    Stop::Damaged(format!("{what} {which} is already there"))
}

/// One room's log in a commit.
#[derive(Default)]
struct Walk {
    last: Seq,
    grew: bool,
    heads: Option<Seq>,
}

impl Walk {
    fn of<'a>(
        rooms: &'a mut BTreeMap<RoomNid, Self>,
        tables: &Tables,
        room: RoomNid,
    ) -> Result<&'a mut Self, Stop> {
        let stored = tables.rooms.get(&room).map(|known| known.heads.seq);
        match rooms.entry(room) {
            btree_map::Entry::Occupied(walk) => Ok(walk.into_mut()),
            btree_map::Entry::Vacant(slot) => match stored {
                Some(last) => Ok(slot.insert(Self {
                    last,
                    ..Self::default()
                })),
                None => Err(Stop::Damaged(format!("there is no room {}", room.0))),
            },
        }
    }

    fn entry(&mut self, entry: &NewEntry) -> Result<(), Stop> {
        if entry.seq != self.last.next() {
            return Err(Stop::Damaged(format!(
                "room {} was given entry {} after entry {}",
                entry.room.0, entry.seq, self.last
            )));
        }
        self.last = entry.seq;
        self.grew = true;
        Ok(())
    }

    fn end(self, room: RoomNid) -> Result<(), Stop> {
        if (self.grew && self.heads.is_none()) || self.heads.is_some_and(|seq| seq != self.last) {
            return Err(Stop::Damaged(format!(
                "room {} was given entries up to {} and head {:?}",
                room.0, self.last, self.heads
            )));
        }
        Ok(())
    }
}
