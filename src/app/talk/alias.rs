//! The verb `alias`: gives a room an alias and shows it, takes one away, lists them.

use ruma::{OwnedRoomId, RoomAliasId, UserId};
use serde_json::{Value as Json, json};

use super::{Said, failed};
use crate::{
    app::{
        failure::Failure,
        output::{self, Format, visible},
    },
    client::{Call, Client, ClientError, Credentials, Method},
};

/// The type of the state that shows aliases.
const KIND: &str = "m.room.canonical_alias";

/// Does the verb.
pub(super) async fn alias(
    client: &mut Client,
    me: &Credentials,
    room: &OwnedRoomId,
    (alias, remove): (Option<&str>, bool),
    format: Format,
) -> Result<Said, Failure> {
    let Some(alias) = alias else {
        return list(client, room, format).await;
    };
    let user = <&UserId>::try_from(me.user_id.as_str());
    let user =
        user.map_err(|error| Failure::failed("CREDENTIALS", format!("`user_id`: {error}")))?;
    let alias = whole(alias, user);
    let is_ours = <&RoomAliasId>::try_from(alias.as_str())
        .is_ok_and(|alias| alias.server_name() == user.server_name());
    if remove {
        return take(client, room, (&alias, is_ours)).await;
    }
    if is_ours {
        make(client, room, &alias).await?;
    }
    let shown = shown(client, room).await?;
    let said = format!("{alias} is the room's main alias");
    let json = json!({"room_id": room, "alias": alias, "main": true});
    if shown["alias"] != alias.as_str() {
        let done = show(client, room, with_main(shown, &alias)).await;
        done.map_err(|error| half(&alias, is_ours, error))?;
    }
    Ok(Said::one(said, json))
}

/// The alias with # and the server's name.
fn whole(given: &str, user: &UserId) -> String {
    let name = given.strip_prefix('#').unwrap_or(given);
    if name.contains(':') {
        format!("#{name}")
    } else {
        format!("#{name}:{}", user.server_name())
    }
}

/// The directory has it, and the room does not show it: that is to be known.
fn half(alias: &str, is_made: bool, error: ClientError) -> Failure {
    match error {
        ClientError::Refused {
            errcode,
            error: why,
            ..
        } if is_made => {
            let reason =
                format!("{alias} names the room now, but the room does not show it: {why}");
            Failure::failed(&errcode, reason)
        }
        error => failed(error),
    }
}

fn call<'a>(method: Method, path: Vec<&'a str>, body: Option<Json>) -> Call<'a> {
    Call {
        method,
        path,
        query: Vec::new(),
        body,
    }
}

/// Puts it into the directory; one that names this room already will do.
async fn make(client: &mut Client, room: &OwnedRoomId, alias: &str) -> Result<(), Failure> {
    let path = || vec!["directory", "room", alias];
    let made = call(Method::Put, path(), Some(json!({ "room_id": room })));
    let Err(error) = client.call("make alias", made).await else {
        return Ok(());
    };
    if matches!(error, ClientError::Refused { status: 409, .. }) {
        let asked = call(Method::Get, path(), None);
        let named = client.call("find alias", asked).await.map_err(failed)?;
        if named["room_id"] == room.as_str() {
            return Ok(());
        }
    }
    Err(failed(error))
}

/// What the room shows; null where it shows none.
async fn shown(client: &mut Client, room: &OwnedRoomId) -> Result<Json, Failure> {
    let path = vec!["rooms", room.as_str(), "state", KIND];
    match client.call("state", call(Method::Get, path, None)).await {
        Ok(content) => Ok(content),
        Err(ClientError::Refused { status: 404, .. }) => Ok(json!({})),
        Err(error) => Err(failed(error)),
    }
}

async fn show(client: &mut Client, room: &OwnedRoomId, content: Json) -> Result<(), ClientError> {
    let path = vec!["rooms", room.as_str(), "state", KIND];
    let call = call(Method::Put, path, Some(content));
    client.call("set state", call).await.map(drop)
}

/// The same with another main alias; the one before is shown beside it.
fn with_main(mut shown: Json, alias: &str) -> Json {
    let before = shown["alias"].as_str().map(str::to_owned);
    let mut others = others(&shown);
    others.extend(before.filter(|before| !before.is_empty()));
    others.retain(|other| other != alias);
    others.dedup();
    shown["alias"] = alias.into();
    if !others.is_empty() || shown["alt_aliases"].is_array() {
        shown["alt_aliases"] = others.into();
    }
    shown
}

