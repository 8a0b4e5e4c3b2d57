//! How often a neighbourhood of addresses may make us work before it has proved anything.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::base::Timestamp;

/// The addresses that count as one source: a /24 of IPv4, a /48 of IPv6. What is behind one NAT
/// or one customer's line lies in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::session) struct Prefix(u8, u64);

impl Prefix {
    pub(in crate::session) fn of(address: &SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self(4, u64::from(ip.to_bits() >> 8)),
            IpAddr::V6(ip) => {
                let [first, second, third, ..] = ip.segments().map(u64::from);
                Self(6, first << 32 | second << 16 | third)
            }
        }
    }
}

/// A bucket per prefix: `burst` at once, then one per `interval`.
#[derive(Debug)]
pub(in crate::session) struct Rates {
    interval: Duration,
    burst: u32,
    /// Until when the prefix has used up what it was given; in the past for a full bucket.
    used_until: BTreeMap<Prefix, Timestamp>,
}

impl Rates {
    pub(in crate::session) const fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            burst,
            used_until: BTreeMap::new(),
        }
    }

    /// Takes one out of the bucket, if there is one.
    pub(in crate::session) fn allow(&mut self, now: Timestamp, prefix: Prefix) -> bool {
        if !self.used_until.contains_key(&prefix) && self.used_until.len() >= PREFIXES_MAX {
            self.used_until.retain(|_, until| *until > now);
            if self.used_until.len() >= PREFIXES_MAX {
                return false;
            }
        }
        let until = self.used_until.entry(prefix).or_insert(now);
        let next = (*until).max(now) + self.interval;
        if next.since(now) > self.interval * self.burst {
            return false;
        }
        *until = next;
        true
    }
}

/// How many prefixes are watched at a time, 40 bytes each. Beyond it nobody new is served until
/// some bucket is full again, which takes seconds.
const PREFIXES_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::of(&text.parse().unwrap())
    }

    #[test]
    fn neighbours_share_a_prefix() {
        assert_eq!(prefix("192.0.2.1:1"), prefix("192.0.2.200:2"));
        assert_eq!(prefix("192.0.2.1:1"), prefix("[::ffff:192.0.2.7]:2"));
        assert_ne!(prefix("192.0.2.1:1"), prefix("192.0.3.1:1"));
        assert_eq!(prefix("[2001:db8:1:2::3]:1"), prefix("[2001:db8:1:9::4]:2"));
        assert_ne!(prefix("[2001:db8:1::]:1"), prefix("[2001:db8:2::]:1"));
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_per_interval() {
        let mut rates = Rates::new(Duration::from_millis(100), 3);
        let (now, here) = (Timestamp(1_000_000), prefix("192.0.2.1:1"));
        let mut allowed = |now| rates.allow(now, here);

        assert_eq!([0; 4].map(|_| allowed(now)), [true, true, true, false]);
        let later = now + Duration::from_millis(100);
        assert_eq!([0; 2].map(|_| allowed(later)), [true, false]);
        assert!(rates.allow(now, prefix("198.51.100.1:1")));
    }

    #[test]
    fn a_full_table_serves_nobody_new_until_somebody_is_forgotten() {
        let mut rates = Rates::new(Duration::from_millis(100), 3);
        let now = Timestamp(1_000_000);
        for number in 0..u64::try_from(PREFIXES_MAX).unwrap() {
            assert!(rates.allow(now, Prefix(4, number)));
        }

        assert!(!rates.allow(now, Prefix(6, 1)));
        assert!(rates.allow(now + Duration::from_millis(101), Prefix(6, 1)));
    }
}
