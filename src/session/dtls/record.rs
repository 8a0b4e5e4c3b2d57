//! What the header of a record says to someone without keys.

/// What a datagram is, by its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Part of a handshake: in clear, or the end of one under its new keys.
    Handshake,
    /// DTLS 1.2 application data or an alert, under keys.
    Protected,
    /// DTLS 1.3 under keys: even its sequence number is hidden.
    Hidden,
    /// Nothing of ours.
    Unknown,
}

/// Sorts a datagram.
// spec: rfc6347 §4.1
pub(super) fn sort(datagram: &[u8]) -> Sort {
    // spec: rfc6347 §4.1. DTLS 1.3 marks its protected records by three bits of their first byte.
    if datagram.first().is_some_and(|first| first >> 5 == 0b001) {
        return Sort::Hidden;
    }
    match Record::first(datagram) {
        Some(
            Record {
                epoch: 0,
                content_type: CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE,
                ..
            }
            | Record {
                content_type: HANDSHAKE,
                ..
            },
        ) => Sort::Handshake,
        Some(Record {
            epoch: 1..,
            content_type: ALERT | APPLICATION_DATA,
            ..
        }) => Sort::Protected,
        _ => Sort::Unknown,
    }
}

/// One record of DTLS 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) content_type: u8,
    pub(super) epoch: u16,
    /// Counts the records of one epoch.
    pub(super) sequence_number: u64,
    /// Header and all.
    pub(super) bytes: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn first(datagram: &'a [u8]) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = datagram.first_chunk()?;
        let [
            content_type,
            0xfe,
            0xfd | 0xff,
            e0,
            e1,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            l0,
            l1,
        ] = *header
        else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        Some(Self {
            content_type,
            epoch: u16::from_be_bytes([e0, e1]),
            sequence_number: u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]),
            bytes: datagram.get(..HEADER_BYTES + length)?,
        })
    }

    pub(super) const fn is_application_data(&self) -> bool {
        self.epoch > 0 && self.content_type == APPLICATION_DATA
    }
}

/// The records of a datagram, up to the first that is not whole.
pub(super) fn records(mut datagram: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let record = Record::first(datagram)?;
        datagram = datagram.get(record.bytes.len()..)?;
        Some(record)
    })
    .take(RECORDS_MAX)
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Type, version, epoch, sequence number, length.
const HEADER_BYTES: usize = 13;

/// Records read of one datagram; clients send one, or two when they coalesce.
const RECORDS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(content_type: u8, epoch: u8, sequence_number: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let mut bytes = vec![content_type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0];
        bytes.extend([sequence_number, 0, length]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn datagrams_are_sorted_by_their_first_record() {
        let plain = |content_type| sort(&record(content_type, 0, 0, b"x"));
        let protected = |content_type| sort(&record(content_type, 1, 0, b"x"));

        assert_eq!([20, 21, 22].map(plain), [Sort::Handshake; 3]);
        assert_eq!(plain(23), Sort::Unknown);
        assert_eq!(protected(22), Sort::Handshake);
        assert_eq!([21, 23].map(protected), [Sort::Protected; 2]);
        assert_eq!(protected(20), Sort::Unknown);
        assert_eq!(sort(&[0x2c, 1, 2, 3]), Sort::Hidden);
        assert_eq!(sort(&[0x40, 1, 2, 3]), Sort::Unknown, "that is CoAP");
        assert_eq!(sort(&[]), Sort::Unknown);
    }

    #[test]
    fn records_of_one_datagram_are_told_apart() {
        let mut datagram = record(23, 1, 4, b"one");
        datagram.extend(record(23, 1, 5, b"two"));
        datagram.extend(&record(23, 1, 6, b"cut")[..14]);

        let read: Vec<_> = records(&datagram).collect();

        assert_eq!(
            read.iter().map(|r| r.sequence_number).collect::<Vec<_>>(),
            [4, 5]
        );
        assert!(read.iter().all(Record::is_application_data));
        assert!(read[1].bytes.ends_with(b"two"));
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_reader_panic(datagram in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = sort(&datagram);
            prop_assert!(records(&datagram).count() <= RECORDS_MAX);
        }
    }
}
