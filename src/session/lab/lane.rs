//! One direction of a link: queue, bandwidth, loss, delay. Knows nothing of clients and NATs.
//!
//! A first-in-first-out queue at a fixed rate has no secrets: when a datagram comes in, the moment
//! it leaves is known, and so its whole fate is decided there and then.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::{
    chance::Chance,
    profile::{Profile, Rate, on_link},
    stats::{Stats, Tally},
    time::{Micros, micros},
};

/// What travels: `T` is whom it is for.
pub(super) struct Lane<T> {
    pub(super) stats: Stats,
    rate: Rate,
    chance: Chance,
    /// Where the Gilbert–Elliott chain stands.
    is_bad: bool,
    /// When what waits will all be clocked out.
    busy_until: Micros,
    /// When each one that waits will be clocked out, and what it takes on the link.
    waiting: VecDeque<(Micros, u64)>,
    waiting_bytes: u64,
    /// Jitter never lets a later datagram overtake this.
    last_arrival: Micros,
    /// By arrival; the serial number keeps the order of what arrives together.
    flying: BTreeMap<(Micros, u64), Flying<T>>,
    flying_weight: u64,
    serial: u64,
    /// The serial number of the newest original that arrived, for counting the overtaken.
    newest_arrived: u64,
}

/// One datagram on its way.
struct Flying<T> {
    to: T,
    datagram: Bytes,
    is_copy: bool,
}

/// A datagram at the other end.
pub(super) struct Arrived<T> {
    pub(super) to: T,
    pub(super) datagram: Bytes,
}

/// When a radio was busy with one datagram.
#[derive(Clone, Copy)]
pub(super) struct Airtime {
    pub(super) from: Micros,
    pub(super) until: Micros,
}

/// What may be on its way in one direction, in bytes with [`FLYING_OVERHEAD_BYTES`] each: an hour
/// of 100 kbit/s, or a 16 MiB queue and as much again in the air.
const FLYING_WEIGHT_MAX: u64 = 64 * 1024 * 1024;

/// What keeping a datagram costs beside its bytes, about.
const FLYING_OVERHEAD_BYTES: u64 = 128;

/// The least by which a datagram is held back, and a second copy may lag: a few datagrams' worth
/// on a link without delay.
const HOLD_MIN: Duration = Duration::from_millis(20);

/// What chance takes a datagram.
#[derive(Clone, Copy)]
enum Loss {
    Burst,
    Single,
}

/// What the dice say about one datagram. All are thrown for each, so that changing one number of
/// a profile leaves the rest of a run's dice as they were.
struct Throw {
    loss: Option<Loss>,
    jitter: Duration,
    is_held: bool,
    is_doubled: bool,
    lag: Duration,
}

impl<T: Clone> Lane<T> {
    pub(super) fn new(rate: Rate, chance: Chance) -> Self {
        Self {
            stats: Stats::default(),
            rate,
            chance,
            is_bad: false,
            busy_until: Micros::ZERO,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            last_arrival: Micros::ZERO,
            flying: BTreeMap::new(),
            flying_weight: 0,
            serial: 0,
            newest_arrived: 0,
        }
    }

    /// Takes a datagram in, and says when the sender's radio is busy with it; none when it never
    /// gets that far.
    pub(super) fn offer(
        &mut self,
        profile: &Profile,
        now: Micros,
        to: T,
        datagram: Bytes,
    ) -> Option<Airtime> {
        let size = on_link(&datagram);
        self.stats.offered.add(size);
        let throw = self.throw(profile);
        if profile.mtu.is_some_and(|mtu| size > u64::from(mtu)) {
            self.stats.lost.mtu.add(size);
            return None;
        }
        if !self.has_room(profile, now, size) {
            self.stats.lost.queue.add(size);
            return None;
        }
        let air = self.clock_out(now, size);
        if let Some(cause) = self.loss(profile, air.until, &throw) {
            cause.add(size);
        } else {
            self.fly(profile, air, &throw, to, datagram);
        }
        Some(air)
    }

    /// The next datagram that has arrived by `now`, and when it did.
    pub(super) fn poll(&mut self, now: Micros) -> Option<(Micros, Arrived<T>)> {
        let (at, _) = *self.flying.keys().next().filter(|(at, _)| *at <= now)?;
        let ((_, serial), flying) = self.flying.pop_first()?;
        self.flying_weight -= weight(&flying.datagram);
        self.stats.delivered.add(on_link(&flying.datagram));
        if flying.is_copy {
            self.stats.duplicated += 1;
        } else if serial < self.newest_arrived {
            self.stats.reordered += 1;
        } else {
            self.newest_arrived = serial;
        }
        let Flying { to, datagram, .. } = flying;
        Some((at, Arrived { to, datagram }))
    }

