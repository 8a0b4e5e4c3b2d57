//! What is next for a destination: entries after its mark that are for it, in the order of marks.
//!
//! Passed over are markers, events of others unless this hub relays them, the destination's own,
//! rooms that it was not in at the time, and what a room's ACL keeps from it.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, ServerName};
use serde::Deserialize;

use crate::{
    base::{Position, Seq, Timestamp},
    room::{ServerAcl, StateKey},
    store::{
        EventRecord, LogRecord, Logged, Mark, Order, Residency, RoomNid, SharedStore, StateNid,
        Status, StoreError,
    },
};

/// How many entries of a room are read at once, when there are few rooms and when there are many.
const CHUNK: u32 = 64;
const CHUNK_OF_MANY: u32 = 8;
const FEW_ROOMS: usize = 4;

/// How many entries are looked at for one page: a destination that has nothing to be told of a
/// long stretch gives way to others in between.
const LOOKED_AT_MAX: usize = 2000;

/// The bytes of one page: 64 of them may be on their way at once.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Where there may be something for a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rooms {
    /// In these, not before these.
    These(BTreeMap<RoomNid, Start>),
    /// In any that it is in: the store is asked.
    Any,
}

/// From where on a room may have something for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start {
    /// The commit that may have it.
    pub(super) position: Position,
    /// The first entry that may be for it, where that is known: to find it is a search in the store.
    pub(super) entry: Option<Seq>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self::These(BTreeMap::new())
    }
}

impl Rooms {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::These(rooms) if rooms.is_empty())
    }

    pub(super) fn add(&mut self, room: RoomNid, start: Start) {
        if let Self::These(rooms) = self {
            // Of one commit, who does not know the entry comes first.
            let first = rooms.entry(room).or_insert(start);
            *first = start.min(*first);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        match other {
            Self::Any => *self = Self::Any,
            Self::These(rooms) => rooms
                .into_iter()
                .for_each(|(room, start)| self.add(room, start)),
        }
    }

    /// Forgets which, when there are more than `max`.
    pub(super) fn at_most(&mut self, max: usize) {
        if matches!(self, Self::These(rooms) if rooms.len() > max) {
            *self = Self::Any;
        }
    }
}

/// An entry for a destination.
pub(super) struct Item {
    pub(super) at: Mark,
    pub(super) event: EventRecord,
    /// When its sender says that it was made.
    pub(super) made: Timestamp,
}

/// Some entries for a destination.
#[derive(Default)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Everything up to here is among the items, or not for it.
    pub(super) mark: Mark,
    /// Where there may be more.
    pub(super) rest: Rooms,
    /// What was for it, and by now its room keeps it out.
    pub(super) withheld: Vec<Withheld>,
}

/// Entries of a room that are not told: in between, only ACLs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Withheld {
    pub(super) room: RoomNid,
    pub(super) from: Seq,
    pub(super) to: Seq,
}

/// Who reads, and how far it may.
pub(super) struct Reader<'a> {
    pub(super) store: &'a SharedStore,
    /// This hub.
    pub(super) ours: &'a ServerName,
    /// For whom.
    pub(super) server: &'a ServerName,
    /// From where.
    pub(super) mark: Mark,
    /// Up to which commit.
    pub(super) upto: Position,
    /// How many items at most.
    pub(super) items_max: usize,
}

/// A room on the way: its next entry is not before the key under which it waits. The number is
/// the last entry that was looked at, if one was.
type Waiting = BTreeMap<(Position, RoomNid), Option<Seq>>;

/// A page as it fills.
struct Filling {
    page: Page,
    waiting: Waiting,
    bytes: usize,
    looked_at: usize,
    full: bool,
}

