//! The endpoints, from `api`'s list: path, method, how a request is read and a reply written.
//!
//! The work is ruma's. Written out here are the endpoints that are not Matrix's own (registration by
//! shared secret, at the paths Synapse's tools use, and what became of an event elsewhere), and two
//! whose answers say that there is nothing in a way ruma cannot.

use http::Method;
use ruma::api::{
    IncomingRequestExt as _, Metadata as _, OutgoingResponse, OutgoingResponseExt as _,
    client::{account::get_3pids, voip::get_turn_server_info},
    error::{DeserializationError, FromHttpRequestError, IntoHttpError},
    path_builder::PathBuilder as _,
};

use crate::api::{Command, Deliveries, Reply, for_each_endpoint};

macro_rules! endpoints {
    ($($(#[$doc:meta])* $name:ident => $($path:ident)::+,)*) => {
        /// An endpoint of the client API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Endpoint {
            $($(#[$doc])* $name,)*
            /// `GET /voip/turnServer`
            TurnServer,
            /// `GET /account/3pid`
            ThirdPartyIds,
            /// `GET /_synapse/admin/v1/register`
            RegisterNonce,
            /// `POST /_synapse/admin/v1/register`
            RegisterWithSecret,
            /// `GET /_tramline/client/v1/deliveries/{roomId}/{eventId}`
            Deliveries,
        }

        #[expect(deprecated, reason = "old clients still ask for the unauthenticated media config")]
        impl Endpoint {
            /// All of them.
            pub const ALL: &[Self] = &[
                $(Self::$name,)*
                Self::TurnServer,
                Self::ThirdPartyIds,
                Self::RegisterNonce,
                Self::RegisterWithSecret,
                Self::Deliveries,
            ];

            /// The name for logs and metrics; the same as [`Command::name`].
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::TurnServer => "TurnServer",
                    Self::ThirdPartyIds => "ThirdPartyIds",
                    Self::RegisterNonce => "RegisterNonce",
                    Self::RegisterWithSecret => "RegisterWithSecret",
                    Self::Deliveries => "Deliveries",
                }
            }

            /// The method it is asked with.
            pub const fn method(self) -> Method {
                match self {
                    $(Self::$name => ruma::api::client::$($path)::+::Request::METHOD,)*
                    Self::TurnServer
                    | Self::ThirdPartyIds
                    | Self::RegisterNonce
                    | Self::Deliveries => Method::GET,
                    Self::RegisterWithSecret => Method::POST,
                }
            }

            /// The paths it is served at, variables in braces.
            pub(super) fn paths(self) -> Vec<&'static str> {
                match self {
                    $(Self::$name => {
                        ruma::api::client::$($path)::+::Request::PATH_BUILDER.all_paths().collect()
                    })*
                    Self::TurnServer => {
                        get_turn_server_info::v3::Request::PATH_BUILDER.all_paths().collect()
                    }
                    Self::ThirdPartyIds => get_3pids::v3::Request::PATH_BUILDER.all_paths().collect(),
                    Self::RegisterNonce | Self::RegisterWithSecret => vec![REGISTER_WITH_SECRET],
                    Self::Deliveries => vec![DELIVERIES, RECENT_DELIVERIES],
                }
            }

            /// Reads a request of its method; the path's variables come decoded.
            pub(super) fn command(
                self,
                request: http::Request<&[u8]>,
                arguments: &[&str],
            ) -> Result<Command, FromHttpRequestError> {
                Ok(match self {
                    $(Self::$name => Command::$name(Box::new(
                        ruma::api::client::$($path)::+::Request::try_from_http_request(
                            request, arguments,
                        )?,
                    )),)*
                    Self::TurnServer => Command::TurnServer,
                    Self::ThirdPartyIds => Command::ThirdPartyIds,
                    Self::RegisterNonce => Command::RegisterNonce,
                    Self::RegisterWithSecret => Command::RegisterWithSecret(Box::new(
                        serde_json::from_slice(request.body())?,
                    )),
                    Self::Deliveries => Command::Deliveries(deliveries(arguments)?),
                })
            }
        }

        /// Writes a reply as status and JSON.
        pub(super) fn written(reply: Reply) -> Result<(u16, Vec<u8>), IntoHttpError> {
            match reply {
                $(Reply::$name(response) => rendered(*response),)*
                Reply::TurnServer => Ok((200, b"{}".to_vec())),
                Reply::ThirdPartyIds => Ok((200, br#"{"threepids":[]}"#.to_vec())),
                Reply::RegisterNonce { nonce } => {
                    Ok((200, serde_json::to_vec(&serde_json::json!({ "nonce": nonce }))?))
                }
                Reply::RegisterWithSecret(response) => rendered(*response),
                Reply::Deliveries(told) => Ok((200, serde_json::to_vec(&told)?)),
                // No path of this API leads to them.
                Reply::Peer(_) | Reply::Thin(_) | Reply::Linking(_) => Ok((404, b"{}".to_vec())),
            }
        }
    };
}
for_each_endpoint!(endpoints);

const REGISTER_WITH_SECRET: &str = "/_synapse/admin/v1/register";
const DELIVERIES: &str = "/_tramline/client/v1/deliveries/{room_id}/{event_id}";
const RECENT_DELIVERIES: &str = "/_tramline/client/v1/deliveries/{room_id}";

fn deliveries(arguments: &[&str]) -> Result<Deliveries, DeserializationError> {
    let argument = |at: usize| arguments.get(at).copied().unwrap_or_default();
    Ok(Deliveries {
        room: argument(0).try_into()?,
        event: match arguments.get(1) {
            Some(event) => Some((*event).try_into()?),
            None => None,
        },
    })
}

impl Endpoint {
    /// Whether the body is the content of an event, which must be canonical JSON.
    pub(super) const fn makes_event(self) -> bool {
        matches!(self, Self::Send | Self::SendState)
    }

    /// Whether the body is kept as it is, as the content of an event or of account data. For
    /// these an absent body is not the same as an empty object.
    pub(super) const fn keeps_body(self) -> bool {
        matches!(
            self,
            Self::Send | Self::SendState | Self::SetAccountData | Self::SetRoomAccountData
        )
    }
}

fn rendered<R: OutgoingResponse>(response: R) -> Result<(u16, Vec<u8>), IntoHttpError> {
    let http = response.try_into_http_response::<Vec<u8>>()?;
    Ok((http.status().as_u16(), http.into_body()))
}
