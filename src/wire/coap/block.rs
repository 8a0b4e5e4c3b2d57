//! The value of a Block1 or Block2 option. coap-lite's own is not used: it cuts the block number
//! to twelve bits and refuses three-byte values.

use thiserror::Error;

/// A block size as its exponent: 0 is 16 bytes, 6 is 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Szx(u8);

impl Szx {
    /// 16 bytes.
    pub const MIN: Self = Self(0);
    /// 1024 bytes.
    pub const MAX: Self = Self(6);

    /// Checks an exponent; 7 is reserved.
    pub const fn new(exponent: u8) -> Option<Self> {
        if exponent <= Self::MAX.0 {
            Some(Self(exponent))
        } else {
            None
        }
    }

    /// Half the size, down to 16 bytes.
    #[must_use]
    pub const fn smaller(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The exponent on the wire.
    pub const fn exponent(self) -> u8 {
        self.0
    }

    /// The block size in bytes.
    pub const fn bytes(self) -> usize {
        16 << self.0
    }
}

/// One block's place in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    num: u32,
    more: bool,
    szx: Szx,
}

/// Why a block option's value is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BlockError {
    /// The option is longer than three bytes: like an option nobody knows.
    #[error("a block option has {0} bytes, at most 3 are allowed")]
    Long(usize),
    /// Size exponent 7.
    #[error("block size exponent 7 is reserved")]
    ReservedSize,
    /// The number needs more than twenty bits.
    #[error("block number {0} does not fit into 20 bits")]
    Number(u32),
}

impl Block {
    /// The largest block number: twenty bits.
    pub const NUM_MAX: u32 = (1 << 20) - 1;

    /// A block by its number.
    pub const fn new(num: u32, more: bool, szx: Szx) -> Result<Self, BlockError> {
        if num > Self::NUM_MAX {
            Err(BlockError::Number(num))
        } else {
            Ok(Self { num, more, szx })
        }
    }

    /// The block that starts `offset` bytes into the body, if one of this size starts there.
    pub fn at(offset: usize, more: bool, szx: Szx) -> Option<Self> {
        if !offset.is_multiple_of(szx.bytes()) {
            return None;
        }
        let num = u32::try_from(offset / szx.bytes()).ok()?;
        Self::new(num, more, szx).ok()
    }

    /// Which block.
    pub const fn num(self) -> u32 {
        self.num
    }

    /// Whether others follow.
    pub const fn more(self) -> bool {
        self.more
    }

    /// Of which size.
    pub const fn szx(self) -> Szx {
        self.szx
    }

    /// Where its first byte is in the body.
    pub fn offset(self) -> usize {
        // At most 2^20 blocks of 2^10 bytes: fits into 32 bits, which usize has here.
        usize::try_from(self.num).map_or(usize::MAX, |num| num.saturating_mul(self.szx.bytes()))
    }

    /// Reads the option's value.
    ///
    /// spec: rfc7959 §2.2. A uint of up to three bytes; leading zeros are let through as for any uint.
    pub fn decode(value: &[u8]) -> Result<Self, BlockError> {
        let whole = super::options::uint(value, 3).ok_or(BlockError::Long(value.len()))?;
        let exponent = u8::try_from(whole & 7).map_err(|_| BlockError::ReservedSize)?;
        let szx = Szx::new(exponent).ok_or(BlockError::ReservedSize)?;
        Self::new(whole >> 4, whole & 8 != 0, szx)
    }

    /// Writes the option's value.
    pub fn encode(self) -> Vec<u8> {
        let more = if self.more { 8 } else { 0 };
        super::options::uint_bytes(self.num << 4 | more | u32::from(self.szx.exponent()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn block_numbers_beyond_twelve_bits_survive() {
        let far = Block::new(4096, true, Szx::MAX).unwrap();

        assert_eq!(far.encode(), [0x01, 0x00, 0x0e]);
        assert_eq!(Block::decode(&far.encode()), Ok(far));
        assert_eq!(far.offset(), 4096 * 1024);
    }

    #[test]
    fn the_first_block_of_sixteen_bytes_is_an_empty_value() {
        let first = Block::new(0, false, Szx::MIN).unwrap();

        assert!(first.encode().is_empty());
        assert_eq!(Block::decode(&[]), Ok(first));
    }

    #[test]
    fn a_reserved_size_and_a_long_value_are_told_apart() {
        assert_eq!(Block::decode(&[0x07]), Err(BlockError::ReservedSize));
        assert_eq!(Block::decode(&[0, 0, 0, 1]), Err(BlockError::Long(4)));
        assert_eq!(
            Block::new(1 << 20, false, Szx::MIN),
            Err(BlockError::Number(1 << 20))
        );
    }

    proptest! {
        #[test]
        fn any_block_survives_the_wire(num in 0..=Block::NUM_MAX, more: bool, szx in 0_u8..=6) {
            let block = Block::new(num, more, Szx::new(szx).unwrap()).unwrap();
            prop_assert_eq!(Block::decode(&block.encode()), Ok(block));
        }
    }
}
