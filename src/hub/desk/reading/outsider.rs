//! Why somebody may not read a room or speak in it who is not in it, in their own terms.
//!
//! Each is told only what was done to them or by them, which their own syncs say as well; of a room that
//! they have nothing to do with, not even whether it is there. The code is the same for all of them.

use ruma::{RoomId, UserId};

use crate::{
    api::Refusal,
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::visibility::{Out, Standing, not_in},
            remote,
        },
    },
    room::Membership,
    store::OutsideRecord,
    wire::matrix::Pdu,
};

/// What somebody is to a room that the hub knows; of one that is elsewhere, a refusal that says why.
pub(in crate::hub::desk) async fn standing(
    hub: &Hub,
    user: &UserId,
    room: &RoomId,
) -> Result<Standing, Refusal> {
    if hub.store.room(room).await.map_err(ours)?.is_none() {
        return Err(outsider(hub, user, room).await);
    }
    Standing::of(&hub.store, user, room).await
}

/// Why somebody who is not in a room may not do there what they wanted.
pub(in crate::hub::desk) async fn outsider(hub: &Hub, user: &UserId, room: &RoomId) -> Refusal {
    match what(hub, user, room).await {
        Ok(Some((now, out))) => outside(room, now, out),
        Ok(None) => not_in(room),
        Err(refusal) => refusal,
    }
}

/// What somebody is told whom the room has banned, as whatever else it would say is beside the point;
/// nothing for all others.
pub(in crate::hub::desk) async fn banned(
    hub: &Hub,
    user: &UserId,
    room: &RoomId,
) -> Option<Refusal> {
    match what(hub, user, room).await {
        Ok(Some((now @ Membership::Ban, out))) => Some(outside(room, now, out)),
        _ => None,
    }
}

/// How a user came to be out of a room, or what else they are to it than invited, in their own terms;
/// nothing where that is not known, or would let them in.
pub(in crate::hub::desk) async fn why_out(
    hub: &Hub,
    user: &UserId,
    room: &RoomId,
) -> Option<String> {
    let (now, out) = what(hub, user, room).await.ok()??;
    let is_told = matches!(now, Membership::Ban | Membership::Knock)
        || (now == Membership::Leave && out.is_some());
    is_told.then(|| outside(room, now, out).message)
}

/// How a user came to be out of a room, where it was somebody else who put an end to what they were; in
/// that case there is nothing left that they could leave.
pub(in crate::hub::desk) async fn nothing_to_leave(
    hub: &Hub,
    user: &UserId,
    room: &RoomId,
) -> Result<Option<Refusal>, Refusal> {
    let Some((now, out)) = what(hub, user, room).await? else {
        return Ok(None);
    };
    let by_others = out.is_some_and(|out| !out.is_own);
    let is_out = now == Membership::Ban || (now == Membership::Leave && by_others);
    Ok(is_out.then(|| {
        let why = outside(room, now, out).message;
        Refusal::forbidden(format!("there is nothing to leave: {why}"))
    }))
}

type What = (Membership, Option<Out>);

async fn what(hub: &Hub, user: &UserId, room: &RoomId) -> Result<Option<What>, Refusal> {
    if let Some(record) = remote::standing(hub, user, room).await? {
        return Ok(Some((record.membership, elsewhere(&record))));
    }
    let Some(known) = hub.store.room(room).await.map_err(ours)? else {
        return Ok(None);
    };
    let member = hub.store.membership(user, known.nid).await.map_err(ours)?;
    let Some(member) = member.filter(|member| !member.forgotten) else {
        return Ok(None);
    };
    let standing = Standing::with(&hub.store, known, user, Some(&member)).await;
    let standing = standing.map_err(ours)?;
    Ok(Some((standing.now, standing.out)))
}

/// The same of a room that the hub is not in.
fn elsewhere(record: &OutsideRecord) -> Option<Out> {
    let event = Pdu::read(&record.event, record.version).ok()?;
    Some(Out {
        is_own: event.fields().sender == record.user,
        was: remote::was(record).unwrap_or(Membership::Invite),
    })
}

