//! The option list of a message, and the values of the options we know.
//!
//! Numbers decide three things by their bits: odd is critical, bit 1 is unsafe to forward, and
//! bits 1 to 4 equal to `0x1c` mean "not part of the cache key". Nothing here is a table of those.

use thiserror::Error;

use super::block::{Block, BlockError};

/// Option numbers.
pub mod number {
    /// A condition on the stored representation.
    pub const IF_MATCH: u16 = 1;
    /// The host asked.
    pub const URI_HOST: u16 = 3;
    /// Which representation this is.
    pub const ETAG: u16 = 4;
    /// A condition: nothing stored yet.
    pub const IF_NONE_MATCH: u16 = 5;
    /// Register, deregister, or the order of a notification.
    pub const OBSERVE: u16 = 6;
    /// The port asked.
    pub const URI_PORT: u16 = 7;
    /// Where the new thing is.
    pub const LOCATION_PATH: u16 = 8;
    /// Object security.
    pub const OSCORE: u16 = 9;
    /// One path segment.
    pub const URI_PATH: u16 = 11;
    /// The format of the body.
    pub const CONTENT_FORMAT: u16 = 12;
    /// Seconds the answer may be used, or to wait.
    pub const MAX_AGE: u16 = 14;
    /// One `key=value`.
    pub const URI_QUERY: u16 = 15;
    /// The format the client wants.
    pub const ACCEPT: u16 = 17;
    /// A query of the new thing's place.
    pub const LOCATION_QUERY: u16 = 20;
    /// The response body's block.
    pub const BLOCK2: u16 = 23;
    /// The request body's block.
    pub const BLOCK1: u16 = 27;
    /// The response body's whole size.
    pub const SIZE2: u16 = 28;
    /// A whole URI, for proxies.
    pub const PROXY_URI: u16 = 35;
    /// A scheme, for proxies.
    pub const PROXY_SCHEME: u16 = 39;
    /// The request body's whole size.
    pub const SIZE1: u16 = 60;
    /// A challenge, or its answer (RFC 9175).
    pub const ECHO: u16 = 252;
    /// MSC3079's access token. Elective by its number whatever the MSC says (defect 8 of lb).
    pub const ACCESS_TOKEN: u16 = 256;
    /// MSC3079's version of the integer-key table.
    pub const KEY_TABLE_VERSION: u16 = 257;
    /// Keeps request bodies apart (RFC 9175).
    pub const REQUEST_TAG: u16 = 292;
}

/// The longest path segment or query, in bytes. spec: rfc7252 §5.10.
pub const SEGMENT_BYTES_MAX: usize = 255;

/// The most options one message may carry.
///
/// The deepest Matrix path has a dozen segments; 64 leaves room for queries and cannot be used to
/// make one datagram into thousands of allocations.
pub const OPTIONS_MAX: usize = 64;

/// The longest value of any option, in bytes: Proxy-Uri's, the longest registered.
pub const OPTION_BYTES_MAX: usize = 1034;

/// The options of a message, by ascending number, equal numbers in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Options(Vec<(u16, Vec<u8>)>);

/// An option that makes us turn down the whole message.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionFault {
    /// Critical, and we do not know it.
    #[error("option {0} is critical and not understood")]
    Unknown(u16),
    /// Critical, and its length is outside what its definition allows: like one nobody knows.
    #[error("option {number} has a value of {bytes} bytes")]
    Length {
        /// Which.
        number: u16,
        /// How long it is.
        bytes: usize,
    },
    /// Critical, and there more than once though defined once.
    #[error("option {0} may occur only once")]
    Repeated(u16),
    /// A path segment or query that is not UTF-8.
    #[error("option {0} is not UTF-8")]
    NotUtf8(u16),
}

impl OptionFault {
    /// Which option it was.
    pub const fn number(&self) -> u16 {
        match self {
            Self::Unknown(number)
            | Self::Length { number, .. }
            | Self::Repeated(number)
            | Self::NotUtf8(number) => *number,
        }
    }
}

/// Odd numbers must be understood or the message refused.
pub const fn is_critical(number: u16) -> bool {
    number & 1 == 1
}

/// Whether two requests that differ only here ask for the same thing.
///
/// spec: rfc7252 §5.4.6. Safe-to-forward numbers with bits `0x1c` are not part of the cache key.
pub const fn is_cache_key(number: u16) -> bool {
    number & 0x1e != 0x1c
}

impl Options {
    /// None.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a value behind those with the same number.
    pub fn push(&mut self, number: u16, value: impl Into<Vec<u8>>) {
        let behind = self.0.partition_point(|(other, _)| *other <= number);
        self.0.insert(behind, (number, value.into()));
    }

    /// Adds a value as a shortest uint.
    pub fn push_uint(&mut self, number: u16, value: u32) {
        self.push(number, uint_bytes(value));
    }

    /// Adds a block value.
    pub fn push_block(&mut self, number: u16, block: Block) {
        self.push(number, block.encode());
    }

