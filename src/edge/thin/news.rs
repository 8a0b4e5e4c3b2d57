//! What is new for an observation, as a notification: within the link's measure and the day's
//! allowance. spec: thin-profile §7, §11

use std::{sync::Arc, time::Duration};

use super::{News, PUSH, Sought, Thin, Watch, Who, answer};
use crate::{
    api::{Beside, Credentials, DeviceName, Origin, Refusal, Thin as Question, ThinReply},
    base::Seq,
    edge::front::{Asked, Told},
    session::{
        budget::Thrift,
        ledger::{Cost, Traffic},
        link::LinkClass,
    },
    wire::{
        coap::Code,
        thin::{Alias, Record, Shown, encode_records},
    },
};

/// What the hub has for a watch.
struct Seen {
    records: Vec<Record>,
    through: Option<(Alias, Seq)>,
    more: bool,
}

/// What of a log is to be told.
struct Page {
    records: Vec<Record>,
    /// Where the observation is after it.
    next: Watch,
    more: bool,
}

impl Thin {
    pub(super) async fn news_for(
        &self,
        who: &Who,
        watch: &Watch,
        sought: Sought,
        bytes_max: usize,
    ) -> News {
        let profile = self.devices.profile(&who.device).await;
        let bytes_max = bytes_max.min(LinkClass::of(profile.class).push_bytes_max);
        let watch = watch.on(profile.class);
        let thrift = self.devices.thrift(self.clock.now(), &who.device, profile);
        let page = if sought.log {
            self.page(who, watch, thrift, bytes_max).await
        } else {
            Ok(Page {
                records: Vec::new(),
                next: watch,
                more: false,
            })
        };
        let Page {
            records,
            next,
            more,
        } = match page {
            Ok(page) => page,
            Err(refusal) => return self.over(who, watch, &refusal),
        };
        let is_confirmed = !records.is_empty();
        let room = bytes_max.saturating_sub(encode_records(&records).len());
        let aside = match sought.beside.filter(|_| thrift == Thrift::Everything) {
            Some(since) => self.moved_beside(who, &watch, since, room).await,
            None => Vec::new(),
        };
        let told = told_together(records, aside);
        if told.is_empty() {
            return News::Nothing { next };
        }
        self.counted(who);
        let response = answer::whole(Code::CONTENT, encode_records(&told));
        if is_confirmed {
            News::Entries {
                response,
                next,
                more: more && thrift < Thrift::AnnounceOnly, // one announcement says it all
            }
        } else {
            News::Aside { response, next }
        }
    }

    /// The next of a log that is to be told, if anything is.
    async fn page(
        &self,
        who: &Who,
        mut watch: Watch,
        thrift: Thrift,
        bytes_max: usize,
    ) -> Result<Page, Refusal> {
        let mut round = 1;
        loop {
            let Seen {
                records,
                through,
                more,
            } = self.seen(who, &watch, bytes_max).await?;
            let next = watch.going_on(through);
            let told = told(&watch, records, through, more, thrift);
            let only_covers = told.iter().all(is_covered) && thrift < Thrift::AnnounceOnly;
            let is_left_out = more && only_covers && !watch.asks_heads();
            if is_left_out && round < ROUNDS_MAX && next != watch {
                watch = next; // look further before saying so
                round += 1;
                continue;
            }
            if let (Watch::Inbox { .. }, Some(through)) = (watch, through) {
                self.devices.told_inbox(&who.device, through);
            }
            return Ok(Page {
                records: told,
                next,
                more,
            });
        }
    }

    /// Receipts and typing; none where there is no place for them, or no time.
    async fn moved_beside(
        &self,
        who: &Who,
        watch: &Watch,
        since: Beside,
        bytes_max: usize,
    ) -> Vec<Record> {
        let question = Question::Beside {
            room: watch.room(),
            since,
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
        };
        match self.look(who, question).await {
            Ok(seen) => seen.records,
            Err(refusal) => {
                tracing::debug!(%refusal, "receipts and typing were not looked for");
                Vec::new()
            }
        }
    }

    /// Whether there is anything in `*` after an entry that others made.
    pub(super) async fn has_news(&self, who: &Who, after: (Alias, Seq)) -> bool {
        let question = Question::Inbox {
            after: Some(after),
            bytes_max: LOOK_BYTES_MAX,
        };
        let is_own = |record: &Record| {
            matches!(
                record.what,
                Shown::Entry {
                    counter: Some(_),
                    ..
                } | Shown::Covered { .. }
            )
        };
        match self.look(who, question).await {
            Ok(seen) => seen.more || !seen.records.iter().all(is_own),
            Err(_) => true, // knocking once too often harms less
        }
    }

