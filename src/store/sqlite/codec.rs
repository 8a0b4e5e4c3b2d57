//! The blobs of the store: varints for states and tips. Decoding is total: damage is an error.

use crate::{
    base::EventHash,
    store::{EventNid, StoreError},
    wire::matrix::{event_hash, event_id},
};
use ruma::OwnedEventId;

use super::damaged;

/// What a state adds to its parent and takes from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) added: Vec<EventNid>,
    pub(super) removed: Vec<EventNid>,
}

/// How many were added, those, then the removed; each a varint.
pub(super) fn encode_delta(added: &[EventNid], removed: &[EventNid]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + 4 * (added.len() + removed.len()));
    put(&mut out, added.len() as u64);
    for nid in added.iter().chain(removed) {
        put(&mut out, nid.0.cast_unsigned());
    }
    out
}

pub(super) fn decode_delta(blob: &[u8]) -> Result<Delta, StoreError> {
    let mut rest = blob;
    let count = take(&mut rest)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        all.push(EventNid(take(&mut rest)?.cast_signed()));
    }
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= all.len())
        .ok_or_else(|| {
            damaged(format!(
                "a delta names {count} events, it has {}",
                all.len()
            ))
        })?;
    let removed = all.split_off(count);
    Ok(Delta {
        added: all,
        removed,
    })
}

/// A whole state, ascending, each number as its distance from the one before.
pub(super) fn encode_snapshot(ascending: impl IntoIterator<Item = EventNid>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut last = 0;
    for nid in ascending {
        put(&mut out, nid.0.wrapping_sub(last).cast_unsigned());
        last = nid.0;
    }
    out
}

pub(super) fn decode_snapshot(blob: &[u8]) -> Result<Vec<EventNid>, StoreError> {
    let mut rest = blob;
    let mut all = Vec::new();
    let mut last = 0_i64;
    while !rest.is_empty() {
        last = last.wrapping_add(take(&mut rest)?.cast_signed());
        all.push(EventNid(last));
    }
    Ok(all)
}

/// Tips: 32 bytes of hash and the depth as a varint, each.
pub(super) fn encode_tips(tips: &[(OwnedEventId, u64)]) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(tips.len() * 36);
    for (id, depth) in tips {
        let hash = event_hash(id).ok_or_else(|| damaged(format!("{id} is not a hash")))?;
        out.extend_from_slice(&hash.0);
        put(&mut out, *depth);
    }
    Ok(out)
}

pub(super) fn decode_tips(blob: &[u8]) -> Result<Vec<(OwnedEventId, u64)>, StoreError> {
    let mut rest = blob;
    let mut tips = Vec::new();
    while !rest.is_empty() {
        let (hash, after) = rest
            .split_first_chunk::<32>()
            .ok_or_else(|| damaged(format!("a tip has {} bytes, not 32", rest.len())))?;
        rest = after;
        tips.push((event_id(EventHash(*hash)), take(&mut rest)?));
    }
    Ok(tips)
}

/// Hashes, one after the other.
pub(super) fn encode_hashes(hashes: &[EventHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn take(rest: &mut &[u8]) -> Result<u64, StoreError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest
            .split_first()
            .ok_or_else(|| damaged("a varint ends early"))?;
        *rest = after;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            break;
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged("a varint is longer than 64 bits"))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(
            added in vec(any::<i64>().prop_map(EventNid), 0..20),
            removed in vec(any::<i64>().prop_map(EventNid), 0..20),
            depths in vec(any::<u64>(), 0..20),
        ) {
            let delta = decode_delta(&encode_delta(&added, &removed)).unwrap();
            prop_assert_eq!(&delta, &Delta { added: added.clone(), removed });
            let whole = decode_snapshot(&encode_snapshot(added.clone())).unwrap();
            prop_assert_eq!(whole, added);
            let tips: Vec<_> = depths.into_iter().map(|d| (event_id(EventHash([7; 32])), d)).collect();
            prop_assert_eq!(decode_tips(&encode_tips(&tips).unwrap()).unwrap(), tips);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..100)) {
            let _ = decode_delta(&bytes);
            let _ = decode_snapshot(&bytes);
            let _ = decode_tips(&bytes);
        }
    }

    #[test]
    fn an_eleven_byte_varint_is_refused() {
        assert!(decode_snapshot(&[0xff; 11]).is_err());
        assert!(decode_snapshot(&[0x80]).is_err());
    }
}
