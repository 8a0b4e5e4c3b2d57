//! Profiles: what users say of themselves.
//!
//! Name and picture are also in the member events of the user's rooms; see [`member_content`].

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MxcUri, OwnedRoomId, OwnedUserId, UserId,
    api::client::profile, profile::ProfileFieldValue,
};
use serde_json::Value;

use super::{
    access::{self, must_be, ours},
    remote,
    turns::{keep_in_turn, keep_in_turn_and},
};
use crate::{
    api::{Caller, Code, Origin, Refusal},
    hub::{Hub, Submission, Writer},
    room::{Draft, MemberChange, Membership, Part},
    store::{SharedStore, Write},
    wire::json,
};

const DISPLAY_NAME: &str = "displayname";
const AVATAR_URL: &str = "avatar_url";

/// The longest display name, in characters; it is in every member event.
const DISPLAY_NAME_CHARS_MAX: usize = 256;

/// The longest picture URI, in bytes; it is in every member event too.
const AVATAR_URL_BYTES_MAX: usize = 1000;

/// The largest profile, in bytes of names and values.
// spec: client-server-accounts §Profiles
const PROFILE_BYTES_MAX: usize = 64 * 1024;

/// The longest name of a field, in bytes.
const FIELD_BYTES_MAX: usize = 255;

/// In how many rooms a new name is told at once, those with the newest events first. Each is an
/// event; the others learn it when the user next joins or changes something there.
const ROOMS_TOLD_MAX: usize = 500;

/// How many of them are told side by side: the writer's queues stay free for others.
const TOLD_AT_ONCE: usize = 32;

/// See `api::Command::Profile`.
pub(super) async fn profile(
    hub: &Hub,
    origin: &Origin,
    request: profile::get_profile::v3::Request,
) -> Result<profile::get_profile::v3::Response, Refusal> {
    let user = &request.user_id;
    let fields = if user.server_name() == hub.key.name() {
        fields(hub, user).await?
    } else {
        must_be_one_of_us(hub, origin).await?;
        remote::profile(hub, user, None).await?
    };
    Ok(fields.into_iter().collect())
}

/// See `api::Command::ProfileField`.
pub(super) async fn profile_field(
    hub: &Hub,
    origin: &Origin,
    request: profile::get_profile_field::v3::Request,
) -> Result<profile::get_profile_field::v3::Response, Refusal> {
    let wanted = request.field.as_str();
    let user = &request.user_id;
    let found = if user.server_name() == hub.key.name() {
        fields(hub, user).await?
    } else {
        must_be_one_of_us(hub, origin).await?;
        remote::profile(hub, user, Some(request.field.clone())).await?
    };
    let (name, value) = found
        .into_iter()
        .find(|(name, _)| name == wanted)
        .ok_or_else(|| Refusal::not_found("this user has no such profile field"))?;
    let value = ProfileFieldValue::new(&name, value).map_err(|error| damaged(&error))?;
    Ok(profile::get_profile_field::v3::Response::new(value))
}

/// See `api::Command::SetProfileField`.
pub(super) async fn set_profile_field(
    hub: &Hub,
    caller: &Caller,
    request: profile::set_profile_field::v3::Request,
) -> Result<profile::set_profile_field::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let field = request.value.field_name().to_string();
    let value = checked(&field, request.value.value().into_owned())?;
    set(hub, caller, field, value).await?;
    Ok(profile::set_profile_field::v3::Response::new())
}

/// See `api::Command::DeleteProfileField`.
pub(super) async fn delete_profile_field(
    hub: &Hub,
    caller: &Caller,
    request: profile::delete_profile_field::v3::Request,
) -> Result<profile::delete_profile_field::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let field = request.field.to_string();
    check_name(&field)?;
    set(hub, caller, field, None).await?;
    Ok(profile::delete_profile_field::v3::Response::new())
}

