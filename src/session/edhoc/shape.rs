//! The shape of messages, checked before `lakers` sees them.
//!
//! `lakers` copies into buffers of fixed size and multiplies lengths in single bytes; what passes
//! here cannot make it run over. It is also stricter: numbers and lengths in their shortest form.

use super::{Kid, METHOD, PublicKey, Refused, SUITE};
use crate::session::oscore::Id;

/// The longest message, in bytes: the size of `lakers`' buffers. Ours have 37, 46, 19 and 9.
const MESSAGE_BYTES_MAX: usize = lakers::MAX_MESSAGE_SIZE_LEN;

/// The most external authorisation data in a plaintext, in bytes. It shares a buffer of 256 bytes
/// with a credential (97 at most), its name (19) and a hash (34); nothing we know uses any.
const EXTERNAL_DATA_BYTES_MAX: usize = 64;

/// The length of an AEAD tag and of a MAC, in bytes.
const MAC_BYTES: usize = lakers::MAC_LENGTH;

/// The length of an ephemeral key, in bytes.
const KEY_BYTES: usize = lakers::P256_ELEM_LEN;

/// The shortest plaintext 3, in bytes: a kid as an integer and a MAC.
const PLAINTEXT_3_BYTES_MIN: usize = 1 + 1 + MAC_BYTES;

/// What is in the plaintexts of messages 2 and 3, in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plaintext {
    /// Of message 2 only.
    pub(super) c_r: Option<Id>,
    /// Whose credential.
    pub(super) kid: Kid,
}

/// Checks message 1 and gives `C_I`.
///
/// spec: rfc9528 §5.2.3
pub(super) fn message_1(bytes: &[u8]) -> Result<Id, Refused> {
    let mut read = Reader::new(1, bytes)?;
    let method = read.uint("a method")?;
    if method != METHOD {
        return Err(Refused::Method(method));
    }
    let suites = read.suites()?;
    // A suite we have, in front of the selected one, should have been selected.
    if suites.iter().position(|suite| *suite == SUITE) != Some(suites.len() - 1) {
        return Err(Refused::Suites(suites));
    }
    let g_x = read.byte_string("an ephemeral key")?;
    on_curve(&read, g_x)?;
    let c_i = read.identifier()?;
    read.external_data(MESSAGE_BYTES_MAX)?;
    Ok(c_i)
}

/// Checks message 2 and gives its ciphertext.
pub(super) fn message_2(bytes: &[u8]) -> Result<&[u8], Refused> {
    let mut read = Reader::new(2, bytes)?;
    let text = read.byte_string("a byte string")?;
    read.end()?;
    let (g_y, ciphertext) = text
        .split_at_checked(KEY_BYTES)
        .ok_or_else(|| read.fail("a key and a ciphertext"))?;
    on_curve(&read, g_y)?;
    Ok(ciphertext)
}

/// Checks message 3.
pub(super) fn message_3(bytes: &[u8]) -> Result<(), Refused> {
    sealed(3, bytes, PLAINTEXT_3_BYTES_MIN)
}

/// Checks message 4.
pub(super) fn message_4(bytes: &[u8]) -> Result<(), Refused> {
    sealed(4, bytes, 0)
}

/// Checks the plaintext of message 2 or 3.
///
/// spec: rfc9528 §3.5.3.2
pub(super) fn plaintext(message: u8, bytes: &[u8]) -> Result<Plaintext, Refused> {
    let mut read = Reader::new(message, bytes)?;
    let c_r = match message {
        2 => Some(read.identifier()?),
        _ => None,
    };
    if matches!(read.rest().first(), Some(0xa0..=0xbf)) {
        return Err(Refused::CredentialKind(message));
    }
    let kid = read.shortened("the kid of a credential")?;
    let kid = Kid::new(kid).ok_or_else(|| read.fail("a kid of at most 16 bytes"))?;
    if read.byte_string("a MAC")?.len() != MAC_BYTES {
        return Err(read.fail("a MAC of 8 bytes"));
    }
    read.external_data(EXTERNAL_DATA_BYTES_MAX)?;
    Ok(Plaintext { c_r, kid })
}

/// An identifier as CBOR has it: itself where it looks like a small integer, else a byte string.
///
/// spec: rfc9528 §3.3.2
pub fn identifier(id: Id) -> Vec<u8> {
    match id.as_bytes() {
        [byte] if is_small_int(*byte) => vec![*byte],
        bytes => {
            let len = u8::try_from(bytes.len()).expect("an id has seven bytes at most");
            [&[0x40 | len], bytes].concat()
        }
    }
}

/// Takes an identifier off the front: what correlates a message 3 that comes alone.
pub fn split_identifier(body: &[u8]) -> Result<(Id, &[u8]), Refused> {
    let mut read = Reader {
        message: 0,
        all: body,
        at: 0,
    };
    Ok((read.identifier()?, read.rest()))
}

