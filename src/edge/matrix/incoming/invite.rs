//! The body of an invite, before ruma reads it.
//!
//! Which version the room has is looked at first: whoever does not speak it can say nothing of the rest.
//! What the room shows of itself may be absent, and ruma wants it.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

use crate::{
    api::{Code, Refusal},
    wire::matrix::Version,
};

/// The body with all that ruma wants; the event in it as it stood.
// spec: server-server §Inviting-to-a-room
pub(super) fn completed(body: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;
    let Ok(mut members) = serde_json::from_slice::<Members<'_>>(body) else {
        return Ok(Cow::Borrowed(body)); // what is wrong with it is told by whoever reads it
    };
    let version = members.get("room_version");
    if let Some(Ok(said)) = version.map(|raw| serde_json::from_str::<String>(raw.get()))
        && let Err(error) = said.parse::<Version>()
    {
        let message = format!("`room_version`: {error}");
        let refusal = Refusal::new(Code::IncompatibleRoomVersion, message);
        return Err(refusal.with("room_version", said));
    }
    let shown = members.get("invite_room_state");
    if shown.is_some_and(|shown| shown.get() != "null") {
        return Ok(Cow::Borrowed(body));
    }
    let Ok(nothing) = serde_json::from_str::<&RawValue>("[]") else {
        return Ok(Cow::Borrowed(body));
    };
    members.insert(Cow::Borrowed("invite_room_state"), nothing);
    let completed = serde_json::to_vec(&members);
    Ok(completed.map_or(Cow::Borrowed(body), Cow::Owned))
}