/// Other servers are asked on behalf of our users only: nobody else makes this hub knock somewhere.
async fn must_be_one_of_us(hub: &Hub, origin: &Origin) -> Result<(), Refusal> {
    access::caller(hub, origin).await.map(drop)
}

/// What a member event of `user` says beside the membership: name and picture.
async fn member_content(
    store: &SharedStore,
    user: &UserId,
) -> Result<CanonicalJsonObject, Refusal> {
    let fields = store.profile(user).await.map_err(ours)?;
    let mut content = CanonicalJsonObject::new();
    for (name, text) in fields {
        if name == DISPLAY_NAME || name == AVATAR_URL {
            let value = json::read(text.as_bytes()).map_err(|error| damaged(&error))?;
            content.insert(name, value);
        }
    }
    Ok(content)
}

pub(super) async fn fields(hub: &Hub, user: &UserId) -> Result<Vec<(String, Value)>, Refusal> {
    if hub.store.user(user).await.map_err(ours)?.is_none() {
        return Err(Refusal::not_found(format!("there is no user {user} here")));
    }
    let fields = hub.store.profile(user).await.map_err(ours)?;
    fields
        .into_iter()
        .map(|(name, text)| {
            let value = serde_json::from_str(&text).map_err(|error| damaged(&error))?;
            Ok((name, value))
        })
        .collect()
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "a stored profile is damaged");
    Refusal::internal()
}

/// The value as it is stored; none for an empty name or picture, which clients send to clear it.
fn checked(field: &str, value: Value) -> Result<Option<String>, Refusal> {
    check_name(field)?;
    let value =
        json::strict(value).map_err(|error| Refusal::bad_json(format!("{field}: {error}")))?;
    if field == DISPLAY_NAME || field == AVATAR_URL {
        let text = value
            .as_str()
            .ok_or_else(|| Refusal::bad_json(format!("{field}: must be text")))?;
        if text.is_empty() {
            return Ok(None);
        }
        check_shown(field, text)?;
    }
    stored(&value).map(Some)
}

fn check_shown(field: &str, text: &str) -> Result<(), Refusal> {
    let wrong = if field == DISPLAY_NAME {
        (text.chars().count() > DISPLAY_NAME_CHARS_MAX)
            .then(|| format!("{field}: at most {DISPLAY_NAME_CHARS_MAX} characters"))
    } else if text.len() > AVATAR_URL_BYTES_MAX || !<&MxcUri>::from(text).is_valid() {
        Some(format!(
            "{field}: an mxc:// URI of at most {AVATAR_URL_BYTES_MAX} bytes"
        ))
    } else {
        None
    };
    wrong.map_or(Ok(()), |wrong| Err(Refusal::invalid_param(wrong)))
}

/// Refuses a field that is neither specified nor namespaced.
fn check_name(field: &str) -> Result<(), Refusal> {
    if field.len() > FIELD_BYTES_MAX {
        let message = format!("a field's name has at most {FIELD_BYTES_MAX} bytes");
        return Err(Refusal::new(Code::TooLarge, message).with_status(400));
    }
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part
                .chars()
                .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
    };
    let is_specified = [DISPLAY_NAME, AVATAR_URL, "m.tz"].contains(&field);
    if is_specified || (field.contains('.') && field.split('.').all(is_part)) {
        return Ok(());
    }
    Err(Refusal::invalid_param(format!(
        "{field:?}: further fields have names like `org.example.mood`"
    )))
}

fn stored(value: &CanonicalJsonValue) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(|error| Refusal::bad_json(error.to_string()))
}

