//! AES-CCM-16-64-128 and what it authenticates besides the ciphertext.

use aes::Aes128;
use ccm::{
    Ccm, KeyInit,
    aead::AeadInOut,
    consts::{U8, U13},
};

use super::{
    context::{COMMON_IV_BYTES, Id, KEY_BYTES},
    nonce::Piv,
};

/// The length of the tag, in bytes.
pub(super) const TAG_BYTES: usize = 8;

type AesCcm = Ccm<Aes128, U8, U13>;

/// The associated data of a request and of every answer to it: what ties them together.
///
/// spec: rfc8613 §5.4. `["Encrypt0", h'', bstr .cbor [1, [10], kid, piv, h'']]`; with an id of at
/// most seven and a number of at most five bytes every CBOR length fits into its first byte.
pub(super) fn associated_data(request_kid: Id, request_piv: Piv) -> Vec<u8> {
    const BSTR: u8 = 0x40;
    const FIXED_BYTES: u8 = 7;
    let piv_bytes = u8::try_from(request_piv.width()).expect("a partial IV has five bytes at most");
    let mut aad = b"\x83\x68Encrypt0\x40".to_vec();
    aad.push(BSTR | (FIXED_BYTES + request_kid.len() + piv_bytes));
    aad.extend([0x85, 0x01, 0x81, 0x0a]);
    aad.push(BSTR | request_kid.len());
    aad.extend(request_kid.as_bytes());
    aad.push(BSTR | piv_bytes);
    request_piv.append(&mut aad);
    aad.push(BSTR);
    aad
}

/// Turns a plaintext into the ciphertext with its tag behind.
pub(super) fn seal(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; COMMON_IV_BYTES],
    aad: &[u8],
    text: &mut Vec<u8>,
) {
    AesCcm::new(key.into())
        .encrypt_in_place(nonce.into(), aad, text)
        .expect("a message of one datagram is below the 64 kB of CCM");
}

/// Turns a ciphertext into its plaintext; false, and the bytes are worth nothing, when it was not
/// made with this key, nonce and associated data.
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; COMMON_IV_BYTES],
    aad: &[u8],
    text: &mut Vec<u8>,
) -> bool {
    AesCcm::new(key.into())
        .decrypt_in_place(nonce.into(), aad, text)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of section 5.4.
    #[test]
    fn the_associated_data_is_that_of_the_specification() {
        let aad = associated_data(Id::new(&[0]).unwrap(), Piv::new(0x25).unwrap());

        assert_eq!(
            hex::encode(aad),
            "8368456e63727970743040498501810a4100412540"
        );
    }

    #[test]
    fn an_empty_or_short_ciphertext_is_refused() {
        for len in 0..TAG_BYTES {
            let mut text = vec![0; len];
            assert!(!open(&[1; 16], &[2; 13], b"", &mut text));
        }
    }
}
