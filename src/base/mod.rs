//! Words everyone uses: ids, log numbers, time and chance as arguments, and every ceiling.

pub mod few;
pub mod ids;
pub mod limits;
pub mod recent;
pub mod short;
pub mod slab;
#[cfg(test)]
pub(crate) mod test_log;
pub mod time;

pub use few::Few;
pub use ids::{ChainHash, EventHash, Position, Seq};
pub use recent::Recent;
pub use short::Short;
pub use slab::Slab;
pub use time::{Clock, Rng, Timestamp};
