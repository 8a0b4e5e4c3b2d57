//! Which state an event's `auth_events` name.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};

use crate::{
    room::{Membership, StateKey},
    wire::matrix::{PduFields, Version},
};

/// Which state an event's `auth_events` are taken from.
///
/// spec: server-server §Auth-events-selection
pub fn auth_state_keys(fields: &PduFields, version: Version) -> Vec<StateKey> {
    let keys = select(
        &fields.kind,
        &fields.sender,
        fields.state_key.as_deref(),
        &fields.content,
        version,
    );
    let owned = |(kind, key)| StateKey::new(kind, key);
    keys.into_iter().map(owned).collect()
}

/// The same before there is an event, in the text's order. Each send asks, so nothing is copied.
pub(in crate::room) fn select<'a>(
    kind: &str,
    sender: &'a UserId,
    state_key: Option<&'a str>,
    content: &'a CanonicalJsonObject,
    version: Version,
) -> Vec<(&'static str, &'a str)> {
    let rules = &version.rules().authorization;
    let mut keys = Vec::with_capacity(3);
    if kind == "m.room.create" {
        return keys;
    }
    // Since v12 the room id stands for the create event.
    if !rules.room_create_event_id_as_room_id {
        keys.push(("m.room.create", ""));
    }
    keys.push(("m.room.power_levels", ""));
    keys.push(("m.room.member", sender.as_str()));
    if kind != "m.room.member" {
        return keys;
    }
    let mut add = |kind: &'static str, key: &'a str| {
        if !keys.contains(&(kind, key)) {
            keys.push((kind, key));
        }
    };
    if let Some(target) = state_key {
        add("m.room.member", target);
    }
    let membership = Membership::named_in(content);
    if let Some(Membership::Join | Membership::Invite | Membership::Knock) = membership {
        add("m.room.join_rules", "");
    }
    if membership == Some(Membership::Invite)
        && let Some(token) = token(content)
    {
        add("m.room.third_party_invite", token);
    }
    if membership == Some(Membership::Join)
        && rules.restricted_join_rule
        && let Some(by) = content.get("join_authorised_via_users_server")
        && let Some(by) = by.as_str()
    {
        add("m.room.member", by);
    }
    keys
}

fn token(content: &CanonicalJsonObject) -> Option<&str> {
    let invite = content.get("third_party_invite")?.as_object()?;
    let signed = invite.get("signed")?.as_object()?;
    signed.get("token").and_then(CanonicalJsonValue::as_str)
}
