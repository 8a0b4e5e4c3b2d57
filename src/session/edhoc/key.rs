//! Static keys, and the credentials made of them.
//!
//! A credential is a CWT Claims Set with nothing but the key in it. It is never sent: both ends
//! build it from the key's x coordinate and the kid, and it must come out the same to the byte.

use std::fmt;

use lakers::{BufferCred, BufferKid, Credential, CryptoTrait};
use p256_013::{
    AffinePoint, FieldBytes, SecretKey,
    elliptic_curve::{
        point::{AffineCoordinates, DecompressPoint},
        sec1::ToEncodedPoint,
    },
};
use zeroize::Zeroize;

use super::guarded::guarded;
use crate::base::Rng;

/// The kid of the hub's own credential: zero, one byte as an integer on the wire. A device has one
/// hub, so it need not tell hubs apart; the key does.
pub const HUB_KID: Kid = Kid {
    bytes: [0; Kid::BYTES_MAX],
    len: 1,
};

/// A key pair on P-256.
#[derive(Clone)]
pub struct StaticKey {
    secret: [u8; 32],
    public: PublicKey,
}

/// The x coordinate of a point that is on the curve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// What a credential is known by: a few bytes, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kid {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

/// Which y coordinate a credential shows. EDHOC needs none, but the credential's bytes are what
/// both ends hash, and some tools (aiocoap-keygen) always write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Y {
    Absent,
    Even,
    Odd,
}

impl StaticKey {
    /// A new key.
    pub fn generate(rng: &mut dyn Rng) -> Self {
        let (secret, public) = guarded(rng).p256_generate_key_pair();
        Self {
            secret,
            public: PublicKey(public),
        }
    }

    /// A key that was kept; none if the number is zero or not below the curve's order.
    pub fn parse(secret: [u8; 32]) -> Option<Self> {
        let parsed = SecretKey::from_slice(&secret).ok()?;
        let public = PublicKey(parsed.public_key().as_affine().x().into());
        Some(Self { secret, public })
    }

    /// The number, to keep.
    pub const fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// What others may know.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// As an RFC 9052 `COSE_Key`, the private part included: what aiocoap reads from a key file.
    pub fn cose_key(&self) -> Vec<u8> {
        // {1: 2, -1: 1, -4: secret}
        let mut key = vec![0xa3, 0x01, 0x02, 0x20, 0x01, 0x23, 0x58, 0x20];
        key.extend(self.secret);
        key
    }
}

impl Drop for StaticKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({:?})", self.public)
    }
}

impl PublicKey {
    /// A key someone gave us; none if there is no such point.
    ///
    /// spec: rfc9528 §9.2
    pub fn parse(x: [u8; 32]) -> Option<Self> {
        point(&x, Y::Even).map(|_| Self(x))
    }

    /// The x coordinate.
    pub const fn x(&self) -> &[u8; 32] {
        &self.0
    }

    /// The credential of this key and kid, without a y coordinate: what we make.
    pub fn credential(&self, kid: Kid) -> Vec<u8> {
        self.claims(kid, Y::Absent)
    }

    /// `{8: {1: {1: 2, 2: kid, -1: 1, -2: x, -3: y}}}` in deterministic encoding.
    ///
    /// spec: rfc9528 §3.5.2
    pub(super) fn claims(&self, kid: Kid, y: Y) -> Vec<u8> {
        let with_y = u8::from(y != Y::Absent);
        let mut claims = vec![0xa1, 0x08, 0xa1, 0x01, 0xa4 + with_y, 0x01, 0x02, 0x02];
        claims.push(0x40 | kid.len);
        claims.extend(kid.as_bytes());
        claims.extend([0x20, 0x01, 0x21, 0x58, 0x20]);
        claims.extend(self.0);
        if let Some(y) = point(&self.0, y).filter(|_| y != Y::Absent) {
            claims.extend([0x22, 0x58, 0x20]);
            claims.extend(y);
        }
        claims
    }

    /// For `lakers`.
    pub(super) fn lakers(&self, kid: Kid, y: Y) -> Credential {
        let claims = BufferCred::new_from_slice(&self.claims(kid, y))
            .expect("claims with a kid of 16 bytes are below 192 bytes");
        let kid = BufferKid::new_from_slice(kid.as_bytes()).expect("a kid has 16 bytes at most");
        Credential::new_ccs(claims, self.0).with_kid(kid)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(self.0))
    }
}

impl Kid {
    /// The longest, in bytes: what `lakers` keeps.
    pub const BYTES_MAX: usize = 16;

    /// A kid of at most sixteen bytes.
    pub fn new(value: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::BYTES_MAX];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self {
            bytes,
            len: u8::try_from(value.len()).ok()?,
        })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kid({})", hex::encode(self.as_bytes()))
    }
}

/// The y coordinate that goes with this x, if the curve has such a point.
fn point(x: &[u8; 32], y: Y) -> Option<[u8; 32]> {
    let odd = u8::from(y == Y::Odd).into();
    let point =
        Option::<AffinePoint>::from(AffinePoint::decompress(FieldBytes::from_slice(x), odd))?;
    let encoded = point.to_encoded_point(false);
    encoded.y().map(|y| (*y).into())
}
