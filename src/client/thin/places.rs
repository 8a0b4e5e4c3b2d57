//! How far a device has got in each room: each entry once, in order, and no gap unnoticed.
//!
//! An answer to a request holds all there is from where it was asked. A push may be the one after
//! one that was lost: what does not follow on is held back until a FETCH has filled the gap.

use std::collections::BTreeMap;

use crate::wire::thin::{Alias, Body, MEMBER, Record, Shown};

/// Records held back per room while a gap is filled; what is beyond is fetched again.
const HELD_MAX: usize = 256;

/// How far a device has got.
#[derive(Clone, Debug, Default)]
pub struct Places {
    rooms: BTreeMap<Alias, Place>,
    inbox: Option<(Alias, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Place {
    /// The seq after the last one dealt with.
    next: u64,
    held: BTreeMap<u64, Record>,
}

/// What an answer or a push has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// For the user, in order; each says its room.
    pub news: Vec<Record>,
    /// Rooms to be fetched, and from where.
    pub gaps: Vec<(Alias, u64)>,
    /// Whether the hub has more than it said.
    pub more: bool,
}

impl Places {
    /// From where an earlier run had got to.
    pub fn new(through: &BTreeMap<Alias, u64>, inbox: Option<(Alias, u64)>) -> Self {
        let at = |through: &u64| Place {
            next: through.saturating_add(1),
            held: BTreeMap::new(),
        };
        Self {
            rooms: through.iter().map(|(room, seq)| (*room, at(seq))).collect(),
            inbox,
        }
    }

    /// What was dealt with without a gap, per room.
    pub fn through(&self) -> BTreeMap<Alias, u64> {
        let reached = |place: &Place| place.next.saturating_sub(1);
        self.rooms
            .iter()
            .map(|(room, place)| (*room, reached(place)))
            .collect()
    }

    /// The last record of all rooms.
    pub const fn inbox(&self) -> Option<(Alias, u64)> {
        self.inbox
    }

    /// Whether nothing before [`Places::inbox`] is missing, so that a later run may begin there.
    pub fn is_whole(&self) -> bool {
        self.gaps().is_empty()
    }

    /// The seq wanted next in a room.
    pub fn next(&self, room: Alias) -> u64 {
        self.rooms.get(&room).map_or(1, |place| place.next.max(1))
    }

    /// The answer to FETCH of a room: all there is from where it was asked.
    ///
    /// spec: thin-profile §7
    pub fn log_answered(&mut self, room: Alias, records: Vec<Record>) -> Found {
        let mut found = Found::default();
        let place = self.rooms.entry(room).or_default();
        let before = place.next;
        for mut record in records {
            record.room = Some(room);
            match &record.what {
                Shown::Covered { seq, head } => {
                    place.next = place.next.max(seq.saturating_add(1));
                    found.more = head.is_some_and(|head| head >= place.next);
                }
                _ => place.take(record, &mut found.news),
            }
        }
        place.release(&mut found.news);
        if place.next == before {
            // Asking again would bring the same: what was held back followed on nothing visible.
            place.give_in(&mut found.news);
        } else if found.more || !place.held.is_empty() {
            found.gaps.push((room, place.next));
        }
        found
    }

    /// A push of one room.
    pub fn log_pushed(&mut self, room: Alias, mut records: Vec<Record>) -> Found {
        for one in &mut records {
            one.room = Some(room);
        }
        self.pushed(records)
    }

    /// The answer to FETCH of all rooms: all there is after the record it was asked for.
    pub fn inbox_answered(&mut self, records: Vec<Record>) -> Found {
        let mut found = Found::default();
        let was_empty = self.inbox.is_none();
        for record in with_rooms(records) {
            let Some(room) = record.room else {
                continue; // nobody can say where it belongs
            };
            let place = self.rooms.get(&room);
            match &record.what {
                Shown::Covered { seq, head } => {
                    found.more |= head.is_some();
                    self.inbox = Some((room, *seq));
                    match place {
                        None => self.begin_at(room, seq.saturating_add(1)),
                        // The heads: of this room something was not dealt with.
                        Some(place) if was_empty && place.next <= *seq => {
                            found.gaps.push((room, place.next));
                        }
                        Some(_) => {
                            let place = self.rooms.entry(room).or_default();
                            place.next = place.next.max(seq.saturating_add(1));
                        }
                    }
                }
                Shown::Entry { seq, .. } => {
                    self.inbox = Some((room, *seq));
                    if place.is_none() {
                        self.begin_at(room, *seq);
                    }
                    if let Some(place) = self.rooms.get_mut(&room) {
                        place.take(record, &mut found.news);
                        place.release(&mut found.news);
                    }
                }
                _ => found.news.push(record),
            }
        }
        found
    }