/// The same without an alias; none where it does not show it.
fn without(mut shown: Json, alias: &str) -> Option<Json> {
    let (is_main, others) = (shown["alias"] == alias, others(&shown));
    let left: Vec<_> = others.iter().filter(|other| *other != alias).collect();
    if !is_main && left.len() == others.len() {
        return None;
    }
    if left.len() < others.len() {
        shown["alt_aliases"] = json!(left);
    }
    if let (true, Some(fields)) = (is_main, shown.as_object_mut()) {
        fields.remove("alias");
    }
    Some(shown)
}

fn others(shown: &Json) -> Vec<String> {
    let others = shown["alt_aliases"].as_array();
    let texts = others.into_iter().flatten().filter_map(Json::as_str);
    texts.map(str::to_owned).collect()
}

/// Takes it out of the directory, if it is of this server, and out of what the room shows.
async fn take(
    client: &mut Client,
    room: &OwnedRoomId,
    (alias, is_ours): (&str, bool),
) -> Result<Said, Failure> {
    let mut gone = Ok(());
    if is_ours {
        let asked = call(Method::Get, vec!["directory", "room", alias], None);
        gone = match client.call("find alias", asked).await {
            Ok(named) if named["room_id"] == room.as_str() => {
                let path = vec!["directory", "room", alias];
                let asked = call(Method::Delete, path, None);
                client.call("remove alias", asked).await.map_err(failed)?;
                Ok(())
            }
            Ok(_) => Err(Failure::failed(
                "M_BAD_ALIAS",
                format!("{alias} names another room, and stays"),
            )),
            Err(error) => Err(failed(error)),
        };
    }
    match without(shown(client, room).await?, alias) {
        Some(left) => show(client, room, left).await.map_err(failed)?,
        None if is_ours => gone?,
        None => {
            let reason = format!("the room does not show {alias}");
            return Err(Failure::failed("M_NOT_FOUND", reason));
        }
    }
    let said = format!("removed {alias}");
    let json = json!({"room_id": room, "alias": alias, "main": false});
    Ok(Said::one(said, json))
}

/// Those that this server has of the room, and those that the room shows; the main one first.
async fn list(client: &mut Client, room: &OwnedRoomId, format: Format) -> Result<Said, Failure> {
    let asked = call(Method::Get, vec!["rooms", room.as_str(), "aliases"], None);
    let told = client.call("aliases", asked).await.map_err(failed)?;
    let shown = shown(client, room).await?;
    let main = shown["alias"].as_str().unwrap_or_default().to_owned();
    let known = told["aliases"].as_array().into_iter().flatten();
    let mut all: Vec<_> = known.filter_map(Json::as_str).map(str::to_owned).collect();
    all.extend(others(&shown));
    all.retain(|alias| *alias != main);
    all.sort_unstable();
    all.dedup();
    if !main.is_empty() {
        all.insert(0, main.clone());
    }
    for alias in &all {
        let is_main = *alias == main;
        let mark = if is_main { "  (main)" } else { "" };
        let json = json!({"room_id": room, "alias": alias, "main": is_main});
        format.print(&format!("{}{mark}", visible(alias)), &json)?;
    }
    if all.is_empty() && format == Format::Text {
        output::note("-- this room has no alias yet");
    }
    Ok(Said::Lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_an_alias_of_ones_own_server() {
        let me = <&UserId>::try_from("@ana:hub.example").unwrap();
        for given in ["crew", "#crew", "#crew:hub.example"] {
            assert_eq!(whole(given, me), "#crew:hub.example");
        }
        assert_eq!(whole("#crew:far.example", me), "#crew:far.example");
    }

    #[test]
    fn the_main_alias_of_before_is_still_shown_and_a_removed_one_is_not() {
        let none = with_main(json!({}), "#a:h");
        assert_eq!(none, json!({"alias": "#a:h"}));
        let two = with_main(none, "#b:h");
        assert_eq!(two, json!({"alias": "#b:h", "alt_aliases": ["#a:h"]}));
        let back = with_main(two.clone(), "#a:h");
        assert_eq!(back, json!({"alias": "#a:h", "alt_aliases": ["#b:h"]}));

        assert_eq!(without(two.clone(), "#c:h"), None);
        let one = json!({"alt_aliases": ["#a:h"]});
        assert_eq!(without(two.clone(), "#b:h"), Some(one));
        let other = json!({"alias": "#b:h", "alt_aliases": []});
        assert_eq!(without(two, "#a:h"), Some(other));
        assert_eq!(without(json!({}), "#a:h"), None);
    }
}
