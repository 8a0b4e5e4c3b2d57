//! Stored filters.
//!
//! A filter's number comes from its content: a client that uploads the same one each time it
//! starts gets the same number, and fills nothing.

use ruma::{UserId, api::client::filter};
use sha2::{Digest, Sha256};

use super::{
    access::{must_be, ours},
    turns::keep_in_turn,
};
use crate::{
    api::{Caller, Code, Refusal},
    hub::Hub,
    store::Write,
};

/// The largest filter, in bytes. A list of a few hundred rooms fits.
const FILTER_BYTES_MAX: usize = 32 * 1024;

/// Filters are numbered from 0 to this, so that is how many an account may have.
const SLOTS: u64 = 256;

/// How many numbers are tried for a new filter before the account counts as full.
const TRIES: u64 = 32;

/// See `api::Command::CreateFilter`.
// spec: client-server-accounts §Filtering
pub(super) async fn create_filter(
    hub: &Hub,
    caller: &Caller,
    request: filter::create_filter::v3::Request,
) -> Result<filter::create_filter::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let json = serde_json::to_string(&request.filter)
        .map_err(|error| Refusal::bad_json(format!("filter: {error}")))?;
    if json.len() > FILTER_BYTES_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("filter: {} bytes, at most {FILTER_BYTES_MAX}", json.len()),
        ));
    }
    let turn = hub.desk.turns.take(("filters", &caller.user)).await;
    let id = match place(hub, &caller.user, &json).await? {
        Place::There(id) => id,
        Place::Free(id) => {
            let write = Write::Filter {
                user: caller.user.clone(),
                id,
                json,
            };
            keep_in_turn(hub, turn, vec![write], Vec::new()).await?;
            id
        }
    };
    Ok(filter::create_filter::v3::Response::new(id.to_string()))
}

/// Where a filter is, or can be.
enum Place {
    There(u64),
    Free(u64),
}

async fn place(hub: &Hub, user: &UserId, json: &str) -> Result<Place, Refusal> {
    let [first, ..] = <[u8; 32]>::from(Sha256::digest(json));
    for step in 0..TRIES {
        let id = (u64::from(first) + step) % SLOTS;
        match hub.store.filter(user, id).await.map_err(ours)? {
            None => return Ok(Place::Free(id)),
            Some(stored) if stored == json => return Ok(Place::There(id)),
            Some(_) => {}
        }
    }
    Err(Refusal::new(
        Code::ResourceLimitExceeded,
        "this account has too many filters",
    ))
}

/// See `api::Command::Filter`.
pub(super) async fn filter(
    hub: &Hub,
    caller: &Caller,
    request: filter::get_filter::v3::Request,
) -> Result<filter::get_filter::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let filter = stored(hub, &caller.user, &request.filter_id).await?;
    Ok(filter::get_filter::v3::Response::new(filter))
}

/// A stored filter, by the id that [`create_filter`] gave.
pub(super) async fn stored(
    hub: &Hub,
    user: &UserId,
    id: &str,
) -> Result<filter::FilterDefinition, Refusal> {
    let unknown = || Refusal::not_found(format!("you have no filter {id:?}"));
    let id: u64 = id
        .parse()
        .ok()
        .filter(|id| *id < SLOTS)
        .ok_or_else(unknown)?;
    let json = hub.store.filter(user, id).await.map_err(ours)?;
    serde_json::from_str(&json.ok_or_else(unknown)?).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a stored filter is damaged"
        );
        Refusal::internal()
    })
}
