//! Rule 1: the create event. It is checked against nothing but itself.

use ruma::{CanonicalJsonValue, UserId};

use super::{At, Clause};
use crate::wire::matrix::{PduFields, Version};

/// spec: matrix-v12 §Authorization-rules
pub(super) fn check(fields: &PduFields, version: Version) -> Result<(), Clause> {
    let rules = &version.rules().authorization;
    // 1.1. It must be the first event.
    if let Some(before) = fields.prev.first() {
        return Err(At("1.1", "1.1").refuse(
            version,
            format!("a create event comes first, this one names {before} before it"),
        ));
    }
    // 1.2. Before v12 the room id must be of the sender's server. Since v12 the event must carry
    // no room id: `Pdu::read` refuses one that does, and `Pdu::sign` writes none.
    let (room, sender) = (fields.room_id.server_name(), fields.sender.server_name());
    if !rules.room_create_event_id_as_room_id && room != Some(sender) {
        let room_id = &fields.room_id;
        return Err(At("1.2", "1.2").refuse(
            version,
            format!("the room id {room_id} is not of the sender's server {sender}"),
        ));
    }
    // 1.3. A room version, if there is one, must be recognised: by us.
    if let Some(named) = fields.content.get("room_version")
        && named
            .as_str()
            .and_then(|name| name.parse::<Version>().ok())
            .is_none()
    {
        return Err(At("1.3", "1.3").refuse(
            version,
            format!("`room_version` is {named}, which is not a version this hub speaks"),
        ));
    }
    // 1.4, v10 only. There must be a `creator` property; the text does not ask for its type.
    if !rules.use_room_create_sender && !fields.content.contains_key("creator") {
        return Err(At("1.4", "1.4").refuse(version, "`creator` is missing"));
    }
    // 1.4, since v12. `additional_creators` must be an array of user ids.
    if rules.additional_room_creators
        && let Some(named) = fields.content.get("additional_creators")
        && !is_array_of_user_ids(named)
    {
        return Err(At("1.4", "1.4").refuse(
            version,
            format!("`additional_creators` is {named}, not an array of user ids"),
        ));
    }
    // 1.5, 1.4, 1.5. Otherwise, allow.
    Ok(())
}

/// The validation is the one `Pdu::read` applies to `sender`, as the text asks.
fn is_array_of_user_ids(value: &CanonicalJsonValue) -> bool {
    value.as_array().is_some_and(|items| {
        items.iter().all(|item| {
            item.as_str()
                .is_some_and(|id| <&UserId>::try_from(id).is_ok())
        })
    })
}
