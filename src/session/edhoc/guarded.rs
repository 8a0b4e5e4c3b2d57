//! `lakers`' cryptography with two gates in it.
//!
//! Plaintexts of messages 2 and 3 are anybody's bytes (message 2 is only masked, and message 3 is
//! sealed with keys that whoever began the exchange has), and `lakers` parses them right after it
//! decrypts them. So they are looked at here, in between.

use lakers::{
    BufferCiphertext3, BufferPlaintext3, BytesCcmIvLen, BytesCcmKeyLen, BytesHashLen,
    BytesMaxBuffer, BytesMaxInfoBuffer, BytesP256ElemLen, CryptoTrait, EDHOCError,
};
use lakers_crypto_rustcrypto::Crypto;
use p256_013::elliptic_curve::rand_core;

use super::{
    Refused,
    shape::{self, Plaintext},
};
use crate::base::Rng;

/// One step's cryptography.
pub(super) fn guarded(rng: &mut dyn Rng) -> Guarded<'_> {
    Guarded {
        inner: Crypto::new(Chance(rng)),
        masked: None,
        is_sealed: false,
        seen: None,
    }
}

#[derive(Debug)]
pub(super) struct Guarded<'a> {
    inner: Crypto<Chance<'a>>,
    /// The ciphertext of message 2, until its mask is derived.
    masked: Option<Vec<u8>>,
    /// Message 3 is awaited.
    is_sealed: bool,
    seen: Option<Result<Plaintext, Refused>>,
}

impl Guarded<'_> {
    /// The next step parses message 2, and this is its ciphertext.
    pub(super) fn expect_masked(&mut self, ciphertext: &[u8]) {
        self.masked = Some(ciphertext.to_vec());
    }

    /// The next step parses message 3.
    pub(super) fn expect_sealed(&mut self) {
        self.is_sealed = true;
    }

    /// What was in the plaintext, or why `lakers` did not get to see it.
    pub(super) fn plaintext<T>(
        &mut self,
        message: u8,
        parsed: Result<T, EDHOCError>,
    ) -> Result<(T, Plaintext), Refused> {
        match (parsed, self.seen.take()) {
            (Ok(state), Some(Ok(plaintext))) => Ok((state, plaintext)),
            (_, Some(Err(refused))) => Err(refused),
            (Err(error), _) => Err(Refused::lakers(message, &error)),
            (Ok(_), None) => Err(Refused::malformed(message, 0, "a plaintext")),
        }
    }
}

impl CryptoTrait for Guarded<'_> {
    fn sha256_digest(&mut self, message: &BytesMaxBuffer, message_len: usize) -> BytesHashLen {
        self.inner.sha256_digest(message, message_len)
    }

    fn hkdf_expand(
        &mut self,
        prk: &BytesHashLen,
        info: &BytesMaxInfoBuffer,
        info_len: usize,
        length: usize,
    ) -> BytesMaxBuffer {
        let mut mask = self.inner.hkdf_expand(prk, info, info_len, length);
        if let Some(ciphertext) = self.masked.take() {
            let bytes = ciphertext.iter().zip(mask).map(|(byte, mask)| byte ^ mask);
            let seen = shape::plaintext(2, &bytes.collect::<Vec<_>>());
            if seen.is_err() {
                // There is no other way to turn it down from here: masked with itself it comes out
                // as zeros, and those `lakers` refuses for want of a MAC.
                mask.iter_mut()
                    .zip(ciphertext)
                    .for_each(|(mask, byte)| *mask = byte);
            }
            self.seen = Some(seen);
        }
        mask
    }

    fn hkdf_extract(&mut self, salt: &BytesHashLen, ikm: &BytesP256ElemLen) -> BytesHashLen {
        self.inner.hkdf_extract(salt, ikm)
    }

    fn aes_ccm_encrypt_tag_8(
        &mut self,
        key: &BytesCcmKeyLen,
        iv: &BytesCcmIvLen,
        ad: &[u8],
        plaintext: &BufferPlaintext3,
    ) -> BufferCiphertext3 {
        self.inner.aes_ccm_encrypt_tag_8(key, iv, ad, plaintext)
    }

    fn aes_ccm_decrypt_tag_8(
        &mut self,
        key: &BytesCcmKeyLen,
        iv: &BytesCcmIvLen,
        ad: &[u8],
        ciphertext: &BufferCiphertext3,
    ) -> Result<BufferPlaintext3, EDHOCError> {
        let plaintext = self.inner.aes_ccm_decrypt_tag_8(key, iv, ad, ciphertext)?;
        if std::mem::take(&mut self.is_sealed) {
            let seen = shape::plaintext(3, plaintext.as_slice());
            let is_refused = seen.is_err();
            self.seen = Some(seen);
            if is_refused {
                return Err(EDHOCError::ParsingError);
            }
        }
        Ok(plaintext)
    }

    fn p256_ecdh(
        &mut self,
        private_key: &BytesP256ElemLen,
        public_key: &BytesP256ElemLen,
    ) -> BytesP256ElemLen {
        // Panics for a number that is no key and an x that is no point. Ours are `StaticKey` and
        // `PublicKey`; the ephemeral ones of the peer passed `shape`.
        self.inner.p256_ecdh(private_key, public_key)
    }

    fn get_random_byte(&mut self) -> u8 {
        self.inner.get_random_byte()
    }

    fn p256_generate_key_pair(&mut self) -> (BytesP256ElemLen, BytesP256ElemLen) {
        self.inner.p256_generate_key_pair()
    }
}

/// Our random source, as the generation before last of `rand` wants it.
struct Chance<'a>(&'a mut dyn Rng);

impl rand_core::CryptoRng for Chance<'_> {}

impl rand_core::RngCore for Chance<'_> {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}
