//! The thin profile: what linked devices ask, and are told.
//!
//! `names` knows what a device's numbers stand for. A draft becomes an event in `append`; an event
//! becomes a record in `shown`; both by the table of kinds in `shape`. `log`, `inbox` and `entry`
//! read, `beside` has what is in no log, `elsewhere` invitations of other servers, `called` what a room is called, `before` what a membership ended, `marks` the rest. Who may see and do what is decided where it always is.

mod append;
mod before;
mod beside;
mod called;
mod content;
mod elsewhere;
mod entry;
mod inbox;
mod log;
mod marks;
mod names;
mod pack;
mod shape;
mod shown;
#[cfg(test)]
mod tests;

use crate::{
    api::{Caller, Refusal, Thin, ThinReply},
    hub::{Hub, desk::access::ours},
    wire::thin::{Hello, deflate::DICTIONARY_VERSION},
};

/// The version of the profile. spec: thin-profile §4
const VERSION: u64 = 1;

/// How many entries one answer looks at, however few of them may be seen: a quarter of a megabyte
/// read at about a kilobyte each.
const LOOKED_AT_MAX: u64 = 256;

/// See `api::Command::Thin`.
pub(super) async fn thin(hub: &Hub, caller: &Caller, wish: Thin) -> Result<ThinReply, Refusal> {
    match wish {
        Thin::Hello => hello(hub).await.map(ThinReply::Hello),
        Thin::Append { room, draft } => append::append(hub, caller, room, draft)
            .await
            .map(ThinReply::Appended),
        Thin::Log {
            room,
            from,
            bytes_max,
        } => log::log(hub, caller, room, from, bytes_max).await,
        Thin::Inbox { after, bytes_max } => inbox::inbox(hub, caller, after, bytes_max).await,
        Thin::Beside {
            room,
            since,
            bytes_max,
        } => beside::beside(hub, caller, room, since, bytes_max).await,
        Thin::Entry { room, seq } => entry::entry(hub, caller, room, seq)
            .await
            .map(|entry| ThinReply::Entry(Box::new(entry))),
        Thin::Names(wanted) => names::names(hub, caller, &wanted)
            .await
            .map(ThinReply::Names),
        Thin::Alias { kind, text } => names::alias(hub, caller, kind, text)
            .await
            .map(ThinReply::Alias),
        Thin::Read { room, seq } => {
            let room = names::room(hub, caller, room).await?;
            done(marks::read(hub, caller, &room, seq).await)
        }
        Thin::Typing { room, seconds } => done(marks::typing(hub, caller, room, seconds).await),
        Thin::LinkProfile(profile) => done(marks::link_profile(hub, caller, profile).await),
        Thin::WakeHook(url) => done(marks::wake_hook(hub, caller, url).await),
    }
}

fn done(result: Result<(), Refusal>) -> Result<ThinReply, Refusal> {
    result.map(|()| ThinReply::Done)
}

/// spec: thin-profile §4
async fn hello(hub: &Hub) -> Result<Hello, Refusal> {
    Ok(Hello {
        version: VERSION,
        generation: hub.store.generation().await.map_err(ours)?,
        dictionary: DICTIONARY_VERSION,
        time_ms: hub.now().0,
    })
}
