//! Why something a linked device wanted did not work.

use thiserror::Error;

use super::{agree::AgreeError, ask::AskError, state::StateError};
use crate::client::{plain, quic::QuicError};

/// Why something did not work.
#[derive(Debug, Error)]
pub enum ThinError {
    /// The files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The hub said no, or nothing.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Nobody is there.
    #[error("cannot reach the hub at {at}: {reason}")]
    Unreachable {
        /// Where.
        at: String,
        /// Why.
        reason: String,
    },
    /// The credential file names no address to send to.
    #[error("the credential file names no coap address, nor a quic address with its keys")]
    NoDoor,
    /// The door that was wanted is not in the credential file.
    #[error("the credential file has nothing for --door {door}: no {wanted}")]
    NotThisDoor {
        /// Which.
        door: &'static str,
        /// What there would have to be.
        wanted: &'static str,
    },
    /// The hub says, without proof, that it does not know us.
    #[error(
        "the hub at {at} seems not to know this device's context: it was unlinked, or the hub was restored from a backup; link the device anew"
    )]
    Stranger {
        /// Where.
        at: String,
    },
    /// The hub takes no keys of the device: over QUIC its own key said so; over OSCORE a fresh context was
    /// refused, without proof, in which the hub had shown its key.
    #[error("the hub at {at} does not know this device (any more): link it again")]
    Unlinked {
        /// Where.
        at: String,
    },
    /// All numbers of the context are used.
    #[error("all numbers of this context are used; link the device anew")]
    Exhausted,
    /// No fresh context could be agreed.
    #[error(
        "the hub does not take this device's context any more, and no fresh one could be agreed: {0}"
    )]
    Agree(#[from] AgreeError),
    /// What was asked speaks of what is void.
    #[error("the hub was restored from a backup; its names are learnt anew, ask again")]
    Restored,
    /// Another kind of answer than that question has.
    #[error("the hub's answer is not what this question is answered with")]
    OtherAnswer,
    /// What came over QUIC is nothing of the profile, or cannot be sent.
    #[error(transparent)]
    Quic(QuicError),
    /// A file of this machine's.
    #[error("{path}: {}", plain::io(.source))]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file that OSCORE does not carry, and QUIC cannot be had.
    #[error(
        "{}, and over OSCORE one has at most {max} ({}): {why}",
        .bytes.map_or_else(|| "the file has more".to_owned(), |bytes| format!("the file has {bytes} bytes")),
        binary(*.max)
    )]
    NeedsQuic {
        /// How large it is, where that is known.
        bytes: Option<u64>,
        /// How large it may be over OSCORE.
        max: u64,
        /// Why there is no QUIC.
        why: String,
    },
    /// A file that takes more than is left of the daily limit.
    #[error(
        "this takes about {} kB, and of today's {limit_kb} kB {} kB are left: --beyond-limit goes on all the same",
        needs.div_ceil(1000), left / 1000
    )]
    BeyondLimit {
        /// About how many bytes it takes, headers included.
        needs: u64,
        /// How many are left today.
        left: u64,
        /// Kilobytes that a day has.
        limit_kb: u64,
    },
    /// A file of which less came than was said.
    #[error("the file broke off: {came} bytes of {said}")]
    BrokeOff {
        /// What came.
        came: u64,
        /// What was said.
        said: u64,
    },
}

/// A ceiling as people say it.
fn binary(bytes: u64) -> String {
    match bytes / 1024 {
        kib @ 0..1024 => format!("{kib} KiB"),
        kib => format!("{} MiB", kib / 1024),
    }
}

impl ThinError {
    /// Whether nobody answered.
    pub const fn is_unheard(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Ask(AskError::Unanswered(_))
                | Self::Agree(AgreeError::Unanswered(_))
        )
    }

    /// Whether it may work later, as it is.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Restored | Self::BrokeOff { .. } => true,
            Self::Ask(error) => error.is_temporary(),
            _ => false,
        }
    }
}
