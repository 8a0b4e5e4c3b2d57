//! What became of one's messages at other servers, a line for each message and server; and of the
//! changes of state that one of them did not take.

use ruma::RoomId;
use serde_json::{Value as Json, json};

use super::{Said, failed, tell};
use crate::{
    app::{
        failure::Failure,
        output::{self, Format, visible},
    },
    base::Timestamp,
    client::{Call, Client},
};

/// Tells of the newest messages in a room, the oldest of them first.
pub(super) async fn of_room(
    client: &mut Client,
    room: &RoomId,
    format: Format,
) -> Result<Said, Failure> {
    let path = ["_tramline", "client", "v1", "deliveries", room.as_str()];
    let call = Call::get(&path, Vec::new());
    let answer = client.call("deliveries", call).await.map_err(failed)?;
    let messages = answer["messages"].as_array();
    // By what `send` and `read` have said of it over this door.
    let is_numbered = client.thin().is_some();
    for message in messages.into_iter().flatten().rev() {
        let servers = message["servers"].as_array();
        let servers = servers.map_or(&[] as &[Json], Vec::as_slice);
        let nobody = json!({});
        let alone = servers.is_empty().then_some(&nobody);
        for server in servers.iter().chain(alone) {
            let line = line(message, server, is_numbered);
            format.print(&line, &told(room, message, server))?;
        }
    }
    if format == Format::Text && messages.is_none_or(Vec::is_empty) {
        output::note("-- you have said nothing in this room of late");
    }
    Ok(Said::Lines)
}

fn told(room: &RoomId, message: &Json, server: &Json) -> Json {
    json!({
        "room_id": room,
        "event_id": message["event_id"],
        "seq": message["seq"],
        "origin_server_ts": message["origin_server_ts"],
        "type": message["type"],
        "server": server["server"],
        "state": server["state"],
        "reason": server["reason"],
        "next_try_ts": server["next_try_ts"],
    })
}

fn line(message: &Json, server: &Json, is_numbered: bool) -> String {
    let at = message["origin_server_ts"].as_u64().unwrap_or_default();
    let event = match message["seq"].as_u64().filter(|_| is_numbered) {
        Some(seq) => format!("number {seq}"),
        None => tell::short(&message["event_id"]),
    };
    let became = match (server["server"].as_str(), server["state"].as_str()) {
        (Some(name), Some(state)) => {
            let state = state.replace('_', " ");
            let reason = server["reason"].as_str();
            let reason = reason.map_or_else(String::new, |why| format!(": {}", visible(why)));
            let next = server["next_try_ts"].as_u64();
            let next = next.map_or_else(String::new, |at| {
                format!(", next try at {}", Timestamp(at).rfc3339())
            });
            format!("{}  {}{reason}{next}", visible(name), visible(&state))
        }
        _ => "for nobody on another server, or more than a month old".to_owned(),
    };
    let kind = message["type"].as_str().unwrap_or_default();
    let at = Timestamp(at).rfc3339();
    format!("{event}  {at}  {}  {became}", visible(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_and_steers_no_terminal() {
        let message =
            json!({"event_id": "$abcdefghijk", "origin_server_ts": 5000, "type": "m.room.message"});
        let server =
            json!({"server": "a.example", "state": "refused", "reason": "too\u{1b}[2J large"});

        let said = line(&message, &server, false);

        let wanted = "$abcdefgh…  1970-01-01T00:00:05Z  m.room.message  a.example  refused: too";
        assert!(said.starts_with(wanted), "{said}");
        assert!(!said.contains('\u{1b}'), "{said}");
        let under_way = line(
            &message,
            &json!({"server": "a.example", "state": "in_flight"}),
            false,
        );
        assert!(under_way.ends_with("a.example  in flight"), "{under_way}");
        let of_nobody = line(&message, &json!({}), false);
        assert!(of_nobody.contains("for nobody on another server, or more than a month old"));
    }

    #[test]
    fn a_message_is_called_as_send_and_read_call_it_at_the_same_door() {
        let message = json!({"event_id": "$abcdefghijk", "seq": 8, "origin_server_ts": 5000,
            "type": "m.room.message"});

        let [linked, session] = [true, false].map(|door| line(&message, &json!({}), door));

        assert!(linked.starts_with("number 8  1970-"), "{linked}");
        assert!(!linked.contains('$'), "{linked}");
        let read = tell::event(&message);
        let id = read.split(' ').nth(1).unwrap();
        assert!(session.starts_with(&format!("{id}  1970-")), "{session}");
    }

    #[test]
    fn what_is_queued_says_why_and_until_when() {
        let message = json!({"event_id": "$a", "origin_server_ts": 5000, "type": "m.room.message"});
        let server = json!({"server": "a.example", "state": "queued",
            "reason": "PEER_UNREACHABLE", "next_try_ts": 60_000});

        let said = line(&message, &server, false);

        let wanted = "a.example  queued: PEER_UNREACHABLE, next try at 1970-01-01T00:01:00Z";
        assert!(said.ends_with(wanted), "{said}");
        let room = RoomId::parse("!room:hub.example").unwrap();
        assert_eq!(told(&room, &message, &server)["next_try_ts"], 60_000);
    }
}
