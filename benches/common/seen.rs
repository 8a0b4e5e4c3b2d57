//! From sent on one server to seen on another one, as two clients have it.

use std::time::{Duration, Instant};

use ruma::OwnedRoomId;
use serde_json::Value;
use tramline::client::Client;

use super::{Failed, now};

/// From the call that sends to the end of the sync that brings it, with this pause before: by then that
/// sync waits. `since` is what the receiver has synced.
pub(crate) async fn crossed(
    (from, to): (&mut Client, &mut Client),
    since: &mut String,
    (room, text): (&OwnedRoomId, &str),
    pause: Duration,
) -> Result<Duration, Failed> {
    let send = async {
        tokio::time::sleep(pause).await;
        let began = now();
        from.say(room, &text.replace(' ', "-"), text).await?;
        Ok::<Instant, Failed>(began)
    };
    let (began, seen) = tokio::try_join!(send, see(to, since, room, text))?;
    Ok(seen - began)
}

/// Syncs until somebody says it; when that was.
async fn see(
    client: &mut Client,
    since: &mut String,
    room: &OwnedRoomId,
    text: &str,
) -> Result<Instant, Failed> {
    const WAIT_MS: u64 = 10_000;
    const SYNCS_MAX: usize = 50;
    for _ in 0..SYNCS_MAX {
        let synced = client.sync(Some(since), WAIT_MS).await?;
        let at = now();
        *since = next(&synced)?;
        let timeline = synced.pointer(&format!("/rooms/join/{room}/timeline/events"));
        let events = timeline.and_then(Value::as_array).into_iter().flatten();
        let mut bodies = events.filter_map(|event| event.pointer("/content/body"));
        if bodies.any(|body| body == text) {
            return Ok(at);
        }
    }
    Err(format!("{text:?} never came").into())
}

/// Where the next sync goes on.
pub(crate) fn next(synced: &Value) -> Result<String, Failed> {
    let next = synced.get("next_batch").and_then(Value::as_str);
    Ok(next.ok_or("a sync without its end")?.to_owned())
}
