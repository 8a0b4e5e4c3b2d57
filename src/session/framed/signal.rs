//! What the ends tell each other about the connection itself: codes of class 7.
//!
//! Their options have numbers of their own, per code.

use bytes::Bytes;
use thiserror::Error;

use super::message::Framed;
use crate::wire::coap::{
    Code, Token,
    options::{is_critical, uint, uint_bytes},
};

/// A signal. spec: rfc8323 §5.1
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// 7.01: what the sender can do.
    Settings(Settings),
    /// 7.02: answer me.
    Ping {
        /// The answer shall wait until all earlier requests are answered.
        custody: bool,
    },
    /// 7.03: the answer, with the same token.
    Pong {
        /// All earlier requests were answered.
        custody: bool,
    },
    /// 7.04: please close.
    Release {
        /// Other places to connect to.
        elsewhere: Vec<String>,
        /// Not to come back for so many seconds.
        hold_off: Option<u32>,
    },
    /// 7.05: it is over.
    Abort {
        /// The option of a CSM that could not be used.
        bad_option: Option<u16>,
        /// For a person.
        why: String,
    },
}

/// What one CSM says; what it does not mention stays as it was. spec: rfc8323 §5.3
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The largest message the sender takes, in bytes, from its first byte to its last.
    pub message_bytes_max: Option<u32>,
    /// Whether the sender speaks block-wise transfer.
    pub block_wise: bool,
}

/// Why a signal ends the connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SignalFault {
    /// Of class 7, and none of those above.
    #[error("{0} is no signal")]
    Code(Code),
    /// Critical, and we know no critical one.
    #[error("{code} with critical option {number}")]
    Critical {
        /// The signal.
        code: Code,
        /// The option.
        number: u16,
    },
    /// A value that its definition does not allow.
    #[error("{code}: option {number} has {bytes} bytes that are none of its values")]
    Value {
        /// The signal.
        code: Code,
        /// The option.
        number: u16,
        /// How long the value is.
        bytes: usize,
    },
}

impl SignalFault {
    /// What the connection ends with.
    ///
    /// spec: rfc8323 §5.6
    pub fn abort(&self) -> Signal {
        let bad_option = match *self {
            Self::Critical { code, number } | Self::Value { code, number, .. } if code == CSM => {
                Some(number)
            }
            _ => None,
        };
        Signal::Abort {
            bad_option,
            why: self.to_string(),
        }
    }
}

impl Signal {
    /// Whether a message is a signal, of whatever kind.
    pub const fn is(code: Code) -> bool {
        code.class() == 7
    }

    /// Reads one. Elective options that nobody knows are ignored.
    ///
    /// spec: rfc8323 §5.2
    pub fn read(message: &Framed) -> Result<Self, SignalFault> {
        let code = message.code;
        let critical = message.options.iter().find(|(n, _)| is_critical(*n));
        if let Some((number, _)) = critical {
            return Err(SignalFault::Critical { code, number });
        }
        let number = |number, bytes_max| {
            let value = message.options.first(number);
            let wrong = |value: &[u8]| SignalFault::Value {
                code,
                number,
                bytes: value.len(),
            };
            value
                .map(|value| uint(value, bytes_max).ok_or_else(|| wrong(value)))
                .transpose()
        };
        Ok(match code {
            CSM => Self::Settings(Settings {
                message_bytes_max: number(2, 4)?,
                block_wise: message.options.has(4),
            }),
            PING => Self::Ping {
                custody: message.options.has(2),
            },
            PONG => Self::Pong {
                custody: message.options.has(2),
            },
            RELEASE => Self::Release {
                elsewhere: message
                    .options
                    .all(2)
                    .filter_map(|text| String::from_utf8(text.to_vec()).ok())
                    .collect(),
                hold_off: number(4, 3)?,
            },
            ABORT => Self::Abort {
                bad_option: number(2, 2)?.and_then(|number| u16::try_from(number).ok()),
                why: String::from_utf8_lossy(&message.payload).into_owned(),
            },
            other => return Err(SignalFault::Code(other)),
        })
    }

    /// Writes it; a Pong with its Ping's token, all others with any.
    pub fn write(&self, token: Token) -> Framed {
        let mut message = Framed::new(self.code());
        message.token = token;
        let options = &mut message.options;
        match self {
            Self::Settings(settings) => {
                if let Some(bytes) = settings.message_bytes_max {
                    options.push(2, uint_bytes(bytes));
                }
                if settings.block_wise {
                    options.push(4, []);
                }
            }
            Self::Ping { custody } | Self::Pong { custody } => {
                if *custody {
                    options.push(2, []);
                }
            }
            Self::Release {
                elsewhere,
                hold_off,
            } => {
                for place in elsewhere {
                    options.push(2, place.as_bytes());
                }
                if let Some(seconds) = hold_off {
                    options.push(4, uint_bytes((*seconds).min(HOLD_OFF_MAX)));
                }
            }
            Self::Abort { bad_option, why } => {
                if let Some(number) = bad_option {
                    options.push(2, uint_bytes(u32::from(*number)));
                }
                message.payload = Bytes::copy_from_slice(why.as_bytes());
            }
        }
        message
    }

    const fn code(&self) -> Code {
        match self {
            Self::Settings(_) => CSM,
            Self::Ping { .. } => PING,
            Self::Pong { .. } => PONG,
            Self::Release { .. } => RELEASE,
            Self::Abort { .. } => ABORT,
        }
    }
}

const CSM: Code = Code(0xe1);
const PING: Code = Code(0xe2);
const PONG: Code = Code(0xe3);
const RELEASE: Code = Code(0xe4);
const ABORT: Code = Code(0xe5);

/// Hold-Off has three bytes.
const HOLD_OFF_MAX: u32 = (1 << 24) - 1;
