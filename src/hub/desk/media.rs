//! Media.

use ruma::api::client::{authenticated_media, media};

use crate::{
    api::{Caller, MediaObject, Origin, Refusal, Upload},
    hub::Hub,
};

/// See `api::Command::MediaConfig`.
#[expect(deprecated, reason = "old clients still ask for it")]
pub(super) async fn media_config(
    hub: &Hub,
    caller: &Caller,
    request: media::get_media_config::v3::Request,
) -> Result<media::get_media_config::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::AuthenticatedMediaConfig`.
pub(super) async fn authenticated_media_config(
    hub: &Hub,
    caller: &Caller,
    request: authenticated_media::get_media_config::v1::Request,
) -> Result<authenticated_media::get_media_config::v1::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// Stores a file; see [`crate::api::Service::upload`].
pub(in crate::hub) async fn upload(
    hub: &Hub,
    origin: &Origin,
    upload: Upload,
) -> Result<String, Refusal> {
    let _ = (hub, origin, upload);
    Err(Refusal::internal())
}

/// Opens a file; see [`crate::api::Service::download`].
pub(in crate::hub) async fn download(
    hub: &Hub,
    origin: &Origin,
    server: &str,
    media_id: &str,
) -> Result<MediaObject, Refusal> {
    let _ = (hub, origin, server, media_id);
    Err(Refusal::internal())
}
