//! Requests of other servers, as they come through this door.
//!
//! Only those that need no federated room are answered yet: keys, version, profiles.

use std::net::SocketAddr;

use axum::body::Body;
use http::{HeaderValue, Response, header, request::Parts};
use ruma::{OwnedUserId, api::client::profile::get_profile};
use serde_json::{Map, Value, json};

use super::{Https, arriving::Arriving, json_response, origin};
use crate::{
    api::{Command, Credentials, Refusal, RequestId},
    edge::{
        client_api::{Answer, percent_decoded},
        matrix::{
            Federation,
            incoming::{Arrived, Authenticated, routes::Target},
        },
    },
};

impl Https {
    pub(super) async fn federation(
        &self,
        target: Target,
        peer: SocketAddr,
        number: RequestId,
        parts: Parts,
        body: Arriving,
    ) -> Result<Response<Body>, Refusal> {
        let federation = self.federation.as_ref().ok_or_else(Refusal::internal)?;
        let body = body.whole(self.limits.body).await?;
        let query = parts.uri.query().unwrap_or_default();
        let incoming = &federation.incoming;
        let object = match target {
            Target::Version => version(),
            Target::Keys => incoming.server_keys(),
            Target::QueryKeys(server) => incoming.query(&server, query).await?,
            Target::QueryManyKeys => incoming.query_many(&body).await?,
            Target::Profile => {
                let from = authenticated(federation, &parts, &body).await?;
                tracing::debug!(origin = %from.origin(), "asks for a profile");
                self.profile(peer, number, federation, query).await?
            }
        };
        Ok(json_response(Answer::of_object(&object)))
    }

    // spec: server-server §Querying-profiles
    async fn profile(
        &self,
        peer: SocketAddr,
        number: RequestId,
        federation: &Federation,
        query: &str,
    ) -> Result<Value, Refusal> {
        let user = parameter(query, "user_id")?
            .ok_or_else(|| Refusal::invalid_param("`user_id` is missing"))?;
        let user = OwnedUserId::try_from(user)
            .map_err(|error| Refusal::invalid_param(format!("`user_id`: {error}")))?;
        let ours = federation.keys.name();
        if user.server_name() != ours {
            let message = format!("`user_id` is not of a user of {ours}");
            return Err(Refusal::invalid_param(message));
        }
        let field = parameter(query, "field")?;
        let command = Command::Profile(Box::new(get_profile::v3::Request::new(user)));
        let origin = origin(peer, number, Credentials::Nothing);
        let reply = self.front.service.ask(origin, command).await?;
        let answer = self.front.answer(reply);
        let profile: Map<String, Value> =
            serde_json::from_slice(&answer.body).map_err(|error| {
                tracing::error!(%error, "a profile is no object");
                Refusal::internal()
            })?;
        let wanted = |name: &String| field.as_ref().is_none_or(|field| field == name);
        Ok(Value::Object(
            profile
                .into_iter()
                .filter(|(name, _)| wanted(name))
                .collect(),
        ))
    }
}

/// Who sent a request. Whatever acts on behalf of another server takes what this gives.
async fn authenticated(
    federation: &Federation,
    parts: &Parts,
    body: &[u8],
) -> Result<Authenticated, Refusal> {
    let uri = parts.uri.path_and_query();
    let arrived = Arrived {
        method: parts.method.as_str(),
        uri: uri.map_or("/", |uri| uri.as_str()),
        body,
    };
    let shown = parts.headers.get_all(header::AUTHORIZATION).iter();
    let shown = shown.map(HeaderValue::as_bytes);
    federation.incoming.authenticate(arrived, shown).await
}

fn version() -> Value {
    json!({ "server": { "name": "Tramline", "version": env!("CARGO_PKG_VERSION") } })
}

/// The first parameter of this name, decoded.
fn parameter(query: &str, name: &str) -> Result<Option<String>, Refusal> {
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name {
            let value = value.replace('+', " ");
            return Ok(Some(percent_decoded(&value)?.into_owned()));
        }
    }
    Ok(None)
}
