//! Named budgets per address and account.
//!
//! A quota whose `burst` or `per_second` is zero is off. Addresses of IPv6 count by their /64,
//! because that is what one customer has.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    RateLimiter, clock::Clock as _, middleware::NoOpMiddleware, state::keyed::HashMapStateStore,
};
use ruma::{DeviceId, ServerName, UserId};

use crate::{
    api::{Caller, Code, Refusal},
    base::Clock,
    hub::{Limits, Quota},
};

/// How many addresses or accounts a budget tells apart. At about 50 bytes each this is 3 MB.
const KEYS_MAX: usize = 65_536;

/// When a budget tells no more apart, the others share this many buckets.
const SHARED_BUCKETS: u64 = 256;

/// How often a full budget is searched for keys that have their whole burst again.
const SWEEP_EVERY_MS: u64 = 1000;

/// How often a server may say whether a user of its is there: each costs a look at the rooms of that
/// user. A server with a thousand active users in rooms of ours stays below it.
const PRESENCE_PER_SERVER: Quota = Quota {
    per_second: 20.0,
    burst: 1000,
};

/// How often a user wakes others by coming, going or saying something of themselves: each time costs a
/// look at who is in their rooms, and wakes all of these. What is beyond they find with their next news.
const PRESENCE_PER_ACCOUNT: Quota = Quota {
    per_second: 0.2,
    burst: 10,
};

/// The slowest refill we tell apart from none: one a day.
const PERIOD_MAX: Duration = Duration::from_hours(24);

/// The largest burst; with [`PERIOD_MAX`] it still fits governor's nanoseconds.
const BURST_MAX: u32 = 100_000;

/// The budgets.
pub(super) struct Rates {
    login_address: Budget,
    login_account: Budget,
    register: Budget,
    probe: Budget,
    redeem: Budget,
    events: Budget,
    requests: Budget,
    claims: Budget,
    presence: Budget,
    shown: Budget,
}

/// How many one-time keys of one device one server is given: this many at once, and as many in an hour.
///
/// Half of what clients leave here, so that no server takes the last one from the others. In a large
/// room an honest server may want more for as many users of its own: the fallback key serves them.
const CLAIMS_OF_A_DEVICE: Quota = Quota {
    burst: 25,
    per_second: 25.0 / 3600.0,
};

impl Rates {
    /// Budgets as the operator set them.
    pub(super) fn new(limits: &Limits, clock: &Arc<dyn Clock>) -> Self {
        let budget = |quota| Budget::new(quota, clock);
        Self {
            login_address: budget(limits.login_per_address),
            login_account: budget(limits.login_per_account),
            register: budget(limits.register_per_address),
            probe: budget(limits.login_per_address),
            redeem: budget(limits.login_per_address),
            events: budget(limits.events_per_account),
            requests: budget(limits.requests_per_account),
            claims: budget(CLAIMS_OF_A_DEVICE),
            presence: budget(PRESENCE_PER_SERVER),
            shown: budget(PRESENCE_PER_ACCOUNT),
        }
    }

    /// One event sent by the caller.
    pub(super) fn events(&self, caller: &Caller) -> Result<(), Refusal> {
        self.events
            .charge(caller.user.as_str(), "events of this account")
    }

