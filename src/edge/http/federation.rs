//! Requests of other servers, as they come through this door: read whole, authenticated, asked of
//! the hub as what the request names.
//!
//! A body is read before it is known who sent it, because the signature is over it.

use std::net::SocketAddr;

use axum::body::Body;
use http::{HeaderValue, Response, header, request::Parts};
use serde_json::{Value, json};

use super::{Https, arriving::Arriving, json_response, origin};
use crate::{
    api::{Command, Refusal, Reply, RequestId},
    edge::{
        client_api::Answer,
        matrix::{
            Federation, endpoint,
            incoming::{
                Arrived, Authenticated,
                routes::{Match, Target},
            },
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
        let query = parts.uri.query().unwrap_or_default();
        let incoming = &federation.incoming;
        let object = match target {
            Target::Version => version(),
            Target::Keys => incoming.server_keys(),
            Target::QueryKeys(server) => incoming.query(&server, query).await?,
            Target::QueryManyKeys => {
                let body = body.whole(self.limits.body).await?;
                incoming.query_many(&body).await?
            }
            Target::Peer(asked) => {
                let answer = self.peer(federation, &asked, (peer, number), &parts, body);
                return Ok(json_response(answer.await?));
            }
        };
        Ok(json_response(Answer::of_object(&object)))
    }

    /// Asks the hub on behalf of the server that signed.
    async fn peer(
        &self,
        federation: &Federation,
        asked: &Match,
        (peer, number): (SocketAddr, RequestId),
        parts: &Parts,
        body: Arriving,
    ) -> Result<Answer, Refusal> {
        let max = asked.endpoint.request_bytes_max();
        let room = federation.incoming.room(peer.ip(), body.length()).await?;
        let body = body.whole_up_to(max, self.limits.body).await?;
        let from = authenticated(federation, parts, &body).await?;
        let _place = federation.incoming.place(&from, asked).await?;
        let query = parts.uri.query().unwrap_or_default();
        let command = asked.command(&from, query, &body)?;
        drop((body, room)); // what is wanted of it is in the command
        tracing::debug!(origin = %from.origin(), "another server asks");
        let origin = origin(peer, number, from.credentials());
        let command = Command::Peer(Box::new(command));
        let Reply::Peer(reply) = self.front.service.ask(origin, command).await? else {
            tracing::error!("another server's question was answered as a client's");
            return Err(Refusal::internal());
        };
        let body = endpoint::written(*reply).map_err(|error| {
            tracing::error!(%error, "an answer could not be written as JSON");
            Refusal::internal()
        })?;
        Ok(Answer {
            status: 200,
            body,
            retry_after: None,
        })
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
