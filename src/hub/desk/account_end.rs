//! A new password, and the end of an account.

use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, OwnedRoomId,
    api::client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate},
};

use super::{
    access::{end_sessions, ours, turn_of_sessions},
    cross_signing, devices, remote,
    uia::prove_password,
    words,
};
use crate::{
    api::{Caller, Refusal},
    base::Position,
    hub::{Hub, Submission},
    room::{Draft, MemberChange, Membership, Part},
    store::Write,
};

/// How many rooms are left side by side: the writer's queues stay free for others.
const LEFT_AT_ONCE: usize = 32;

/// See `api::Command::ChangePassword`.
///
/// spec: client-server-accounts §Password-management
pub(super) async fn change_password(
    hub: &Hub,
    caller: &Caller,
    request: change_password::v3::Request,
) -> Result<change_password::v3::Response, Refusal> {
    prove_password(hub, caller, request.auth.as_ref()).await?;
    let user = &caller.user;
    let passwords = &hub.desk.passwords;
    let password = passwords.hash(&request.new_password, hub.random()).await?;
    let changed = Write::Password {
        user: user.clone(),
        password,
    };
    let turn = turn_of_sessions(hub, user).await;
    hub.desk.login_tokens.forget(user);
    hub.desk.codes.forget(user);
    let mut others = Vec::new();
    if request.logout_devices {
        others = devices::ids(hub, user).await?;
        others.retain(|device| *device != caller.device);
    }
    if others.is_empty() {
        end_sessions(hub, user, &[], vec![changed], Vec::new(), Some(turn)).await?;
    } else {
        devices::remove_with(hub, user, &others, vec![changed], Some(turn)).await?;
    }
    Ok(change_password::v3::Response::new())
}

/// See `api::Command::Deactivate`.
///
/// The rooms are left first: whoever hangs up before the end still has an account to ask again
/// with. The name stays taken, so that nobody else can become this user.
///
/// spec: client-server-accounts §Account-deactivation
pub(super) async fn deactivate(
    hub: &Hub,
    caller: &Caller,
    request: deactivate::v3::Request,
) -> Result<deactivate::v3::Response, Refusal> {
    prove_password(hub, caller, request.auth.as_ref()).await?;
    let user = &caller.user;
    // A password that nobody knows: logging in fails as with any wrong one, and takes as long.
    let nobodys = words::random::<32>(hub);
    let password = hub.desk.passwords.hash(&nobodys, hub.random()).await?;
    leave_all(hub, caller).await?;
    let mut writes = vec![Write::Password {
        user: user.clone(),
        password,
    }];
    let profile = hub.store.profile(user).await.map_err(ours)?;
    writes.extend(profile.into_iter().map(|(field, _)| Write::Profile {
        user: user.clone(),
        field,
        json: None,
    }));
    writes.extend(cross_signing::gone(hub, user).await?);
    let turn = turn_of_sessions(hub, user).await;
    hub.desk.login_tokens.forget(user);
    hub.desk.codes.forget(user);
    let all = devices::ids(hub, user).await?;
    devices::remove_with(hub, user, &all, writes, Some(turn)).await?;
    let unbound = ThirdPartyIdRemovalStatus::NoSupport;
    Ok(deactivate::v3::Response::new(unbound))
}

/// Leaves every room the caller is in, invited to or knocking at. A room that refuses is logged:
/// it must not keep an account alive.
async fn leave_all(hub: &Hub, caller: &Caller) -> Result<(), Refusal> {
    let mut rooms = hub.store.memberships(&caller.user, None).await;
    if let Ok(rooms) = &mut rooms {
        rooms.retain(|room| !matches!(room.membership, Membership::Leave | Membership::Ban));
    }
    stream::iter(rooms.map_err(ours)?)
        .for_each_concurrent(LEFT_AT_ONCE, |room| leave(hub, caller, room.room_id))
        .await;
    let elsewhere = remote::standings(hub, &caller.user, Position::ZERO).await?;
    let open = elsewhere
        .into_iter()
        .filter(|outside| outside.membership != Membership::Leave);
    stream::iter(open)
        .for_each_concurrent(LEFT_AT_ONCE, |outside| {
            turn_down(hub, caller, outside.room_id)
        })
        .await;
    Ok(())
}

/// Of a room that is on other servers only.
async fn turn_down(hub: &Hub, caller: &Caller, room: OwnedRoomId) {
    let content = CanonicalJsonObject::new();
    if let Err(refusal) = remote::leave(hub, &caller.user, &room, content).await {
        let why = refusal.message;
        tracing::warn!(why, user = %caller.user, %room, "an ended account did not leave a room");
    }
}

async fn leave(hub: &Hub, caller: &Caller, room: OwnedRoomId) {
    let member = Part::Member {
        target: caller.user.clone(),
        change: MemberChange::Leave,
        content: CanonicalJsonObject::new(),
    };
    let submission = Submission {
        draft: Draft {
            sender: caller.user.clone(),
            parts: vec![member],
        },
        txn: None,
        sent_by: None,
    };
    if let Err(error) = hub.writer.submit(&room, submission).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, user = %caller.user, %room, "an ended account did not leave a room");
    }
}
