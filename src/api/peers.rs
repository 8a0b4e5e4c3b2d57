//! What servers ask each other: the Matrix server-to-server API, as one list for both directions.
//!
//! The shapes of requests and answers are ruma's (spec v1.19). Another server's request reaches the
//! hub as a [`PeerCommand`]; the hub asks another server by giving one to a [`Remote`].

use std::time::Duration;

use async_trait::async_trait;
use ruma::ServerName;
use thiserror::Error;

use super::{ByteStream, Refusal, Why};
use crate::wire::matrix::{Pdu, Version};

/// Calls `$callback!` with every endpoint: `Variant => ruma::api::federation path`.
macro_rules! for_each_peer_endpoint {
    ($callback:ident) => {
        $callback! {
            /// `GET /make_join/{roomId}/{userId}`
            MakeJoin => membership::prepare_join_event::v1,
            /// `PUT /v2/send_join/{roomId}/{eventId}`
            SendJoin => membership::create_join_event::v2,
            /// `GET /make_leave/{roomId}/{userId}`
            MakeLeave => membership::prepare_leave_event::v1,
            /// `PUT /v2/send_leave/{roomId}/{eventId}`
            SendLeave => membership::create_leave_event::v2,
            /// `GET /make_knock/{roomId}/{userId}`
            MakeKnock => membership::prepare_knock_event::v1,
            /// `PUT /send_knock/{roomId}/{eventId}`
            SendKnock => membership::create_knock_event::v1,
            /// `PUT /v2/invite/{roomId}/{eventId}`
            InviteHere => membership::create_invite::v2,
            /// `PUT /send/{txnId}`
            Transaction => transactions::send_transaction_message::v1,
            /// `GET /state/{roomId}`
            StateBefore => event::get_room_state::v1,
            /// `GET /state_ids/{roomId}`
            StateIdsBefore => event::get_room_state_ids::v1,
            /// `GET /event/{eventId}`
            PeerEvent => event::get_event::v1,
            /// `GET /event_auth/{roomId}/{eventId}`
            EventAuth => authorization::get_event_authorization::v1,
            /// `GET /backfill/{roomId}`
            Backfill => backfill::get_backfill::v1,
            /// `POST /get_missing_events/{roomId}`
            MissingEvents => event::get_missing_events::v1,
            /// `GET /query/profile`
            PeerProfile => query::get_profile_information::v1,
            /// `GET /query/directory`
            PeerAlias => query::get_room_information::v1,
            /// `PUT /v1/invite/{roomId}/{eventId}`
            OldInviteHere => membership::create_invite::v1,
            /// `GET /user/devices/{userId}`
            UserDevices => device::get_devices::v1,
            /// `POST /user/keys/query`
            UserKeys => keys::get_keys::v1,
            /// `POST /user/keys/claim`
            UserKeyClaim => keys::claim_keys::v1,
            /// `GET /publicRooms`
            PeerPublicRooms => directory::get_public_rooms::v1,
            /// `POST /publicRooms`
            PeerRoomSearch => directory::get_public_rooms_filtered::v1,
            /// `GET /hierarchy/{roomId}`
            PeerHierarchy => space::get_hierarchy::v1,
            /// `GET /timestamp_to_event/{roomId}`
            PeerEventByTime => event::get_event_by_timestamp::v1,
            /// `POST /_matrix/policy/v1/sign`
            PolicySign => policy::sign_event::v1,
        }
    };
}

