//! What two ends share: ids, keys derived from a secret, and the state that moves.

use std::fmt;

use hkdf::Hkdf;
use sha2_11::Sha256;
use thiserror::Error;
use zeroize::Zeroize;

use super::{
    nonce::{self, Piv},
    sequence::Sequence,
    window::Window,
};

/// The length of a key of AES-CCM-16-64-128, in bytes.
pub(super) const KEY_BYTES: usize = 16;

/// The length of its nonce, and so of the common IV, in bytes.
pub(super) const COMMON_IV_BYTES: usize = 13;

/// The shortest master secret, in bytes: as strong as the keys made of it.
const MASTER_SECRET_BYTES_MIN: usize = 16;

/// The longest ID context, in bytes: RFC 8613's own procedure makes 16, and each is kept in memory.
const ID_CONTEXT_BYTES_MAX: usize = 64;

/// COSE's number of AES-CCM-16-64-128.
pub const AES_CCM_16_64_128: i32 = 10;

/// COSE's number of HKDF with SHA-256.
pub const HKDF_SHA_256: i32 = -10;

/// A sender or recipient id: at most seven bytes, kept inline. None at all is an id too.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

/// An ID context: keeps contexts with the same ids and secret apart. Hardly any context has one, so
/// what may have one takes a pointer for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdContext(Box<IdContextBytes>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct IdContextBytes {
    padded: [u8; ID_CONTEXT_BYTES_MAX],
    len: usize,
}

/// What a request names its context by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId {
    /// The id of the end that sends requests: the recipient id of the end that gets them.
    pub kid: Id,
    /// The ID context, if there is one (of a context) or it was said (in a request).
    pub id_context: Option<IdContext>,
}

/// What both ends must agree on before they speak.
#[derive(Clone, Copy)]
pub struct Parameters<'a> {
    /// Uniformly random, or from a key exchange.
    pub master_secret: &'a [u8],
    /// May be empty.
    pub master_salt: &'a [u8],
    /// Ours: what our requests say as kid.
    pub sender_id: Id,
    /// The peer's.
    pub recipient_id: Id,
    /// Keeps contexts with the same ids and secret apart.
    pub id_context: Option<&'a [u8]>,
    /// COSE's number of the AEAD; only [`AES_CCM_16_64_128`].
    pub aead: i32,
    /// COSE's number of the HKDF; only [`HKDF_SHA_256`].
    pub hkdf: i32,
}

/// Why no keys are derived.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DeriveError {
    /// We have one AEAD.
    #[error("AEAD algorithm {0} ({name}) is not supported, only AES-CCM-16-64-128 (10)", name = aead_name(*.0))]
    Aead(i32),
    /// We have one HKDF.
    #[error("key derivation {0} is not supported, only HKDF SHA-256 (-10)")]
    Hkdf(i32),
    /// Both keys would be one, and each end would accept its own messages.
    #[error("sender and recipient id are both {0:?}")]
    SameIds(Id),
    /// It can be guessed.
    #[error("a master secret of {0} bytes, at least {MASTER_SECRET_BYTES_MIN} are needed")]
    ShortSecret(usize),
    /// More than we keep.
    #[error("an ID context of {0} bytes, at most {ID_CONTEXT_BYTES_MAX} are allowed")]
    LongIdContext(usize),
}

/// What stands in the outer Observe option of notifications we send. The inner one counts; the
/// outer one is for whoever forwards them, and may be read by nobody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OuterObserve {
    /// Nothing: one byte less, two beyond the 255th.
    #[default]
    Empty,
    /// The number of the notification: for proxies, and for clients (aiocoap among them) whose
    /// lower layer drops what it takes for reordered before OSCORE sees it.
    Counted,
}

/// Everything one end has of a security context.
///
/// There is one of it, and no copy: two would use the same numbers.
pub struct SecurityContext {
    pub(super) keys: Keys,
    pub(super) sender_id: Id,
    pub(super) recipient_id: Id,
    pub(super) id_context: Option<IdContext>,
    pub(super) sequence: Sequence,
    pub(super) window: Window,
    pub(super) outer_observe: OuterObserve,
    pub(super) sends_kid_context: bool,
}

/// What is derived, once.
pub(super) struct Keys {
    pub(super) sender_key: [u8; KEY_BYTES],
    pub(super) recipient_key: [u8; KEY_BYTES],
    pub(super) common_iv: [u8; COMMON_IV_BYTES],
}

impl Id {
    /// The longest, in bytes. spec: rfc8613 §3.3.
    pub const BYTES_MAX: usize = 7;

    /// An id of at most seven bytes.
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

    pub(super) const fn len(self) -> u8 {
        self.len
    }
}

impl IdContext {
    /// An ID context of at most 64 bytes.
    pub fn new(value: &[u8]) -> Option<Self> {
        let len = value.len();
        let mut padded = [0; ID_CONTEXT_BYTES_MAX];
        padded.get_mut(..len)?.copy_from_slice(value);
        Some(Self(Box::new(IdContextBytes { padded, len })))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        let IdContextBytes { padded, len } = &*self.0;
        padded.get(..*len).unwrap_or(padded)
    }
}

