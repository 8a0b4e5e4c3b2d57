//! What is encrypted: the code, the options inside, the payload.
//!
//! spec: rfc8613 §5.3. A message without type, id and token; it is written and read as a whole one
//! with those set to nothing, so that the strict reader of `wire::coap` judges it.

use super::{aead::TAG_BYTES, refused::InnerFault};
use crate::wire::coap::{Code, EncodeError, Kind, Message, Options, Token, options::number};

/// What stands for type, version, token length and id, as `wire::coap` writes it.
const VERSION_1: u8 = 0x40;

/// Writes it, with room for the tag behind.
pub(super) fn encode(code: Code, options: Options, payload: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let message = Message {
        kind: Kind::Con,
        code,
        id: 0,
        token: Token::EMPTY,
        options,
        payload: payload.to_vec(),
    };
    let encoded = message.encode()?;
    let mut plaintext = Vec::with_capacity(encoded.len() + TAG_BYTES);
    plaintext.push(code.0);
    plaintext.extend(encoded.into_iter().skip(4));
    Ok(plaintext)
}

/// Reads it: the message alone, with no type, id and token to speak of.
pub(super) fn decode(plaintext: &[u8]) -> Result<Message, InnerFault> {
    let (code, rest) = plaintext.split_first().ok_or(InnerFault::Empty)?;
    let mut bytes = Vec::with_capacity(plaintext.len() + 3);
    bytes.extend([VERSION_1, *code, 0, 0]);
    bytes.extend(rest);
    let message = Message::decode(&bytes)?;
    if message.options.has(number::OSCORE) {
        return Err(InnerFault::Nested);
    }
    Ok(message)
}
