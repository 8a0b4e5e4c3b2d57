//! What a device says of itself: what it has read, that it types, how it is linked.

use std::time::Duration;

use ruma::{
    RoomId,
    api::client::{
        receipt::create_receipt::v3::{self as receipts, ReceiptType},
        typing::create_typing_event::v3::{self as typing_now, Typing, TypingInfo},
    },
};

use super::names;
use crate::{
    api::{Caller, DeviceName, Refusal},
    base::Seq,
    hub::{
        Hub,
        desk::{access::ours, reading::visibility::Standing, receipts as marks},
    },
    store::{Logged, Order, Write},
    wire::{
        matrix::event_id,
        thin::{Alias, LinkProfile},
    },
};

/// The longest wake hook, in bytes.
const HOOK_BYTES_MAX: usize = 1000;

/// How many markers in a row are passed over to find the event before them.
const MARKERS_MAX: u32 = 16;

/// See [`crate::api::Thin::Read`].
pub(super) async fn read(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    seq: Seq,
) -> Result<(), Refusal> {
    let standing = Standing::of(&hub.store, &caller.user, room).await?;
    standing.must_be_joined()?;
    if seq > standing.room.heads.seq {
        let head = standing.room.heads.seq;
        let message = format!("the log of this room ends at {head}, before {seq}");
        return Err(Refusal::invalid_param(message));
    }
    let entries = hub
        .store
        .log(
            standing.room.nid,
            Seq::ZERO,
            seq,
            Order::Backward,
            MARKERS_MAX,
        )
        .await
        .map_err(ours)?;
    let event = entries.into_iter().find_map(|entry| match entry.what {
        Logged::Event(event) => Some(event),
        Logged::Marker(_) => None,
    });
    let event = event.ok_or_else(|| Refusal::not_found(format!("no entry {seq} in this room")))?;
    let (room, id) = (room.to_owned(), event_id(event.hash));
    let request = receipts::Request::new(room, ReceiptType::Read, id);
    marks::receipt(hub, caller, request).await.map(drop)
}

/// See [`crate::api::Thin::Typing`].
pub(super) async fn typing(
    hub: &Hub,
    caller: &Caller,
    room: Alias,
    seconds: u8,
) -> Result<(), Refusal> {
    let room = names::room(hub, caller, room).await?;
    let state = match seconds {
        0 => Typing::No,
        seconds => Typing::Yes(TypingInfo::new(Duration::from_secs(seconds.into()))),
    };
    let request = typing_now::Request::new(caller.user.clone(), room, state);
    marks::typing(hub, caller, request).await.map(drop)
}

/// See [`crate::api::Thin::LinkProfile`].
pub(super) async fn link_profile(
    hub: &Hub,
    caller: &Caller,
    profile: LinkProfile,
) -> Result<(), Refusal> {
    let device = device(caller);
    let write = Write::LinkProfile {
        device: device.clone(),
        profile,
    };
    hub.write_link(device, vec![write]).await?;
    Ok(())
}

/// See [`crate::api::Thin::WakeHook`]. Whether its address may be reached from here is decided by
/// who knocks: only then is it known.
pub(super) async fn wake_hook(
    hub: &Hub,
    caller: &Caller,
    url: Option<String>,
) -> Result<(), Refusal> {
    if let Some(url) = &url {
        let rest = url.strip_prefix("https://").unwrap_or_default();
        let is_odd = |c: char| c.is_control() || c.is_whitespace();
        if rest.is_empty() || rest.starts_with('/') || url.contains(is_odd) {
            return Err(Refusal::invalid_param(format!(
                "{url:?} is not an https URL"
            )));
        }
        if url.len() > HOOK_BYTES_MAX {
            let message = format!("the URL has more than {HOOK_BYTES_MAX} bytes");
            return Err(Refusal::invalid_param(message));
        }
    }
    let device = device(caller);
    let write = Write::WakeUrl {
        device: device.clone(),
        url,
    };
    hub.write_link(device, vec![write]).await?;
    Ok(())
}

fn device(caller: &Caller) -> DeviceName {
    DeviceName {
        user: caller.user.clone(),
        device: caller.device.clone(),
    }
}
