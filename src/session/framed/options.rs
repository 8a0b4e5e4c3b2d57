//! The options of a message, read one by one as their bytes come in, and written.
//!
//! The encoding is RFC 7252's; `wire::coap` reads it in whole datagrams only.

use super::message::{EncodeError, Fault};
use crate::wire::coap::{
    Options,
    options::{OPTION_BYTES_MAX, OPTIONS_MAX},
};

/// What stands at the front of the bytes.
pub(super) enum Step {
    /// An option, which takes this many bytes.
    Option(usize),
    /// The payload marker.
    Marker,
    /// An option that goes on behind these bytes, or nothing yet.
    Short,
}

/// The options read so far.
#[derive(Debug, Default)]
pub(super) struct OptionReader {
    pub(super) options: Options,
    number: u16,
}

impl OptionReader {
    /// Reads what stands at the front.
    ///
    /// spec: rfc8323 §3.2. Options and marker are as in RFC 7252.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(Step::Short);
        };
        if first == MARKER {
            return Ok(Step::Marker);
        }
        let Some((delta, rest)) = extended(first >> 4, rest)? else {
            return Ok(Step::Short);
        };
        let Some((len, rest)) = extended(first & 0x0f, rest)? else {
            return Ok(Step::Short);
        };
        let number = u32::from(self.number) + delta;
        let number = u16::try_from(number).map_err(|_| Fault::Number(number))?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > OPTION_BYTES_MAX {
            return Err(Fault::OptionSize(len));
        }
        if self.options.len() >= OPTIONS_MAX {
            return Err(Fault::OptionCount);
        }
        let Some((value, rest)) = rest.split_at_checked(len) else {
            return Ok(Step::Short);
        };
        self.options.push(number, value);
        self.number = number;
        Ok(Step::Option(bytes.len() - rest.len()))
    }
}

/// Stands between options and payload.
pub(super) const MARKER: u8 = 0xff;

/// A nibble with its extension: 13 adds one byte, 14 adds two, 15 is reserved.
fn extended(nibble: u8, rest: &[u8]) -> Result<Option<(u32, &[u8])>, Fault> {
    Ok(match nibble {
        15 => return Err(Fault::Nibble),
        14 => rest
            .split_first_chunk()
            .map(|(more, rest)| (u32::from(u16::from_be_bytes(*more)) + 269, rest)),
        13 => rest
            .split_first()
            .map(|(more, rest)| (u32::from(*more) + 13, rest)),
        small => Some((u32::from(small), rest)),
    })
}

/// Writes them all.
pub(super) fn write(options: &Options, into: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut before = 0;
    for (count, (number, value)) in options.iter().enumerate() {
        if value.len() > OPTION_BYTES_MAX || count >= OPTIONS_MAX {
            return Err(EncodeError::Option(number));
        }
        let (delta, delta_more) = nibble(usize::from(number - before));
        let (len, len_more) = nibble(value.len());
        into.push(delta << 4 | len);
        into.extend(delta_more);
        into.extend(len_more);
        into.extend_from_slice(value);
        before = number;
    }
    Ok(())
}

/// A number below 65 805 as a nibble and its extension.
fn nibble(number: usize) -> (u8, Vec<u8>) {
    match (number, number.checked_sub(269)) {
        (_, Some(above)) => {
            let above = u16::try_from(above).unwrap_or(u16::MAX);
            (14, above.to_be_bytes().to_vec())
        }
        (0..13, None) => (u8::try_from(number).unwrap_or(12), Vec::new()),
        (_, None) => (13, vec![u8::try_from(number - 13).unwrap_or(u8::MAX)]),
    }
}
