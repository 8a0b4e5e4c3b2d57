//! The paths of the server-to-server API.

use std::borrow::Cow;

use http::Method;

use super::{Authenticated, bodies::elements, invite};
use crate::{
    api::{PeerCommand, Refusal},
    edge::{
        client_api::{Path, Unread, routes::Routes},
        matrix::endpoint::Endpoint,
    },
};

/// What a request of another server is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `GET /_matrix/federation/v1/version`
    Version,
    /// `GET /_matrix/key/v2/server`
    Keys,
    /// `GET /_matrix/key/v2/query/{server}`
    QueryKeys(String),
    /// `POST /_matrix/key/v2/query`
    QueryManyKeys,
    /// `GET /_matrix/federation/v1/media/download/{mediaId}`
    File(String),
    /// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
    Thumbnail(String),
    /// One of `api`'s list, which only servers ask that show who they are.
    Peer(Match),
}

/// A request whose path and method name an endpoint; its query and body are unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// What it asks for.
    pub endpoint: Endpoint,
    /// The path's variables, decoded, in the order of the path.
    arguments: Vec<String>,
}

impl Match {
    /// Reads the rest of a request, after it is known who sent it. What the path and the body
    /// name is found in the command and nowhere else.
    pub fn command(
        &self,
        _from: &Authenticated,
        query: &str,
        body: &[u8],
    ) -> Result<PeerCommand, Refusal> {
        let (found, max) = (elements(body), self.endpoint.elements_max());
        if found > max {
            let message = format!("the body has more than {max} elements");
            return Err(Refusal::bad_json(message));
        }
        let body = &*match self.endpoint {
            Endpoint::InviteHere => invite::completed(body)?,
            _ => Cow::Borrowed(body),
        };
        let request = self.request(query, body).map_err(|error| {
            Refusal::invalid_param(format!("the query is not valid in a URL: {error}"))
        })?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let read = self.endpoint.command(request, &arguments);
        read.map_err(|error| {
            let unread = Unread {
                path: self.endpoint.path(),
                arguments: &arguments,
                query,
                body,
                read: &|query, body| match self.request(query, body) {
                    Ok(request) => self.endpoint.command(request, &arguments).map(drop),
                    Err(_) => Ok(()),
                },
            };
            unread.refusal(&error)
        })
    }

    fn request<'a>(&self, query: &str, body: &'a [u8]) -> http::Result<http::Request<&'a [u8]>> {
        let request = http::Request::builder().method(self.endpoint.method());
        request.uri(format!("/?{query}")).body(body)
    }
}

/// What is served at a path.
#[derive(Clone, Copy)]
enum Served {
    Version,
    Keys,
    QueryKeys,
    QueryManyKeys,
    File,
    Thumbnail,
    Peer(Endpoint),
}

/// What is served to other servers, by path and method.
pub(super) struct Paths(Routes<Served>);

impl Paths {
    pub(super) fn new() -> Self {
        let mut routes = Routes::empty();
        for (path, method, served) in [
            (
                "/_matrix/federation/v1/version",
                Method::GET,
                Served::Version,
            ),
            ("/_matrix/key/v2/server", Method::GET, Served::Keys),
            // once there was a key id behind it, which was ignored
            ("/_matrix/key/v2/server/{id}", Method::GET, Served::Keys),
            (
                "/_matrix/key/v2/query/{server}",
                Method::GET,
                Served::QueryKeys,
            ),
            ("/_matrix/key/v2/query", Method::POST, Served::QueryManyKeys),
            (
                "/_matrix/federation/v1/media/download/{id}",
                Method::GET,
                Served::File,
            ),
            (
                "/_matrix/federation/v1/media/thumbnail/{id}",
                Method::GET,
                Served::Thumbnail,
            ),
        ] {
            routes.insert(path, method, served);
        }
        for &endpoint in Endpoint::ALL {
            routes.insert(endpoint.path(), endpoint.method(), Served::Peer(endpoint));
        }
        Self(routes)
    }

    /// What a path means; nothing if it is not of this API.
    ///
    /// Whatever else begins with `/_matrix/federation`, `/_matrix/key` or `/_matrix/policy` is
    /// unknown, not another API's.
    // spec: server-server §Unsupported-endpoints
    pub(super) fn find(&self, method: &Method, path: &Path<'_>) -> Result<Option<Target>, Refusal> {
        let texts = path.texts();
        // an encoded letter makes it another path
        let ours = matches!(
            texts.as_slice(),
            ["_matrix", "federation" | "key" | "policy", ..]
        ) && path.plain_segments() >= 2;
        if !ours {
            return Ok(None);
        }
        let (served, arguments) = self.0.find(method, path)?;
        let first = |arguments: Vec<String>| arguments.into_iter().next().unwrap_or_default();
        Ok(Some(match served {
            Served::File => Target::File(first(arguments)),
            Served::Thumbnail => Target::Thumbnail(first(arguments)),
            Served::Version => Target::Version,
            Served::Keys => Target::Keys,
            Served::QueryKeys => Target::QueryKeys(first(arguments)),
            Served::QueryManyKeys => Target::QueryManyKeys,
            Served::Peer(endpoint) => Target::Peer(Match {
                endpoint,
                arguments,
            }),
        }))
    }
}

