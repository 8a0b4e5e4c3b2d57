//! The hub's view of an MLS group (OpenMLS `PublicGroup` as a value).
//!
//! Nothing here yet: groups come with their own issue. The place exists so that the layering
//! test already knows it.