impl Reader<'_> {
    /// The next page out of `rooms`.
    pub(super) async fn page(&self, rooms: Rooms) -> Result<Page, StoreError> {
        let mut filling = Filling {
            page: Page {
                mark: self.mark,
                ..Page::default()
            },
            waiting: self.waiting(rooms).await?,
            bytes: 0,
            looked_at: 0,
            full: self.items_max == 0,
        };
        while !filling.full
            && let Some(((position, room), seq)) = filling.waiting.pop_first()
        {
            self.room(&mut filling, (position, room), seq).await?;
        }
        let Filling {
            mut page, waiting, ..
        } = filling;
        if waiting.is_empty() {
            page.mark = page.mark.max(Mark::after(self.upto));
        }
        let rest = waiting.into_iter().map(|((position, room), seen)| {
            let entry = seen.map(|seq| Seq(seq.0.saturating_add(1)));
            (room, Start { position, entry })
        });
        page.rest = Rooms::These(rest.collect());
        Ok(page)
    }

    async fn waiting(&self, rooms: Rooms) -> Result<Waiting, StoreError> {
        let rooms = match rooms {
            Rooms::These(rooms) => rooms,
            Rooms::Any => {
                let found = self.store.backlog(Some(self.server)).await?;
                let start = Start {
                    position: self.mark.position,
                    entry: None,
                };
                found.into_iter().map(|(_, room)| (room, start)).collect()
            }
        };
        let place = |(room, start): (RoomNid, Start)| {
            // What the mark has passed may reach into the room.
            let entry = start.entry.filter(|_| start.position > self.mark.position);
            let seen = entry.map(|entry| Seq(entry.0.saturating_sub(1)));
            ((start.position.max(self.mark.position), room), seen)
        };
        Ok(rooms.into_iter().map(place).collect())
    }

    /// Takes what is next of one room, until another room's turn comes.
    async fn room(
        &self,
        filling: &mut Filling,
        (position, room): (Position, RoomNid),
        seq: Option<Seq>,
    ) -> Result<(), StoreError> {
        let from = match seq {
            Some(seq) => seq,
            None => self.begin(room, position).await?,
        };
        let limit = if filling.waiting.len() < FEW_ROOMS {
            CHUNK
        } else {
            CHUNK_OF_MANY
        };
        let head = Seq(i64::MAX.cast_unsigned());
        let log = &self.store;
        let entries = log.log(room, from, head, Order::Forward, limit).await?;
        let count = entries.len();
        let entries: Vec<_> = entries.into_iter().map(Candidate::of).collect();
        let next = filling.waiting.first_key_value().map(|(key, _)| *key);
        let mut rules = None;
        let mut last = from;
        for candidate in &entries {
            let entry = &candidate.entry;
            if entry.position > self.upto {
                return Ok(()); // there will be a note of it
            }
            let at = Mark {
                position: entry.position,
                room,
                seq: entry.seq,
            };
            let is_others_turn = next.is_some_and(|next| next < (at.position, room));
            filling.full |= filling.looked_at >= LOOKED_AT_MAX;
            if is_others_turn || filling.full {
                filling.waiting.insert((at.position, room), Some(last));
                return Ok(());
            }
            if rules.is_none() {
                rules = Some(self.rules(room, &entries).await?);
            }
            let turn = rules.as_ref().map(|rules| self.turn(at, candidate, rules));
            if let (Some(rules), Some(Turn::Kept)) = (&mut rules, &turn)
                && rules.let_it_then(self, entry).await?
            {
                rules.withhold(at, &mut filling.page.withheld);
            }
            if let Some(Turn::Told(item)) = turn {
                let bytes = item.event.json.len();
                if filling.bytes + bytes > PAGE_BYTES_MAX && !filling.page.items.is_empty() {
                    filling.full = true;
                    filling.waiting.insert((at.position, room), Some(last));
                    return Ok(());
                }
                filling.bytes += bytes;
                filling.page.items.push(item);
                filling.full = filling.page.items.len() >= self.items_max;
            }
            filling.looked_at += 1;
            filling.page.mark = at;
            last = entry.seq;
        }
        if count == limit as usize {
            let key = (filling.page.mark.position, room);
            filling.waiting.insert(key, Some(last));
        }
        Ok(())
    }

    /// The last entry of a room that need not be looked at.
    async fn begin(&self, room: RoomNid, position: Position) -> Result<Seq, StoreError> {
        let mark = self.mark;
        if position <= mark.position && room == mark.room {
            return Ok(mark.seq);
        }
        let is_done = position <= mark.position && room < mark.room;
        let before = if is_done {
            mark.position
        } else {
            Position(position.0.saturating_sub(1))
        };
        self.store.seq_at(room, before).await
    }

    /// What decides over these entries of a room.
    async fn rules(&self, room: RoomNid, entries: &[Candidate]) -> Result<Rules, StoreError> {
        let residencies = self.store.residencies(self.server, room).await?;
        let is_others = |candidate: &&Candidate| {
            let sender = candidate.sender();
            sender.is_some_and(|sender| sender != self.ours && sender != self.server)
        };
        let others = || entries.iter().filter(is_others);
        let mut relayed = BTreeSet::new();
        if !residencies.is_empty()
            && let (Some(first), Some(last)) = (others().next(), others().next_back())
        {
            let (first, last) = (first.entry.seq, last.entry.seq);
            relayed.extend(self.store.relayed(room, first, last).await?);
        }
        Ok(Rules {
            may_be_told: lets(acl(self.store, room, None).await?.as_ref(), self.server),
            let_then: None,
            withheld: None,
            residencies,
            relayed,
        })
    }

    fn turn(&self, at: Mark, candidate: &Candidate, rules: &Rules) -> Turn {
        let Some((item, kind)) = self.item(at, candidate, rules) else {
            return Turn::NotForIt;
        };
        // Who is kept out is told so.
        if rules.may_be_told || kind == ACL {
            Turn::Told(item)
        } else {
            Turn::Kept
        }
    }

    /// An entry that is for the destination but for the room's ACL, and its type.
    fn item<'a>(
        &self,
        at: Mark,
        candidate: &'a Candidate,
        rules: &Rules,
    ) -> Option<(Item, &'a str)> {
        let Candidate { entry, outline } = candidate;
        let (Logged::Event(event), Some(outline)) = (&entry.what, outline) else {
            return None;
        };
        if event.soft_failed
            || event.status != Status::Accepted
            || !rules.residencies.iter().any(|span| span.covers(at.seq))
        {
            return None;
        }
        let sender = outline.sender.server_name();
        let is_relayed = rules.relayed.contains(&at.seq);
        let is_for_it = sender != self.server && (sender == self.ours || is_relayed);
        let item = || Item {
            at,
            event: event.clone(),
            made: Timestamp(outline.origin_server_ts),
        };
        is_for_it.then(|| (item(), outline.kind.as_str()))
    }
}

