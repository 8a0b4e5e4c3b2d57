//! All rooms of a device, in the order of the hub.
//!
//! Within one commit rooms follow by number, and entries of a room by seq: so one entry is a place
//! in the order of all.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use super::{
    LOOKED_AT_MAX,
    elsewhere::{self, Notice},
    names::{self, Numbers},
    pack::Pack,
    shown::{Entry, group},
};
use crate::{
    api::{Caller, Refusal, ThinReply},
    base::{Position, Seq},
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{
                page::{Span, chunk_of},
                visibility::Standing,
            },
        },
    },
    room::Membership,
    store::{
        EventNid, EventRecord, Logged, MembershipRecord, Order, RoomNid, StateNid, StoreError,
    },
    wire::thin::{Alias, MlsGroup, NameKind, Record, Shown},
};

/// How many entries of a room are read at once: most rooms have few that are new.
const CHUNK: u64 = 16;

/// A place in the order of all rooms.
pub(super) type Place = (Position, RoomNid, Seq);

/// See [`crate::api::Thin::Inbox`].
///
/// spec: thin-profile §7
pub(super) async fn inbox(
    hub: &Hub,
    caller: &Caller,
    after: Option<(Alias, Seq)>,
    bytes_max: u32,
) -> Result<ThinReply, Refusal> {
    let Some(after) = after else {
        return heads(hub, caller, bytes_max).await;
    };
    let place = place(hub, caller, after).await?;
    // Rooms are read one after the other: what comes meanwhile is left for the next time, or an
    // entry of one would pass by an earlier one of another.
    let now = hub.store.position().await.map_err(ours)?;
    let mut sources = sources(hub, caller, place, now).await.map_err(ours)?;
    let (mut steps, rest) = merge(hub, caller, &mut sources, bytes_max)
        .await
        .map_err(ours)?;
    // Of what comes after the entries that could fit nothing is told yet.
    let end = steps.last().map(|step| step.place).filter(|_| rest);
    for notice in elsewhere::notices(hub, caller, place, now).await? {
        let step = Step::elsewhere(notice);
        if end.is_none_or(|end| step.place < end) {
            steps.push(step);
        }
    }
    steps.sort_by_key(|step| step.place);
    answer(hub, caller, after, steps, rest, bytes_max).await
}

/// The heads of the joined rooms, the newest last: that is where a device goes on from.
async fn heads(hub: &Hub, caller: &Caller, bytes_max: u32) -> Result<ThinReply, Refusal> {
    let now = hub.store.position().await.map_err(ours)?;
    let all = hub.store.memberships(&caller.user, None).await;
    let mut joined: Vec<MembershipRecord> = all.map_err(ours)?;
    joined.retain(|record| record.membership == Membership::Join);
    if joined.is_empty() && hub.outbox.is_some() {
        return nobody_but_elsewhere(hub, caller, now).await;
    }
    joined.sort_by_key(|record| (record.room_position, record.room));
    let newest_first = joined.iter().rev();
    let named = newest_first
        .map(|record| room_name(&record.room_id))
        .collect();
    let numbers = Numbers::of(hub, caller, named).await?;
    let nothing = covered(0, Seq::ZERO, false);
    let mut pack = Pack::new(bytes_max, &nothing);
    // All heads are of one moment: what comes into any room after it comes after the newest.
    let moment = joined.last().map(|record| record.room_position);
    let moment = moment.unwrap_or_default();
    for record in joined.iter().rev() {
        let seq = hub.store.seq_at(record.room, moment).await.map_err(ours)?;
        let alias = numbers.get(NameKind::Room, record.room_id.as_str())?;
        if !pack.put(covered(alias, seq, false), || Ok(nothing.clone()))? {
            break;
        }
    }
    let mut records = pack.into_records();
    records.reverse();
    let through = records.last().and_then(|record| match record.what {
        Shown::Covered { seq, .. } => record.room.map(|room| (room, Seq(seq))),
        _ => None,
    });
    Ok(ThinReply::Records {
        records,
        through,
        more: false,
    })
}

/// Who is in no room goes on from where invitations of other servers are told.
async fn nobody_but_elsewhere(
    hub: &Hub,
    caller: &Caller,
    now: Position,
) -> Result<ThinReply, Refusal> {
    let name = (NameKind::Room, elsewhere::NAME.to_owned());
    let numbers = Numbers::of(hub, caller, vec![name]).await?;
    let alias = numbers.get(NameKind::Room, elsewhere::NAME)?;
    let seq = Seq(now.0);
    Ok(ThinReply::Records {
        records: vec![covered(alias, seq, false)],
        through: Some((alias, seq)),
        more: false,
    })
}

