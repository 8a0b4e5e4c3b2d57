//! The hash chain of a room: one number that stands for everything the hub accepted, in its order.
//!
//! Whoever kept a head can tell a rewritten past. The chain does not say that the order was fair,
//! and it does not sign: it only cannot be changed unnoticed. Redaction leaves it whole, because
//! an entry's id survives redaction.

use sha2::{Digest, Sha256};

use crate::base::{ChainHash, Seq};

/// The chain of a room before its first entry.
pub fn genesis(room: &str) -> ChainHash {
    ChainHash(begin(room).finalize().into())
}

/// The chain after the entry `n`, from the chain before it.
///
/// `entry` is the entry's 32-byte id: an event's reference hash, or the hash of a marker's bytes.
pub fn link(room: &str, n: Seq, prev: ChainHash, entry: &[u8; 32]) -> ChainHash {
    let link = begin(room)
        .chain_update(n.0.to_be_bytes())
        .chain_update(prev.0);
    ChainHash(link.chain_update(entry).finalize().into())
}

/// The room goes with its length, so that no room's name can run into the fields after it.
fn begin(room: &str) -> Sha256 {
    let bytes = u16::try_from(room.len()).expect("a room id is at most 255 bytes");
    Sha256::new()
        .chain_update(TAG)
        .chain_update(bytes.to_be_bytes())
        .chain_update(room)
}

/// Keeps these hashes apart from every other use of SHA-256, and names the format's version.
const TAG: &[u8] = b"tramline-chain-1";

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        chains: Vec<Chain>,
        last_link: LastLink,
    }

    #[derive(Deserialize)]
    struct Chain {
        room: String,
        genesis: String,
        links: Vec<Link>,
    }

    #[derive(Deserialize)]
    struct Link {
        seq: u64,
        entry: String,
        chain: String,
    }

    #[derive(Deserialize)]
    struct LastLink {
        room: String,
        seq: String,
        prev: String,
        entry: String,
        chain: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../conformance/vectors/chain.json")).unwrap()
    }

    fn hash(text: &str) -> [u8; 32] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn chains_are_as_another_program_computed_them() {
        for chain in vectors().chains {
            let mut head = genesis(&chain.room);
            assert_eq!(head.to_string(), chain.genesis);
            for wanted in chain.links {
                head = link(&chain.room, Seq(wanted.seq), head, &hash(&wanted.entry));
                assert_eq!(head.to_string(), wanted.chain);
            }
        }
    }

    #[test]
    fn a_number_takes_all_its_eight_bytes() {
        let last = vectors().last_link;
        let seq = Seq(last.seq.parse().unwrap());

        let head = link(
            &last.room,
            seq,
            ChainHash(hash(&last.prev)),
            &hash(&last.entry),
        );

        assert_eq!(head.to_string(), last.chain);
    }

    #[test]
    fn a_link_depends_on_each_of_its_parts() {
        let (prev, entry) = (ChainHash([1; 32]), [2; 32]);
        let link_of_this = link("!a:x", Seq(1), prev, &entry);

        assert_ne!(link_of_this, link("!b:x", Seq(1), prev, &entry));
        assert_ne!(link_of_this, link("!a:x", Seq(2), prev, &entry));
        assert_ne!(
            link_of_this,
            link("!a:x", Seq(1), ChainHash([3; 32]), &entry)
        );
        assert_ne!(link_of_this, link("!a:x", Seq(1), prev, &[3; 32]));
    }
}
