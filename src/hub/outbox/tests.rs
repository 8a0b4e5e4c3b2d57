//! A hub whose rooms have users of other servers. The test plays all of these servers: they join,
//! take what they are told or not, and note it.

mod keys;
mod present;
mod reading;
mod told;
mod whatever_happens;
mod world;
