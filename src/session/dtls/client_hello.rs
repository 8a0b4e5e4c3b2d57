//! A look into a `ClientHello` before anything is kept for its sender.
//!
//! It decides which machine the handshake gets: with a pre-shared key or with our certificate.
//! Whether the message is right in every part is the library's business.

/// What is read of a `ClientHello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientHello<'a> {
    /// 0 for the first one of a handshake, more after a cookie was asked for.
    pub(super) message_seq: u16,
    /// Chosen anew by the client for each handshake.
    pub(super) random: &'a [u8],
    /// Whether it can do the one suite we have for pre-shared keys.
    pub(super) offers_psk: bool,
}

/// Reads a datagram that begins with the first fragment of a `ClientHello`, far enough to name
/// the cipher suites.
// spec: rfc6347 §4.1, §4.2.2
pub(super) fn peek(datagram: &[u8]) -> Option<ClientHello<'_>> {
    let mut rest = Reader(datagram);
    let content_type = rest.u8()?;
    let record_version = rest.u16()?;
    let epoch = rest.u16()?;
    let _sequence_number = rest.take(6)?;
    let length = rest.u16()?;
    if content_type != HANDSHAKE || epoch != 0 || !RECORD_VERSIONS.contains(&record_version) {
        return None;
    }
    let mut message = Reader(rest.take(usize::from(length))?);
    let message_type = message.u8()?;
    let message_length = message.u24()?;
    let message_seq = message.u16()?;
    let fragment_offset = message.u24()?;
    let fragment_length = message.u24()?;
    if message_type != CLIENT_HELLO
        || fragment_offset != 0
        || fragment_length > message_length
        || message_length > HELLO_BYTES_MAX
    {
        return None;
    }
    let mut hello = Reader(message.take(usize::try_from(fragment_length).ok()?)?);
    if hello.u16()? != DTLS_1_2 {
        return None; // DTLS 1.3 says 1.2 here, too; 1.0 is not spoken
    }
    let random = hello.take(RANDOM_BYTES)?;
    let _session_id = hello.vector8()?;
    let _cookie = hello.vector8()?;
    let suites_length = usize::from(hello.u16()?);
    let suites = hello.take(suites_length)?;
    if suites.is_empty() || !suites.len().is_multiple_of(2) {
        return None;
    }
    Some(ClientHello {
        message_seq,
        random,
        offers_psk: suites.chunks_exact(2).any(|suite| suite == PSK_AES128_CCM8),
    })
}

/// Reads from the front, or not at all.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u24(&mut self) -> Option<u32> {
        let high = self.u8()?;
        Some(u32::from(high) << 16 | u32::from(self.u16()?))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u8()?);
        self.take(length)
    }
}

/// The content type of handshake records.
const HANDSHAKE: u8 = 22;
/// The message type.
const CLIENT_HELLO: u8 = 1;
/// On the wire.
const DTLS_1_2: u16 = 0xfefd;
/// The first record of a client may still say 1.0.
const RECORD_VERSIONS: [u16; 2] = [0xfeff, DTLS_1_2];
/// `TLS_PSK_WITH_AES_128_CCM_8`. spec: rfc7252 §9.1.
const PSK_AES128_CCM8: [u8; 2] = [0xc0, 0xa8];
/// How long every random is.
const RANDOM_BYTES: usize = 32;
/// The largest `ClientHello` that is looked at, in bytes: with post-quantum key shares they come
/// close to two thousand.
const HELLO_BYTES_MAX: u32 = 8192;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A small whole hello.
    pub(in crate::session::dtls) fn hello(seq: u16, random: u8, suites: &[u16]) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([random; 32]);
        body.extend([0, 0]); // neither session id nor cookie
        body.extend(u16::try_from(suites.len() * 2).unwrap().to_be_bytes());
        body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.extend([1, 0]);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut message = vec![1];
        message.extend(&length[1..]);
        message.extend(seq.to_be_bytes());
        message.extend([0, 0, 0]);
        message.extend(&length[1..]);
        message.extend(body);
        let mut datagram = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        datagram.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        datagram.extend(message);
        datagram
    }

    #[test]
    fn the_suites_of_a_hello_are_seen() {
        let psk = hello(0, 7, &[0xc02b, 0xc0a8]);
        let certificate = hello(1, 8, &[0xc02b]);

        assert_eq!(
            peek(&psk),
            Some(ClientHello {
                message_seq: 0,
                random: &[7; 32],
                offers_psk: true
            })
        );
        assert_eq!(
            peek(&certificate),
            Some(ClientHello {
                message_seq: 1,
                random: &[8; 32],
                offers_psk: false
            })
        );
    }

    #[test]
    fn what_is_no_whole_beginning_of_a_hello_is_none() {
        let whole = hello(0, 7, &[0xc0a8]);
        for length in 0..whole.len() - 2 {
            assert_eq!(peek(&whole[..length]), None, "{length}");
        }
        for (at, byte) in [(0, 23), (1, 0x03), (4, 1), (13, 2), (19, 1), (25, 0)] {
            let mut wrong = whole.clone();
            wrong[at] = byte;
            assert_eq!(peek(&wrong), None, "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_look_panic(datagram in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = peek(&datagram);
        }

        #[test]
        fn no_changed_hello_makes_the_look_panic(at in 0_usize..80, byte: u8, cut in 0_usize..90) {
            let mut datagram = hello(0, 7, &[0xc02b, 0xc0a8]);
            if let Some(place) = datagram.get_mut(at) {
                *place = byte;
            }
            datagram.truncate(cut);
            if let Some(hello) = peek(&datagram) {
                prop_assert_eq!(hello.random.len(), RANDOM_BYTES);
            }
        }
    }
}
