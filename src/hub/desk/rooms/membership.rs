//! Joining, leaving, inviting and the like. The rules decide; profiles are added here.

use ruma::{
    CanonicalJsonObject, OwnedUserId, RoomId,
    api::client::{
        knock::knock_room::v3 as knocking,
        membership::{
            ban_user::v3 as banning,
            forget_room::v3 as forgetting,
            invite_user::v3::{self as inviting, InvitationRecipient},
            join_room_by_id::v3 as joining,
            join_room_by_id_or_alias::v3 as joining_by_alias,
            kick_user::v3 as kicking,
            leave_room::v3 as leaving,
            unban_user::v3 as unbanning,
        },
    },
};

use crate::{
    api::{Caller, Code, Refusal},
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{outsider::nothing_to_leave, visibility::not_in},
            remote::{self, Place},
            rooms::{Name, must_be_here, named, no_third_party, profile, submit},
        },
        fanout::Touched,
    },
    room::{MemberChange, Membership, Part},
    store::{Batch, Write},
};

/// See `api::Command::Join`.
pub(in crate::hub::desk) async fn join(
    hub: &Hub,
    caller: &Caller,
    request: joining::Request,
) -> Result<joining::Response, Refusal> {
    if request.third_party_signed.is_some() {
        return Err(no_third_party());
    }
    let name = Name {
        room: request.room_id.clone(),
        via: Vec::new(),
    };
    enter(hub, caller, name, MemberChange::Join, request.reason).await?;
    Ok(joining::Response::new(request.room_id))
}

/// See `api::Command::JoinByIdOrAlias`.
pub(in crate::hub::desk) async fn join_by_id_or_alias(
    hub: &Hub,
    caller: &Caller,
    request: joining_by_alias::Request,
) -> Result<joining_by_alias::Response, Refusal> {
    if request.third_party_signed.is_some() {
        return Err(no_third_party());
    }
    let name = named(hub, &request.room_id_or_alias, request.via).await?;
    let room = name.room.clone();
    enter(hub, caller, name, MemberChange::Join, request.reason).await?;
    Ok(joining_by_alias::Response::new(room))
}

/// See `api::Command::Knock`.
pub(in crate::hub::desk) async fn knock(
    hub: &Hub,
    caller: &Caller,
    request: knocking::Request,
) -> Result<knocking::Response, Refusal> {
    let name = named(hub, &request.room_id_or_alias, request.via).await?;
    let room = name.room.clone();
    enter(hub, caller, name, MemberChange::Knock, request.reason).await?;
    Ok(knocking::Response::new(room))
}

/// See `api::Command::Leave`.
pub(in crate::hub::desk) async fn leave(
    hub: &Hub,
    caller: &Caller,
    request: leaving::Request,
) -> Result<leaving::Response, Refusal> {
    let user = caller.user.clone();
    let content = reasoned(request.reason);
    if let Some(refusal) = nothing_to_leave(hub, &user, &request.room_id).await? {
        return Err(refusal);
    }
    if remote::leave(hub, &user, &request.room_id, content.clone()).await? {
        return Ok(leaving::Response::new());
    }
    change(
        hub,
        caller,
        &request.room_id,
        user,
        MemberChange::Leave,
        content,
    )
    .await?;
    Ok(leaving::Response::new())
}

/// See `api::Command::Forget`.
///
/// spec: client-server-rooms §Leaving-rooms
pub(in crate::hub::desk) async fn forget(
    hub: &Hub,
    caller: &Caller,
    request: forgetting::Request,
) -> Result<forgetting::Response, Refusal> {
    let id = &request.room_id;
    if let Some(outside) = remote::standing(hub, &caller.user, id).await? {
        if outside.membership != Membership::Leave {
            return Err(not_left());
        }
        remote::forget(hub, &caller.user, id).await?;
        return Ok(forgetting::Response::new());
    }
    let room = hub.store.room(id).await.map_err(ours)?;
    let room = room.ok_or_else(|| not_in(id))?;
    let membership = hub.store.membership(&caller.user, room.nid).await;
    let record = membership.map_err(ours)?.ok_or_else(|| not_in(id))?;
    if !matches!(record.membership, Membership::Leave | Membership::Ban) {
        return Err(not_left());
    }
    if record.forgotten {
        return Ok(forgetting::Response::new());
    }
    let batch = Batch {
        writes: vec![Write::Forget {
            user: caller.user.clone(),
            room: room.nid,
        }],
        may_conflict: false,
    };
    let touched = vec![Touched::One(caller.user.clone())];
    hub.writer.write(batch, touched).await?;
    Ok(forgetting::Response::new())
}