    /// The same, as a chain.
    #[must_use]
    pub fn with(mut self, number: u16, value: impl Into<Vec<u8>>) -> Self {
        self.push(number, value);
        self
    }

    /// The same with a shortest uint, as a chain.
    #[must_use]
    pub fn with_uint(mut self, number: u16, value: u32) -> Self {
        self.push_uint(number, value);
        self
    }

    /// Takes every value of this number out.
    pub fn remove(&mut self, number: u16) {
        self.0.retain(|(other, _)| *other != number);
    }

    /// All, by number and then in order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.0
            .iter()
            .map(|(number, value)| (*number, value.as_slice()))
    }

    /// Every value of one number, in order.
    pub fn all(&self, number: u16) -> impl Iterator<Item = &[u8]> {
        self.iter()
            .filter(move |(other, _)| *other == number)
            .map(|(_, value)| value)
    }

    /// The first value of one number.
    pub fn first(&self, number: u16) -> Option<&[u8]> {
        self.all(number).next()
    }

    /// Whether there is a value of this number.
    pub fn has(&self, number: u16) -> bool {
        self.first(number).is_some()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A uint of at most four bytes.
    pub fn uint(&self, number: u16) -> Option<u32> {
        self.first(number).and_then(|value| uint(value, 4))
    }

    /// The content format of the body.
    pub fn content_format(&self) -> Option<u16> {
        self.uint(number::CONTENT_FORMAT)
            .and_then(|value| u16::try_from(value).ok())
    }

    /// The content format the client wants.
    pub fn accept(&self) -> Option<u16> {
        self.uint(number::ACCEPT)
            .and_then(|value| u16::try_from(value).ok())
    }

    /// 24 bits of Observe: 0 registers, 1 deregisters, anything in a notification is its order.
    pub fn observe(&self) -> Option<u32> {
        self.first(number::OBSERVE).and_then(|value| uint(value, 3))
    }

    /// Seconds.
    pub fn max_age(&self) -> Option<u32> {
        self.uint(number::MAX_AGE)
    }

    /// A block option, if there is one.
    pub fn block(&self, number: u16) -> Result<Option<Block>, BlockError> {
        self.first(number).map(Block::decode).transpose()
    }

    /// The path's segments in order. [`Options::fault`] has seen to it that they are UTF-8.
    pub fn path(&self) -> impl Iterator<Item = &str> {
        self.all(number::URI_PATH)
            .filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The queries in the order the client gave them (lb lost it: defect 10).
    pub fn query(&self) -> impl Iterator<Item = &str> {
        self.all(number::URI_QUERY)
            .filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The first critical option that is not among `known`.
    pub fn unknown_critical(&self, known: &[u16]) -> Option<u16> {
        let mut numbers = self.iter().map(|(number, _)| number);
        numbers.find(|number| is_critical(*number) && !known.contains(number))
    }

    /// The first reason to turn the message down for its options' sake.
    ///
    /// spec: rfc7252 §5.4. Only critical options count; see [`Options::drop_unusable`].
    pub fn fault(&self, known: &[u16]) -> Option<OptionFault> {
        let mut before = None;
        for (number, value) in self.iter().filter(|(number, _)| is_critical(*number)) {
            if !known.contains(&number) {
                return Some(OptionFault::Unknown(number));
            }
            if let Some(shape) = Shape::of(number) {
                if !shape.fits(value) {
                    return Some(OptionFault::Length {
                        number,
                        bytes: value.len(),
                    });
                }
                if before == Some(number) && !shape.repeats {
                    return Some(OptionFault::Repeated(number));
                }
                if shape.is_text && std::str::from_utf8(value).is_err() {
                    return Some(OptionFault::NotUtf8(number));
                }
            }
            before = Some(number);
        }
        None
    }

    /// Takes out elective options that must be treated as if nobody knew them: of a wrong length,
    /// or a second one where one is defined.
    pub fn drop_unusable(&mut self) {
        let mut before = None;
        self.0.retain(|(number, value)| {
            let repeated = before == Some(*number);
            before = Some(*number);
            is_critical(*number)
                || Shape::of(*number)
                    .is_none_or(|shape| shape.fits(value) && (shape.repeats || !repeated))
        });
    }
}

/// What the definition of an option says about its value.
struct Shape {
    bytes_min: usize,
    bytes_max: usize,
    repeats: bool,
    is_text: bool,
}

impl Shape {
    const fn fits(&self, value: &[u8]) -> bool {
        self.bytes_min <= value.len() && value.len() <= self.bytes_max
    }

    /// spec: rfc7252 §5.10, and the documents that define the others.
    const fn of(number: u16) -> Option<Self> {
        let (bytes_min, bytes_max, repeats, is_text) = match number {
            number::IF_MATCH | number::REQUEST_TAG => (0, 8, true, false),
            number::URI_HOST | number::PROXY_SCHEME => (1, 255, false, true),
            number::ETAG => (1, 8, true, false),
            number::IF_NONE_MATCH => (0, 0, false, false),
            number::URI_PORT | number::ACCEPT | number::CONTENT_FORMAT => (0, 2, false, false),
            number::OBSERVE | number::BLOCK1 | number::BLOCK2 => (0, 3, false, false),
            number::URI_PATH
            | number::URI_QUERY
            | number::LOCATION_PATH
            | number::LOCATION_QUERY => (0, SEGMENT_BYTES_MAX, true, true),
            number::MAX_AGE | number::SIZE1 | number::SIZE2 | number::KEY_TABLE_VERSION => {
                (0, 4, false, false)
            }
            number::PROXY_URI => (1, 1034, false, true),
            number::ECHO => (1, 40, false, false),
            number::ACCESS_TOKEN => (0, OPTION_BYTES_MAX, false, true),
            _ => return None,
        };
        Some(Self {
            bytes_min,
            bytes_max,
            repeats,
            is_text,
        })
    }
}

/// Reads a uint option value of at most `bytes_max` (and four) bytes.
///
/// spec: rfc7252 §3.2. Leading zeros are not sent but must be read.
pub fn uint(value: &[u8], bytes_max: usize) -> Option<u32> {
    if value.len() > bytes_max.min(4) {
        return None;
    }
    Some(
        value
            .iter()
            .fold(0, |whole, byte| whole << 8 | u32::from(*byte)),
    )
}

/// The shortest uint option value; zero is no byte at all.
pub fn uint_bytes(value: u32) -> Vec<u8> {
    value
        .to_be_bytes()
        .into_iter()
        .skip_while(|byte| *byte == 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [u16; 5] = [
        number::URI_PATH,
        number::URI_QUERY,
        number::ACCEPT,
        number::BLOCK1,
        number::BLOCK2,
    ];

    #[test]
    fn lb_defect_10_queries_keep_their_order() {
        let mut options = Options::new();
        options.push(number::URI_QUERY, "since=2");
        options.push(number::URI_PATH, "sync");
        options.push(number::URI_QUERY, "filter=1");
        options.push(number::URI_QUERY, "a=0");

        assert_eq!(
            options.query().collect::<Vec<_>>(),
            ["since=2", "filter=1", "a=0"]
        );
    }

    /// Number 256 is elective whatever MSC3079 calls it, so an unaware server would ignore the
    /// credential; 257 is critical. We know both, and the number's bits decide, not a table.
    #[test]
    fn lb_defect_8_option_256_is_elective_and_in_the_cache_key_by_its_bits() {
        assert!(!is_critical(number::ACCESS_TOKEN));
        assert!(is_cache_key(number::ACCESS_TOKEN));
        assert!(is_critical(number::KEY_TABLE_VERSION));
        let stranger = Options::new().with(number::KEY_TABLE_VERSION, [1]);
        assert_eq!(stranger.unknown_critical(&KNOWN), Some(257));
    }

    #[test]
    fn size_and_echo_are_not_in_the_cache_key() {
        for number in [number::SIZE1, number::SIZE2, number::ECHO] {
            assert!(!is_cache_key(number), "{number}");
        }
        assert!(is_cache_key(number::REQUEST_TAG));
    }

    #[test]
    fn a_critical_option_we_do_not_know_is_named() {
        let options = Options::new()
            .with(65_003, "x")
            .with(number::URI_PATH, "sync");

        assert_eq!(options.fault(&KNOWN), Some(OptionFault::Unknown(65_003)));
    }

    #[test]
    fn a_path_segment_must_be_short_and_utf8() {
        let long = Options::new().with(number::URI_PATH, vec![b'a'; 256]);
        let odd = Options::new().with(number::URI_PATH, [0xff]);

        assert_eq!(
            long.fault(&KNOWN),
            Some(OptionFault::Length {
                number: 11,
                bytes: 256
            })
        );
        assert_eq!(odd.fault(&KNOWN), Some(OptionFault::NotUtf8(11)));
    }

    #[test]
    fn a_second_block_option_is_refused_and_a_second_observe_ignored() {
        let blocks = Options::new()
            .with(number::BLOCK1, [1])
            .with(number::BLOCK1, [2]);
        let mut observes = Options::new()
            .with(number::OBSERVE, [1])
            .with(number::OBSERVE, [2]);
        observes.drop_unusable();

        assert_eq!(
            blocks.fault(&KNOWN),
            Some(OptionFault::Repeated(number::BLOCK1))
        );
        assert_eq!(observes.all(number::OBSERVE).count(), 1);
    }

    #[test]
    fn an_elective_option_of_a_wrong_length_is_ignored() {
        let mut options = Options::new()
            .with(number::ETAG, [0; 9])
            .with(number::ETAG, [7]);
        options.drop_unusable();

        assert_eq!(options.all(number::ETAG).collect::<Vec<_>>(), [[7]]);
    }

    #[test]
    fn uints_are_written_short_and_read_with_leading_zeros() {
        assert_eq!(uint_bytes(0), Vec::<u8>::new());
        assert_eq!(uint_bytes(256), [1, 0]);
        assert_eq!(uint(&[0, 0, 7], 4), Some(7));
        assert_eq!(uint(&[0, 0, 0, 0, 7], 4), None);
    }
}
