//! The verb `leave`: out of a room, or an invitation turned down. The hub answers both alike, and so it is
//! looked first what there is to leave.

use serde_json::json;

use super::{Said, failed, rooms, thin::wrong, verbs::room_id};
use crate::{
    app::{failure::Failure, output::visible},
    client::Client,
};

pub(super) async fn leave(client: &mut Client, room: &str) -> Result<Said, Failure> {
    let room = room_id(client, room).await?;
    let (was, name) = match client.thin() {
        // What a device was not told it does not ask for: bytes are dear.
        Some(door) => {
            let open = door.open_room(room.as_str());
            let open = open.map(|open| open.membership.as_str());
            let noted = door.noted_room(room.as_str());
            let noted = noted.map(|noted| noted.membership.as_str());
            let was = noted.or(open).unwrap_or("join").to_owned();
            let called = door.called(room.as_str());
            (was, called.map(|(name, _)| name).unwrap_or_default())
        }
        None => rooms::standing(client, room.as_str()).await?,
    };
    client.leave(&room).await.map_err(failed)?;
    if let Some(door) = client.thin() {
        let left = |noted: &mut crate::client::thin::NotedRoom| {
            "leave".clone_into(&mut noted.membership);
        };
        door.note_room(room.as_str(), left).map_err(wrong)?;
    }
    let json = json!({ "room_id": room });
    Ok(Said::one(words(&was, room.as_str(), &name), json))
}

/// What was done, by what the user was to the room.
fn words(was: &str, room: &str, name: &str) -> String {
    let called = if name.is_empty() {
        visible(room)
    } else {
        format!("\"{}\"", visible(name))
    };
    match was {
        "invite" => format!("declined the invitation to {called}"),
        "knock" => format!("no longer asking to join {called}"),
        "" | "leave" | "ban" => {
            format!("there is nothing to leave: you are not in {called}, nor invited")
        }
        _ => format!("left {}", visible(room)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_was_left() {
        let said = |was| words(was, "!r", "Tea");
        assert_eq!(said("join"), "left !r");
        assert_eq!(said("invite"), "declined the invitation to \"Tea\"");
        assert_eq!(said("knock"), "no longer asking to join \"Tea\"");
        for nothing in ["", "leave"] {
            assert!(said(nothing).starts_with("there is nothing to leave"));
        }
        assert_eq!(words("invite", "!r", ""), "declined the invitation to !r");
    }
}
