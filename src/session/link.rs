//! What a class of link means for whoever sends over it. spec: thin-profile §11

use std::time::Duration;

use crate::wire::coap::Szx;

/// How to treat a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkClass {
    /// Until the first retransmission.
    pub first_retransmission: Duration,
    /// The size of blocks.
    pub block: Szx,
    /// For how long records are gathered before they are pushed.
    pub gather: Duration,
    /// Bytes of records in one push.
    pub push_bytes_max: usize,
}

impl LinkClass {
    /// The meaning of a class byte; of one that is not known, that of 0.
    pub fn of(class: u8) -> Self {
        let (retransmission_ms, block, gather_ms, push_bytes_max) = match class {
            1 => (60_000, 128, 20_000, 256),
            2 => (15_000, 256, 5_000, 512),
            3 => (8_000, 512, 2_000, 1024),
            4 => (10_000, 512, 1_000, 1024),
            5 => (5_000, 1024, 500, 1024),
            _ => (2_000, 1024, 0, 1024),
        };
        Self {
            first_retransmission: Duration::from_millis(retransmission_ms),
            block: (0..7)
                .filter_map(Szx::new)
                .find(|szx| szx.bytes() == block)
                .unwrap_or(Szx::MAX),
            gather: Duration::from_millis(gather_ms),
            push_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classes_are_those_of_the_profile() {
        let row = |class| {
            let link = LinkClass::of(class);
            (
                link.first_retransmission.as_millis(),
                link.block.bytes(),
                link.gather.as_millis(),
                link.push_bytes_max,
            )
        };
        assert_eq!(row(0), (2000, 1024, 0, 1024));
        assert_eq!(row(1), (60_000, 128, 20_000, 256));
        assert_eq!(row(2), (15_000, 256, 5000, 512));
        assert_eq!(row(3), (8000, 512, 2000, 1024));
        assert_eq!(row(4), (10_000, 512, 1000, 1024));
        assert_eq!(row(5), (5000, 1024, 500, 1024));
        assert_eq!(row(6), (2000, 1024, 0, 1024));
        assert_eq!(row(200), row(0));
    }
}
