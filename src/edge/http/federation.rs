//! Requests of other servers, as they come through this door: read whole, authenticated, asked of
//! the hub as what the request names.
//!
//! A body is read before it is known who sent it, because the signature is over it.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Response, header, request::Parts};
use serde_json::{Value, json};

use super::{
    Https,
    arriving::Arriving,
    json_response,
    media::{disposition, within},
    nowhere, origin,
};
use crate::{
    api::{Code, Command, MediaObject, Origin, PeerCommand, Refusal, Reply, RequestId},
    edge::{
        client_api::Answer,
        matrix::{
            Federation, endpoint,
            incoming::{
                Arrived, Authenticated, Place, aside,
                routes::{Match, Target},
            },
        },
    },
    wire::multipart,
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
            Target::File(id) => {
                let (_place, origin) = self.for_file(federation, (peer, number), &parts).await?;
                let ours = federation.keys.name().as_str();
                let file = self.front.service.download(origin, ours, &id).await?;
                return Ok(in_parts(file, &id));
            }
            Target::Thumbnail(id) => {
                let (_place, origin) = self.for_file(federation, (peer, number), &parts).await?;
                let ours = federation.keys.name().as_str();
                let file = self.front.service.thumbnail(origin, ours, &id).await?;
                return Ok(in_parts(file, &id));
            }
            Target::Peer(asked) => {
                let answer = self.peer(federation, &asked, (peer, number), &parts, body);
                return Ok(json_response(answer.await?));
            }
        };
        Ok(json_response(Answer::of_object(&object)))
    }

    /// The server that signed a request for a file, and its place until the file is open: one that is
    /// read slowly keeps nobody else out.
    async fn for_file(
        &self,
        federation: &Federation,
        (peer, number): (SocketAddr, RequestId),
        parts: &Parts,
    ) -> Result<(Place, Origin), Refusal> {
        let from = authenticated(federation, peer.ip(), parts, &[]).await?;
        let place = federation.incoming.place_for_file(&from).await?;
        Ok((place, origin(peer, number, from.credentials())))
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
        let claimed = |refusal| nowhere::claimed_by(refusal, &parts.headers);
        let room = federation.incoming.room(peer.ip(), body.length()).await;
        let room = room.map_err(claimed)?;
        let body = body.whole_up_to(max, self.limits.body).await;
        let body = body.map_err(claimed)?;
        let from = authenticated(federation, peer.ip(), parts, &body).await?;
        let named = |refusal: Refusal| {
            refusal.known(|why| {
                why.who.get_or_insert_with(|| from.origin().to_string());
            })
        };
        let bytes = body.len();
        let place = federation.incoming.place(&from, asked, bytes).await;
        let mut place = place.map_err(named)?;
        let query = parts.uri.query().unwrap_or_default();
        let command = aside(bytes, || asked.command(&from, query, &body)).map_err(named);
        drop((body, room)); // what is wanted of it is in the command
        let answer = match command {
            Ok(command) => {
                let origin = origin(peer, number, from.credentials());
                place.work(self.asked(origin, command)).await
            }
            Err(refusal) => Err(refusal),
        };
        place.done().await;
        answer
    }

    async fn asked(&self, origin: Origin, command: PeerCommand) -> Result<Answer, Refusal> {
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
            allow: None,
        })
    }
}

/// A file as other servers take it.
///
/// Its id was made up after its last byte had come, so nothing in it can end the part it is in.
// spec: server-server §Content-Repository
fn in_parts(file: MediaObject, id: &str) -> Response<Body> {
    let boundary = format!("tramline{id}");
    let content_type = file.content_type.as_deref();
    let content_type = content_type
        .filter(|text| HeaderValue::from_str(text).is_ok())
        .unwrap_or("application/octet-stream");
    let shown = disposition(content_type.as_bytes(), file.filename.as_deref());
    let shown = shown.to_str().unwrap_or("attachment");
    let head = multipart::head(&boundary, content_type, shown);
    let tail = multipart::tail(&boundary);
    let length = file.length + head.len() as u64 + tail.len() as u64;
    let whole = |bytes: Vec<u8>| stream::iter([Ok(Bytes::from(bytes))]);
    let body = whole(head)
        .chain(within(file.body, file.length))
        .chain(whole(tail));
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    if let Ok(mixed) = HeaderValue::from_str(&format!("multipart/mixed; boundary={boundary}")) {
        headers.insert(header::CONTENT_TYPE, mixed);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Who sent a request. Whatever acts on behalf of another server takes what this gives.
async fn authenticated(
    federation: &Federation,
    address: IpAddr,
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
    let from = federation
        .incoming
        .authenticate(address, arrived, shown)
        .await;
    let from = from.map_err(|refusal| nowhere::claimed_by(refusal, &parts.headers));
    from.map_err(|refusal| match refusal.code {
        Code::Unauthorized => refusal.known(|why| {
            why.code.get_or_insert("SIGNATURE");
        }),
        _ => refusal,
    })
}

fn version() -> Value {
    json!({ "server": { "name": "Tramline", "version": env!("CARGO_PKG_VERSION") } })
}