/// Where an entry stands among all.
async fn place(hub: &Hub, caller: &Caller, after: (Alias, Seq)) -> Result<Place, Refusal> {
    let (alias, seq) = after;
    if elsewhere::is_this(hub, caller, alias).await? {
        let position = hub.store.position().await.map_err(ours)?;
        if seq.0 > position.0 {
            let message = format!("nothing {seq} under the number {alias}");
            return Err(Refusal::not_found(message));
        }
        return Ok((Position(seq.0), elsewhere::LAST, Seq::ZERO));
    }
    let id = names::room(hub, caller, alias).await?;
    let unknown = || Refusal::not_found(format!("no entry {seq} in the room {alias}"));
    let room = hub.store.room(&id).await.map_err(ours)?;
    let room = room.ok_or_else(unknown)?;
    let before = Seq(seq.0.checked_sub(1).ok_or_else(unknown)?);
    let entries = hub
        .store
        .log(room.nid, before, seq, Order::Forward, 1)
        .await
        .map_err(ours)?;
    let entry = entries.into_iter().next().ok_or_else(unknown)?;
    Ok((entry.position, room.nid, seq))
}

/// A room with something that may be new.
struct Source {
    standing: Standing,
    /// Read up to here.
    at: Seq,
    to: Seq,
    /// What is shown although nothing else of the room may be: the user's own coming and going.
    own: Option<EventNid>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    position: Position,
    seq: Seq,
    /// The event and the state before it, if it may be seen.
    event: Option<(EventRecord, StateNid)>,
}

/// An entry that was looked at.
struct Step {
    place: Place,
    room: String,
    seq: Seq,
    shown: Look,
}

/// What is shown of it.
enum Look {
    Nothing,
    Entry(Box<Entry>),
    Elsewhere(Notice),
}

impl Step {
    fn elsewhere(notice: Notice) -> Self {
        Self {
            place: (notice.position, elsewhere::LAST, Seq::ZERO),
            room: elsewhere::NAME.to_owned(),
            seq: Seq(notice.position.0),
            shown: Look::Elsewhere(notice),
        }
    }

    fn nid(&self) -> RoomNid {
        self.place.1
    }

    fn entry(&self) -> Option<&Entry> {
        match &self.shown {
            Look::Entry(entry) => Some(entry),
            Look::Nothing | Look::Elsewhere(_) => None,
        }
    }

    /// What has to have a number before it is told.
    fn names(&self) -> Vec<(NameKind, String)> {
        let mut named = vec![(NameKind::Room, self.room.clone())];
        match &self.shown {
            Look::Nothing => {}
            Look::Entry(entry) => named.extend(entry.names()),
            Look::Elsewhere(notice) => named.extend(notice.names()),
        }
        named
    }
}

async fn sources(
    hub: &Hub,
    caller: &Caller,
    after: Place,
    now: Position,
) -> Result<Vec<Source>, StoreError> {
    let since = Position(after.0.0.saturating_sub(1));
    let news = hub.store.memberships(&caller.user, Some(since)).await?;
    let mut sources = Vec::new();
    for record in news.iter().filter(|record| !record.forgotten) {
        if let Some(mut source) = source(hub, caller, record, (after, now)).await? {
            source.fill(hub).await?;
            sources.push(source);
        }
    }
    Ok(sources)
}

async fn source(
    hub: &Hub,
    caller: &Caller,
    record: &MembershipRecord,
    (after, now): (Place, Position),
) -> Result<Option<Source>, StoreError> {
    let is_joined = record.membership == Membership::Join;
    let Some(room) = hub.store.room_by_nid(record.room).await? else {
        return Ok(None);
    };
    let at = match record.room.cmp(&after.1) {
        std::cmp::Ordering::Equal => after.2,
        std::cmp::Ordering::Less => hub.store.seq_at(room.nid, after.0).await?,
        std::cmp::Ordering::Greater => {
            let before = Position(after.0.0.saturating_sub(1));
            hub.store.seq_at(room.nid, before).await?
        }
    };
    let own = hub.store.events(&[record.event]).await?.into_iter().next();
    let Some((own, own_seq)) = own.and_then(|own| Some((own.nid, own.seq?))) else {
        return Ok(None);
    };
    let mut to = hub.store.seq_at(room.nid, now).await?;
    if !is_joined {
        to = to.min(own_seq);
    }
    if to <= at {
        return Ok(None);
    }
    let standing = Standing::with(&hub.store, room, &caller.user, Some(record)).await?;
    let was_in = is_joined || standing.ended.is_some();
    Ok(Some(Source {
        standing,
        // Who was never in reads nothing but their own entry.
        at: if was_in {
            at
        } else {
            Seq(own_seq.0.saturating_sub(1)).max(at)
        },
        to,
        own: Some(own),
        waiting: VecDeque::new(),
    }))
}

impl Source {
    /// Reads on when nothing waits.
    async fn fill(&mut self, hub: &Hub) -> Result<(), StoreError> {
        if !self.waiting.is_empty() || self.at >= self.to {
            return Ok(());
        }
        let span = Span {
            from: self.at,
            to: Seq(self.at.0.saturating_add(CHUNK).min(self.to.0)),
        };
        let (entries, mut sight) = chunk_of(&hub.store, &self.standing, span).await?;
        for entry in entries {
            let event = match entry.what {
                Logged::Marker(_) => {
                    sight.turn(&hub.store, entry.state).await?;
                    None
                }
                Logged::Event(event) => {
                    let before = sight.state();
                    let seen = sight.pass(&hub.store, entry.state, &event).await?
                        || self.own == Some(event.nid);
                    seen.then_some((event, before))
                }
            };
            self.waiting.push_back(Waiting {
                position: entry.position,
                seq: entry.seq,
                event,
            });
        }
        self.at = span.to;
        Ok(())
    }

