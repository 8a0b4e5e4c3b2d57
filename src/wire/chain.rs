//! The hash chain over a room's log (stub: the real file comes with the wire bodies).

use sha2::{Digest, Sha256};

use crate::base::{ChainHash, Seq};

const TAG: &[u8] = b"tramline-chain-1";

/// `chain[0]`.
pub fn genesis(room: &str) -> ChainHash {
    ChainHash(
        Sha256::new()
            .chain_update(TAG)
            .chain_update(prefix(room))
            .chain_update(room)
            .finalize()
            .into(),
    )
}

/// `chain[n]` from `chain[n-1]`.
pub fn link(room: &str, n: Seq, before: ChainHash, entry: &[u8; 32]) -> ChainHash {
    ChainHash(
        Sha256::new()
            .chain_update(TAG)
            .chain_update(prefix(room))
            .chain_update(room)
            .chain_update(n.0.to_be_bytes())
            .chain_update(before.0)
            .chain_update(entry)
            .finalize()
            .into(),
    )
}

fn prefix(room: &str) -> [u8; 2] {
    u16::try_from(room.len()).unwrap_or(u16::MAX).to_be_bytes()
}