    /// One one-time key of a device for a server.
    pub(super) fn claims(
        &self,
        peer: &ServerName,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<(), Refusal> {
        let key = (peer.as_str(), user.as_str(), device.as_str());
        self.claims
            .charge(key, "claims of one device's keys by one server")
    }

    /// One request of the caller.
    pub(super) fn requests(&self, caller: &Caller) -> Result<(), Refusal> {
        self.requests
            .charge(caller.user.as_str(), "requests of this account")
    }

    /// What another server says of whether one of its users is there.
    pub(super) fn presence(&self, server: &ServerName) -> Result<(), Refusal> {
        self.presence
            .charge(server.as_str(), "words of this server about who is there")
    }

    /// One change of what the caller shows of being there.
    pub(super) fn shown(&self, caller: &Caller) -> Result<(), Refusal> {
        self.shown
            .charge(caller.user.as_str(), "changes of presence of this account")
    }

    /// One attempt to prove to be `account`, whether or not it exists.
    pub(super) fn login(&self, address: Option<IpAddr>, account: &UserId) -> Result<(), Refusal> {
        self.login_from(address)?;
        self.login_account
            .charge(account.as_str(), "logins of this account")
    }

    /// One attempt to log in without naming an account.
    pub(super) fn login_from(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        charge_address(&self.login_address, address, "logins from this address")
    }

    /// One attempt to make an account.
    pub(super) fn register(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        charge_address(&self.register, address, "registrations from this address")
    }

    /// One attempt to redeem a code; as many as logins.
    pub(super) fn redeem(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        charge_address(&self.redeem, address, "codes from this address")
    }

    /// One question whether a name is taken; as many as logins.
    pub(super) fn probe(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        charge_address(&self.probe, address, "questions from this address")
    }
}

/// Who has no address is on this machine, and is not limited by it.
fn charge_address(budget: &Budget, address: Option<IpAddr>, what: &str) -> Result<(), Refusal> {
    address.map_or(Ok(()), |address| budget.charge(source(address), what))
}

fn source(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

type Limiter = RateLimiter<u64, HashMapStateStore<u64>, DeskClock, NoOpMiddleware<Duration>>;

/// One kind of budget; a key is the hash of an account or address.
struct Budget {
    limiter: Option<Limiter>,
    clock: DeskClock,
    hasher: RandomState,
    swept_ms: AtomicU64,
}

impl Budget {
    fn new(quota: Quota, clock: &Arc<dyn Clock>) -> Self {
        let clock = DeskClock(Arc::clone(clock));
        Self {
            limiter: governed(quota)
                .map(|quota| RateLimiter::hashmap_with_clock(quota, clock.clone())),
            clock,
            hasher: RandomState::new(),
            swept_ms: AtomicU64::new(0),
        }
    }

    fn charge(&self, key: impl Hash, what: &str) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        let mut key = self.hasher.hash_one(key);
        if self.is_full(limiter) {
            key %= SHARED_BUCKETS;
        }
        limiter.check_key(&key).map_err(|not_yet| {
            let wait = not_yet.wait_time_from(self.clock.now());
            Refusal::new(Code::LimitExceeded, format!("too many {what}")).retry_after(wait)
        })
    }

    fn is_full(&self, limiter: &Limiter) -> bool {
        if limiter.len() < KEYS_MAX {
            return false;
        }
        let now = self.clock.0.now().0;
        let swept = self.swept_ms.load(Ordering::Relaxed);
        if now.saturating_sub(swept) >= SWEEP_EVERY_MS {
            self.swept_ms.store(now, Ordering::Relaxed);
            limiter.retain_recent();
        }
        limiter.len() >= KEYS_MAX
    }
}

fn governed(quota: Quota) -> Option<governor::Quota> {
    let burst = NonZeroU32::new(quota.burst.min(BURST_MAX))?;
    if quota.per_second.is_nan() || quota.per_second <= 0.0 {
        return None;
    }
    let period = Duration::try_from_secs_f64(1.0 / quota.per_second).unwrap_or(PERIOD_MAX);
    Some(governor::Quota::with_period(period.min(PERIOD_MAX))?.allow_burst(burst))
}

/// Our time, as governor reads it.
#[derive(Clone)]
struct DeskClock(Arc<dyn Clock>);

impl governor::clock::Clock for DeskClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::Relaxed))
        }
    }

    fn budget(per_second: f64, burst: u32) -> (Budget, Arc<Hand>) {
        let hand = Arc::new(Hand::default());
        let clock = Arc::clone(&hand) as Arc<dyn Clock>;
        (Budget::new(Quota { per_second, burst }, &clock), hand)
    }

    #[test]
    fn a_refusal_says_when_to_come_back_and_then_it_goes_through() {
        let (budget, hand) = budget(0.5, 2);
        budget.charge("ana", "tries").unwrap();
        budget.charge("ana", "tries").unwrap();

        let refusal = budget.charge("ana", "tries").unwrap_err();
        assert_eq!(refusal.code, Code::LimitExceeded);
        assert_eq!(refusal.status, 429);
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));

        hand.0.store(2000, Ordering::Relaxed);
        budget.charge("ana", "tries").unwrap();
        budget.charge("ana", "tries").unwrap_err();
    }

    #[test]
    fn one_key_does_not_pay_for_another() {
        let (budget, _) = budget(1.0, 1);
        budget.charge("ana", "tries").unwrap();
        budget.charge("bob", "tries").unwrap();
        budget.charge("ana", "tries").unwrap_err();
    }

    #[test]
    fn a_quota_of_zero_is_off_and_odd_ones_do_no_harm() {
        for (per_second, burst) in [(0.0, 9), (9.0, 0), (f64::NAN, 9), (-1.0, 9), (1e300, 9)] {
            let (budget, _) = budget(per_second, burst);
            for _ in 0..100 {
                budget.charge("ana", "tries").unwrap();
            }
        }
        for (per_second, burst) in [(1e-300, u32::MAX), (f64::MIN_POSITIVE, 1)] {
            budget(per_second, burst).0.charge("ana", "tries").unwrap();
        }
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_those_beyond_it_share() {
        let (budget, hand) = budget(0.001, 1);
        hand.0.store(10_000, Ordering::Relaxed);
        let tries = u64::try_from(KEYS_MAX).unwrap() * 2;
        let refused = (0..tries).filter(|n| budget.charge(n, "tries").is_err());
        assert!(refused.count() > KEYS_MAX / 2);
        let limiter = budget.limiter.as_ref().unwrap();
        assert!(limiter.len() <= KEYS_MAX + usize::try_from(SHARED_BUCKETS).unwrap());

        hand.0.store(10_000_000, Ordering::Relaxed);
        budget.charge("late", "tries").unwrap();
        assert!(limiter.len() < 300, "{}", limiter.len());
    }

    #[test]
    fn neighbours_in_one_ipv6_network_count_as_one_and_ipv4_has_one_spelling() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