    /// When the next one arrives.
    pub(super) fn poll_timeout(&self) -> Option<Micros> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    /// Bytes, headers included, that are not clocked out yet.
    pub(super) fn waiting_bytes(&mut self, now: Micros) -> u64 {
        while let Some((_, size)) = self.waiting.pop_front_if(|(until, _)| *until <= now) {
            self.waiting_bytes -= size;
        }
        self.waiting_bytes
    }

    /// Originals that have neither arrived nor been lost.
    #[cfg(test)]
    pub(super) fn on_its_way(&self) -> u64 {
        self.flying.values().filter(|one| !one.is_copy).count() as u64
    }

    /// How long the bits of a datagram take.
    pub(super) fn time_for(&self, datagram: &[u8]) -> Duration {
        self.rate.time_for(on_link(datagram))
    }

    fn throw(&mut self, profile: &Profile) -> Throw {
        let (dice, burst) = (&mut self.chance, profile.burst);
        let turn = burst.map(|burst| {
            if self.is_bad {
                burst.leave
            } else {
                burst.enter
            }
        });
        let turns = dice.hits(turn.unwrap_or(super::Ppm::NEVER));
        self.is_bad ^= turns;
        let share = burst.filter(|_| self.is_bad).map(|burst| burst.loss);
        let is_burst = dice.hits(share.unwrap_or(super::Ppm::NEVER));
        let is_single = dice.hits(profile.loss);
        let single = is_single.then_some(Loss::Single);
        Throw {
            loss: is_burst.then_some(Loss::Burst).or(single),
            jitter: dice.up_to(profile.jitter),
            is_held: dice.hits(profile.reorder),
            is_doubled: dice.hits(profile.duplicate),
            lag: dice.up_to(profile.delay / 2 + HOLD_MIN),
        }
    }

    fn has_room(&mut self, profile: &Profile, now: Micros, size: u64) -> bool {
        let waiting = self.waiting_bytes(now);
        let may_wait = profile.queue_bytes.min(super::profile::QUEUE_BYTES_MAX);
        let may_fly = FLYING_WEIGHT_MAX.saturating_sub(FLYING_OVERHEAD_BYTES + size);
        (waiting == 0 || waiting.saturating_add(size) <= may_wait) && self.flying_weight <= may_fly
    }

    fn clock_out(&mut self, now: Micros, size: u64) -> Airtime {
        let from = self.busy_until.max(now);
        let until = from + self.rate.time_for(size);
        self.busy_until = until;
        if until > now {
            self.waiting.push_back((until, size));
            self.waiting_bytes += size;
        }
        let waited = micros(from.since(now));
        if waited > 0 {
            self.stats.queued += 1;
            self.stats.queue_us_total = self.stats.queue_us_total.saturating_add(waited);
            self.stats.queue_us_max = self.stats.queue_us_max.max(waited);
        }
        Airtime { from, until }
    }

    /// Where to count the datagram as lost, if it is.
    fn loss(&mut self, profile: &Profile, leaves: Micros, throw: &Throw) -> Option<&mut Tally> {
        let lost = &mut self.stats.lost;
        if profile.is_dark(leaves) {
            return Some(&mut lost.blackout);
        }
        throw.loss.map(|loss| match loss {
            Loss::Burst => &mut lost.burst,
            Loss::Single => &mut lost.chance,
        })
    }

    fn fly(&mut self, profile: &Profile, air: Airtime, throw: &Throw, to: T, datagram: Bytes) {
        let straight = air.until + profile.delay + throw.jitter;
        let at = if throw.is_held {
            // Long enough for the next one of the same size to be clocked out and arrive first.
            let own_time = air.until.since(air.from);
            straight + own_time.saturating_mul(2) + profile.delay / 2 + HOLD_MIN
        } else {
            self.last_arrival = self.last_arrival.max(straight);
            self.last_arrival
        };
        if throw.is_doubled {
            let copy = (to.clone(), datagram.clone());
            self.launch(at, to, datagram, false);
            self.launch(at + throw.lag, copy.0, copy.1, true);
        } else {
            self.launch(at, to, datagram, false);
        }
    }

    fn launch(&mut self, at: Micros, to: T, datagram: Bytes, is_copy: bool) {
        self.serial += 1;
        self.flying_weight += weight(&datagram);
        let flying = Flying {
            to,
            datagram,
            is_copy,
        };
        self.flying.insert((at, self.serial), flying);
    }
}

fn weight(datagram: &[u8]) -> u64 {
    on_link(datagram).saturating_add(FLYING_OVERHEAD_BYTES)
}