/// The refusal, by what they are now and how that came.
pub(in crate::hub::desk) fn outside(room: &RoomId, now: Membership, out: Option<Out>) -> Refusal {
    let is_own = out.is_some_and(|out| out.is_own);
    let was = out.map_or(Membership::Leave, |out| out.was);
    let said = match (now, was) {
        (Membership::Ban, _) => format!("you are banned from {room}"),
        (Membership::Invite, _) => format!("you are invited to {room}; join it first"),
        (Membership::Knock, _) => {
            format!("you have asked to join {room}, and nobody has let you in yet")
        }
        (Membership::Leave, Membership::Invite) if is_own => {
            format!("you declined the invitation to {room}")
        }
        (Membership::Leave, Membership::Invite) => {
            format!("your invitation to {room} was taken back")
        }
        (Membership::Leave, Membership::Knock) if is_own => {
            format!("you no longer ask to join {room}")
        }
        (Membership::Leave, Membership::Knock) => {
            format!("you asked to join {room}, and were not let in")
        }
        (Membership::Leave, Membership::Ban) => {
            format!("you are not banned from {room} any more, but not in it either")
        }
        (Membership::Leave, Membership::Join) if is_own => format!("you have left {room}"),
        (Membership::Leave, Membership::Join) => format!("you were removed from {room}"),
        (Membership::Leave | Membership::Join, _) => return not_in(room),
    };
    Refusal::forbidden(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Code, Command, Deliveries},
        hub::{desk::rooms::testing::wish, testing},
    };

    #[tokio::test]
    async fn a_write_does_not_tell_whether_there_is_such_a_room() {
        let test = testing::hub().await;
        let [ana, bob] = [test.account("ana").await, test.account("bob").await];
        let public = test.public_room(&ana, &[]).await;
        let private = wish("private_chat", &serde_json::json!([]));
        let private = test.create(&ana, private).await.unwrap();
        let unknown: ruma::OwnedRoomId = "!none:hub.example".try_into().unwrap();
        let elsewhere: ruma::OwnedRoomId = "!none:far.example".try_into().unwrap();
        let mut told = Vec::new();
        for room in [&public, &private, &unknown, &elsewhere] {
            let sent = test.send(&bob, room, "m.room.message", "1", "{}").await;
            let mut refused = vec![sent.unwrap_err()];
            let off = "{\"redacts\":5}";
            let sent = test.send(&bob, room, "m.room.redaction", "2", off).await;
            refused.push(sent.unwrap_err());
            for (kind, content) in [
                ("m.room.topic", serde_json::json!({ "topic": "hi" })),
                ("m.room.topic", serde_json::json!({ "topic": 5 })),
                ("m.room.create", serde_json::json!({})),
                ("m.room.member", serde_json::json!({ "membership": 5 })),
                ("m.room.canonical_alias", serde_json::json!({ "alias": 5 })),
            ] {
                let written = test.set(&bob, room, (kind, ""), content).await;
                refused.push(written.unwrap_err());
            }
            let told_here: Vec<_> = refused
                .into_iter()
                .map(|one| {
                    let said = one.message.replace(room.as_str(), "ROOM");
                    (one.status, one.code, said)
                })
                .collect();
            told.push(told_here);
        }
        let nothing = "you are not in ROOM, or no such room is known here".to_owned();
        for one in told.iter().flatten() {
            assert_eq!(*one, (403, Code::Forbidden, nothing.clone()));
        }
    }

    #[tokio::test]
    async fn who_is_out_is_told_how_that_came_and_not_the_number_of_a_rule() {
        let test = testing::hub().await;
        let [ana, bob] = [test.account("ana").await, test.account("bob").await];
        let room = test.public_room(&ana, &[]).await;
        let content = serde_json::json!({ "msgtype": "m.text", "body": "hi" }).to_string();
        let refused = async |n: &str| {
            let sent = test.send(&bob, &room, "m.room.message", n, &content).await;
            let read = test.back(&bob, &room, None, 10).await;
            (sent.unwrap_err(), read.err().map(|refusal| refusal.message))
        };
        let expect = |found: (Refusal, Option<String>), wanted: &str, is_readable: bool| {
            let wanted = wanted.replace("ROOM", room.as_str());
            assert_eq!(found.0.code, Code::Forbidden);
            assert_eq!(found.0.message, wanted);
            assert_eq!(found.1, (!is_readable).then_some(wanted));
        };

        let nothing = "you are not in ROOM, or no such room is known here";
        expect(refused("0").await, nothing, false);
        test.invite(&ana, &room, &bob).await.unwrap();
        let invited = "you are invited to ROOM; join it first";
        expect(refused("1").await, invited, false);
        test.kick(&ana, &room, &bob).await.unwrap();
        let back = "your invitation to ROOM was taken back";
        expect(refused("2").await, back, false);
        let left = test.leave(&bob, &room).await.unwrap_err();
        let wanted = format!("there is nothing to leave: your invitation to {room} was taken back");
        assert_eq!(left.message, wanted);
        test.invite(&ana, &room, &bob).await.unwrap();
        test.leave(&bob, &room).await.unwrap();
        test.leave(&bob, &room).await.unwrap(); // done twice is as good as once
        let declined = "you declined the invitation to ROOM";
        expect(refused("3").await, declined, false);
        test.join(&bob, &room).await.unwrap();
        test.kick(&ana, &room, &bob).await.unwrap();
        expect(refused("4").await, "you were removed from ROOM", true);
        // What became of what one had said there is told all the same.
        let event = None;
        let room_id = room.clone();
        let asked = Deliveries {
            room: room_id,
            event,
        };
        let told = test.ask(&bob.origin, Command::Deliveries(asked)).await;
        told.unwrap();
        test.join(&bob, &room).await.unwrap();
        test.leave(&bob, &room).await.unwrap();
        expect(refused("5").await, "you have left ROOM", true);
        test.ban(&ana, &room, &bob).await.unwrap();
        expect(refused("6").await, "you are banned from ROOM", true);
        for done in [test.leave(&bob, &room).await, test.join(&bob, &room).await] {
            let said = done.unwrap_err();
            assert_eq!(said.code, Code::Forbidden);
            let wanted = format!("you are banned from {room}");
            assert!(said.message.ends_with(&wanted), "{}", said.message);
        }
    }
}
