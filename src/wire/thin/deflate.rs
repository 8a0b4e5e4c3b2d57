//! Deflating with the published dictionary, for what the hub sees in clear.
//!
//! Each record alone: nothing is compressed together that differs in who knows it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

/// The version of [`DICTIONARY`], in the hello.
pub const DICTIONARY_VERSION: u64 = 1;

/// The dictionary, byte for byte what `conformance/vectors/thin/dictionary-1.bin` has.
pub const DICTIONARY: &[u8] = include_bytes!("../../../conformance/vectors/thin/dictionary-1.bin");

/// What inflates to more is refused, in bytes: an event's own ceiling.
pub const INFLATED_BYTES_MAX: usize = 65_536;

/// Why bytes do not inflate.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InflateError {
    /// Not a whole DEFLATE stream, or one with bytes after it.
    #[error("not a whole DEFLATE stream")]
    Broken,
    /// More than [`INFLATED_BYTES_MAX`].
    #[error("it inflates to more than {INFLATED_BYTES_MAX} bytes")]
    TooLarge,
}

/// Deflates, if that makes it smaller.
///
/// spec: thin-profile §10
pub fn deflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut stream = Compress::new(Compression::best(), false);
    stream.set_dictionary(DICTIONARY).ok()?;
    let mut out = Vec::with_capacity(bytes.len());
    let status = stream
        .compress_vec(bytes, &mut out, FlushCompress::Finish)
        .ok()?;
    (status == Status::StreamEnd && out.len() < bytes.len()).then_some(out)
}

/// spec: thin-profile §10
pub fn inflate(bytes: &[u8]) -> Result<Vec<u8>, InflateError> {
    let mut stream = Decompress::new(false);
    stream
        .set_dictionary(DICTIONARY)
        .map_err(|_| InflateError::Broken)?; // raw streams take any dictionary
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(4).min(INFLATED_BYTES_MAX));
    loop {
        let consumed = usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
        let rest = bytes.get(consumed..).unwrap_or_default();
        let before = out.len();
        let status = stream
            .decompress_vec(rest, &mut out, FlushDecompress::Finish)
            .map_err(|_| InflateError::Broken)?; // it says no more than that
        if out.len() > INFLATED_BYTES_MAX {
            return Err(InflateError::TooLarge);
        }
        if status == Status::StreamEnd {
            let consumed = usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
            return if consumed == bytes.len() {
                Ok(out)
            } else {
                Err(InflateError::Broken)
            };
        }
        if out.len() < out.capacity() && out.len() == before {
            return Err(InflateError::Broken);
        }
        out.reserve(4096);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bomb_is_refused_without_its_memory() {
        let mut stream = Compress::new(Compression::best(), false);
        let mut bomb = Vec::with_capacity(100_000);
        stream
            .compress_vec(&vec![0; 10_000_000], &mut bomb, FlushCompress::Finish)
            .unwrap();

        assert_eq!(inflate(&bomb), Err(InflateError::TooLarge));
    }

    #[test]
    fn what_does_not_shrink_is_left() {
        assert_eq!(deflate(b"x"), None);
    }

    proptest! {
        #[test]
        fn what_is_deflated_comes_back(text in "[a-e m.room]{0,2000}") {
            if let Some(small) = deflate(text.as_bytes()) {
                prop_assert_eq!(inflate(&small).unwrap(), text.as_bytes());
                prop_assert!(inflate(&small[..small.len() - 1]).is_err());
            }
        }

        #[test]
        fn any_bytes_inflate_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(out) = inflate(&bytes) {
                prop_assert!(out.len() <= INFLATED_BYTES_MAX);
            }
        }

        #[test]
        fn what_was_changed_on_its_way_inflates_or_is_refused_and_comes_back(
            text in "[a-e m.room]{50,300}",
            place in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = deflate(text.as_bytes()).unwrap_or_default();
            prop_assume!(!bytes.is_empty());
            *place.get_mut(&mut bytes) = byte;
            if let Ok(out) = inflate(&bytes) {
                prop_assert!(out.len() <= INFLATED_BYTES_MAX);
                let again = deflate(&out).map(|small| inflate(&small));
                prop_assert!(again.is_none_or(|again| again == Ok(out)));
            }
        }
    }
}
