//! The integers of the thin profile: LEB128 in bodies, digits in paths.

use super::{ThinError, ThinFault};

/// The bytes of a number, at most: 63 bits.
pub const BYTES_MAX: usize = 9;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Appends a number; what exceeds 63 bits is written as the largest.
///
/// spec: thin-profile §2
pub fn write(out: &mut Vec<u8>, number: u64) {
    let mut rest = number.min((1 << 63) - 1);
    loop {
        let low = u8::try_from(rest & 0x7f).expect("seven bits fit into eight");
        rest >>= 7;
        if rest == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// How many bytes [`write`] appends.
pub const fn len(number: u64) -> usize {
    let mut bytes = 1;
    let mut rest = number >> 7;
    while rest > 0 && bytes < BYTES_MAX {
        bytes += 1;
        rest >>= 7;
    }
    bytes
}

/// A number as a path segment.
///
/// spec: thin-profile §2
pub fn segment(number: u64) -> String {
    let mut digits: Vec<u8> = Vec::new();
    let mut rest = number;
    loop {
        let digit = usize::try_from(rest & 63).expect("six bits fit");
        digits.extend(DIGITS.get(digit));
        rest >>= 6;
        if rest == 0 {
            break;
        }
    }
    digits
        .iter()
        .rev()
        .map(|digit| char::from(*digit))
        .collect()
}

/// The number a path segment writes, if it is one in its shortest form.
pub fn of_segment(segment: &str) -> Option<u64> {
    if segment.is_empty() || (segment.len() > 1 && segment.starts_with('A')) {
        return None;
    }
    let mut number = 0_u64;
    for byte in segment.bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        number = number
            .checked_mul(64)?
            .checked_add(u64::try_from(digit).ok()?)?;
    }
    (number < 1 << 63).then_some(number)
}

/// Reads fields one after the other, and knows where it is.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            offset: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) const fn fault(&self, fault: ThinFault) -> ThinError {
        ThinError {
            fault,
            offset: self.offset,
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8, ThinError> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| self.fault(ThinFault::Truncated))?;
        self.rest = rest;
        self.offset += 1;
        Ok(*first)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], ThinError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or_else(|| self.fault(ThinFault::Truncated))?;
        self.rest = rest;
        self.offset += bytes;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ThinError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("N bytes were taken"))
    }

    /// As many bytes as the number says that stands before them.
    pub(super) fn counted(&mut self) -> Result<&'a [u8], ThinError> {
        let bytes = self.number()?;
        let bytes = usize::try_from(bytes).map_err(|_| self.fault(ThinFault::Truncated))?; // longer than memory
        self.take(bytes)
    }

    pub(super) fn remainder(&mut self) -> &'a [u8] {
        self.offset += self.rest.len();
        std::mem::take(&mut self.rest)
    }

    pub(super) fn text(&self, bytes: &[u8]) -> Result<String, ThinError> {
        String::from_utf8(bytes.to_vec()).map_err(|_| self.fault(ThinFault::Utf8)) // the offset says as much
    }

    pub(super) fn number(&mut self) -> Result<u64, ThinError> {
        let at = self.offset;
        let ill = ThinError {
            fault: ThinFault::Number,
            offset: at,
        };
        let mut number = 0_u64;
        for index in 0..BYTES_MAX {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let is_padded = byte == 0 && index > 0;
                return if is_padded { Err(ill) } else { Ok(number) };
            }
        }
        Err(ill)
    }

    pub(super) fn finish(&self) -> Result<(), ThinError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.fault(ThinFault::Trailing))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_written_as_the_profile_shows_them() {
        for (number, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (300, &[0xac, 0x02]),
        ] {
            let mut out = Vec::new();
            write(&mut out, number);
            assert_eq!(out, bytes);
            assert_eq!(len(number), bytes.len());
        }
        for (number, text) in [(0, "A"), (63, "_"), (64, "BA")] {
            assert_eq!(segment(number), text);
            assert_eq!(of_segment(text), Some(number));
        }
    }

    #[test]
    fn only_the_shortest_form_is_read() {
        assert!(Reader::new(&[0x80, 0x00]).number().is_err());
        assert!(Reader::new(&[0xff; 10]).number().is_err());
        assert!(Reader::new(&[0x80]).number().is_err());
        assert_eq!(of_segment("AB"), None);
        assert_eq!(of_segment(""), None);
        assert_eq!(of_segment("B!"), None);
        assert_eq!(of_segment(&"_".repeat(20)), None);
    }

    proptest! {
        #[test]
        fn every_number_comes_back(number in 0_u64..1 << 63) {
            let mut out = Vec::new();
            write(&mut out, number);
            prop_assert_eq!(out.len(), len(number));
            prop_assert_eq!(Reader::new(&out).number(), Ok(number));
            prop_assert_eq!(of_segment(&segment(number)), Some(number));
        }
    }
}
