//! Gaps of rooms' graphs that stay open: events that others build on are missing here, and what was told
//! of them is not believed, or nothing was told. What follows them is not taken meanwhile, so whoever
//! operates this hub is to know it, and why.
//!
//! How a gap is closed is `transaction`'s and `past`'s. What is here is in memory, since the hub's start;
//! whether one is still open is looked up when somebody asks.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};

use super::past;
use crate::{
    api::{RequestId, Unverified, passes_when},
    base::Timestamp,
    hub::Hub,
    store::StoreError,
    wire::matrix::Pdu,
};

/// What was wrong with what another server told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct Fault {
    /// The stable reason.
    pub(in crate::hub::desk) code: &'static str,
    /// The same in words.
    pub(in crate::hub::desk) said: String,
}

impl Fault {
    pub(super) const fn new(code: &'static str, said: String) -> Self {
        Self { code, said }
    }
}

/// The same of many events: the first, and how many there are.
#[derive(Debug, Default)]
pub(in crate::hub::desk) struct Faults {
    first: Option<Fault>,
    count: usize,
}

impl Faults {
    pub(super) fn note(&mut self, code: &'static str, said: String) {
        self.count += 1;
        self.first.get_or_insert(Fault { code, said });
    }

    /// Notes why an event is not to be believed.
    pub(super) fn note_of(&mut self, event: Option<&Pdu>, error: &Unverified) {
        self.note(error.code(), of_event(event, error.to_string()));
    }

    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
    }

    /// What was wrong with one event, of which this is all that was told.
    pub(super) fn first_or_other(self) -> Fault {
        let other = || Fault::new("PEER_ANSWER", "what was told for it is not".to_owned());
        self.first.unwrap_or_else(other)
    }

    /// Why a gap stays open although `server` was asked: what was wrong with the events that it told
    /// says more than what was then not to be had.
    pub(super) fn cause(self, server: &ServerName, closing: Option<Fault>) -> Fault {
        match (self.first, closing) {
            (Some(Fault { code, said }), _) => {
                let events = match self.count {
                    1 => "an event that is not taken".to_owned(),
                    count => format!("{count} events that are not taken; the first"),
                };
                Fault::new(code, format!("{server} told {events}: {said}"))
            }
            (None, Some(closing)) => closing,
            (None, None) => {
                let said = format!("{server} was asked for them, and did not tell them");
                Fault::new("GAP_NOT_TOLD", said)
            }
        }
    }
}

/// What is said of an event, with its id, if it has one.
pub(super) fn of_event(event: Option<&Pdu>, said: String) -> String {
    match event {
        Some(event) => format!("{}: {said}", event.id()),
        None => said,
    }
}

/// A gap that stayed open.
#[derive(Clone, Debug)]
pub struct Gap {
    /// The server that sent what follows the gap, and was asked for what is missing.
    pub server: OwnedServerName,
    /// How many events were named and are missing.
    pub missing: usize,
    /// The stable reason.
    pub code: &'static str,
    /// The same in words.
    pub cause: String,
    /// When it was first found.
    pub since: Timestamp,
    /// When it was last found.
    pub last: Timestamp,
    /// The request that brought it last, if it was another server's.
    pub request: Option<RequestId>,
    /// Some of what is missing.
    ends: Vec<OwnedEventId>,
    warned: Timestamp,
}

/// Those of this hub, the last one of each room.
#[derive(Default)]
pub(in crate::hub::desk) struct Gaps(Mutex<HashMap<OwnedRoomId, Gap>>);

impl Gaps {
    /// A gap stays open. Whether it is to be warned of: not again within the hour.
    fn note(&self, room: &RoomId, found: Gap) -> bool {
        let mut gaps = self.gaps();
        let now = found.last;
        if let Some(known) = gaps.get_mut(room) {
            let is_due = now.since(known.warned) >= WARN_EVERY;
            let warned = if is_due { now } else { known.warned };
            let since = known.since;
            *known = Gap {
                since,
                warned,
                ..found
            };
            return is_due;
        }
        if gaps.len() >= GAPS_MAX {
            let oldest = gaps.iter().min_by_key(|(_, gap)| gap.last);
            if let Some(oldest) = oldest.map(|(room, _)| room.clone()) {
                gaps.remove(&oldest);
            }
        }
        gaps.insert(room.to_owned(), found);
        true
    }