impl<'a> Parameters<'a> {
    /// The algorithms everyone must have, no salt and no ID context.
    pub const fn new(master_secret: &'a [u8], sender_id: Id, recipient_id: Id) -> Self {
        Self {
            master_secret,
            master_salt: &[],
            sender_id,
            recipient_id,
            id_context: None,
            aead: AES_CCM_16_64_128,
            hkdf: HKDF_SHA_256,
        }
    }

    fn check(&self) -> Result<Option<IdContext>, DeriveError> {
        if self.aead != AES_CCM_16_64_128 {
            return Err(DeriveError::Aead(self.aead));
        }
        if self.hkdf != HKDF_SHA_256 {
            return Err(DeriveError::Hkdf(self.hkdf));
        }
        if self.sender_id == self.recipient_id {
            return Err(DeriveError::SameIds(self.sender_id));
        }
        if self.master_secret.len() < MASTER_SECRET_BYTES_MIN {
            return Err(DeriveError::ShortSecret(self.master_secret.len()));
        }
        let checked = |context: &[u8]| {
            IdContext::new(context).ok_or(DeriveError::LongIdContext(context.len()))
        };
        self.id_context.map(checked).transpose()
    }
}

impl SecurityContext {
    /// A context nobody has used yet, on either end: fresh secret, or fresh ids under it.
    pub fn new(parameters: &Parameters<'_>) -> Result<Self, DeriveError> {
        Self::with_state(parameters, Sequence::resumed(0), Window::Empty)
    }

    /// A context used before, of which the ceiling of its numbers was kept and no more: what was
    /// received is unknown.
    pub fn resumed(parameters: &Parameters<'_>, ceiling: u64) -> Result<Self, DeriveError> {
        Self::with_state(parameters, Sequence::resumed(ceiling), Window::Uncertain)
    }

    /// A context with both states given. A window may be given only if no request was taken with
    /// this context since it was read; numbers only if none was taken since.
    pub fn with_state(
        parameters: &Parameters<'_>,
        sequence: Sequence,
        window: Window,
    ) -> Result<Self, DeriveError> {
        let id_context = parameters.check()?;
        Ok(Self {
            keys: Keys::derive(parameters, id_context.as_ref()),
            sender_id: parameters.sender_id,
            recipient_id: parameters.recipient_id,
            id_context,
            sequence,
            window,
            outer_observe: OuterObserve::Empty,
            sends_kid_context: false,
        })
    }

    /// The same, with this in the outer Observe of notifications.
    #[must_use]
    pub const fn observe_outside(mut self, outer: OuterObserve) -> Self {
        self.outer_observe = outer;
        self
    }

    /// The same, saying its ID context in every request. spec: rfc8613 §5.1.
    #[must_use]
    pub const fn saying_kid_context(mut self) -> Self {
        self.sends_kid_context = true;
        self
    }

    /// What the peer's requests name it by.
    pub fn id(&self) -> ContextId {
        ContextId {
            kid: self.recipient_id,
            id_context: self.id_context.clone(),
        }
    }

    /// Whether a replayed request could be taken for a new one.
    pub fn is_uncertain(&self) -> bool {
        self.window == Window::Uncertain
    }

    /// What was received.
    pub const fn window(&self) -> Window {
        self.window
    }

    /// The numbers sent.
    pub const fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// See [`Sequence::reserve_wanted`].
    pub fn reserve_wanted(&self, block: u64) -> Option<u64> {
        self.sequence.reserve_wanted(block)
    }

    /// See [`Sequence::reserved`].
    pub fn reserved(&mut self, ceiling: u64) {
        self.sequence.reserved(ceiling);
    }

    /// Differs between any two lives of this context of which the earlier sent anything. It must
    /// go into Echo values that are to show freshness: a challenge answered in an earlier life
    /// would open the window for a replay.
    pub const fn incarnation(&self) -> u64 {
        self.sequence.begin()
    }

    pub(super) fn nonce(&self, made_by: Id, piv: Piv) -> [u8; COMMON_IV_BYTES] {
        nonce::nonce(&self.keys.common_iv, made_by, piv)
    }
}

impl Keys {
    /// spec: rfc8613 §3.2.1
    fn derive(parameters: &Parameters<'_>, id_context: Option<&IdContext>) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(parameters.master_salt), parameters.master_secret);
        let expand = |info: &[u8], out: &mut [u8]| {
            hkdf.expand(info, out)
                .expect("HKDF gives far more than 16 bytes");
        };
        let mut keys = Self {
            sender_key: [0; KEY_BYTES],
            recipient_key: [0; KEY_BYTES],
            common_iv: [0; COMMON_IV_BYTES],
        };
        let key_info = |id| info(id, id_context, b"\x63Key\x10");
        expand(&key_info(parameters.sender_id), &mut keys.sender_key);
        expand(&key_info(parameters.recipient_id), &mut keys.recipient_key);
        let iv_info = info(Id::default(), id_context, b"\x62IV\x0d");
        expand(&iv_info, &mut keys.common_iv);
        keys
    }
}

