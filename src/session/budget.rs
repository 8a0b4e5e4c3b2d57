//! The daily allowance of a device: what has been used of it, and what is left out of pushes.
//!
//! Answers to requests are always given; who asks has chosen to pay. spec: thin-profile §11

use crate::{
    base::Timestamp,
    wire::thin::{Alias, Body, LinkProfile, Shown},
};

/// What a device has used on one UTC day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Daily {
    day: u64,
    bytes: u64,
}

/// How much of what is new is pushed, most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thrift {
    /// All of it.
    #[default]
    Everything,
    /// Not receipts and typing: from half of the allowance on.
    NoReceipts,
    /// Nor memberships and profiles: from three quarters on.
    NoMembers,
    /// Nor reactions: from nine tenths on.
    NoReactions,
    /// Only that there is something: beyond the allowance.
    AnnounceOnly,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// `m.reaction` and `m.room.member` among the fixed event types.
const REACTION: Alias = 2;
const MEMBER: Alias = 4;

impl Daily {
    /// Counts bytes, with their headers.
    pub const fn add(&mut self, now: Timestamp, bytes: u64) {
        let day = now.0 / DAY_MS;
        if day != self.day {
            *self = Self { day, bytes: 0 };
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// What was used on the day of `now`.
    pub const fn used(&self, now: Timestamp) -> u64 {
        if now.0 / DAY_MS == self.day {
            self.bytes
        } else {
            0
        }
    }

    /// How thrifty pushes are to be now.
    pub const fn thrift(&self, now: Timestamp, profile: LinkProfile) -> Thrift {
        let allowed = profile.daily_kilobytes.saturating_mul(1000);
        if allowed == 0 {
            return Thrift::Everything;
        }
        let used = self.used(now);
        if used >= allowed {
            Thrift::AnnounceOnly
        } else if used >= allowed - allowed / 10 {
            Thrift::NoReactions
        } else if used >= allowed - allowed / 4 {
            Thrift::NoMembers
        } else if used >= allowed - allowed / 2 {
            Thrift::NoReceipts
        } else {
            Thrift::Everything
        }
    }
}

impl Thrift {
    /// Whether this is still pushed.
    pub fn pushes(self, what: &Shown) -> bool {
        let left_out_from = match what {
            Shown::Covered { .. } => return true,
            Shown::Receipt { .. } | Shown::Typing(_) => Self::NoReceipts,
            Shown::Entry { body, .. } => match body {
                Body::Member { .. }
                | Body::State {
                    event_type: MEMBER, ..
                } => Self::NoMembers,
                Body::Reaction(_)
                | Body::Event {
                    event_type: REACTION,
                    ..
                } => Self::NoReactions,
                _ => Self::AnnounceOnly,
            },
        };
        self < left_out_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::thin::Membership;

    fn entry(body: Body) -> Shown {
        Shown::Entry {
            seq: 1,
            sender: 1,
            age: 0,
            target: None,
            counter: None,
            body,
        }
    }

    #[test]
    fn things_are_left_out_in_the_stated_order_and_messages_last() {
        let receipt = Shown::Receipt { seq: 1, user: 1 };
        let member = entry(Body::Member {
            user: 1,
            membership: Membership::Join,
            display_name: String::new(),
        });
        let reaction = entry(Body::Reaction("+".to_owned()));
        let message = entry(Body::Text("hi".to_owned()));
        let covered = Shown::Covered { seq: 1, head: None };
        let profile = LinkProfile {
            class: 0,
            daily_kilobytes: 1,
        };
        let now = Timestamp(5 * DAY_MS + 7);
        for (used, pushed) in [
            (499, [true; 6]),
            (500, [false, false, true, true, true, true]),
            (749, [false, false, true, true, true, true]),
            (750, [false, false, false, true, true, true]),
            (900, [false, false, false, false, true, true]),
            (999, [false, false, false, false, true, true]),
            (1000, [false, false, false, false, false, true]),
        ] {
            let mut daily = Daily::default();
            daily.add(now, used);
            let thrift = daily.thrift(now, profile);
            let typing = Shown::Typing(vec![1]);
            let all = [&receipt, &typing, &member, &reaction, &message, &covered];
            assert_eq!(all.map(|what| thrift.pushes(what)), pushed, "{used}");
        }
    }

    #[test]
    fn a_day_ends_at_midnight_and_no_limit_is_no_limit() {
        let mut daily = Daily::default();
        let (evening, morning) = (Timestamp(DAY_MS - 1), Timestamp(DAY_MS));
        let profile = LinkProfile {
            class: 0,
            daily_kilobytes: 2,
        };
        daily.add(evening, 5000);

        assert_eq!(daily.thrift(evening, profile), Thrift::AnnounceOnly);
        assert_eq!(daily.thrift(morning, profile), Thrift::Everything);
        assert_eq!(
            daily.thrift(evening, LinkProfile::default()),
            Thrift::Everything
        );
        daily.add(morning, 1000);
        assert_eq!(daily.used(morning), 1000);
        assert_eq!(daily.thrift(morning, profile), Thrift::NoReceipts);
    }
}
