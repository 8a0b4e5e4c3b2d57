//! Leaving out of an MLS private message what both ends of a link know, and putting it back.
//!
//! The bytes are never interpreted beyond their framing: what is put back is compared with what was
//! taken out before anything is left out.

use thiserror::Error;

/// `version` mls10 and `wire_format` `mls_private_message`.
const OPENING: [u8; 4] = [0, 1, 0, 2];

/// `content_type` application, empty `authenticated_data`, and the length of the sender data.
const MIDDLE: [u8; 3] = [1, 0, 28];

/// Encrypted sender data of suite 1: 12 bytes and a tag of 16.
const SENDER_DATA_BYTES: usize = 28;

/// The group of a room, as its state tells. spec: thin-profile §10
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlsGroup {
    /// The group's id.
    pub group_id: Vec<u8>,
    /// The epoch that the room states.
    pub epoch: u64,
}

/// Why a message cannot be rebuilt.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RebuildError {
    /// Shorter than the epoch and the sender data.
    #[error("an elided MLS message has at least 29 bytes, this one {bytes}")]
    Short {
        /// How many.
        bytes: usize,
    },
    /// Longer than MLS can write.
    #[error("the MLS message is too long")]
    Long,
}

impl MlsGroup {
    /// The message without what both ends know; none where it would not come back byte by byte.
    ///
    /// spec: thin-profile §10
    pub fn elide(&self, message: &[u8]) -> Option<Vec<u8>> {
        let rest = message.strip_prefix(&OPENING[..])?;
        let rest = self.without_group(rest)?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let rest = rest.strip_prefix(&MIDDLE[..])?;
        let (sender_data, rest) = rest.split_at_checked(SENDER_DATA_BYTES)?;
        let (bytes, length_bytes) = read_length(rest)?;
        let ciphertext = rest.get(length_bytes..)?;
        if ciphertext.len() != bytes {
            return None;
        }
        let [.., low] = *epoch;
        let mut elided = vec![low];
        elided.extend_from_slice(sender_data);
        elided.extend_from_slice(ciphertext);
        (self.rebuild(&elided).as_deref() == Ok(message)).then_some(elided)
    }

    /// The message as it was.
    ///
    /// spec: thin-profile §10
    pub fn rebuild(&self, elided: &[u8]) -> Result<Vec<u8>, RebuildError> {
        let short = RebuildError::Short {
            bytes: elided.len(),
        };
        let (low, rest) = elided.split_first().ok_or(short)?;
        let (sender_data, ciphertext) = rest.split_at_checked(SENDER_DATA_BYTES).ok_or(short)?;
        let mut message = OPENING.to_vec();
        write_length(&mut message, self.group_id.len()).ok_or(RebuildError::Long)?;
        message.extend_from_slice(&self.group_id);
        message.extend_from_slice(&self.epoch_near(*low).to_be_bytes());
        message.extend_from_slice(&MIDDLE);
        message.extend_from_slice(sender_data);
        write_length(&mut message, ciphertext.len()).ok_or(RebuildError::Long)?;
        message.extend_from_slice(ciphertext);
        Ok(message)
    }

    /// The epoch with these low bits that is nearest to the room's: 127 before to 128 after.
    fn epoch_near(&self, low: u8) -> u64 {
        let [.., now] = self.epoch.to_be_bytes();
        let ahead = low.wrapping_sub(now);
        let behind = now.wrapping_sub(low);
        if ahead <= 128 || u64::from(behind) > self.epoch {
            self.epoch.wrapping_add(u64::from(ahead))
        } else {
            self.epoch - u64::from(behind)
        }
    }

    fn without_group<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (length, length_bytes) = read_length(bytes)?;
        let (group_id, rest) = bytes.get(length_bytes..)?.split_at_checked(length)?;
        (group_id == self.group_id).then_some(rest)
    }
}

/// A length as MLS writes it: two bits say how many bytes. spec: rfc9420 §2.1.2
fn read_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = *bytes.first()?;
    let taken = 1_usize << (first >> 6);
    if taken > 4 {
        return None;
    }
    let mut length = usize::from(first & 0x3f);
    for byte in bytes.get(1..taken)? {
        length = (length << 8) | usize::from(*byte);
    }
    Some((length, taken))
}

fn write_length(out: &mut Vec<u8>, length: usize) -> Option<()> {
    let length = u32::try_from(length).ok()?;
    match length {
        0..0x40 => out.push(u8::try_from(length).ok()?),
        0x40..0x4000 => {
            out.extend_from_slice(&(u16::try_from(length).ok()? | 0x4000).to_be_bytes());
        }
        0x4000..0x4000_0000 => out.extend_from_slice(&(length | 0x8000_0000).to_be_bytes()),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(group_id: &[u8], epoch: u64, text: usize) -> Vec<u8> {
        let group = MlsGroup {
            group_id: group_id.to_vec(),
            epoch,
        };
        let mut elided = vec![epoch.to_be_bytes()[7]];
        elided.extend(std::iter::repeat_n(0xaa, SENDER_DATA_BYTES));
        elided.extend(std::iter::repeat_n(0xbb, 1 + text + 2 + 64 + 16));
        group.rebuild(&elided).unwrap()
    }

    #[test]
    fn a_message_of_22_characters_shrinks_from_167_to_134_bytes() {
        let group = MlsGroup {
            group_id: vec![7; 16],
            epoch: 300,
        };
        let whole = message(&[7; 16], 300, 22);

        let elided = group.elide(&whole).unwrap();

        assert_eq!((whole.len(), elided.len()), (167, 134));
    }

    #[test]
    fn what_would_not_come_back_is_left_whole() {
        let group = MlsGroup {
            group_id: vec![7; 16],
            epoch: 300,
        };
        let of_another_group = message(&[8; 16], 300, 22);
        let too_old = message(&[7; 16], 3, 22);
        let mut with_aad = message(&[7; 16], 300, 22);
        with_aad[30] = 1;

        assert_eq!(group.elide(&of_another_group), None);
        assert_eq!(group.elide(&too_old), None);
        assert_eq!(group.elide(&with_aad), None);
    }

    proptest! {
        #[test]
        fn what_is_elided_comes_back(
            group_id in proptest::collection::vec(any::<u8>(), 0..300),
            epoch in any::<u64>(), off in -127_i64..=128, text in 0_usize..200,
        ) {
            let group = MlsGroup { group_id: group_id.clone(), epoch };
            if let Some(sent) = epoch.checked_add_signed(off) {
                let whole = message(&group_id, sent, text);
                let elided = group.elide(&whole).unwrap();
                prop_assert_eq!(group.rebuild(&elided).unwrap(), whole);
            }
        }

        #[test]
        fn any_bytes_are_elided_or_left(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let group = MlsGroup { group_id: vec![], epoch: 0 };
            let _maybe = group.elide(&bytes);
            if let Ok(message) = group.rebuild(&bytes) {
                prop_assert_eq!(group.elide(&message), Some(bytes));
            }
        }
    }
}
