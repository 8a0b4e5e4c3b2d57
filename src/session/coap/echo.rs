//! Echo challenges: values only a peer that receives at its address can send back.
//!
//! The value is a MAC over the peer and the time, so that nothing is kept per challenge. What it
//! proves is reachability and nothing else: it is no freshness of a request.

use std::hash::Hasher;

use sha2::{Digest, Sha256};

use super::types::Peer;
use crate::base::Timestamp;

/// How long one time bucket lasts, in milliseconds. A challenge is good for one to two of them:
/// longer than a slow link's round trip, short enough that a recycled address is asked again.
const BUCKET_MS: u64 = 120_000;

/// The length of a challenge, in bytes: 2^64 guesses, and small enough for the threefold limit.
const ECHO_BYTES: usize = 8;

/// The per-process key.
#[derive(Clone, Debug)]
pub(in crate::session) struct EchoKey([u8; 32]);

impl EchoKey {
    pub(in crate::session) const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// spec: rfc9175 §2.4
    pub(in crate::session) fn challenge(
        &self,
        now: Timestamp,
        peer: &impl Peer,
    ) -> [u8; ECHO_BYTES] {
        self.value(now.0 / BUCKET_MS, peer)
    }

    /// Whether this value was made for this peer, now or in the previous bucket.
    pub(in crate::session) fn proves(
        &self,
        now: Timestamp,
        peer: &impl Peer,
        value: &[u8],
    ) -> bool {
        let bucket = now.0 / BUCKET_MS;
        [Some(bucket), bucket.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|bucket| same(&self.value(bucket, peer), value))
    }

    fn value(&self, bucket: u64, peer: &impl Peer) -> [u8; ECHO_BYTES] {
        let mut bytes = PeerBytes(bucket.to_be_bytes().to_vec());
        peer.hash(&mut bytes);
        let mac = hmac_sha256(&self.0, &bytes.0);
        let mut value = [0; ECHO_BYTES];
        value
            .iter_mut()
            .zip(mac)
            .for_each(|(byte, mac)| *byte = mac);
        value
    }
}

/// Collects what a key type feeds its hasher: an unambiguous byte form of any peer, without asking
/// the peer type for one. It need not be the same in another process, and may not be.
struct PeerBytes(Vec<u8>);

impl Hasher for PeerBytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// Compares in a time that does not tell where the difference is.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    let difference = ours.iter().zip(theirs).fold(0, |all, (a, b)| all | (a ^ b));
    ours.len() == theirs.len() && difference == 0
}

/// HMAC (RFC 2104) for a key that fits into one block.
fn hmac_sha256(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let padded = |with: u8| {
        let mut block = [with; 64];
        block
            .iter_mut()
            .zip(key)
            .for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2; its key is the four bytes "Jefe", which padding makes 32.
    #[test]
    fn the_mac_is_hmac_sha256() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");

        let mac = hmac_sha256(&key, b"what do ya want for nothing?");

        assert_eq!(
            hex::encode(mac),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_challenge_proves_only_its_own_peer_and_only_for_a_while() {
        let key = EchoKey::new([7; 32]);
        let now = Timestamp(1_000_000);
        let value = key.challenge(now, &"ana");

        assert!(key.proves(now, &"ana", &value));
        assert!(key.proves(Timestamp(now.0 + BUCKET_MS), &"ana", &value));
        assert!(!key.proves(Timestamp(now.0 + 2 * BUCKET_MS), &"ana", &value));
        assert!(!key.proves(now, &"bob", &value));
        assert!(!key.proves(now, &"ana", &value[..7]));
        assert!(!EchoKey::new([8; 32]).proves(now, &"ana", &value));
    }
}
