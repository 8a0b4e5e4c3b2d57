//! Which options travel inside the ciphertext and which outside.
//!
//! spec: rfc8613 §4.1. Whatever is not named here is inside (class E), known or not: Uri-Path,
//! formats, `ETag`, Max-Age, Echo, Request-Tag, the Block and Size options, No-Response, Hop-Limit.
//! Several of those may stand outside as well, for proxies; we put none there and read none there.

use crate::wire::coap::{Options, options::number};

/// A combined EDHOC message and OSCORE request (RFC 9668).
const EDHOC: u16 = 21;

/// Options for whoever forwards the message: class U and no other.
///
/// spec: rfc8613 §4.1.2
const fn is_outer(number: u16) -> bool {
    matches!(
        number,
        number::URI_HOST
            | number::URI_PORT
            | number::PROXY_URI
            | number::PROXY_SCHEME
            | number::OSCORE
            | EDHOC
    )
}

/// Parts a message's options into those inside and those outside. Observe goes inside; what of it
/// shows outside is the caller's to add.
pub(super) fn split(options: &Options) -> (Options, Options) {
    let (mut inner, mut outer) = (Options::new(), Options::new());
    for (number, value) in options.iter() {
        let side = if is_outer(number) {
            &mut outer
        } else {
            &mut inner
        };
        side.push(number, value);
    }
    (inner, outer)
}

/// Adds to the options from inside those outside that may count: the ones that say whom the
/// request is for. OSCORE and EDHOC are done with; everything else outside is nobody's word.
///
/// spec: rfc8613 §8.2
pub(super) fn merge(mut inner: Options, outer: &Options) -> Options {
    for number in [
        number::URI_HOST,
        number::URI_PORT,
        number::PROXY_URI,
        number::PROXY_SCHEME,
    ] {
        if !inner.has(number) {
            for value in outer.all(number) {
                inner.push(number, value);
            }
        }
    }
    inner
}

/// The Block option outside that makes this a fragment a proxy made, if there is one.
///
/// spec: rfc8613 §4.1.3.4.2
pub(super) fn fragment(outer: &Options) -> Option<u16> {
    [number::BLOCK1, number::BLOCK2].into_iter().find(|number| {
        outer.block(*number).map_or(true, |block| {
            block.is_some_and(|block| block.more() || block.num() > 0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_proxies_are_outside_and_all_else_is_inside_known_or_not() {
        let outside = [3, 7, 9, 21, 35, 39];
        let inside = [
            1, 4, 5, 6, 8, 11, 12, 14, 15, 16, 17, 19, 20, 23, 27, 28, 31, 60, 252, 256, 257, 258,
            292, 65_001,
        ];
        let mut all = Options::new();
        for number in outside.into_iter().chain(inside) {
            all.push(number, [1]);
        }

        let (inner, outer) = split(&all);

        let numbers = |options: &Options| options.iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(numbers(&outer), outside);
        assert_eq!(numbers(&inner), inside);
    }

    #[test]
    fn what_was_inside_wins_and_nothing_else_from_outside_counts() {
        let inner = Options::new().with(number::URI_HOST, "inside");
        let outer = Options::new()
            .with(number::URI_HOST, "outside")
            .with(number::IF_MATCH, [1])
            .with(number::URI_PORT, [2])
            .with(number::OSCORE, [3])
            .with(EDHOC, [])
            .with(number::ECHO, [4])
            .with(65_001, [5]);

        let merged = merge(inner, &outer);

        assert_eq!(
            merged.iter().collect::<Vec<_>>(),
            [(3, b"inside".as_slice()), (7, &[2])]
        );
    }

    #[test]
    fn a_first_and_only_block_is_no_fragment() {
        let with = |value: &[u8]| fragment(&Options::new().with(number::BLOCK1, value));

        assert_eq!(with(&[0x06]), None);
        assert_eq!(with(&[0x0e]), Some(number::BLOCK1));
        assert_eq!(with(&[0x16]), Some(number::BLOCK1));
        assert_eq!(with(&[0, 0, 0, 0]), Some(number::BLOCK1));
    }
}
