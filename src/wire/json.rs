//! Strict JSON and canonical JSON.
