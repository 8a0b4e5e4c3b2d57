//! What the clients know, and what follows from it: every answer is compared with the store at the
//! moment it is given, and everything once more at the end.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt as _;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde_json::Value;
use tramline::{
    api::{Command, Refusal},
    base::{Position, Seq},
    store::{Logged, Order, Rooms as _, TxnKey, hash_of, memory::Memory},
    wire::matrix::event_id,
};

use crate::world::Person;

/// What a store in memory answers, which never waits.
pub(crate) fn now<T>(future: impl Future<Output = Result<T, tramline::store::StoreError>>) -> T {
    future
        .now_or_never()
        .expect("memory does not wait")
        .expect("memory does not fail")
}

/// One thing a client wants done; with a transaction id it may be asked for again.
pub(crate) struct Deed {
    pub(crate) who: usize,
    pub(crate) command: Command,
    pub(crate) what: What,
    /// The first time it was asked for.
    pub(crate) first: Option<u64>,
    pub(crate) in_flight: u32,
    /// An attempt ended without anyone knowing how.
    pub(crate) unsure: bool,
    pub(crate) done: bool,
    pub(crate) answer: Option<OwnedEventId>,
}

/// What a deed is, as far as the checks care.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Makes one event under a transaction id.
    Event {
        key: TxnKey,
        redacts: Option<OwnedEventId>,
    },
    /// Fills mailboxes under a transaction id.
    Mail {
        key: TxnKey,
        mark: String,
        to: Vec<usize>,
    },
    /// Makes at most one event with this mark in it.
    Marked {
        mark: String,
    },
    Create,
    Sync {
        adopt: bool,
    },
    Claim,
    Keys,
    AccountData {
        n: u64,
    },
    Page {
        room: OwnedRoomId,
    },
    Other,
}

impl What {
    pub(crate) fn key(&self) -> Option<&TxnKey> {
        match self {
            Self::Event { key, .. } | Self::Mail { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether the desk takes turns for it. Which turns are shared is up to chance in the hub, so
    /// a simulation that is to repeat has one such deed on its way at a time.
    pub(crate) fn takes_turns(&self) -> bool {
        matches!(
            self,
            Self::Mail { .. } | Self::AccountData { .. } | Self::Keys
        )
    }
}

/// A device as its owner sees it.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) since: Option<String>,
    pub(crate) position: Position,
    pub(crate) syncing: bool,
    /// Marks of mail in an answer that the device took.
    pub(crate) mail: BTreeSet<String>,
}

/// An event in a log.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) seq: Seq,
    pub(crate) position: Position,
    pub(crate) id: OwnedEventId,
    pub(crate) member: Option<(String, String)>,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) tick: u64,
    pub(crate) deeds: Vec<Deed>,
    pub(crate) devices: Vec<Device>,
    pub(crate) rooms: Vec<OwnedRoomId>,
    pub(crate) acked: Vec<(OwnedRoomId, Seq, OwnedEventId)>,
    /// The commit of the newest acknowledged event.
    pub(crate) acked_position: Position,
    /// For each room: when something was acknowledged, and the highest seq up to then.
    order: BTreeMap<OwnedRoomId, Vec<(u64, Seq)>>,
    pub(crate) claimed: BTreeSet<(OwnedUserId, String, String)>,
    pub(crate) uploaded: BTreeSet<String>,
    pub(crate) account_data: BTreeMap<OwnedUserId, u64>,
    logs: BTreeMap<OwnedRoomId, Vec<Line>>,
    pub(crate) wrong: Vec<String>,
    pub(crate) acks: u64,
    pub(crate) asked: u64,
    pub(crate) turn_taken_by: Option<usize>,
}