    fn next(&self) -> Option<Place> {
        let first = self.waiting.front()?;
        Some((first.position, self.standing.room.nid, first.seq))
    }
}

/// The next entries of all rooms, no more than could fit, and whether there are others.
async fn merge(
    hub: &Hub,
    caller: &Caller,
    sources: &mut [Source],
    bytes_max: u32,
) -> Result<(Vec<Step>, bool), StoreError> {
    let mut order: BinaryHeap<_> = sources
        .iter()
        .enumerate()
        .filter_map(|(index, source)| Some(Reverse((source.next()?, index))))
        .collect();
    let mut steps = Vec::new();
    let (mut bytes, mut looked_at) = (0, 0);
    while looked_at < LOOKED_AT_MAX && !Pack::is_beyond(bytes_max, bytes) {
        let Some(Reverse((_, index))) = order.pop() else {
            break;
        };
        let Some(source) = sources.get_mut(index) else {
            break;
        };
        if let Some(next) = source.waiting.pop_front() {
            let room = &source.standing.room;
            let entry = match &next.event {
                Some((event, before)) => Entry::of(hub, caller, room, (event, *before)).await?,
                None => None,
            };
            bytes += entry.as_ref().map_or(0, Entry::least_bytes);
            looked_at += 1;
            steps.push(Step {
                place: (next.position, room.nid, next.seq),
                room: room.id.to_string(),
                seq: next.seq,
                shown: entry.map_or(Look::Nothing, |entry| Look::Entry(Box::new(entry))),
            });
        }
        source.fill(hub).await?;
        order.extend(source.next().map(|place| Reverse((place, index))));
    }
    Ok((steps, !order.is_empty()))
}

async fn answer(
    hub: &Hub,
    caller: &Caller,
    after: (Alias, Seq),
    steps: Vec<Step>,
    rest: bool,
    bytes_max: u32,
) -> Result<ThinReply, Refusal> {
    let mut named = Vec::new();
    for step in &steps {
        named.extend(step.names());
    }
    let numbers = Numbers::of(hub, caller, named).await?;
    let groups = groups(hub, &steps).await.map_err(ours)?;
    let mut longest = covered(after.0, after.1, true);
    for step in &steps {
        let end = covered(numbers.get(NameKind::Room, &step.room)?, step.seq, true);
        if end.encoded_len() > longest.encoded_len() {
            longest = end;
        }
    }

    let mut pack = Pack::new(bytes_max, &longest);
    let (mut through, mut shown, mut more, now) = (after, after, rest, hub.now());
    for step in &steps {
        let alias = numbers.get(NameKind::Room, &step.room)?;
        let room = (pack.room() != Some(alias)).then_some(alias);
        let in_room = |record| Record { room, ..record };
        let fits = match &step.shown {
            Look::Nothing => None,
            Look::Entry(entry) => {
                let group = groups.get(&step.nid());
                let record = entry.record(&numbers, now, group).map(in_room)?;
                let instead = || entry.too_large(&numbers, now).map(in_room);
                Some(pack.put(record, instead)?)
            }
            Look::Elsewhere(notice) => {
                let record = notice.record(&numbers, now).map(in_room)?;
                // There is nothing to fetch: what is open is told by FETCH `@`.
                Some(pack.put(record, || Ok(covered(alias, step.seq, false)))?)
            }
        };
        match fits {
            Some(false) => {
                more = true;
                break;
            }
            Some(true) => shown = (alias, step.seq),
            None => {}
        }
        through = (alias, step.seq);
    }
    let mut records = pack.into_records();
    // Also when the last ones cannot be seen: or they would be looked at again each time.
    if more || through != shown {
        records.push(covered(through.0, through.1, more));
    }
    Ok(ThinReply::Records {
        records,
        through: Some(through),
        more,
    })
}

/// The groups of the rooms that MLS messages came from.
async fn groups(hub: &Hub, steps: &[Step]) -> Result<BTreeMap<RoomNid, MlsGroup>, StoreError> {
    let mut groups = BTreeMap::new();
    let mut asked = std::collections::BTreeSet::new();
    for step in steps {
        let is_mls = step.entry().is_some_and(Entry::is_mls);
        if is_mls && asked.insert(step.nid()) {
            let group = group(hub, step.nid()).await?;
            groups.extend(group.map(|group| (step.nid(), group)));
        }
    }
    Ok(groups)
}

/// Where the device stands in all rooms; when there is more, the head is said to be 0.
fn covered(room: Alias, seq: Seq, more: bool) -> Record {
    Record {
        room: Some(room),
        what: Shown::Covered {
            seq: seq.0,
            head: more.then_some(0),
        },
    }
}

fn room_name(id: &ruma::RoomId) -> (NameKind, String) {
    (NameKind::Room, id.to_string())
}