    fn gaps(&self) -> MutexGuard<'_, HashMap<OwnedRoomId, Gap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events of a room were named that are missing, and were not to be had of `server`: tells the log, not
/// too often, and remembers it.
pub(super) fn stays_open(
    hub: &Hub,
    (room, server): (&RoomId, &OwnedServerName),
    ends: &past::OpenEnds,
    request: Option<RequestId>,
    fault: &Fault,
) {
    let now = hub.now();
    // What an event leans on and is not told is found with the event itself.
    let missing = ends.prev.iter().chain(&ends.leaning);
    let gap = Gap {
        server: server.clone(),
        missing: missing.clone().count(),
        code: fault.code,
        cause: fault.said.clone(),
        since: now,
        last: now,
        request,
        ends: missing.take(ENDS_KEPT_MAX).cloned().collect(),
        warned: now,
    };
    let missing = gap.missing;
    let (reason, cause) = (fault.code, &fault.said);
    if !hub.desk.gaps.note(room, gap) {
        tracing::debug!(%room, peer = %server, missing, reason, cause, "a gap stays open");
        return;
    }
    let passes = passes_when(reason);
    tracing::warn!(
        code = "GAP_OPEN", %room, peer = %server, missing, reason, cause,
        "events of this room are missing here, which the other server builds on, and what it says after \
         them is not taken; this ends when: {passes} (`tramline doctor --peer {server}`)"
    );
}

impl Hub {
    /// The gaps of rooms' graphs that are known to be open, those found last first.
    pub async fn open_gaps(&self) -> Result<Vec<(OwnedRoomId, Gap)>, StoreError> {
        let now = self.now();
        let known: Vec<_> = {
            let mut gaps = self.desk.gaps.gaps();
            gaps.retain(|_, gap| now.since(gap.last) < KEPT_FOR);
            let gaps = gaps.iter();
            gaps.map(|(room, gap)| (room.clone(), gap.clone()))
                .collect()
        };
        let mut open = Vec::new();
        for (room, gap) in known {
            let mut is_open = false;
            for id in &gap.ends {
                if !past::is_known(self, id).await? {
                    is_open = true;
                    break;
                }
            }
            if is_open {
                open.push((room, gap));
                continue;
            }
            let mut gaps = self.desk.gaps.gaps();
            // unless another one was found meanwhile
            if gaps.get(&room).is_some_and(|now| now.last == gap.last) {
                gaps.remove(&room);
            }
        }
        open.sort_by(|(one, first), (other, second)| {
            let latest = second.last.cmp(&first.last);
            latest.then_with(|| one.cmp(other))
        });
        Ok(open)
    }
}

/// Rooms of which a gap is remembered: at two kilobytes each, a few megabytes.
const GAPS_MAX: usize = 1024;

/// Events of a gap that are looked up to see whether it is still open.
const ENDS_KEPT_MAX: usize = 20;

/// How often a room's open gap is warned of at most.
const WARN_EVERY: Duration = Duration::from_hours(1);

/// How long a gap is told of that nothing ran into any more: the room may have gone on without it.
const KEPT_FOR: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(at: Timestamp) -> Gap {
        Gap {
            server: ruma::owned_server_name!("far"),
            missing: 1,
            code: "EVENT_SIGNATURE",
            cause: "it is forged".to_owned(),
            since: at,
            last: at,
            request: None,
            ends: Vec::new(),
            warned: at,
        }
    }

    #[test]
    fn a_rooms_gap_is_warned_of_once_an_hour_however_often_it_is_run_into() {
        let gaps = Gaps::default();
        let (one, other) = (ruma::room_id!("!a:far"), ruma::room_id!("!b:far"));
        let start = Timestamp(1_000_000);
        assert!(gaps.note(one, gap(start)));
        assert!(gaps.note(other, gap(start)));
        for minute in 1..60 {
            let now = start + Duration::from_mins(minute);
            assert!(!gaps.note(one, gap(now)), "minute {minute}");
        }
        assert!(gaps.note(one, gap(start + Duration::from_hours(1))));
        assert!(!gaps.note(one, gap(start + Duration::from_mins(61))));
        assert_eq!(gaps.gaps()[one].since, start);
    }

    #[test]
    fn the_table_of_gaps_has_a_ceiling_and_the_oldest_goes() {
        let gaps = Gaps::default();
        for number in 0..=GAPS_MAX {
            let room = OwnedRoomId::try_from(format!("!{number}:far")).unwrap();
            gaps.note(&room, gap(Timestamp(number as u64)));
        }
        assert_eq!(gaps.gaps().len(), GAPS_MAX);
        assert!(!gaps.gaps().contains_key(ruma::room_id!("!0:far")));
    }

    #[test]
    fn what_was_wrong_with_a_told_event_is_the_cause_before_what_was_not_to_be_had() {
        let far = ruma::server_name!("far");
        let mut faults = Faults::default();
        faults.note("EVENT_SIGNATURE", "$a: forged".to_owned());
        faults.note("EVENT_FORM", "$b: large".to_owned());
        let closing = Fault::new("PEER_HAS_NOT", "404".to_owned());

        let cause = faults.cause(far, Some(closing.clone()));

        assert_eq!(cause.code, "EVENT_SIGNATURE");
        assert!(
            cause.said.contains("far told 2 events") && cause.said.contains("$a: forged"),
            "{cause:?}"
        );
        assert_eq!(
            Faults::default().cause(far, Some(closing)).code,
            "PEER_HAS_NOT"
        );
        assert_eq!(Faults::default().cause(far, None).code, "GAP_NOT_TOLD");
    }
}
