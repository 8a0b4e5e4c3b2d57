//! Who asks: what a door knows of a request, and what the desk makes of it.

use std::{fmt, net::IpAddr, str::FromStr};

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};

use super::Refusal;

/// The number of one request, in every log line about it and in `explain` later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for RequestId {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        u64::from_str_radix(text, 16).map(Self).map_err(|_| {
            Refusal::invalid_param(format!(
                "{text:?} is no request id: those are hexadecimal, like 0000002a"
            ))
        })
    }
}

/// The way a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// HTTPS with JSON.
    Https,
    /// CoAP over plain UDP.
    Coap,
    /// CoAP over UDP, protected by OSCORE.
    Oscore,
    /// CoAP over DTLS.
    Coaps,
    /// CoAP messages on QUIC streams.
    Quic,
    /// CoAP over WebSocket.
    WebSocket,
    /// Inside this process: the operator's socket, the CLI, a test.
    Local,
}

impl Door {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Coap => "coap",
            Self::Oscore => "oscore",
            Self::Coaps => "coaps",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::Local => "local",
        }
    }
}

/// What a request shows to prove who sends it. Identity never comes from the payload.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    Nothing,
    /// An access token, as sent; only its hash is ever stored.
    Token(String),
    /// A security context that is a linked device's.
    Device(super::DeviceName),
    /// A signature of another server, which was checked.
    Server(OwnedServerName),
    /// Both: refused unless they name the same device.
    DeviceAndToken(super::DeviceName, String),
    /// None now: the hub looks for news on behalf of a linked device that observes. That the device
    /// is still linked is checked; it has not spoken, so it counts neither as seen nor as asking.
    Observing(super::DeviceName),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            // a secret must not reach a log
            Self::Token(_) => "Token(…)",
            Self::Device(_) => "Device",
            Self::Server(_) => "Server",
            Self::DeviceAndToken(..) => "DeviceAndToken(…)",
            Self::Observing(_) => "Observing",
        })
    }
}

/// What a door knows of a request before anyone has authorised it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The way in.
    pub door: Door,
    /// The address it came from, for rate limits; absent for [`Door::Local`].
    pub address: Option<IpAddr>,
    /// The number of this request.
    pub request: RequestId,
    /// What it shows.
    pub credentials: Credentials,
}

/// An authorised caller: the desk makes it from an [`Origin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: OwnedUserId,
    /// The user's device.
    pub device: OwnedDeviceId,
    /// Whether the account is an operator's.
    pub admin: bool,
}
