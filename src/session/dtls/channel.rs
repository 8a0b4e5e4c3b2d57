//! One object of the library: fed and drained in the order it asks for.

use std::{fmt, time::Instant};

use bytes::Bytes;
use dimpl::{Dtls, Output};

/// One end of one connection.
pub(super) struct Channel(Dtls);

/// What came out of a step, in order.
#[derive(Debug)]
pub(super) enum Said {
    /// A datagram to send.
    Packet(Bytes),
    /// The handshake is done.
    Connected,
    /// The peer showed this certificate; nobody has checked whose it is.
    PeerCert(Bytes),
    /// What the peer sent.
    Data(Bytes),
    /// The peer closes; our own farewell is among the packets.
    Closed,
}

/// What a step came to.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) said: Vec<Said>,
    /// When the library wants to be woken.
    pub(super) due: Instant,
}

impl Step {
    /// Whether the peer proved in this step that it holds the keys.
    pub(super) fn is_authenticated(&self) -> bool {
        let mut said = self.said.iter();
        said.any(|said| matches!(said, Said::Data(_) | Said::Closed))
    }
}

impl Channel {
    pub(super) const fn new(dtls: Dtls) -> Self {
        Self(dtls)
    }

    /// Advances the time, does one thing, and takes out all that comes of it. After an error the
    /// object is good for nothing.
    pub(super) fn step(
        &mut self,
        now: Instant,
        act: impl FnOnce(&mut Dtls) -> Result<(), dimpl::Error>,
    ) -> Result<Step, dimpl::Error> {
        let mut said = Vec::new();
        self.0.handle_timeout(now)?;
        self.drain(&mut said);
        act(&mut self.0)?;
        let due = self.drain(&mut said).unwrap_or(now);
        Ok(Step { said, due })
    }

    /// Whether records carry a sequence number that everyone can read.
    pub(super) fn is_dtls12(&self) -> bool {
        self.0.protocol_version() == Some(dimpl::ProtocolVersion::DTLS1_2)
    }

    fn drain(&mut self, said: &mut Vec<Said>) -> Option<Instant> {
        let mut buffer = vec![0; OUTPUT_BYTES];
        for _ in 0..OUTPUTS_MAX {
            match self.0.poll_output(&mut buffer) {
                Output::Packet(bytes) => said.push(Said::Packet(Bytes::copy_from_slice(bytes))),
                Output::Connected => said.push(Said::Connected),
                Output::PeerCert(leaf) => said.push(Said::PeerCert(Bytes::copy_from_slice(leaf))),
                Output::ApplicationData(bytes) => {
                    said.push(Said::Data(Bytes::copy_from_slice(bytes)));
                }
                Output::CloseNotify => said.push(Said::Closed),
                Output::BufferTooSmall { needed } => {
                    if needed > OUTPUT_BYTES_MAX {
                        return None;
                    }
                    buffer.resize(needed, 0);
                }
                Output::Timeout(due) => return Some(due),
                _ => {} // keys for media streams, which nobody asked for
            }
        }
        None
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel(…)")
    }
}

/// Room for one output, in bytes: what goes out is smaller, what comes in mostly is.
const OUTPUT_BYTES: usize = 2048;

/// The largest output, in bytes: no datagram is larger.
const OUTPUT_BYTES_MAX: usize = 65_536;

/// Outputs of one step: what a datagram's records can bring and the flight that answers them is
/// far below; more would be the library turning in a circle.
const OUTPUTS_MAX: usize = 256;
