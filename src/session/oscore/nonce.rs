//! Partial IVs and the nonces made of them.

use super::context::{COMMON_IV_BYTES, Id};

/// How many bytes a partial IV has at most.
const PIV_BYTES_MAX: usize = 5;

/// A partial IV: a sender's sequence number of forty bits. Kept as its five bytes, the highest first,
/// which are in order as their numbers are: there are some for every observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piv([u8; PIV_BYTES_MAX]);

impl Piv {
    /// The last one there is. spec: rfc8613 §7.2.1.
    pub const MAX: Self = Self([u8::MAX; PIV_BYTES_MAX]);

    /// A number of at most forty bits.
    pub const fn new(number: u64) -> Option<Self> {
        match number.to_be_bytes() {
            [0, 0, 0, padded @ ..] => Some(Self(padded)),
            _ => None,
        }
    }

    /// The number.
    pub const fn number(self) -> u64 {
        let [top, rest @ ..] = self.0;
        ((top as u64) << 32) | u32::from_be_bytes(rest) as u64
    }

    /// Reads its wire form: one to five bytes, and no zero in front that could be left out.
    ///
    /// A second way to write one number would be a second AAD for it; senders must not, so the
    /// reader need not.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [] | [0, _, ..] => None,
            _ if bytes.len() > PIV_BYTES_MAX => None,
            _ => Self::new(whole(bytes)),
        }
    }

    /// Five bytes.
    pub(super) const fn padded(self) -> [u8; PIV_BYTES_MAX] {
        self.0
    }

    /// Reads five bytes.
    pub(super) const fn from_padded(padded: [u8; PIV_BYTES_MAX]) -> Self {
        Self(padded)
    }

    /// How long its wire form is; 0 is one byte of zero. spec: rfc8613 §5.
    pub(super) fn width(self) -> usize {
        let leading = self.padded().iter().take_while(|byte| **byte == 0).count();
        (PIV_BYTES_MAX - leading).max(1)
    }

    /// Writes its wire form.
    pub(super) fn append(self, out: &mut Vec<u8>) {
        out.extend(self.padded().iter().skip(PIV_BYTES_MAX - self.width()));
    }
}

fn whole(bytes: &[u8]) -> u64 {
    let append = |whole, byte: &u8| whole << 8 | u64::from(*byte);
    bytes.iter().fold(0, append)
}

/// The nonce of a number and the id of the end that made it.
///
/// spec: rfc8613 §5.2. Length of the id, id padded to seven bytes, number padded to five, all
/// combined with the common IV.
pub(super) fn nonce(
    common_iv: &[u8; COMMON_IV_BYTES],
    made_by: Id,
    piv: Piv,
) -> [u8; COMMON_IV_BYTES] {
    let mut nonce = *common_iv;
    let id = made_by.as_bytes();
    let from_the_end = piv.padded().into_iter().rev();
    let padding = std::iter::repeat_n(0, Id::BYTES_MAX - id.len());
    let whole = from_the_end
        .chain(id.iter().rev().copied())
        .chain(padding)
        .chain([made_by.len()]);
    for (byte, with) in nonce.iter_mut().rev().zip(whole) {
        *byte ^= with;
    }
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_short_as_they_can_be_and_zero_as_one_byte() {
        let wire = |number| {
            let mut out = Vec::new();
            Piv::new(number).unwrap().append(&mut out);
            out
        };

        assert_eq!(wire(0), [0]);
        assert_eq!(wire(0x14), [0x14]);
        assert_eq!(wire(0x1400), [0x14, 0]);
        assert_eq!(wire(Piv::MAX.number()), [0xff; 5]);
        assert_eq!(Piv::new(1 << 40), None);
        for number in [0, 1, 255, 256, 0x00ab_cdef, Piv::MAX.number()] {
            assert_eq!(Piv::decode(&wire(number)), Piv::new(number));
            let piv = Piv::new(number).unwrap();
            assert_eq!(Piv::from_padded(piv.padded()), piv);
        }
    }

    #[test]
    fn a_number_with_a_needless_zero_is_refused() {
        assert_eq!(Piv::decode(&[0, 5]), None);
        assert_eq!(Piv::decode(&[0, 0]), None);
        assert_eq!(Piv::decode(&[]), None);
        assert_eq!(Piv::decode(&[1; 6]), None);
    }
}