    /// A push of all rooms.
    pub fn inbox_pushed(&mut self, records: Vec<Record>) -> Found {
        let records = with_rooms(records);
        let place = |record: &Record| match record.what {
            Shown::Entry { seq, .. } => Some((record.room?, seq, true)),
            Shown::Covered { seq, .. } => Some((record.room?, seq, false)),
            _ => None,
        };
        let places: Vec<_> = records.iter().filter_map(place).collect();
        let found = self.pushed(records);
        // An announcement of what is not here is nothing to go on from.
        let is_here = |room, seq, is_entry| is_entry || seq < self.next(room);
        let last = places.into_iter().rev();
        let mut last = last.filter(|(room, seq, is_entry)| is_here(*room, *seq, *is_entry));
        self.inbox = last.next().map(|(room, seq, _)| (room, seq)).or(self.inbox);
        found
    }

    /// Within a push nothing is missing; before it, something may be.
    fn pushed(&mut self, records: Vec<Record>) -> Found {
        let mut found = Found::default();
        let mut follows_on = BTreeMap::new();
        for record in records {
            let Some(room) = record.room else {
                continue;
            };
            match record.what {
                Shown::Entry { seq, .. } => {
                    if !self.rooms.contains_key(&room) {
                        self.begin_at(room, seq);
                    }
                    let Some(place) = self.rooms.get_mut(&room) else {
                        continue;
                    };
                    // What is elsewhere has positions of the hub for seqs: one that is left out is no gap.
                    let has_gaps = is_elsewhere(&record);
                    let follows = *follows_on
                        .entry(room)
                        .or_insert(has_gaps || seq <= place.next);
                    if follows {
                        place.take(record, &mut found.news);
                    } else {
                        place.hold(seq, record);
                        if !found.gaps.iter().any(|(gap, _)| *gap == room) {
                            found.gaps.push((room, place.next));
                        }
                    }
                }
                Shown::Covered { seq, head } => {
                    found.more |= head.is_some();
                    let place = self.rooms.get_mut(&room);
                    match (place, follows_on.get(&room)) {
                        (Some(place), Some(true)) => {
                            place.next = place.next.max(seq.saturating_add(1));
                        }
                        // Announced, and nothing of it is here.
                        (Some(place), None) => found.more |= seq >= place.next,
                        _ => {}
                    }
                }
                _ => found.news.push(record),
            }
        }
        found
    }

    /// Rooms in which something is held back: their gaps are asked for again when asking failed.
    pub fn gaps(&self) -> Vec<(Alias, u64)> {
        let open = self
            .rooms
            .iter()
            .filter(|(_, place)| !place.held.is_empty());
        open.map(|(room, place)| (*room, place.next)).collect()
    }

    fn begin_at(&mut self, room: Alias, next: u64) {
        self.rooms.entry(room).or_default().next = next;
    }
}

impl Place {
    fn take(&mut self, record: Record, news: &mut Vec<Record>) {
        if let Shown::Entry { seq, .. } = record.what {
            if seq < self.next {
                return; // it was here already
            }
            self.next = seq.saturating_add(1);
        }
        news.push(record);
    }

    fn hold(&mut self, seq: u64, record: Record) {
        if seq >= self.next && self.held.len() < HELD_MAX {
            self.held.insert(seq, record);
        }
    }

    /// What was held back and now follows on.
    fn release(&mut self, news: &mut Vec<Record>) {
        while let Some(first) = self.held.first_entry() {
            if *first.key() > self.next {
                return;
            }
            let record = first.remove();
            self.take(record, news);
        }
    }

