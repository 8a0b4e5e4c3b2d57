//! The wake hook.
