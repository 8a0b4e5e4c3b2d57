//! Messages one after the other in a stream of bytes, each with its length in front.

use super::message::{DecodeError, Fault, Framed, LEN_8, LEN_16, LEN_32};

/// Bytes in, messages out. Holds one message and one push at most.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    bytes_max: usize,
    broken: Option<DecodeError>,
}

/// Where the parts of a message are.
struct Layout {
    /// The token length, and the code's place.
    token_len: u8,
    code_at: usize,
    /// Bytes in all.
    whole: u64,
}

impl Decoder {
    /// One that takes messages of up to so many bytes, from the first to the last.
    ///
    /// spec: rfc8323 §5.3.1
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            bytes_max,
            broken: None,
        }
    }

    /// Takes what came, however it was cut.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next message, if it is there whole. After an error there is no next: nobody knows where it would begin.
    pub fn message(&mut self) -> Result<Option<Framed>, DecodeError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.next().inspect_err(|error| {
            self.buffer = Vec::new();
            self.broken = Some(*error);
        })
    }

    /// Whether a message has begun and is not whole.
    pub fn is_amid(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn next(&mut self) -> Result<Option<Framed>, DecodeError> {
        let Some(layout) = layout(&self.buffer)? else {
            return Ok(None);
        };
        let fits = usize::try_from(layout.whole)
            .ok()
            .filter(|whole| *whole <= self.bytes_max);
        let Some(whole) = fits else {
            let fault = Fault::Size {
                bytes: layout.whole,
                bytes_max: self.bytes_max,
            };
            return Err(DecodeError { at: 0, fault });
        };
        if self.buffer.len() < whole {
            return Ok(None);
        }
        // With the extended length left out it is a message of the other form.
        let mut alone = Vec::with_capacity(whole);
        alone.push(layout.token_len);
        alone.extend(self.buffer.drain(..whole).skip(layout.code_at));
        let message = Framed::decode(&alone, whole).map_err(|error| DecodeError {
            at: error.at + layout.code_at - 1,
            ..error
        })?;
        Ok(Some(message))
    }
}

/// Reads the lengths; nothing if they are not there yet. spec: rfc8323 §3.2
fn layout(bytes: &[u8]) -> Result<Option<Layout>, DecodeError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let (len, token_len) = (first >> 4, first & 0x0f);
    if token_len > 8 {
        let fault = Fault::TokenLength(token_len);
        return Err(DecodeError { at: 0, fault });
    }
    let extended = match len {
        13 => rest.first().map(|more| (1, LEN_8 + u64::from(*more))),
        14 => rest
            .first_chunk()
            .map(|more| (2, LEN_16 + u64::from(u16::from_be_bytes(*more)))),
        15 => rest
            .first_chunk()
            .map(|more| (4, LEN_32 + u64::from(u32::from_be_bytes(*more)))),
        small => Some((0, u64::from(small))),
    };
    Ok(extended.map(|(more, body)| Layout {
        token_len,
        code_at: 1 + more,
        whole: 2 + u64::try_from(more).unwrap_or(0) + u64::from(token_len) + body,
    }))
}
