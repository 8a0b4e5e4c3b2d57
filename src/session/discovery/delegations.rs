//! What well-known files said: remembered, so that a server is not asked before every request.

use std::{collections::BTreeMap, time::Duration};

use crate::{base::Timestamp, wire::matrix::Place};

/// What came of asking for a well-known file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It delegates, and may be believed for so long.
    Delegated(Place, Duration),
    /// The host says that there is none, or what it has is not valid.
    Absent,
    /// The host did not answer.
    Unreached,
}

/// The delegations of hosts.
#[derive(Debug, Default)]
pub struct Delegations {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    to: Option<Place>,
    /// When the delegation was last heard from the host itself.
    heard: Timestamp,
    /// Until when it is not asked for again.
    until: Timestamp,
    /// How often in a row it could not be asked for.
    failures: u32,
}

impl Delegations {
    /// What is known of a host's delegation; nothing when it is to be asked for.
    pub fn of(&self, host: &str, now: Timestamp) -> Option<Option<&Place>> {
        let known = self.known.get(host)?;
        (now < known.until).then_some(known.to.as_ref())
    }

    /// Takes what came of asking, and gives what holds until it is asked for again.
    ///
    /// A host that is out of reach may have a delegation that still holds: that goes on, but not
    /// past the longest time that one may be believed.
    // spec: server-server §Resolving-server-names
    pub fn learn(&mut self, host: &str, outcome: Outcome, now: Timestamp) -> Option<&Place> {
        let before = self.known.remove(host);
        let known = match outcome {
            Outcome::Delegated(to, lifetime) => Known {
                to: Some(to),
                heard: now,
                until: now + lifetime,
                failures: 0,
            },
            Outcome::Absent => Known {
                to: None,
                heard: now,
                until: now + ERROR_LIFETIME_MAX,
                failures: 0,
            },
            Outcome::Unreached => {
                let (to, heard, failures) = before.map_or((None, now, 0), |known| {
                    (known.to, known.heard, known.failures)
                });
                let pause = ERROR_LIFETIME_MIN * (1 << failures.min(FAILURES_MAX));
                Known {
                    to: to.filter(|_| now.since(heard) < BELIEVED_MAX),
                    heard,
                    until: now + pause.min(ERROR_LIFETIME_MAX),
                    failures: failures.saturating_add(1),
                }
            }
        };
        self.make_room(now);
        self.known
            .entry(host.to_owned())
            .or_insert(known)
            .to
            .as_ref()
    }

    /// Forgets what holds no longer, or else what holds for the shortest time.
    fn make_room(&mut self, now: Timestamp) {
        if self.known.len() < HOSTS_MAX {
            return;
        }
        self.known.retain(|_, known| now < known.until);
        if self.known.len() < HOSTS_MAX {
            return;
        }
        let first = self.known.iter().min_by_key(|(_, known)| known.until);
        if let Some(host) = first.map(|(host, _)| host.clone()) {
            self.known.remove(&host);
        }
    }
}

/// Hosts remembered, at some 200 bytes each.
const HOSTS_MAX: usize = 10_000;

/// How long the first failure holds; each further one twice as long.
const ERROR_LIFETIME_MIN: Duration = Duration::from_mins(1);

/// How long any failure holds at most, as the specification recommends.
const ERROR_LIFETIME_MAX: Duration = Duration::from_hours(1);

/// How long a delegation is believed whose host is out of reach.
const BELIEVED_MAX: Duration = Duration::from_hours(48);

/// Doublings until the longest pause: 64 minutes are more than an hour.
const FAILURES_MAX: u32 = 6;