/// Takes message 3, one byte string, off the front of a combined request's payload.
pub(super) fn split_message_3(payload: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    let mut read = Reader {
        message: 0,
        all: payload,
        at: 0,
    };
    read.byte_string("EDHOC message 3")?;
    match payload.split_at_checked(read.at) {
        Some((message_3, rest)) if !rest.is_empty() => Ok((message_3, rest)),
        _ => Err(read.fail("a protected request")),
    }
}

fn sealed(message: u8, bytes: &[u8], plaintext_bytes_min: usize) -> Result<(), Refused> {
    let mut read = Reader::new(message, bytes)?;
    let ciphertext = read.byte_string("a byte string")?;
    read.end()?;
    if ciphertext.len() < plaintext_bytes_min + MAC_BYTES {
        return Err(read.fail("more bytes"));
    }
    Ok(())
}

fn on_curve(read: &Reader<'_>, x: &[u8]) -> Result<(), Refused> {
    let x = x
        .try_into()
        .map_err(|_| read.fail("an ephemeral key of 32 bytes"))?;
    match PublicKey::parse(x) {
        Some(_) => Ok(()),
        None => Err(Refused::NotOnCurve(read.message)),
    }
}

/// Bytes that mean the integers from -24 to 23.
const fn is_small_int(byte: u8) -> bool {
    matches!(byte, 0x00..=0x17 | 0x20..=0x37)
}

struct Reader<'a> {
    message: u8,
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(message: u8, all: &'a [u8]) -> Result<Self, Refused> {
        let read = Self {
            message,
            all,
            at: 0,
        };
        if all.len() > MESSAGE_BYTES_MAX {
            return Err(read.fail("no more than 192 bytes"));
        }
        Ok(read)
    }

    const fn fail(&self, what: &'static str) -> Refused {
        Refused::malformed(self.message, self.at, what)
    }

    fn rest(&self) -> &'a [u8] {
        self.all.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Refused> {
        let taken = self.rest().get(..len).ok_or_else(|| self.fail(what))?;
        self.at += len;
        Ok(taken)
    }

    fn end(&self) -> Result<(), Refused> {
        match self.rest() {
            [] => Ok(()),
            _ => Err(self.fail("the end")),
        }
    }

    /// The argument of a head of this major type, below 256 and in its shortest form.
    fn argument(&mut self, major: u8, what: &'static str) -> Result<u8, Refused> {
        match self.rest() {
            [head, ..] if head >> 5 == major && head & 0x1f < 24 => {
                self.at += 1;
                Ok(head & 0x1f)
            }
            [head, value, ..] if *head == (major << 5 | 0x18) && *value >= 24 => {
                self.at += 2;
                Ok(*value)
            }
            _ => Err(self.fail(what)),
        }
    }

    fn uint(&mut self, what: &'static str) -> Result<u8, Refused> {
        self.argument(0, what)
    }

    fn byte_string(&mut self, what: &'static str) -> Result<&'a [u8], Refused> {
        let len = self.argument(2, what)?;
        self.take(len.into(), what)
    }

    /// One suite, or a list of two to nine.
    fn suites(&mut self) -> Result<Vec<u8>, Refused> {
        let what = "cipher suites";
        match self.rest().first() {
            Some(head @ 0x82..=0x89) => {
                self.at += 1;
                (0..head & 0x1f).map(|_| self.uint(what)).collect()
            }
            _ => Ok(vec![self.uint(what)?]),
        }
    }

    /// A byte string, which stands as an integer where it can.
    fn shortened(&mut self, what: &'static str) -> Result<&'a [u8], Refused> {
        match self.rest().first() {
            Some(byte) if is_small_int(*byte) => self.take(1, what),
            _ => match self.byte_string(what)? {
                [byte] if is_small_int(*byte) => Err(self.fail("the integer it can be")),
                bytes => Ok(bytes),
            },
        }
    }

    /// spec: rfc9528 §3.3.2
    fn identifier(&mut self) -> Result<Id, Refused> {
        let bytes = self.shortened("a connection identifier")?;
        Id::new(bytes).ok_or_else(|| self.fail("an identifier of at most seven bytes"))
    }

    /// Whatever is left: padding and other data to ignore, but nothing critical.
    ///
    /// spec: rfc9528 §3.8
    fn external_data(&mut self, bytes_max: usize) -> Result<(), Refused> {
        let what = "external authorisation data";
        if self.rest().len() > bytes_max {
            return Err(self.fail("less external authorisation data"));
        }
        while let Some(head) = self.rest().first() {
            if head >> 5 == 1 {
                let label = self.argument(1, what)?.saturating_add(1);
                let message = self.message;
                return Err(Refused::CriticalData { message, label });
            }
            self.uint(what)?;
            if self.rest().first().is_some_and(|head| head >> 5 == 2) {
                self.byte_string(what)?;
            }
        }
        Ok(())
    }
}