macro_rules! commands_and_replies {
    ($($(#[$doc:meta])* $name:ident => $($path:ident)::+,)*) => {
        /// One thing a server asks another.
        #[derive(Clone)]
        pub enum PeerCommand {
            $($(#[$doc])* $name(Box<ruma::api::federation::$($path)::+::Request>),)*
        }

        impl PeerCommand {
            /// The endpoint's name, for logs, metrics and rate limits.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }

        /// The answer to the [`PeerCommand`] of the same name.
        #[derive(Clone)]
        #[expect(missing_docs, reason = "each variant answers the command of its name")]
        pub enum PeerReply {
            $($name(Box<ruma::api::federation::$($path)::+::Response>),)*
        }

        impl PeerReply {
            /// The name of the command that it answers.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }

        // Events are what people wrote: only the name may reach a log.
        impl std::fmt::Debug for PeerReply {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
for_each_peer_endpoint!(commands_and_replies);
pub(crate) use for_each_peer_endpoint;

/// Other servers, as the hub sees them.
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// Asks another server, and gives its answer.
    async fn ask(
        &self,
        server: &ServerName,
        command: PeerCommand,
        patience: Duration,
    ) -> Result<PeerReply, RemoteError>;

    /// Fetches a file that another server keeps. Its bytes come as they are read from `body`; whoever
    /// reads them stops where they are too many or too slow.
    async fn file(
        &self,
        server: &ServerName,
        media_id: &str,
        patience: Duration,
    ) -> Result<RemoteFile, RemoteError> {
        let _ = (media_id, patience);
        Err(off(server))
    }

    /// Checks size, form, hash and the signatures of all servers that have to have signed an event
    /// of a room of this version. Where its content is not what was signed, gives what is left of it.
    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified>;

    /// The same of many events, in their order: the keys of all their servers are fetched side by
    /// side, once each.
    async fn verified_many(
        &self,
        events: &[&str],
        version: Version,
    ) -> Vec<Result<Pdu, Unverified>> {
        let mut verified = Vec::with_capacity(events.len());
        for json in events {
            verified.push(self.verified(json, version).await);
        }
        verified
    }

    /// The same of events that another server tells: it may know keys of servers that cannot be reached.
    async fn verified_from(
        &self,
        teller: &ServerName,
        events: &[&str],
        version: Version,
    ) -> Vec<Result<Pdu, Unverified>> {
        let _ = teller;
        self.verified_many(events, version).await
    }

    /// Whether the operator has this hub deal with a server, and if not, by which rule.
    fn welcomes(&self, server: &ServerName) -> Result<(), Box<Why>> {
        let _ = server;
        Ok(())
    }
}

/// A file of another server, as that server describes it.
pub struct RemoteFile {
    /// Its media type.
    pub content_type: Option<String>,
    /// Its name.
    pub filename: Option<String>,
    /// Its bytes.
    pub body: ByteStream,
}

/// Another server did not do what it was asked.
#[derive(Clone, Debug, Error)]
pub enum RemoteError {
    /// It refused.
    #[error("{server} refused with {status} {code}: {message}")]
    Refused {
        /// Who.
        server: String,
        /// HTTP's number.
        status: u16,
        /// Matrix' word for it.
        code: String,
        /// In its words.
        message: String,
    },
    /// It was not reached, or gave no answer that can be read.
    #[error("{server} does not answer: {reason}")]
    Unreachable {
        /// Who.
        server: String,
        /// Why.
        reason: String,
    },
    /// No connection to it is made, for a reason with a name.
    #[error("{server} is not reached: {reason}")]
    Unconnected {
        /// Who.
        server: String,
        /// Which reason.
        code: &'static str,
        /// The same in words.
        reason: String,
    },
    /// The operator does not let this hub speak with it.
    #[error("{}", not_allowed(server, why))]
    NotAllowed {
        /// Who.
        server: String,
        /// By which rule.
        why: Box<Why>,
    },
}

/// An event of another server that is not to be believed, or not now.
#[derive(Clone, Debug, Error)]
pub enum Unverified {
    /// It has not the form of one, or not the size.
    #[error("{0}")]
    Form(String),
    /// A signature that it needs is wrong, or absent.
    #[error("{0}")]
    Wrong(String),
    /// A key to check it with could not be had.
    #[error("{whole}")]
    NoKey {
        /// Whose key, and what is wrong with what is known of it: as whoever sent the event is told.
        told: String,
        /// The same with what came of asking for it, perhaps in the system's words and with
        /// addresses: for the operator.
        whole: String,
    },
}

impl Unverified {
    /// The stable reason, for the operator.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Form(_) => "EVENT_FORM",
            Self::Wrong(_) => "EVENT_SIGNATURE",
            Self::NoKey { .. } => "EVENT_KEY",
        }
    }

    /// What whoever sent the event is told, or waits for it.
    pub fn told(&self) -> &str {
        match self {
            Self::Form(told) | Self::Wrong(told) | Self::NoKey { told, .. } => told,
        }
    }
}

impl RemoteError {
    /// Which server.
    pub fn server(&self) -> &str {
        match self {
            Self::Refused { server, .. }
            | Self::Unreachable { server, .. }
            | Self::Unconnected { server, .. }
            | Self::NotAllowed { server, .. } => server,
        }
    }

    /// The stable reason, for the operator and for who waits for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAllowed { why, .. } => why.code.unwrap_or("PEER_REFUSED"),
            Self::Refused { status: 401, .. } => "PEER_DISBELIEVES",
            Self::Refused { status: 404, .. } => "PEER_HAS_NOT",
            Self::Refused { status, .. } if *status >= 500 => "PEER_IN_TROUBLE",
            Self::Refused { .. } => "PEER_REFUSED",
            Self::Unreachable { .. } => "PEER_UNREACHABLE",
            Self::Unconnected { code, .. } => code,
        }
    }
}

impl RemoteError {
    /// What whoever waits for it is told: which server, and why, with the code that the operator
    /// sees, too. What the system or a library said, and addresses, are the operator's alone; and so
    /// is that an address is not of the public internet, which tells what names there are inside.
    pub fn told(&self) -> String {
        let mut code = self.code();
        let what = match self {
            Self::NotAllowed { .. } => return self.to_string(),
            Self::Refused { status, .. } if *status < 500 => return self.to_string(),
            Self::Refused { status, .. } => {
                format!("it answered with an error of its own (HTTP {status})")
            }
            Self::Unreachable { .. } => {
                "it does not answer, or not as a Matrix server does".to_owned()
            }
            Self::Unconnected { code: reason, .. } => match *reason {
                "PEER_DNS" => "its name has no address",
                "PEER_TLS" => "it shows no certificate that is good for its name and believed here",
                _ => {
                    code = "PEER_UNREACHABLE";
                    "no connection to it can be made"
                }
            }
            .to_owned(),
        };
        not_reached(self.server(), code, &what)
    }
}

/// The words for a server from which no answer was to be had.
pub fn not_reached(server: &str, code: &str, what: &str) -> String {
    format!("{server} is not reached ({code}): {what}")
}

impl From<RemoteError> for Refusal {
    fn from(error: RemoteError) -> Self {
        use super::Code;
        let (message, reason) = (error.to_string(), error.code());
        let told = error.told();
        let server = error.server().to_owned();
        match error {
            RemoteError::Refused { status, code, .. } if status < 500 => {
                let code = if code == Code::NotFound.errcode() {
                    Code::NotFound
                } else {
                    Code::Forbidden
                };
                let why = Why::of(reason).rule(&message).of_server(server);
                Self::new(code, message).because(why)
            }
            RemoteError::NotAllowed { why, .. } => {
                Self::new(Code::Forbidden, message).because(why.of_server(server))
            }
            RemoteError::Refused { .. }
            | RemoteError::Unreachable { .. }
            | RemoteError::Unconnected { .. } => {
                let why = Why::of(reason).rule(&message).of_server(server);
                let refusal = Self::new(Code::Unknown, told).with_status(502);
                refusal.because(why)
            }
        }
    }
}

fn not_allowed(server: &str, why: &Why) -> String {
    if why.code == Some(OFF) {
        return "federation is off on this hub".to_owned();
    }
    format!("this hub does not speak with {server}")
}

/// Why nobody is spoken with.
pub fn federation_off() -> Why {
    Why::of(OFF).rule("`federation.enabled` is false")
}

const OFF: &str = "FEDERATION_OFF";

fn off(server: &ServerName) -> RemoteError {
    RemoteError::NotAllowed {
        server: server.to_string(),
        why: Box::new(federation_off()),
    }
}

/// Nobody: what a hub without federation is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

#[async_trait]
impl Remote for Nobody {
    async fn ask(
        &self,
        server: &ServerName,
        _command: PeerCommand,
        _patience: Duration,
    ) -> Result<PeerReply, RemoteError> {
        Err(off(server))
    }

    async fn verified(&self, _json: &str, _version: Version) -> Result<Pdu, Unverified> {
        let told = "this hub does not federate".to_owned();
        let whole = told.clone();
        Err(Unverified::NoKey { told, whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &str = "Connection refused (os error 111) at 203.0.113.7:8448";

    #[test]
    fn a_hub_without_federation_does_not_sound_like_a_list() {
        let refusal = Refusal::from(off(ruma::server_name!("far.example")));

        assert_eq!(refusal.message, "federation is off on this hub");
        assert_eq!(refusal.why.unwrap().code, Some("FEDERATION_OFF"));
    }

    #[test]
    fn who_waits_for_a_server_is_told_its_name_and_the_code_and_nothing_of_the_system() {
        let server = || "far.example".to_owned();
        let unconnected = |code| RemoteError::Unconnected {
            server: server(),
            code,
            reason: SYSTEM.to_owned(),
        };
        let silent = RemoteError::Unreachable {
            server: server(),
            reason: SYSTEM.to_owned(),
        };
        let ill = RemoteError::Refused {
            server: server(),
            status: 500,
            code: "M_UNKNOWN".to_owned(),
            message: SYSTEM.to_owned(),
        };
        for (error, code) in [
            (silent, "PEER_UNREACHABLE"),
            (unconnected("PEER_DNS"), "PEER_DNS"),
            (unconnected("PEER_TLS"), "PEER_TLS"),
            (ill, "PEER_IN_TROUBLE"),
        ] {
            let refusal = Refusal::from(error);
            let wanted = format!("far.example is not reached ({code}): ");
            assert!(refusal.message.starts_with(&wanted), "{refusal}");
            for secret in ["os error", "203.0.113.7"] {
                assert!(!refusal.message.contains(secret), "{refusal}");
            }
            assert_eq!((refusal.code.errcode(), refusal.status), ("M_UNKNOWN", 502));
            // The operator is told all of it.
            let why = refusal.why.unwrap();
            assert_eq!(why.code, Some(code));
            assert!(why.rule.unwrap().contains("os error"));
        }
    }

    #[test]
    fn that_a_name_leads_inside_is_told_to_the_operator_only() {
        let refusal = Refusal::from(RemoteError::Unconnected {
            server: "intranet.example".to_owned(),
            code: "PEER_PRIVATE_ADDRESS",
            reason: "intranet.example has the address 10.0.0.7 only".to_owned(),
        });

        assert_eq!(
            refusal.message,
            "intranet.example is not reached (PEER_UNREACHABLE): no connection to it can be made"
        );
        let why = refusal.why.unwrap();
        assert_eq!(why.code, Some("PEER_PRIVATE_ADDRESS"));
        assert!(why.rule.unwrap().contains("10.0.0.7"));
    }
}
