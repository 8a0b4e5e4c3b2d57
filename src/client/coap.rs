//! The CoAP door (stub: comes with the session machine).

use std::net::SocketAddr;

use serde_json::Value;

use crate::client::{Call, ClientError, Cost};

pub(super) struct CoapDoor {}

impl CoapDoor {
    pub(super) async fn open(_address: SocketAddr) -> Result<Self, ClientError> {
        Ok(Self {})
    }

    pub(super) async fn call(
        &mut self,
        _token: Option<&str>,
        _call: &Call<'_>,
    ) -> (Result<Value, ClientError>, Cost) {
        (Err(ClientError::Shape { wanted: "door" }), Cost::default())
    }
}
