//! The paths of the server-to-server API.

use http::Method;

use crate::{
    api::{Code, Refusal},
    edge::client_api::Path,
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
    /// `GET /_matrix/federation/v1/query/profile`
    Profile,
}

impl Target {
    /// What a path means; nothing if it is not of this API.
    ///
    /// Whatever else begins with `/_matrix/federation` or `/_matrix/key` is unknown, not another
    /// API's.
    // spec: server-server §Unsupported-endpoints
    pub fn of(method: &Method, path: &Path<'_>) -> Result<Option<Self>, Refusal> {
        let texts = path.texts();
        let ["_matrix", api @ ("federation" | "key"), ..] = texts.as_slice() else {
            return Ok(None);
        };
        let fixed = |count| path.plain_segments() >= count;
        if !fixed(2) {
            return Ok(None); // an encoded letter makes it another path
        }
        let (target, wanted) = match (*api, texts.get(2..).unwrap_or_default()) {
            ("federation", ["v1", "version"]) if fixed(4) => (Self::Version, Method::GET),
            ("federation", ["v1", "query", "profile"]) if fixed(5) => (Self::Profile, Method::GET),
            // once there was a key id behind it, which was ignored
            ("key", ["v2", "server"] | ["v2", "server", _]) if fixed(4) => {
                (Self::Keys, Method::GET)
            }
            ("key", ["v2", "query"]) if fixed(4) => (Self::QueryManyKeys, Method::POST),
            ("key", ["v2", "query", server]) if fixed(4) && !server.is_empty() => {
                (Self::QueryKeys((*server).to_owned()), Method::GET)
            }
            _ => {
                let message = "this server has no such endpoint";
                return Err(Refusal::new(Code::Unrecognized, message));
            }
        };
        if *method == wanted || (*method == Method::HEAD && wanted == Method::GET) {
            return Ok(Some(target));
        }
        let message = "this endpoint does not take this method";
        Err(Refusal::new(Code::Unrecognized, message).with_status(405))
    }

    /// The name for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Version => "FederationVersion",
            Self::Keys => "ServerKeys",
            Self::QueryKeys(_) => "QueryServerKeys",
            Self::QueryManyKeys => "QueryManyServerKeys",
            Self::Profile => "FederationProfile",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, path: &str) -> Result<Option<Target>, u16> {
        let path = Path::of_url(path).unwrap();
        Target::of(&method, &path).map_err(|refusal| {
            assert_eq!(refusal.code, Code::Unrecognized);
            refusal.status
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
        for path in [
            "/_matrix/federation",
            "/_matrix/federation/v1",
            "/_matrix/federation/v1/versio%6e",
            "/_matrix/federation/v3/version",
            "/_matrix/key/v1/server",
            "/_matrix/key/v2/query/",
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
}
