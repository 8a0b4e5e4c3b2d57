//! From a request to a WebSocket: who asks is settled before the connection changes its protocol.

use std::net::SocketAddr;

use axum::{
    body::Body,
    extract::{FromRequestParts as _, WebSocketUpgrade, ws::WebSocket},
};
use http::{HeaderValue, Response, header, request::Parts};
use ruma::api::client::account::whoami;
use tokio::sync::mpsc;

use super::{Https, token};
use crate::{
    api::{Code, Command, Credentials, DeviceName, Door, Origin, Refusal, Reply, RequestId},
    edge::{linked::Who, websocket::SUBPROTOCOL},
    session::framed::MESSAGE_BYTES_MAX,
};

/// Takes the connection when it has become a WebSocket.
pub(super) type Upgrades = mpsc::Sender<Upgraded>;

/// A WebSocket and whose it is.
pub(super) struct Upgraded {
    pub(super) socket: WebSocket,
    pub(super) who: Who,
}

impl Https {
    /// spec: rfc8323 §4.1
    pub(super) async fn upgrade(
        &self,
        peer: SocketAddr,
        number: RequestId,
        mut parts: Parts,
        upgrades: Upgrades,
    ) -> Result<Response<Body>, Refusal> {
        if self.websockets.is_none() {
            return Err(Refusal::not_found("this hub has no CoAP over WebSocket"));
        }
        let device = self.device(peer, number, &parts).await?;
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
        let upgrade = upgrade.map_err(|error| Refusal::invalid_param(error.to_string()))?;
        let upgrade = upgrade
            .protocols([SUBPROTOCOL])
            .max_message_size(MESSAGE_BYTES_MAX)
            .max_frame_size(MESSAGE_BYTES_MAX)
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BYTES_MAX);
        if upgrade.selected_protocol().is_none() {
            return Err(Refusal::invalid_param(
                "the WebSocket's subprotocol must be `coap`",
            ));
        }
        let who = Who {
            device: device.into(),
            door: Door::WebSocket,
            address: Some(peer),
        };
        Ok(upgrade.on_upgrade(async move |socket| {
            // without a receiver the connection has ended
            let _ = upgrades.send(Upgraded { socket, who }).await;
        }))
    }

    /// Whose token this is.
    async fn device(
        &self,
        peer: SocketAddr,
        number: RequestId,
        parts: &Parts,
    ) -> Result<DeviceName, Refusal> {
        let shown = parts.headers.get_all(header::AUTHORIZATION);
        let query = parts.uri.query().unwrap_or_default();
        let shown = shown.iter().map(HeaderValue::as_bytes);
        let (credentials, _): (Credentials, _) = token::credentials(shown, query)?;
        let origin = Origin {
            door: Door::WebSocket,
            address: Some(peer.ip()),
            request: number,
            credentials,
        };
        let asked = Command::Whoami(Box::new(whoami::v3::Request::new()));
        let Reply::Whoami(reply) = self.front.service.ask(origin, asked).await? else {
            return Err(Refusal::internal());
        };
        let device = reply
            .device_id
            .ok_or_else(|| Refusal::new(Code::Forbidden, "this token is of no device"))?;
        Ok(DeviceName {
            user: reply.user_id,
            device,
        })
    }
}

/// Read at once, in bytes: thin messages are small.
const BUFFER_BYTES: usize = 4 * 1024;

/// Written and not taken by the device, in bytes: the largest message and one more.
const WRITE_BYTES_MAX: usize = 9 * 1024 * 1024;