    /// Counts a push; its bytes are counted by the door.
    fn counted(&self, who: &Who) {
        let cost = Cost {
            exchanges: 1,
            up: Traffic::NONE,
            down: Traffic::NONE,
        };
        self.books.count(self.clock.now(), &who.device, PUSH, cost);
    }

    /// The last notification: why there will be no more.
    fn over(&self, who: &Who, next: Watch, refusal: &Refusal) -> News {
        self.counted(who);
        News::Entries {
            response: answer::refused(refusal, Code::FETCH),
            next,
            more: false,
        }
    }

    /// Asks until the hub has time.
    async fn seen(&self, who: &Who, watch: &Watch, bytes_max: usize) -> Result<Seen, Refusal> {
        let mut failures = 0;
        loop {
            match self.look(who, watch.question(bytes_max)).await {
                Err(refusal) if passes(&refusal) && failures < FAILURES_MAX => {
                    failures += 1;
                    let pause = refusal.retry_after.unwrap_or(FAILURE_PAUSE);
                    tokio::time::sleep(pause.min(FAILURE_PAUSE_MAX)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn look(&self, who: &Who, question: Question) -> Result<Seen, Refusal> {
        let number = self.front.number();
        let asked = Asked {
            door: who.door,
            endpoint: question.name(),
            number,
            bytes_in: Arc::default(),
            repeats: true,
        };
        let origin = Origin {
            credentials: Credentials::Observing(DeviceName::clone(&who.device)),
            ..Self::origin(who, number)
        };
        let work = async {
            match self.ask(origin, question).await? {
                ThinReply::Records {
                    records,
                    through,
                    more,
                } => Ok(Seen {
                    records,
                    through,
                    more,
                }),
                _ => Err(Refusal::internal()),
            }
        };
        let told = |outcome: Result<Seen, Refusal>| {
            let status = outcome
                .as_ref()
                .map_or_else(|refusal| refusal.status, |_| 200);
            let told = Told {
                status,
                bytes_out: None, // what is pushed is written later, if anything is
            };
            (outcome, told)
        };
        self.front.run(asked, work, told).await
    }
}

/// Whether asking again may help: the hub was busy or failed, the device did nothing wrong.
const fn passes(refusal: &Refusal) -> bool {
    refusal.status == 429 || refusal.status >= 500
}

/// Looks in a row at what is all left out, before the device is told where the log is.
const ROUNDS_MAX: u32 = 8;

/// Bytes of records that are looked at before a device is woken.
const LOOK_BYTES_MAX: u32 = 1024;

/// Failures in a row after which the device is told, and left to register again.
const FAILURES_MAX: u32 = 4;

/// The pause after a failure that names none, and the longest.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);
const FAILURE_PAUSE_MAX: Duration = Duration::from_mins(1);

const fn is_covered(record: &Record) -> bool {
    matches!(record.what, Shown::Covered { .. })
}

/// What of the records is pushed; nothing when there is nothing to tell.
fn told(
    watch: &Watch,
    records: Vec<Record>,
    through: Option<(Alias, Seq)>,
    more: bool,
    thrift: Thrift,
) -> Vec<Record> {
    if watch.asks_heads() {
        return records; // they say where each log is, and that is all there is to tell
    }
    let has_entries = |record: &Record| matches!(record.what, Shown::Entry { .. });
    if thrift == Thrift::AnnounceOnly {
        let announces = more || records.iter().any(has_entries);
        let only = announces.then(|| announcement(watch, &records, through));
        return only.into_iter().collect();
    }
    let mut told = with_rooms(records);
    if !more && told.last().is_some_and(is_covered) {
        told.pop(); // only an answer says that there was nothing behind
    }
    told.retain(|record| thrift.pushes(&record.what));
    without_repeated_rooms(&mut told);
    told
}

/// That the log goes on behind what the device has been told.
fn announcement(watch: &Watch, records: &[Record], through: Option<(Alias, Seq)>) -> Record {
    match *watch {
        Watch::Room { from, .. } => {
            let said = records.iter().find_map(|record| match record.what {
                Shown::Covered { head, .. } => head,
                _ => None,
            });
            let head = said
                .or_else(|| through.map(|(_, seq)| seq.0))
                .unwrap_or(from.0);
            Record {
                room: None,
                what: Shown::Covered {
                    seq: from.0.saturating_sub(1),
                    head: Some(head),
                },
            }
        }
        Watch::Inbox { after, .. } => {
            let (room, seq) = after.unwrap_or_default();
            Record {
                room: Some(room),
                what: Shown::Covered {
                    seq: seq.0,
                    head: Some(0),
                },
            }
        }
    }
}

/// What is in no log goes before the record that says how far the log is told, and after all else.
fn told_together(records: Vec<Record>, aside: Vec<Record>) -> Vec<Record> {
    if aside.is_empty() {
        return records;
    }
    let mut told = with_rooms(records);
    let at = told.len() - usize::from(told.last().is_some_and(is_covered));
    told.splice(at..at, with_rooms(aside));
    without_repeated_rooms(&mut told);
    told
}

/// The records, each with its room: then any may be left out.
fn with_rooms(mut records: Vec<Record>) -> Vec<Record> {
    let mut room = None;
    for record in &mut records {
        room = record.room.or(room);
        record.room = room;
    }
    records
}

/// Rooms only where they differ from the record before.
fn without_repeated_rooms(records: &mut [Record]) {
    let mut last = None;
    for record in records {
        let room = record.room;
        if room == last {
            record.room = None;
        }
        last = room;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::thin::Body;

    fn entry(room: Option<Alias>, seq: u64, body: Body) -> Record {
        Record {
            room,
            what: Shown::Entry {
                seq,
                sender: 1,
                age: 0,
                target: None,
                counter: None,
                body,
            },
        }
    }

    fn text(room: Option<Alias>, seq: u64) -> Record {
        entry(room, seq, Body::Text("x".to_owned()))
    }

    fn like(room: Option<Alias>, seq: u64) -> Record {
        entry(room, seq, Body::Reaction("+".to_owned()))
    }

    fn covered(room: Option<Alias>, seq: u64, head: Option<u64>) -> Record {
        let what = Shown::Covered { seq, head };
        Record { room, what }
    }

    const INBOX: Watch = Watch::Inbox {
        after: Some((4, Seq(7))),
        bytes_max: 1024,
        class: 0,
    };
    const ROOM: Watch = Watch::Room {
        room: 4,
        from: Seq(8),
        bytes_max: 1024,
        class: 0,
    };

    #[test]
    fn the_closing_record_is_left_out_unless_there_is_more() {
        let through = Some((4, Seq(8)));
        let last = [text(None, 8), covered(None, 8, None)].to_vec();
        let cut = [text(None, 8), covered(None, 8, Some(12))].to_vec();

        assert_eq!(
            told(&ROOM, last, through, false, Thrift::Everything),
            [text(None, 8)]
        );
        assert_eq!(
            told(&ROOM, cut.clone(), through, true, Thrift::Everything),
            cut
        );
        let nothing = vec![covered(None, 7, None)];
        assert_eq!(told(&ROOM, nothing, None, false, Thrift::Everything), []);
    }

    #[test]
    fn a_room_is_named_anew_when_the_record_that_named_it_is_left_out() {
        let records = vec![
            text(Some(1), 5),
            like(Some(2), 9),
            text(None, 10),
            like(Some(1), 6),
            text(None, 7),
        ];
        let through = Some((1, Seq(7)));

        let thrifty = told(&INBOX, records.clone(), through, false, Thrift::NoReactions);
        assert_eq!(
            thrifty,
            [text(Some(1), 5), text(Some(2), 10), text(Some(1), 7)]
        );
        assert_eq!(
            told(&INBOX, records.clone(), through, false, Thrift::Everything),
            records
        );
    }

    #[test]
    fn what_moved_beside_the_log_comes_after_its_entries_and_before_what_closes_them() {
        let typing = |room| Record {
            room,
            what: Shown::Typing(vec![3]),
        };
        let read = |room| Record {
            room,
            what: Shown::Receipt { seq: 4, user: 3 },
        };
        let records = vec![text(Some(1), 5), covered(None, 5, Some(0))];

        let told = told_together(records.clone(), vec![read(Some(1)), typing(None)]);
        let together = [
            text(Some(1), 5),
            read(None),
            typing(None),
            covered(None, 5, Some(0)),
        ];
        assert_eq!(told, together);
        let told = told_together(records, vec![typing(Some(2))]);
        let apart = [
            text(Some(1), 5),
            typing(Some(2)),
            covered(Some(1), 5, Some(0)),
        ];
        assert_eq!(told, apart);
        let alone = vec![typing(Some(2))];
        assert_eq!(told_together(Vec::new(), alone.clone()), alone);
    }

    #[test]
    fn beyond_the_allowance_only_the_head_is_announced() {
        let through = Some((4, Seq(9)));
        let records = vec![text(None, 9), covered(None, 9, None)];
        let announce = |watch, records| told(watch, records, through, false, Thrift::AnnounceOnly);

        assert_eq!(
            announce(&ROOM, records.clone()),
            [covered(None, 7, Some(9))]
        );
        assert_eq!(announce(&INBOX, records), [covered(Some(4), 7, Some(0))]);
        assert_eq!(announce(&ROOM, vec![covered(None, 7, None)]), []);
    }
}