/// An entry that may be for a destination.
struct Candidate {
    entry: LogRecord,
    /// Of an event that can be read.
    outline: Option<Outline>,
}

impl Candidate {
    fn of(entry: LogRecord) -> Self {
        let outline = outline(&entry);
        Self { entry, outline }
    }

    fn sender(&self) -> Option<&ServerName> {
        Some(self.outline.as_ref()?.sender.server_name())
    }
}

/// What an entry is to a destination.
enum Turn {
    Told(Item),
    /// It is for it, and the room keeps it out.
    Kept,
    NotForIt,
}

/// What decides which entries of a room are for a destination.
struct Rules {
    residencies: Vec<Residency>,
    relayed: BTreeSet<Seq>,
    may_be_told: bool,
    /// Whether it might be told when the entries of this state were made.
    let_then: Option<(StateNid, bool)>,
    /// Which of a page's are withheld by these rules.
    withheld: Option<usize>,
}

impl Rules {
    /// Whether the room's ACL let an entry to the destination when it was made: what was never for it
    /// is not withheld.
    async fn let_it_then(
        &mut self,
        reader: &Reader<'_>,
        entry: &LogRecord,
    ) -> Result<bool, StoreError> {
        if let Some((state, let_it)) = self.let_then
            && state == entry.state
        {
            return Ok(let_it);
        }
        let Logged::Event(event) = &entry.what else {
            return Ok(false);
        };
        let acl = acl(reader.store, event.room, Some(entry.state)).await?;
        let let_it = lets(acl.as_ref(), reader.server);
        self.let_then = Some((entry.state, let_it));
        Ok(let_it)
    }

    /// One more that is not told. Between two of them nothing was told by these rules, but an ACL.
    fn withhold(&mut self, at: Mark, all: &mut Vec<Withheld>) {
        if let Some(known) = self.withheld.and_then(|number| all.get_mut(number)) {
            known.to = at.seq;
            return;
        }
        self.withheld = Some(all.len());
        all.push(Withheld {
            room: at.room,
            from: at.seq,
            to: at.seq,
        });
    }
}

#[derive(Deserialize)]
struct Outline {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    origin_server_ts: u64,
}

const ACL: &str = "m.room.server_acl";

/// Whether an entry is a room's ACL: who is kept out by it is told so.
pub(super) fn is_acl(entry: &LogRecord) -> bool {
    outline(entry).is_some_and(|outline| outline.kind == ACL)
}

fn outline(entry: &LogRecord) -> Option<Outline> {
    let Logged::Event(event) = &entry.what else {
        return None;
    };
    serde_json::from_str(&event.json).ok()
}

/// Whether a room with this ACL may be told to a server.
pub(super) fn lets(acl: Option<&ServerAcl>, server: &ServerName) -> bool {
    acl.is_none_or(|acl| acl.check(server).is_ok())
}

/// A room's ACL, if it has one: that of a state of it, or the current one.
pub(super) async fn acl(
    store: &SharedStore,
    room: RoomNid,
    state: Option<StateNid>,
) -> Result<Option<ServerAcl>, StoreError> {
    #[derive(Deserialize)]
    struct Body {
        content: ruma::CanonicalJsonObject,
    }
    let keys = [StateKey::new(ACL, "")];
    let found = match state {
        Some(state) => store.state_entries(room, state, &keys).await?,
        None => store.current(room, &keys).await?,
    };
    let Some(event) = found.into_iter().flatten().next() else {
        return Ok(None);
    };
    let body: Body = serde_json::from_str(&event.json).map_err(|error| StoreError::Damaged {
        what: format!("the ACL of room {}: {error}", room.0),
    })?;
    Ok(Some(ServerAcl::read(&body.content)))
}