fn not_left() -> Refusal {
    let message = "one can forget only a room one has left";
    Refusal::new(Code::Unknown, message).with_status(400)
}

/// See `api::Command::Invite`.
pub(in crate::hub::desk) async fn invite(
    hub: &Hub,
    caller: &Caller,
    request: inviting::Request,
) -> Result<inviting::Response, Refusal> {
    let InvitationRecipient::UserId(recipient) = request.recipient else {
        return Err(no_third_party());
    };
    if recipient.user_id.server_name() != hub.key.name() {
        let mut content = remote::shown_profile(hub, &recipient.user_id).await;
        content.extend(reasoned(recipient.reason));
        let invited = (recipient.user_id, content);
        remote::invite(hub, caller, &request.room_id, invited).await?;
        return Ok(inviting::Response::new());
    }
    must_be_here(hub, &recipient.user_id).await?;
    let mut content = profile(hub, &recipient.user_id).await?;
    content.extend(reasoned(recipient.reason));
    let user = recipient.user_id;
    change(
        hub,
        caller,
        &request.room_id,
        user,
        MemberChange::Invite,
        content,
    )
    .await?;
    Ok(inviting::Response::new())
}

/// See `api::Command::Kick`.
pub(in crate::hub::desk) async fn kick(
    hub: &Hub,
    caller: &Caller,
    request: kicking::Request,
) -> Result<kicking::Response, Refusal> {
    let (room, user) = (&request.room_id, request.user_id);
    let content = reasoned(request.reason);
    change(hub, caller, room, user, MemberChange::Kick, content).await?;
    Ok(kicking::Response::new())
}

/// See `api::Command::Ban`.
pub(in crate::hub::desk) async fn ban(
    hub: &Hub,
    caller: &Caller,
    request: banning::Request,
) -> Result<banning::Response, Refusal> {
    let (room, user) = (&request.room_id, request.user_id);
    let content = reasoned(request.reason);
    change(hub, caller, room, user, MemberChange::Ban, content).await?;
    Ok(banning::Response::new())
}

/// See `api::Command::Unban`.
pub(in crate::hub::desk) async fn unban(
    hub: &Hub,
    caller: &Caller,
    request: unbanning::Request,
) -> Result<unbanning::Response, Refusal> {
    let (room, user) = (&request.room_id, request.user_id);
    let content = reasoned(request.reason);
    change(hub, caller, room, user, MemberChange::Unban, content).await?;
    Ok(unbanning::Response::new())
}

/// The caller joins or knocks, and shows their profile.
async fn enter(
    hub: &Hub,
    caller: &Caller,
    name: Name,
    how: MemberChange,
    reason: Option<String>,
) -> Result<(), Refusal> {
    let mut content = profile(hub, &caller.user).await?;
    content.extend(reasoned(reason));
    let place = remote::place(hub, &caller.user, (&name.room, &name.via)).await?;
    if let Place::There(via) = place {
        hub.desk.rates().events(caller)?;
        let joining = remote::Joining {
            user: caller.user.clone(),
            room: name.room.clone(),
            via,
            content: content.clone(),
        };
        let entered = match how {
            MemberChange::Knock => remote::knock(hub, joining).await?,
            _ => remote::join(hub, joining).await?,
        };
        if entered == remote::Entered::Joined {
            return Ok(());
        }
    }
    if how == MemberChange::Join
        && remote::join_restricted(hub, caller, (&name.room, &name.via), &content).await?
    {
        return Ok(());
    }
    change(hub, caller, &name.room, caller.user.clone(), how, content).await
}

async fn change(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    target: OwnedUserId,
    change: MemberChange,
    content: CanonicalJsonObject,
) -> Result<(), Refusal> {
    let part = Part::Member {
        target,
        change,
        content,
    };
    submit(hub, caller, room, part).await.map(drop)
}

fn reasoned(reason: Option<String>) -> CanonicalJsonObject {
    reason
        .map(|reason| ("reason".to_owned(), reason.into()))
        .into_iter()
        .collect()
}