impl Model {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            devices: (0..devices).map(|_| Device::default()).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, who: usize, command: Command, what: What) -> usize {
        self.deeds.push(Deed {
            who,
            command,
            what,
            first: None,
            in_flight: 0,
            unsure: false,
            done: false,
            answer: None,
        });
        self.deeds.len() - 1
    }

    pub(crate) fn say(&mut self, deed: usize, what: &str) {
        let name = self.deeds[deed].command.name();
        self.wrong.push(format!("deed {deed} ({name}): {what}"));
    }

    /// A deed is asked for (again). Gives the tick of this attempt.
    pub(crate) fn issue(&mut self, deed: usize) -> u64 {
        self.tick += 1;
        self.asked += 1;
        let tick = self.tick;
        let deed = &mut self.deeds[deed];
        deed.first.get_or_insert(tick);
        deed.in_flight += 1;
        tick
    }

    /// The client went away before the answer came.
    pub(crate) fn gone(&mut self, deed: usize) {
        self.ended(deed);
        self.deeds[deed].unsure = true;
    }

    pub(crate) fn ended(&mut self, index: usize) {
        let deed = &mut self.deeds[index];
        deed.in_flight -= 1;
        let (who, left) = (deed.who, deed.in_flight);
        if matches!(deed.what, What::Sync { .. }) {
            self.devices[who].syncing = false;
        }
        if left == 0 && self.turn_taken_by == Some(index) {
            self.turn_taken_by = None;
        }
    }

    /// Brings what is known of a room's log up to date.
    pub(crate) fn log(&mut self, store: &Memory, room: &RoomId) -> &[Line] {
        let lines = self.logs.entry(room.to_owned()).or_default();
        if let Some(record) = now(store.room(room)) {
            let from = lines.last().map_or(Seq::ZERO, |line| line.seq);
            let to = record.heads.seq;
            for entry in now(store.log(record.nid, from, to, Order::Forward, u32::MAX)) {
                let Logged::Event(event) = entry.what else {
                    continue;
                };
                lines.push(Line {
                    seq: entry.seq,
                    position: entry.position,
                    id: event_id(event.hash),
                    member: member(&event.json),
                });
            }
        }
        lines
    }

    /// An event was acknowledged: it is stored now, at a place that fits what was acknowledged
    /// before it was asked for.
    pub(crate) fn acknowledged(&mut self, store: &Memory, index: usize, id: &OwnedEventId) {
        self.tick += 1;
        self.acks += 1;
        let first = self.deeds[index].first.unwrap_or(0);
        match self.deeds[index].answer.replace(id.clone()) {
            Some(before) if before != *id => {
                return self.say(index, &format!("answered {before}, then {id}"));
            }
            _ => {}
        }
        self.deeds[index].done = true;
        let record = hash_of(id).and_then(|hash| now(store.event(hash)));
        let Some((record, seq)) = record.and_then(|record| record.seq.map(|seq| (record, seq)))
        else {
            return self.say(index, &format!("{id} was acknowledged and is not stored"));
        };
        let room = now(store.room_by_nid(record.room)).expect("an event has a room");
        let line = self.log(store, &room.id).get(index_of(seq)).cloned();
        let Some(line) = line.filter(|line| line.id == *id && line.seq == seq) else {
            return self.say(index, &format!("{id} is not in its log at {seq}"));
        };
        self.acked_position = self.acked_position.max(line.position);
        let order = self.order.entry(room.id.clone()).or_default();
        let before = order.partition_point(|(tick, _)| *tick < first);
        let highest = before.checked_sub(1).map_or(Seq::ZERO, |at| order[at].1);
        let top = order.last().map_or(seq, |(_, top)| seq.max(*top));
        order.push((self.tick, top));
        self.acked.push((room.id, seq, id.clone()));
        if highest >= seq {
            self.say(
                index,
                &format!("{id} got {seq}, but {highest} was acknowledged before it was asked for"),
            );
        }
    }

    /// A deed was refused: unless another attempt may have been stored, nothing of it is.
    pub(crate) fn refused(&mut self, store: &Memory, index: usize, refusal: &Refusal) {
        let deed = &mut self.deeds[index];
        if refusal.status == 500 {
            deed.unsure = true;
            return;
        }
        let is_busy = refusal.status == 503;
        if deed.done {
            if !is_busy {
                self.say(index, &format!("done, and then refused: {refusal}"));
            }
            return;
        }
        if deed.unsure || deed.in_flight > 0 {
            return;
        }
        let stored = deed.what.key().and_then(|key| now(store.txn(key)));
        if let Some(answer) = stored {
            self.say(
                index,
                &format!("refused ({refusal}), but stored: {answer:?}"),
            );
        }
    }

    /// Everything once more, over the store as the last hub left it.
    pub(crate) fn last_look(&mut self, store: &Memory, people: &[Person]) {
        let mut made: BTreeMap<(String, String, String), Vec<OwnedEventId>> = BTreeMap::new();
        let mut marks: BTreeMap<String, u32> = BTreeMap::new();
        for room in now(store.rooms(tramline::store::RoomNid(0), u32::MAX)) {
            let to = room.heads.seq;
            for entry in now(store.log(room.nid, Seq::ZERO, to, Order::Forward, u32::MAX)) {
                let Logged::Event(event) = entry.what else {
                    continue;
                };
                let json: Value = serde_json::from_str(&event.json).unwrap();
                let content = &json["content"];
                for mark in [&content["mark"], &content["reason"]] {
                    if let Some(mark) = mark.as_str() {
                        *marks.entry(mark.to_owned()).or_default() += 1;
                    }
                }
                if let Some(by) = &event.sent_by {
                    let sender = json["sender"].as_str().unwrap().to_owned();
                    let key = (sender, by.device.to_string(), by.txn.clone());
                    made.entry(key).or_default().push(event_id(event.hash));
                }
            }
        }
        for (room, seq, id) in std::mem::take(&mut self.acked) {
            let line = self.log(store, &room).get(index_of(seq)).cloned();
            if line.is_none_or(|line| line.id != id) {
                self.wrong
                    .push(format!("{id} is no longer at {seq} of {room}"));
            }
        }
        for (mark, count) in &marks {
            if *count > 1 {
                self.wrong.push(format!("{mark} is there {count} times"));
            }
        }
        for index in 0..self.deeds.len() {
            let deed = &self.deeds[index];
            let wrong = match &deed.what {
                What::Event { key, redacts } => {
                    let txn = (
                        key.user.to_string(),
                        key.device.to_string(),
                        key.txn.clone(),
                    );
                    let events = made.get(&txn).cloned().unwrap_or_default();
                    let right = match &deed.answer {
                        Some(answer) => events == [answer.clone()],
                        None => events.len() <= usize::from(deed.unsure),
                    };
                    let undone = deed.done
                        && redacts
                            .as_ref()
                            .and_then(|id| hash_of(id))
                            .is_some_and(|hash| {
                                now(store.event(hash))
                                    .is_none_or(|it| it.redacted_because.is_none())
                            });
                    (!right || undone)
                        .then(|| format!("answered {:?}, made {events:?}", deed.answer))
                }
                What::Mail { mark, to, .. } => to
                    .iter()
                    .find(|to| deed.done && !self.devices[**to].mail.contains(mark))
                    .map(|to| format!("never reached {}", people[*to].device)),
                What::Marked { mark } => {
                    let count = marks.get(mark).copied().unwrap_or(0);
                    let refused = !deed.done && !deed.unsure;
                    (refused && count > 0).then(|| "refused, but its event is there".to_owned())
                }
                _ => None,
            };
            if let Some(wrong) = wrong {
                self.say(index, &wrong);
            }
        }
    }
}

/// Entry `seq` of a log without markers.
fn index_of(seq: Seq) -> usize {
    usize::try_from(seq.0).unwrap().saturating_sub(1)
}

/// Whose membership an event makes what.
fn member(json: &str) -> Option<(String, String)> {
    if !json.contains("m.room.member") {
        return None;
    }
    let json: Value = serde_json::from_str(json).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    (json["type"] == "m.room.member").then(|| {
        Some((
            text(&json["state_key"])?,
            text(&json["content"]["membership"])?,
        ))
    })?
}
