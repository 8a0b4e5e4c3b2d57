//! Receipts.

use ruma::api::client::{read_marker, receipt, typing};

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::Receipt`.
pub(super) async fn receipt(
    hub: &Hub,
    caller: &Caller,
    request: receipt::create_receipt::v3::Request,
) -> Result<receipt::create_receipt::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::ReadMarkers`.
pub(super) async fn read_markers(
    hub: &Hub,
    caller: &Caller,
    request: read_marker::set_read_marker::v3::Request,
) -> Result<read_marker::set_read_marker::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Typing`.
pub(super) async fn typing(
    hub: &Hub,
    caller: &Caller,
    request: typing::create_typing_event::v3::Request,
) -> Result<typing::create_typing_event::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// Who types where, until when. In memory only: typing is worth nothing after a restart.
#[derive(Default)]
pub(super) struct TypingBoard {}
