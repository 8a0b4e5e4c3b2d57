//! The code that links a device: a secret, and the hub's key as the approving device sees it, so
//! that the new device is not talked into another hub.
//!
//! Twenty bytes in base32 (RFC 4648 §6) without padding, in groups of five: to be read out and
//! typed. Case, white space and hyphens do not matter.

use thiserror::Error;

/// The secret's length: 80 bits, of which a guesser has a few tries in ten minutes.
pub const SECRET_BYTES: usize = 10;

/// How much of the SHA-256 of the hub's `SubjectPublicKeyInfo` is in the code: a second preimage
/// of 80 bits has to be found in ten minutes.
pub const KEY_HASH_BYTES: usize = 10;

/// A code, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkCode {
    /// What the hub gave the approving device.
    pub secret: [u8; SECRET_BYTES],
    /// The beginning of the SHA-256 of the hub's `SubjectPublicKeyInfo`.
    pub key_hash: [u8; KEY_HASH_BYTES],
}

/// Why a text is no code.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LinkCodeError {
    /// It has a letter that no code has.
    #[error("{0:?} is in no code; codes are of A-Z and 2-7")]
    Letter(char),
    /// It is too short or too long.
    #[error("{found} letters, a code has {wanted}")]
    Length {
        /// How many it has.
        found: usize,
        /// How many it should have.
        wanted: usize,
    },
}

impl std::fmt::Debug for LinkCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkCode(…)") // a secret must not reach a log
    }
}

impl std::fmt::Display for LinkCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&in_groups(&[self.secret, self.key_hash].concat()))
    }
}

impl std::str::FromStr for LinkCode {
    type Err = LinkCodeError;

    fn from_str(text: &str) -> Result<Self, LinkCodeError> {
        let bytes: [u8; SECRET_BYTES + KEY_HASH_BYTES] = decoded(text)?;
        let (secret, key_hash) = bytes.split_at(SECRET_BYTES);
        Ok(Self {
            secret: secret.try_into().expect("split there"),
            key_hash: key_hash.try_into().expect("what is left"),
        })
    }
}

/// The secret part alone, as it is redeemed.
pub fn secret_text(secret: &[u8; SECRET_BYTES]) -> String {
    in_groups(secret)
}

/// Reads the secret part.
pub fn secret_from(text: &str) -> Result<[u8; SECRET_BYTES], LinkCodeError> {
    decoded(text)
}

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const GROUP_LETTERS: usize = 5;

fn in_groups(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut letters = 0;
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            if letters > 0 && letters % GROUP_LETTERS == 0 {
                text.push('-');
            }
            letters += 1;
            let index = usize::try_from(bits >> held & 31).unwrap_or(0);
            text.push(ALPHABET.get(index).copied().map_or('A', char::from));
        }
        bits &= (1 << held) - 1;
    }
    // Both parts are whole groups of five bytes: nothing is left over.
    text
}

/// `N` bytes, a multiple of five.
fn decoded<const N: usize>(text: &str) -> Result<[u8; N], LinkCodeError> {
    let mut bytes = [0; N];
    let mut free = bytes.iter_mut();
    let (mut bits, mut held, mut found) = (0_u32, 0_u32, 0);
    for letter in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        bits = bits << 5 | value(letter)?;
        held += 5;
        found += 1;
        if held >= 8 {
            held -= 8;
            if let Some(byte) = free.next() {
                *byte = u8::try_from(bits >> held).unwrap_or(0);
            }
            bits &= (1 << held) - 1;
        }
    }
    let wanted = N * 8 / 5;
    if found == wanted {
        Ok(bytes)
    } else {
        Err(LinkCodeError::Length { found, wanted })
    }
}

fn value(letter: char) -> Result<u32, LinkCodeError> {
    match letter.to_ascii_uppercase() {
        upper @ 'A'..='Z' => Ok(u32::from(upper) - u32::from('A')),
        digit @ '2'..='7' => Ok(u32::from(digit) - u32::from('2') + 26),
        // what they are taken for by whoever reads them
        '0' => Ok(14),
        '1' => Ok(8),
        _ => Err(LinkCodeError::Letter(letter)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_code_is_in_groups_of_five_and_reads_however_it_is_typed() {
        // RFC 4648 §10: "fooba" is MZXW6YTB
        let code = LinkCode {
            secret: *b"foobafooba",
            key_hash: *b"foobafooba",
        };
        let text = code.to_string();
        assert_eq!(text, "MZXW6-YTBMZ-XW6YT-BMZXW-6YTBM-ZXW6Y-TB");
        assert_eq!(text.parse(), Ok(code.clone()));
        let typed = text.to_lowercase().replace('-', " ") + "\n";
        assert_eq!(typed.parse(), Ok(code.clone()));
        let secret = secret_text(&code.secret);
        assert_eq!(secret_from(&secret), Ok(code.secret));
        assert_eq!(
            secret.parse::<LinkCode>(),
            Err(LinkCodeError::Length {
                found: 16,
                wanted: 32
            })
        );
        assert_eq!("MZ8".parse::<LinkCode>(), Err(LinkCodeError::Letter('8')));
        assert_eq!(format!("{code:?}"), "LinkCode(…)");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(secret: [u8; 10], key_hash: [u8; 10]) {
            let code = LinkCode { secret, key_hash };
            prop_assert_eq!(code.to_string().parse(), Ok(code));
        }

        #[test]
        fn any_text_is_a_code_or_is_refused(text in "\\PC{0,40}|[a-z2-7 -]{30,40}") {
            if let Ok(code) = text.parse::<LinkCode>() {
                let again = code.to_string();
                prop_assert_eq!(again.parse(), Ok(code));
            }
        }
    }
}