/// `[id, id_context or nil, 10, type, length]` as CBOR; the last two come encoded.
pub(super) fn info(id: Id, id_context: Option<&IdContext>, kind_and_length: &[u8]) -> Vec<u8> {
    let mut info = vec![0x85, 0x40 | id.len()];
    info.extend(id.as_bytes());
    match id_context.map(IdContext::as_bytes) {
        None => info.push(0xf6),
        Some(context) => {
            let len = u8::try_from(context.len()).expect("an ID context has 64 bytes at most");
            if len < 24 {
                info.push(0x40 | len);
            } else {
                info.extend([0x58, len]);
            }
            info.extend(context);
        }
    }
    info.push(0x0a);
    info.extend(kind_and_length);
    info
}

const fn aead_name(number: i32) -> &'static str {
    match number {
        1 => "A128GCM",
        2 => "A192GCM",
        3 => "A256GCM",
        11 => "AES-CCM-16-64-256",
        12 => "AES-CCM-64-64-128",
        13 => "AES-CCM-64-64-256",
        24 => "ChaCha20/Poly1305",
        30 => "AES-CCM-16-128-128",
        31 => "AES-CCM-16-128-256",
        32 => "AES-CCM-64-128-128",
        33 => "AES-CCM-64-128-256",
        _ => "unknown",
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.sender_key.zeroize();
        self.recipient_key.zeroize();
        self.common_iv.zeroize();
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for IdContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdContext({})", hex::encode(self.as_bytes()))
    }
}

/// Without the secret and the salt.
impl fmt::Debug for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters")
            .field("sender_id", &self.sender_id)
            .field("recipient_id", &self.recipient_id)
            .field("id_context", &self.id_context.map(hex::encode))
            .field("aead", &self.aead)
            .field("hkdf", &self.hkdf)
            .finish_non_exhaustive()
    }
}

/// Without the keys.
impl fmt::Debug for SecurityContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityContext")
            .field("sender_id", &self.sender_id)
            .field("recipient_id", &self.recipient_id)
            .field("id_context", &self.id_context)
            .field("sequence", &self.sequence)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = &[0x5a; 16];

    fn parameters() -> Parameters<'static> {
        Parameters::new(SECRET, Id::new(&[1]).unwrap(), Id::new(&[2]).unwrap())
    }

    #[test]
    fn other_algorithms_are_refused_by_name() {
        let mut other = parameters();
        other.aead = 24;
        let refused = SecurityContext::new(&other).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "AEAD algorithm 24 (ChaCha20/Poly1305) is not supported, only AES-CCM-16-64-128 (10)"
        );
        other.aead = AES_CCM_16_64_128;
        other.hkdf = -11;
        assert_eq!(
            SecurityContext::new(&other).unwrap_err(),
            DeriveError::Hkdf(-11)
        );
    }

    #[test]
    fn equal_ids_a_short_secret_and_a_long_id_context_are_refused() {
        let mut same = parameters();
        same.recipient_id = same.sender_id;
        let mut short = parameters();
        short.master_secret = &[1; 15];
        let mut long = parameters();
        long.id_context = Some(&[0; 65]);

        assert!(matches!(
            SecurityContext::new(&same),
            Err(DeriveError::SameIds(_))
        ));
        assert_eq!(
            SecurityContext::new(&short).unwrap_err(),
            DeriveError::ShortSecret(15)
        );
        assert_eq!(
            SecurityContext::new(&long).unwrap_err(),
            DeriveError::LongIdContext(65)
        );
        assert!(Id::new(&[0; 8]).is_none());
    }

    #[test]
    fn neither_secrets_nor_keys_are_shown() {
        let context = SecurityContext::new(&parameters()).unwrap();
        let shown = format!("{:?} {context:?}", parameters());

        for secret in [
            SECRET,
            &context.keys.sender_key,
            &context.keys.recipient_key,
            &context.keys.common_iv,
        ] {
            assert!(!shown.contains(&hex::encode(secret)));
            assert!(!shown.contains(&format!("{secret:?}")));
        }
        assert!(shown.contains("Id(01)"));
    }

    #[test]
    fn the_id_context_makes_other_keys_whatever_its_length() {
        let mut with = parameters();
        let mut keys = vec![SecurityContext::new(&with).unwrap().keys.sender_key];
        for len in [0, 23, 24, 64] {
            with.id_context = Some([7; 64].get(..len).unwrap());
            keys.push(SecurityContext::new(&with).unwrap().keys.sender_key);
        }
        keys.sort_unstable();
        keys.dedup();

        assert_eq!(keys.len(), 5);
    }
}
