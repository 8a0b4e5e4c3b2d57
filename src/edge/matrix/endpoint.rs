//! The endpoints that servers ask of each other, from `api`'s list, both ways: a request read and
//! its answer written, a request written and its answer read; and how large each may be.
//!
//! The work is ruma's. Who asks, and whether they may, is not looked at here.

use http::Method;
use ruma::api::{
    IncomingRequestExt as _, IncomingResponse, Metadata as _, OutgoingBody as _, OutgoingRequest,
    OutgoingResponse, OutgoingResponseExt as _,
    error::{DeserializationError, FromHttpRequestError, IntoHttpError},
    path_builder::SinglePath,
};

use crate::{
    api::{PeerCommand, PeerReply, for_each_peer_endpoint},
    base::limits::{BODY_BYTES_MAX, EVENT_BYTES_MAX},
};

macro_rules! endpoints {
    ($($(#[$doc:meta])* $name:ident => $($path:ident)::+,)*) => {
        /// An endpoint of the server-to-server API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Endpoint {
            $($(#[$doc])* $name,)*
        }

        impl Endpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name for logs and metrics; the same as [`PeerCommand::name`].
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The method it is asked with.
            pub const fn method(self) -> Method {
                match self {
                    $(Self::$name => ruma::api::federation::$($path)::+::Request::METHOD,)*
                }
            }

            /// The path it is served at, variables in braces.
            pub(super) fn path(self) -> &'static str {
                match self {
                    $(Self::$name => {
                        ruma::api::federation::$($path)::+::Request::PATH_BUILDER.path()
                    })*
                }
            }

            /// Reads a request of its method; the path's variables come decoded.
            pub(super) fn command(
                self,
                request: http::Request<&[u8]>,
                arguments: &[&str],
            ) -> Result<PeerCommand, FromHttpRequestError> {
                Ok(match self {
                    $(Self::$name => PeerCommand::$name(Box::new(
                        ruma::api::federation::$($path)::+::Request::try_from_http_request(
                            request, arguments,
                        )?,
                    )),)*
                })
            }

            /// Reads another server's answer.
            pub(super) fn reply(self, body: &[u8]) -> Result<PeerReply, DeserializationError> {
                Ok(match self {
                    $(Self::$name => PeerReply::$name(Box::new(answer::<
                        ruma::api::federation::$($path)::+::Response,
                    >(body)?)),)*
                })
            }
        }

        /// A request to another server: which endpoint, and its method, path, query and body.
        pub(super) fn request(
            command: PeerCommand,
        ) -> Result<(Endpoint, http::Request<Vec<u8>>), IntoHttpError> {
            match command {
                $(PeerCommand::$name(command) => Ok((Endpoint::$name, outgoing(*command)?)),)*
            }
        }

        /// The JSON of an answer.
        pub fn written(reply: PeerReply) -> Result<Vec<u8>, IntoHttpError> {
            match reply {
                $(PeerReply::$name(reply) => json(*reply),)*
            }
        }
    };
}
for_each_peer_endpoint!(endpoints);

fn answer<R: IncomingResponse>(body: &[u8]) -> Result<R, DeserializationError> {
    R::try_from_http_response_inner(http::Response::new(body))
}

fn outgoing<R: OutgoingRequest<PathBuilder = SinglePath>>(
    request: R,
) -> Result<http::Request<Vec<u8>>, IntoHttpError> {
    // what stands before the path is not used: where a server is, is found out later
    let (parts, body) = request
        .try_into_http_request_inner("https://server.invalid", ())?
        .into_parts();
    let body = body.try_into_buf().map_err(Into::into)?;
    Ok(http::Request::from_parts(parts, body))
}

fn json<R: OutgoingResponse>(response: R) -> Result<Vec<u8>, IntoHttpError> {
    Ok(response.try_into_http_response()?.into_body())
}

impl Endpoint {
    /// The largest body of a request, in bytes.
    pub const fn request_bytes_max(self) -> usize {
        match self {
            Self::Transaction => TRANSACTION_BYTES_MAX,
            Self::InviteHere | Self::OldInviteHere => INVITE_BYTES_MAX,
            Self::UserKeys | Self::UserKeyClaim => QUESTION_BYTES_MAX,
            _ => BODY_BYTES_MAX,
        }
    }

    /// How many elements the lists of a request's body may have together.
    pub const fn elements_max(self) -> usize {
        match self {
            Self::Transaction => TRANSACTION_ELEMENTS_MAX,
            _ => ELEMENTS_MAX,
        }
    }

    /// The largest answer of another server that is read, in bytes.
    pub const fn answer_bytes_max(self) -> usize {
        match self {
            Self::SendJoin | Self::StateBefore => ROOM_BYTES_MAX,
            Self::StateIdsBefore | Self::EventAuth => GRAPH_BYTES_MAX,
            Self::Backfill | Self::MissingEvents | Self::UserKeys => EVENTS_BYTES_MAX,
            Self::UserDevices | Self::UserKeyClaim => KEYS_BYTES_MAX,
            Self::PeerPublicRooms | Self::PeerRoomSearch | Self::PeerHierarchy => LIST_BYTES_MAX,
            Self::Transaction | Self::SendKnock | Self::InviteHere | Self::OldInviteHere => {
                INVITE_BYTES_MAX
            }
            _ => BODY_BYTES_MAX,
        }
    }
}

/// A transaction: 50 events of the largest size, 100 EDUs of the same, and what is around them.
const TRANSACTION_BYTES_MAX: usize = 160 * EVENT_BYTES_MAX;

/// An event and a dozen more that show its room, all of the largest size.
const INVITE_BYTES_MAX: usize = 16 * EVENT_BYTES_MAX;

/// What a transaction's lists may hold: some more than the 50 events and 100 EDUs that are allowed,
/// so that it can be said that there are too many.
const TRANSACTION_ELEMENTS_MAX: usize = 1000;

/// The names of ten thousand users.
const ELEMENTS_MAX: usize = 10_000;

/// The same in bytes.
const QUESTION_BYTES_MAX: usize = 512 * 1024;

/// Keys of some thousand devices.
const KEYS_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A page of a directory.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A hundred events of the largest size, or the keys of ten thousand devices.
const EVENTS_BYTES_MAX: usize = 128 * EVENT_BYTES_MAX;

/// A quarter of a million event ids, or twenty thousand events of the usual size.
const GRAPH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A room's whole state and what it leans on: a hundred thousand members, of which the usual event
/// has some 650 bytes.
const ROOM_BYTES_MAX: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use ruma::{api::federation::transactions::send_transaction_message, uint};
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn a_request_that_is_written_is_read_the_same() {
        let at = ruma::MilliSecondsSinceUnixEpoch(uint!(5));
        let mut asked = send_transaction_message::v1::Request::new(
            "a/b c".into(),
            ruma::owned_server_name!("a.example"),
            at,
        );
        let pdu = r#"{"content":{"n": 1.50},  "type":"x"}"#;
        asked.pdus = vec![RawValue::from_string(pdu.to_owned()).unwrap()];
        let command = PeerCommand::Transaction(Box::new(asked));

        let (endpoint, request) = request(command).unwrap();

        assert_eq!(endpoint, Endpoint::Transaction);
        assert_eq!(request.method(), Endpoint::Transaction.method());
        assert_eq!(
            request.uri().path(),
            "/_matrix/federation/v1/send/a%2Fb%20c"
        );
        let (parts, body) = request.into_parts();
        let arrived = http::Request::from_parts(parts, body.as_slice());
        let PeerCommand::Transaction(read) = endpoint.command(arrived, &["a/b c"]).unwrap() else {
            panic!("another endpoint");
        };
        assert_eq!(read.transaction_id, "a/b c");
        assert_eq!(read.pdus[0].get(), pdu); // to the letter
    }

    #[test]
    fn a_question_has_its_parameters_in_the_query_and_no_body() {
        use ruma::api::federation::backfill::get_backfill::v1::Request;
        let room = ruma::owned_room_id!("!room:a.example");
        let asked = Request::new(room, vec![ruma::owned_event_id!("$a")], uint!(9));

        let (endpoint, request) = request(PeerCommand::Backfill(Box::new(asked))).unwrap();

        assert_eq!(request.uri().query(), Some("v=%24a&limit=9"));
        assert!(request.body().is_empty());
        assert_eq!(endpoint.name(), "Backfill");
    }
}
