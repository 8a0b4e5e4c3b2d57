//! Words everyone uses: ids, log numbers, time and chance as arguments, and every ceiling.

pub mod ids;
pub mod limits;
pub mod recent;
#[cfg(test)]
pub(crate) mod test_log;
pub mod time;

pub use ids::{ChainHash, EventHash, Position, Seq};
pub use recent::Recent;
pub use time::{Clock, Rng, Timestamp};