async fn set(
    hub: &Hub,
    caller: &Caller,
    field: String,
    json: Option<String>,
) -> Result<(), Refusal> {
    let turn = hub.desk.turns.take(("profile", &caller.user)).await;
    let before = hub.store.profile(&caller.user).await.map_err(ours)?;
    let old = before.iter().find(|(name, _)| *name == field);
    if old.map(|(_, json)| json) == json.as_ref() {
        return Ok(());
    }
    let others: usize = before
        .iter()
        .filter(|(name, _)| *name != field)
        .map(|(name, json)| name.len() + json.len())
        .sum();
    let size = others + field.len() + json.as_ref().map_or(0, String::len);
    if json.is_some() && size > PROFILE_BYTES_MAX {
        let message = format!("the profile would have {size} bytes, at most {PROFILE_BYTES_MAX}");
        return Err(Refusal::new(Code::TooLarge, message).with_status(400));
    }
    let is_shown = field == DISPLAY_NAME || field == AVATAR_URL;
    let write = Write::Profile {
        user: caller.user.clone(),
        field,
        json,
    };
    if !is_shown {
        return keep_in_turn(hub, turn, vec![write], Vec::new()).await;
    }
    let news = News {
        store: Arc::clone(&hub.store),
        writer: Arc::clone(&hub.writer),
        user: caller.user.clone(),
    };
    keep_in_turn_and(hub, turn, vec![write], Vec::new(), news.tell_rooms()).await
}

/// A new name or picture on its way into the rooms the user is in, also when whoever set it hangs
/// up meanwhile.
struct News {
    store: SharedStore,
    writer: Arc<Writer>,
    user: OwnedUserId,
}

impl News {
    /// The profile is stored by now: what fails here is logged, and does not undo it.
    async fn tell_rooms(self) {
        let user = &self.user;
        let Ok(content) = member_content(&self.store, user).await else {
            return; // logged where it failed
        };
        let Ok(mut rooms) = self.store.memberships(user, None).await.map_err(ours) else {
            return;
        };
        rooms.retain(|room| room.membership == Membership::Join);
        rooms.sort_by_key(|room| std::cmp::Reverse(room.room_position));
        if rooms.len() > ROOMS_TOLD_MAX {
            tracing::warn!(%user, rooms = rooms.len(), "not every room is told of a new profile");
        }
        stream::iter(rooms.into_iter().take(ROOMS_TOLD_MAX))
            .for_each_concurrent(TOLD_AT_ONCE, |room| {
                tell_room(&self.writer, user, room.room_id, content.clone())
            })
            .await;
    }
}

async fn tell_room(
    writer: &Writer,
    user: &OwnedUserId,
    room: OwnedRoomId,
    content: CanonicalJsonObject,
) {
    let member = Part::Member {
        target: user.clone(),
        change: MemberChange::Join,
        content,
    };
    let submission = Submission {
        draft: Draft {
            sender: user.clone(),
            parts: vec![member],
        },
        txn: None,
        sent_by: None,
    };
    if let Err(error) = writer.submit(&room, submission).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, %user, %room, "a room was not told of a new profile");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_name_or_picture_clears_it() {
        assert_eq!(checked(DISPLAY_NAME, json!("")).unwrap(), None);
        assert_eq!(checked(AVATAR_URL, json!("")).unwrap(), None);
        assert_eq!(
            checked(DISPLAY_NAME, json!("Ana")).unwrap().unwrap(),
            "\"Ana\""
        );
    }

    #[test]
    fn what_could_not_stand_in_an_event_is_refused() {
        for (field, value) in [
            (DISPLAY_NAME, json!("x".repeat(257))),
            (DISPLAY_NAME, json!(7)),
            (AVATAR_URL, json!("https://example.org/a.png")),
            (
                AVATAR_URL,
                json!(format!("mxc://hub.example/{}", "x".repeat(1000))),
            ),
            ("org.example.mood", json!(0.5)),
            ("mood", json!("fine")),
            ("org.example.Mood", json!("fine")),
            ("org..mood", json!("fine")),
            ("", json!("fine")),
        ] {
            assert_eq!(checked(field, value).unwrap_err().status, 400, "{field}");
        }
        assert!(checked(AVATAR_URL, json!("mxc://hub.example/abc")).is_ok());
        assert!(checked("org.example.mood", json!({ "a": [1, null] })).is_ok());
    }
}
