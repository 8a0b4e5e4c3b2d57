//! What identifies a request across its blocks.

use sha2::{Digest, Sha256};

use crate::wire::coap::{
    Code, Options,
    options::{is_cache_key, number},
};

/// What is kept of a hash, in bytes: each observation has two of them, and requests are told apart
/// from others of the same peer only.
const KEY_BYTES: usize = 16;

fn first_half(hash: Sha256) -> [u8; KEY_BYTES] {
    let whole: [u8; 32] = hash.finalize().into();
    let mut half = [0; KEY_BYTES];
    half.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    half
}

/// The method and every option of the cache key: path, query, formats, access token, Request-Tag.
///
/// Left out are the block options and Observe, which differ between the requests of one transfer,
/// and `ETag`, which a client adds to say what it has. coap-lite's key knows only the path; that is
/// how one user got another's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestKey([u8; KEY_BYTES]);

impl RequestKey {
    /// The first of all keys in their order.
    pub(super) const FIRST: Self = Self([0; KEY_BYTES]);
    /// The last of all keys in their order.
    pub(super) const LAST: Self = Self([u8::MAX; KEY_BYTES]);

    /// spec: rfc7252 §5.4.6, rfc9175 §3.3.
    pub(super) fn of(method: Code, options: &Options) -> Self {
        let mut hash = Sha256::new();
        hash.update([method.0]);
        for (number, value) in options.iter() {
            let varies_within_a_transfer = matches!(
                number,
                number::BLOCK1 | number::BLOCK2 | number::OBSERVE | number::ETAG
            );
            if !varies_within_a_transfer && is_cache_key(number) {
                hash.update(number.to_be_bytes());
                hash.update(value.len().to_be_bytes());
                hash.update(value);
            }
        }
        Self(first_half(hash))
    }
}

/// The request body, which for FETCH and POST is part of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BodyKey([u8; KEY_BYTES]);

impl BodyKey {
    /// The first of all keys in their order.
    pub(super) const FIRST: Self = Self([0; KEY_BYTES]);
    /// The last of all keys in their order.
    pub(super) const LAST: Self = Self([u8::MAX; KEY_BYTES]);

    pub(super) fn of(payload: &[u8]) -> Self {
        Self(first_half(Sha256::new_with_prefix(payload)))
    }
}

/// Names a response body: same code, format and bytes, same tag.
pub(super) fn etag_of(code: Code, content_format: Option<u16>, body: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update([code.0]);
    hash.update(content_format.unwrap_or(u16::MAX).to_be_bytes());
    hash.update(body);
    let whole: [u8; 32] = hash.finalize().into();
    let mut tag = [0; 8];
    tag.iter_mut()
        .zip(whole)
        .for_each(|(byte, hashed)| *byte = hashed);
    tag
}
