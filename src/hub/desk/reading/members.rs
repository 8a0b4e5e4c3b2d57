//! Who is in a room, and in which rooms one is.

use ruma::{
    OwnedUserId,
    api::client::membership::{
        get_member_events::v3 as events, joined_members::v3 as joined, joined_rooms::v3 as rooms,
    },
    events::room::member::MembershipState,
};

use crate::{
    api::{Caller, Refusal},
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{
                messages::point,
                standing, state_after, state_events, viewer,
                visibility::{Horizon, membership_in},
            },
            sync::view::{self, Stored},
        },
    },
    room::Membership,
    store::EventRecord,
};

/// See `api::Command::Members`.
///
/// spec: client-server-rooms §Getting-events-for-a-room
pub(in crate::hub::desk) async fn members(
    hub: &Hub,
    caller: &Caller,
    request: events::Request,
) -> Result<events::Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    let horizon = standing.horizon(&hub.store).await?;
    let members = match (&request.at, &horizon) {
        (None, Horizon::Current) => hub
            .store
            .current_all(standing.room.nid, Some(MEMBER))
            .await
            .map_err(ours)?,
        (at, horizon) => {
            let mut seq = horizon.seq(&standing);
            if let Some(token) = at {
                seq = point(hub, &standing, ("at", token)).await?.seq.min(seq);
            }
            let state = state_after(hub, &standing, seq).await?;
            state_events(&hub.store, state, &is_member)
                .await
                .map_err(ours)?
        }
    };
    let wanted: Vec<_> = members
        .into_iter()
        .filter(|event| is_wanted(&request, membership_in(event)))
        .collect();
    let viewer = viewer(hub, caller, &standing);
    let shown = view::show_state(&hub.store, viewer, &wanted).await;
    Ok(events::Response::new(shown.map_err(ours)?))
}

/// With both given, either is enough.
fn is_wanted(request: &events::Request, membership: Membership) -> bool {
    let is = |wanted: &MembershipState| wanted.as_str().parse() == Ok(membership);
    match (&request.membership, &request.not_membership) {
        (None, None) => true,
        (Some(wanted), None) => is(wanted),
        (None, Some(unwanted)) => !is(unwanted),
        (Some(wanted), Some(unwanted)) => is(wanted) || !is(unwanted),
    }
}

/// See `api::Command::JoinedMembers`.
pub(in crate::hub::desk) async fn joined_members(
    hub: &Hub,
    caller: &Caller,
    request: joined::Request,
) -> Result<joined::Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    standing.must_be_joined()?;
    let members = hub
        .store
        .current_all(standing.room.nid, Some(MEMBER))
        .await
        .map_err(ours)?;
    let joined = members.iter().filter_map(|event| {
        let stored = Stored::read(event)?;
        if stored.text("membership").as_deref() != Some("join") {
            return None;
        }
        let user = OwnedUserId::try_from(stored.state_key.clone()?).ok()?;
        let mut member = joined::RoomMember::new();
        member.display_name = stored.text("displayname");
        member.avatar_url = stored.text("avatar_url").map(Into::into);
        Some((user, member))
    });
    Ok(joined::Response::new(joined.collect()))
}

/// See `api::Command::JoinedRooms`.
pub(in crate::hub::desk) async fn joined_rooms(
    hub: &Hub,
    caller: &Caller,
    _request: rooms::Request,
) -> Result<rooms::Response, Refusal> {
    let memberships = hub.store.memberships(&caller.user, None).await;
    let joined = memberships
        .map_err(ours)?
        .into_iter()
        .filter(|record| record.membership == Membership::Join)
        .map(|record| record.room_id);
    Ok(rooms::Response::new(joined.collect()))
}

fn is_member(event: &EventRecord) -> bool {
    Stored::read(event).is_some_and(|stored| stored.kind == MEMBER)
}

const MEMBER: &str = "m.room.member";
