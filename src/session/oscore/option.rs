//! The value of the OSCORE option: flags, partial IV, kid context, kid.

use thiserror::Error;

use super::nonce::Piv;

/// What the option says, with the bytes it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OscoreOption<'a> {
    /// The sender's number. In every request; in an answer when it does not use the request's.
    pub piv: Option<Piv>,
    /// Which of the contexts with this kid.
    pub kid_context: Option<&'a [u8]>,
    /// The sender's id. In every request.
    pub kid: Option<&'a [u8]>,
}

/// Bytes that are no OSCORE option. All of them are one thing to the sender: 4.02.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// More than an option may have.
    #[error("OSCORE option of {0} bytes, at most 255 are allowed")]
    Long(usize),
    /// A flag that means nothing yet.
    #[error("OSCORE option, offset 0: reserved flags in {0:#04x}")]
    Reserved(u8),
    /// No flag at all is an option of no bytes.
    #[error("OSCORE option, offset 0: flags of zero must be left out")]
    ZeroFlags,
    /// Six and seven are reserved.
    #[error("OSCORE option, offset 0: a partial IV of {0} bytes is reserved")]
    PivLength(u8),
    /// Zeros in front of the number.
    #[error("OSCORE option, offset 1: the partial IV begins with a zero")]
    PivPadded,
    /// It ends within a field.
    #[error("OSCORE option, offset {0}: it ends early")]
    Truncated(usize),
    /// Bytes where no kid was announced.
    #[error("OSCORE option: {0} bytes too many")]
    Trailing(usize),
}

const PIV_LENGTH: u8 = 0x07;
const KID: u8 = 0x08;
const KID_CONTEXT: u8 = 0x10;
const RESERVED: u8 = 0xe0;

/// The longest value the option may have, in bytes. spec: rfc8613 §2.
const OPTION_BYTES_MAX: usize = 255;

impl<'a> OscoreOption<'a> {
    /// Reads the option's value.
    ///
    /// spec: rfc8613 §6.1
    pub fn decode(value: &'a [u8]) -> Result<Self, OptionError> {
        if value.len() > OPTION_BYTES_MAX {
            return Err(OptionError::Long(value.len()));
        }
        let Some((&flags, rest)) = value.split_first() else {
            return Ok(Self::default());
        };
        if flags & RESERVED != 0 {
            return Err(OptionError::Reserved(flags));
        }
        if flags == 0 {
            return Err(OptionError::ZeroFlags);
        }
        let ends_early = OptionError::Truncated(value.len());
        let (piv, rest) = decode_piv(flags & PIV_LENGTH, rest, ends_early)?;
        let (kid_context, rest) = if flags & KID_CONTEXT == 0 {
            (None, rest)
        } else {
            let (&len, rest) = rest.split_first().ok_or(ends_early)?;
            let (context, rest) = rest.split_at_checked(len.into()).ok_or(ends_early)?;
            (Some(context), rest)
        };
        if flags & KID == 0 && !rest.is_empty() {
            return Err(OptionError::Trailing(rest.len()));
        }
        Ok(Self {
            piv,
            kid_context,
            kid: (flags & KID != 0).then_some(rest),
        })
    }

    /// Writes the option's value. A kid context of more than 255 bytes has no wire form; contexts
    /// are not made with one.
    pub fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        let mut out = vec![flags];
        if let Some(piv) = self.piv {
            flags |= u8::try_from(piv.width()).expect("a partial IV has five bytes at most");
            piv.append(&mut out);
        }
        if let Some(context) = self.kid_context {
            flags |= KID_CONTEXT;
            out.push(u8::try_from(context.len()).unwrap_or(u8::MAX));
            out.extend(context);
        }
        if let Some(kid) = self.kid {
            flags |= KID;
            out.extend(kid);
        }
        if flags == 0 {
            return Vec::new();
        }
        if let Some(first) = out.first_mut() {
            *first = flags;
        }
        out
    }
}

fn decode_piv(
    len: u8,
    rest: &[u8],
    ends_early: OptionError,
) -> Result<(Option<Piv>, &[u8]), OptionError> {
    if len == 0 {
        return Ok((None, rest));
    }
    if len > 5 {
        return Err(OptionError::PivLength(len));
    }
    let (piv, rest) = rest.split_at_checked(len.into()).ok_or(ends_early)?;
    let piv = Piv::decode(piv).ok_or(OptionError::PivPadded)?;
    Ok((Some(piv), rest))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn read(value: &str) -> Result<OscoreOption<'static>, OptionError> {
        OscoreOption::decode(hex::decode(value).unwrap().leak())
    }

    /// Section 6.3.
    #[test]
    fn the_examples_of_the_specification_read_and_write() {
        let piv = Piv::new;
        let no = OscoreOption::default();
        for (value, meant) in [
            (
                "090525",
                OscoreOption {
                    piv: piv(5),
                    kid: Some(&[0x25]),
                    ..no
                },
            ),
            (
                "0900",
                OscoreOption {
                    piv: piv(0),
                    kid: Some(&[]),
                    ..no
                },
            ),
            (
                "19050544616c656b",
                OscoreOption {
                    piv: piv(5),
                    kid_context: Some(b"Dalek"),
                    kid: Some(&[]),
                },
            ),
            ("", no),
            ("0107", OscoreOption { piv: piv(7), ..no }),
        ] {
            assert_eq!(read(value), Ok(meant));
            assert_eq!(hex::encode(meant.encode()), value);
        }
    }

    #[test]
    fn what_is_reserved_or_cut_short_is_refused_by_name() {
        assert_eq!(read("29"), Err(OptionError::Reserved(0x29)));
        assert_eq!(read("80"), Err(OptionError::Reserved(0x80)));
        assert_eq!(read("00"), Err(OptionError::ZeroFlags));
        assert_eq!(read("0e010203040506"), Err(OptionError::PivLength(6)));
        assert_eq!(read("0a0005"), Err(OptionError::PivPadded));
        assert_eq!(read("0a05"), Err(OptionError::Truncated(2)));
        assert_eq!(read("18"), Err(OptionError::Truncated(1)));
        assert_eq!(read("180501"), Err(OptionError::Truncated(3)));
        assert_eq!(read("010701"), Err(OptionError::Trailing(1)));
        assert_eq!(OscoreOption::decode(&[9; 256]), Err(OptionError::Long(256)));
    }

    proptest! {
        #[test]
        fn any_bytes_read_or_fail_and_what_reads_is_written_the_same(
            value in vec(any::<u8>(), 0..40),
        ) {
            if let Ok(option) = OscoreOption::decode(&value) {
                prop_assert_eq!(option.encode(), value);
            }
        }

        #[test]
        fn any_option_survives_the_wire(
            piv in option::of(0..=Piv::MAX.number()),
            kid_context in option::of(vec(any::<u8>(), 0..=64)),
            kid in option::of(vec(any::<u8>(), 0..=7)),
        ) {
            let option = OscoreOption {
                piv: piv.and_then(Piv::new),
                kid_context: kid_context.as_deref(),
                kid: kid.as_deref(),
            };
            let value = option.encode();
            prop_assert_eq!(OscoreOption::decode(&value), Ok(option));
        }
    }
}
