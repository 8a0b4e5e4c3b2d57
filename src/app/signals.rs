//! What the operating system tells a running process.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::failure::Failure;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Finish what is under way, then stop: SIGTERM, SIGINT. A second one means: now.
    Drain,
    /// Take the configuration anew: SIGHUP.
    Reload,
}

/// The signals of this process. From here on they no longer end it.
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hang_up: Stream,
}

impl Signals {
    /// Begins to listen; call it before the ready line, or an early SIGHUP ends the hub.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Drain,
            _ = self.interrupt.recv() => Signal::Drain,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

/// Ctrl-C, or SIGTERM, to a verb that goes on until then. Make one before the loop, and ask only that one: an
/// interrupt that comes while nobody listens is lost.
pub struct Interrupts {
    interrupt: Stream,
    terminate: Stream,
}

impl Interrupts {
    /// Begins to listen. From here on an interrupt no longer ends the process.
    pub fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::failed("SIGNALS", error.to_string()));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            // What a shell starts with & does not hear the other one.
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