impl Target {
    /// The name for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Version => "FederationVersion",
            Self::Keys => "ServerKeys",
            Self::QueryKeys(_) => "QueryServerKeys",
            Self::QueryManyKeys => "QueryManyServerKeys",
            Self::File(_) => "PeerFile",
            Self::Thumbnail(_) => "PeerThumbnail",
            Self::Peer(found) => found.endpoint.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Code, edge::client_api::plain::assert_plain};

    fn of(method: Method, path: &str) -> Result<Option<Target>, u16> {
        let path = Path::of_url(path).unwrap();
        Paths::new().find(&method, &path).map_err(|refusal| {
            assert_eq!(refusal.code, Code::Unrecognized);
            refusal.status
        })
    }

    fn peer(endpoint: Endpoint, arguments: &[&str]) -> Target {
        Target::Peer(Match {
            endpoint,
            arguments: arguments.iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn paths_are_known_and_others_of_this_api_are_not() {
        let get = |path| of(Method::GET, path);
        assert_eq!(
            get("/_matrix/federation/v1/version"),
            Ok(Some(Target::Version))
        );
        assert_eq!(get("/_matrix/key/v2/server"), Ok(Some(Target::Keys)));
        assert_eq!(
            get("/_matrix/key/v2/server/ed25519%3Aa"),
            Ok(Some(Target::Keys))
        );
        let query = Target::QueryKeys("hub.example:1".to_owned());
        assert_eq!(
            get("/_matrix/key/v2/query/hub.example%3A1"),
            Ok(Some(query))
        );
        assert_eq!(
            of(Method::POST, "/_matrix/key/v2/query"),
            Ok(Some(Target::QueryManyKeys))
        );
        assert_eq!(
            get("/_matrix/federation/v1/media/download/abc"),
            Ok(Some(Target::File("abc".to_owned())))
        );
        for path in [
            "/_matrix/federation",
            "/_matrix/federation/v1",
            "/_matrix/federation/v1/versio%6e",
            "/_matrix/federation/v3/version",
            "/_matrix/federation/v1/send_join/!a/$b",
            "/_matrix/key/v1/server",
            "/_matrix/key/v2/query/",
            "/_matrix/policy/v2/sign",
        ] {
            assert_eq!(get(path), Err(404), "{path}");
        }
        assert_eq!(of(Method::PUT, "/_matrix/key/v2/server"), Err(405));
        assert_eq!(
            of(Method::DELETE, "/_matrix/federation/v1/query/profile"),
            Err(405)
        );
        for path in ["/_matrix/client/versions", "/", "/_matri%78/key/v2/server"] {
            assert_eq!(get(path), Ok(None), "{path}");
        }
    }

    #[test]
    fn a_parameter_that_cannot_be_read_is_named() {
        let from = Authenticated {
            origin: ruma::owned_server_name!("a.example"),
        };
        for (path, query, said) in [
            ("backfill/%21r%3Aa", "v=%24e&limit=many", "`limit`: "),
            (
                "backfill/%21r%3Aa",
                "v=%24e",
                "`limit` in the query is missing",
            ),
            ("backfill/r", "v=%24e&limit=1", "`roomId`: "),
            ("event/e", "", "`eventId`: "),
            ("query/profile", "user_id=ana", "`user_id`: "),
        ] {
            let path = format!("/_matrix/federation/v1/{path}");
            let Ok(Some(Target::Peer(found))) = of(Method::GET, &path) else {
                panic!("{path}")
            };
            let Err(refusal) = found.command(&from, query, b"") else {
                panic!("{path} is read")
            };
            assert!(refusal.message.starts_with(said), "{path}: {refusal}");
        }
    }

    /// What is said of a body that another server sent.
    fn said(method: Method, path: &str, body: &str) -> Result<PeerCommand, Refusal> {
        let from = Authenticated {
            origin: ruma::owned_server_name!("a.example"),
        };
        let path = format!("/_matrix/federation/{path}");
        let Ok(Some(Target::Peer(found))) = of(method, &path) else {
            panic!("{path}")
        };
        found.command(&from, "", body.as_bytes())
    }

    #[test]
    fn a_body_that_cannot_be_read_says_where_and_what_is_right() {
        let send = |body| ("v1/send/1", body);
        let missing = |body| ("v1/get_missing_events/%21r%3Aa", body);
        for ((path, body), told) in [
            (
                send(r#"{"origin":5,"origin_server_ts":1,"pdus":[]}"#),
                "`origin`: expected a server's name, such as `server.example`, found a number",
            ),
            (
                send(r#"{"origin":"a","origin_server_ts":"now","pdus":[]}"#),
                "`origin_server_ts`: expected a whole number from 0 on, found a text",
            ),
            (
                send(r#"{"origin":"a","origin_server_ts":1,"pdus":{}}"#),
                "`pdus`: expected a list, found an object",
            ),
            (
                send(r#"{"origin":"a","origin_server_ts":1,"pdus":[],"edus":"x"}"#),
                "`edus`: expected a list, found a text",
            ),
            (
                send(r#"{"origin":"a","pdus":[]}"#),
                "`origin_server_ts` is missing",
            ),
            (send("[]"), "expected an object, found a list"),
            (
                missing(r#"{"earliest_events":["$a"],"latest_events":["$a",5]}"#),
                "`latest_events[1]`: expected an event id, which begins with `$`, found a number",
            ),
            (
                missing(r#"{"earliest_events":["a"],"latest_events":["$a"]}"#),
                "`earliest_events[0]`: expected an event id, which begins with `$`, found another text",
            ),
            (
                missing(r#"{"earliest_events":[],"latest_events":["$a"],"limit":-3}"#),
                "`limit`: expected a whole number from 0 on, found a negative number",
            ),
            (("v1/user/keys/query", "{}"), "`device_keys` is missing"),
        ] {
            let method = if path.contains("/send/") {
                Method::PUT
            } else {
                Method::POST
            };
            let Err(refusal) = said(method, path, body) else {
                panic!("{body} is read")
            };
            assert_eq!(refusal.message, told, "{body}");
            let code = if told.ends_with("missing") {
                Code::MissingParam
            } else {
                Code::BadJson
            };
            assert_eq!((refusal.status, refusal.code), (400, code), "{body}");
            assert_plain(&refusal, body);
        }
    }

    #[test]
    fn a_large_transaction_says_where_and_one_bad_event_is_not_its_fault() {
        let pdu = format!(r#"{{"x":"{}"}}"#, "a".repeat(60_000));
        let pdus = vec![pdu; 40].join(",");
        let body = format!(r#"{{"origin_server_ts":"x","origin":"a","pdus":[{pdus}]}}"#);
        let Err(refusal) = said(Method::PUT, "v1/send/1", &body) else {
            panic!("it is read")
        };
        assert_eq!(
            refusal.message,
            "`origin_server_ts`: expected a whole number from 0 on, found a text"
        );
        let body = r#"{"origin_server_ts":1,"origin":"a","pdus":[5,{"x":[]}],"edus":[7]}"#;
        assert!(said(Method::PUT, "v1/send/1", body).is_ok());
    }

    #[test]
    fn an_invite_need_not_show_its_room_and_its_version_is_looked_at_first() {
        let invite = |body: &str| said(Method::PUT, "v2/invite/%21r%3Aa/%24e", body);
        for body in [
            r#"{"room_version":"10","event":{"a":1.50}}"#,
            r#"{"room_version":"10","event":{"a":1.50},"invite_room_state":null}"#,
        ] {
            let Ok(PeerCommand::InviteHere(asked)) = invite(body) else {
                panic!("{body}")
            };
            assert!(asked.invite_room_state.is_empty());
            assert_eq!(asked.event.get(), r#"{"a":1.50}"#); // to the letter
        }
        for (body, code) in [
            (
                r#"{"room_version":"99","event":{}}"#,
                Code::IncompatibleRoomVersion,
            ),
            (
                r#"{"room_version":"99","invite_room_state":5}"#,
                Code::IncompatibleRoomVersion,
            ),
            (r#"{"event":{}}"#, Code::MissingParam),
            (
                r#"{"room_version":"10","event":{},"invite_room_state":5}"#,
                Code::BadJson,
            ),
        ] {
            let Err(refusal) = invite(body) else {
                panic!("{body} is read")
            };
            assert_eq!(refusal.code, code, "{body}: {refusal}");
            let version = refusal
                .body
                .as_ref()
                .and_then(|body| body.get("room_version"));
            let is_version = code == Code::IncompatibleRoomVersion;
            assert_eq!(version, is_version.then_some(&"99".into()), "{body}");
            assert_plain(&refusal, body);
        }
    }

    #[test]
    fn every_endpoint_of_the_list_is_served_and_its_ids_come_decoded() {
        for &endpoint in Endpoint::ALL {
            let path = endpoint.path().replace(['{', '}'], "");
            let found = of(endpoint.method(), &path).unwrap();
            assert_eq!(found.unwrap().name(), endpoint.name(), "{path}");
        }
        let path = "/_matrix/federation/v2/send_join/%21r%3Aa/%24e%2Ff";
        assert_eq!(
            of(Method::PUT, path),
            Ok(Some(peer(Endpoint::SendJoin, &["!r:a", "$e/f"])))
        );
        assert_eq!(of(Method::GET, path), Err(405));
        assert_eq!(
            of(Method::POST, "/_matrix/policy/v1/sign"),
            Ok(Some(peer(Endpoint::PolicySign, &[])))
        );
    }
}