    fn give_in(&mut self, news: &mut Vec<Record>) {
        for (_, record) in std::mem::take(&mut self.held) {
            self.take(record, news);
        }
    }
}

/// Whether a record is of a room that the hub is not in: a member event whose key is a room.
fn is_elsewhere(record: &Record) -> bool {
    matches!(
        &record.what,
        Shown::Entry { body, .. } if elsewhere(body).is_some()
    )
}

/// The room elsewhere that a record's body is about, and what it says of it.
pub fn elsewhere(body: &Body) -> Option<(&str, &[u8])> {
    match body {
        Body::State {
            event_type: MEMBER,
            state_key,
            content,
            deflated: false,
        } if state_key.starts_with('!') => Some((state_key, content)),
        _ => None,
    }
}

/// Each record with its room, which only the first of a run says.
fn with_rooms(mut records: Vec<Record>) -> Vec<Record> {
    let mut room = None;
    for record in &mut records {
        room = record.room.or(room);
        record.room = room;
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(room: Option<Alias>, seq: u64) -> Record {
        let what = Shown::Entry {
            seq,
            sender: 1,
            age: 0,
            target: None,
            counter: None,
            body: Body::Text(seq.to_string()),
        };
        Record { room, what }
    }

    fn covered(room: Option<Alias>, seq: u64, head: Option<u64>) -> Record {
        let what = Shown::Covered { seq, head };
        Record { room, what }
    }

    fn seqs(found: &Found) -> Vec<(Alias, u64)> {
        let seq = |record: &Record| match record.what {
            Shown::Entry { seq, .. } => Some((record.room?, seq)),
            _ => None,
        };
        found.news.iter().filter_map(seq).collect()
    }

    fn at(room: Alias, through: u64) -> Places {
        Places::new(&BTreeMap::from([(room, through)]), None)
    }

    #[test]
    fn a_push_after_a_lost_one_waits_for_the_gap_to_be_filled() {
        let mut places = at(7, 4);

        let early = places.log_pushed(7, vec![entry(None, 7)]);
        assert_eq!((seqs(&early), early.gaps), (vec![], vec![(7, 5)]));
        let later = places.log_pushed(7, vec![entry(None, 8)]);
        assert_eq!(seqs(&later), []);
        // 6 is invisible; 8 came after the answer was made
        let filled = vec![entry(None, 5), entry(None, 7), covered(None, 7, None)];
        let filled = places.log_answered(7, filled);

        assert_eq!(seqs(&filled), [(7, 5), (7, 7), (7, 8)]);
        assert!(filled.gaps.is_empty());
        assert_eq!(places.next(7), 9);
    }

    #[test]
    fn what_comes_again_is_dealt_with_once() {
        let mut places = at(7, 4);

        let push = || vec![entry(None, 5), entry(None, 7), covered(None, 8, None)];
        assert_eq!(seqs(&places.log_pushed(7, push())), [(7, 5), (7, 7)]);
        assert_eq!(seqs(&places.log_pushed(7, push())), []);
        assert_eq!(places.next(7), 9);
        let again = places.log_answered(7, push());
        assert_eq!((seqs(&again), again.gaps), (vec![], vec![]));
    }

    #[test]
    fn a_long_log_is_asked_for_piece_by_piece_and_a_hub_that_repeats_itself_not_for_ever() {
        let mut places = at(7, 0);

        let piece = vec![entry(None, 1), covered(None, 1, Some(3))];
        let first = places.log_answered(7, piece.clone());
        assert_eq!(first.gaps, [(7, 2)]);
        let same = places.log_answered(7, piece);
        assert_eq!(same.gaps, []);
    }

    #[test]
    fn the_inbox_begins_at_the_heads_and_goes_on_from_the_last_record() {
        let mut places = Places::default();

        let heads = vec![covered(Some(1), 10, None), covered(Some(2), 20, None)];
        assert_eq!(places.inbox_answered(heads), Found::default());
        assert_eq!(places.inbox(), Some((2, 20)));
        let news = vec![entry(Some(1), 12), entry(Some(2), 21), entry(None, 22)];
        let news = places.inbox_answered(news);

        // An answer leaves nothing out: 11 is no message.
        assert_eq!(seqs(&news), [(1, 12), (2, 21), (2, 22)]);
        assert_eq!(places.inbox(), Some((2, 22)));
        assert_eq!(places.through(), BTreeMap::from([(1, 12), (2, 22)]));
    }

    #[test]
    fn a_gap_in_one_room_does_not_hold_up_another() {
        let mut places = Places::new(&BTreeMap::from([(1, 10), (2, 20)]), Some((2, 20)));

        let push = vec![entry(Some(1), 13), entry(Some(2), 21), entry(Some(9), 3)];
        let push = places.inbox_pushed(push);

        assert_eq!(seqs(&push), [(2, 21), (9, 3)]);
        assert_eq!(push.gaps, [(1, 11)]);
        assert_eq!(places.gaps(), [(1, 11)]);
    }

    #[test]
    fn what_does_not_fit_is_announced() {
        let mut places = Places::new(&BTreeMap::from([(1, 10)]), Some((1, 10)));

        let push = vec![entry(Some(1), 11), covered(None, 11, Some(0))];
        assert!(places.inbox_pushed(push).more);
        let only = places.inbox_pushed(vec![covered(Some(1), 14, None)]);
        assert!(only.more && only.gaps.is_empty());
    }
}
