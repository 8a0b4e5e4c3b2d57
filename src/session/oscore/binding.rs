//! What ties answers to their request, for as long as answers may come.

use thiserror::Error;

use super::{
    context::{ContextId, Id, IdContext},
    nonce::Piv,
};

/// A request as its answers know it. Both ends hold one per request, an observation as long as it
/// lasts.
///
/// There is one of it at each end, and no copy: the request's nonce may be used for one answer
/// only. Written down and read back it will not be used at all.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts that do not depend on each other"
)]
pub struct RequestBinding {
    pub(super) kid: Id,
    pub(super) kid_context: Option<IdContext>,
    pub(super) piv: Piv,
    /// The request registered an observation, so several answers may come.
    pub(super) observes: bool,
    /// Server: no answer may use the request's nonce (any more). Client: none that does is taken.
    pub(super) nonce_is_spent: bool,
    /// Server: the request may be a replay.
    pub(super) is_unverified: bool,
    /// Client: the Notification Number. spec: rfc8613 §4.1.3.5.2.
    pub(super) newest: Option<Piv>,
    /// Client: how many notifications were taken.
    pub(super) taken: u32,
    /// Client: the last answer was taken.
    pub(super) is_closed: bool,
}

/// Bytes that are no binding.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("stored request binding, offset {at}: {what}")]
pub struct BindingError {
    /// Where.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

const VERSION: u8 = 0x10;
const HAS_CONTEXT: u8 = 0x01;
const OBSERVES: u8 = 0x02;
const HAS_NEWEST: u8 = 0x04;

impl RequestBinding {
    pub(super) const fn new(
        kid: Id,
        kid_context: Option<IdContext>,
        piv: Piv,
        observes: bool,
    ) -> Self {
        Self {
            kid,
            kid_context,
            piv,
            observes,
            nonce_is_spent: false,
            is_unverified: false,
            newest: None,
            taken: 0,
            is_closed: false,
        }
    }

    /// The context of the request, as the end that got it finds it.
    pub fn context(&self) -> ContextId {
        ContextId {
            kid: self.kid,
            id_context: self.kid_context.clone(),
        }
    }

    /// The request's number.
    pub const fn piv(&self) -> Piv {
        self.piv
    }

    /// Whether the request registered an observation.
    pub const fn observes(&self) -> bool {
        self.observes
    }

    /// To be kept with a durable registration: 8 to 85 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut flags = VERSION;
        let mut out = vec![flags, self.kid.len()];
        out.extend(self.kid.as_bytes());
        out.extend(self.piv.padded());
        if let Some(context) = &self.kid_context {
            flags |= HAS_CONTEXT;
            let len = context.as_bytes().len();
            out.push(u8::try_from(len).expect("an ID context has 64 bytes at most"));
            out.extend(context.as_bytes());
        }
        if let Some(newest) = self.newest {
            flags |= HAS_NEWEST;
            out.extend(newest.padded());
        }
        if self.observes {
            flags |= OBSERVES;
        }
        if let Some(first) = out.first_mut() {
            *first = flags;
        }
        out
    }

    /// Reads what [`RequestBinding::to_bytes`] wrote. What was written may be old: the request's
    /// nonce counts as used.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BindingError> {
        let mut reader = Reader { bytes, at: 0 };
        let [flags] = reader.array("it is empty")?;
        if flags & !(HAS_CONTEXT | OBSERVES | HAS_NEWEST) != VERSION {
            return Err(reader.wrong("an unknown version"));
        }
        let [kid_len] = reader.array("no kid")?;
        let kid = reader.slice(kid_len.into(), "the kid ends early")?;
        let kid = Id::new(kid).ok_or_else(|| reader.wrong("a kid of more than 7 bytes"))?;
        let piv = Piv::from_padded(reader.array("the number ends early")?);
        let mut binding = Self::new(kid, None, piv, flags & OBSERVES != 0);
        binding.nonce_is_spent = true;
        if flags & HAS_CONTEXT != 0 {
            let [len] = reader.array("no ID context")?;
            let context = reader.slice(len.into(), "the ID context ends early")?;
            let context = IdContext::new(context);
            binding.kid_context = Some(context.ok_or_else(|| reader.wrong("a long ID context"))?);
        }
        if flags & HAS_NEWEST != 0 {
            let newest = reader.array("the newest number ends early")?;
            binding.newest = Some(Piv::from_padded(newest));
        }
        if reader.bytes.is_empty() {
            Ok(binding)
        } else {
            Err(reader.wrong("bytes after its end"))
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], BindingError> {
        let split = self.bytes.split_at_checked(len);
        let (slice, rest) = split.ok_or_else(|| self.wrong(what))?;
        self.bytes = rest;
        self.at += len;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], BindingError> {
        let wrong = self.wrong(what);
        self.slice(N, what)?.try_into().map_err(|_| wrong)
    }

    const fn wrong(&self, what: &'static str) -> BindingError {
        BindingError { at: self.at, what }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_binding_survives_storage_with_its_nonce_spent(
            kid in vec(any::<u8>(), 0..=7),
            context in option::of(vec(any::<u8>(), 0..=64)),
            piv in 0..=Piv::MAX.number(),
            newest in option::of(0..=Piv::MAX.number()),
            observes: bool,
        ) {
            let mut binding = RequestBinding::new(
                Id::new(&kid).unwrap(),
                context.and_then(|context| IdContext::new(&context)),
                Piv::new(piv).unwrap(),
                observes,
            );
            binding.newest = newest.and_then(Piv::new);
            let read = RequestBinding::from_bytes(&binding.to_bytes()).unwrap();
            binding.nonce_is_spent = true;
            prop_assert_eq!(read, binding);
        }

        #[test]
        fn any_bytes_read_or_fail_and_what_reads_is_written_the_same(
            bytes in vec(any::<u8>(), 0..40),
            flags in VERSION..VERSION + 8,
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = flags;
            }
            if let Ok(binding) = RequestBinding::from_bytes(&bytes) {
                prop_assert_eq!(binding.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_binding_cut_short_says_where() {
        let whole = RequestBinding::new(Id::new(&[7]).unwrap(), None, Piv::MAX, true).to_bytes();

        let cut = RequestBinding::from_bytes(whole.get(..5).unwrap()).unwrap_err();

        assert_eq!((whole.len(), cut.at), (8, 3));
        assert!(RequestBinding::from_bytes(&[0x20, 0]).is_err());
    }
}
