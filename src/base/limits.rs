//! Every ceiling, with its unit and its reason. What grows is bounded by a name in this file.

/// The largest event, in bytes of canonical JSON.
///
/// spec: matrix-v12 §Size-limits. A larger one could not be sent to any other server.
pub const EVENT_BYTES_MAX: usize = 65_536;

/// The largest request body of the client API (media apart), in bytes.
///
/// An event of the largest size, written with escapes and white space, still fits; Synapse draws
/// the line at 200 kB for the same reason.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// How deep JSON or CBOR from outside may nest.
///
/// serde's own ceiling is 128; nothing in Matrix goes past a dozen.
pub const NESTING_MAX: usize = 64;
