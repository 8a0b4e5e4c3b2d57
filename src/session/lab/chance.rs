//! The laboratory's dice.
//!
//! Not `base::Rng`: a seed that somebody noted down must mean the same run after every update of
//! our dependencies, and `rand` promises that for none of its seedable generators.

use std::time::Duration;

use super::{profile::Ppm, time::micros};

/// `SplitMix64` (Steele, Lea, Flood 2014): enough for dice, worthless for secrets.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// Dice of a seed; each `stream` of one seed is independent of the others.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixer = Self { state: seed };
        let state = mixer.throw() ^ stream.wrapping_mul(STEP);
        Self { state }
    }

    /// 64 random bits.
    pub fn throw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether something of this likelihood happens.
    pub fn hits(&mut self, share: Ppm) -> bool {
        self.throw() % u64::from(Ppm::ALWAYS.get()) < u64::from(share.get())
    }

    /// Any span from nothing to `longest`, in whole microseconds.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        let spans = micros(longest).saturating_add(1);
        Duration::from_micros(self.throw() % spans)
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut dice = Chance { state: 0 };

        // the generator's published first outputs
        assert_eq!(dice.throw(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(dice.throw(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn never_and_always_are_meant_literally() {
        let mut dice = Chance::new(7, 0);

        assert!((0..1000).all(|_| dice.hits(Ppm::ALWAYS)));
        assert!((0..1000).all(|_| !dice.hits(Ppm::NEVER)));
    }

    #[test]
    fn three_in_ten_is_about_three_in_ten() {
        let mut dice = Chance::new(7, 1);
        let hits = (0..10_000).filter(|_| dice.hits(Ppm::percent(30))).count();

        assert!((2_800..3_200).contains(&hits), "{hits}");
    }
}
