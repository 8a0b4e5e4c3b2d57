//! The integer key table of MSC3079.
