//! Bytes that are few nearly always: those are in place, without an allocation of their own.

/// Bytes, of which up to `N` are kept in place. With two less than a multiple of eight nothing is
/// wasted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short<const N: usize>(Kept<N>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept<const N: usize> {
    Here { len: u8, padded: [u8; N] },
    Elsewhere(Box<[u8]>),
}

impl<const N: usize> Short<N> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Kept::Here { len, padded } => padded.get(..usize::from(*len)).unwrap_or(padded),
            Kept::Elsewhere(bytes) => bytes,
        }
    }
}

impl<const N: usize> Default for Short<N> {
    fn default() -> Self {
        Self(Kept::Here {
            len: 0,
            padded: [0; N],
        })
    }
}

impl<const N: usize> From<&[u8]> for Short<N> {
    fn from(bytes: &[u8]) -> Self {
        let mut padded = [0; N];
        let here = padded.get_mut(..bytes.len());
        Self(match (here, u8::try_from(bytes.len())) {
            (Some(here), Ok(len)) => {
                here.copy_from_slice(bytes);
                Kept::Here { len, padded }
            }
            _ => Kept::Elsewhere(bytes.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_whether_they_are_few_or_many() {
        assert!(Short::<22>::default().as_slice().is_empty());
        for len in [0, 1, 21, 22, 23, 300] {
            let bytes = vec![7; len];
            let short = Short::<22>::from(bytes.as_slice());
            assert_eq!(short.as_slice(), bytes);
            assert_eq!(matches!(short.0, Kept::Here { .. }), len <= 22);
        }
        assert_eq!((size_of::<Short<22>>(), size_of::<Short<38>>()), (24, 40));
    }
}
