//! From sent on one server to seen on another one.

use std::time::Duration;

use ruma::OwnedRoomId;
use serde_json::json;
use tramline::client::Client;

use crate::{
    common::{
        Failed, Limit, Report,
        seen::{crossed, next},
    },
    stage::{Server, Stage},
};

/// How many messages go each way.
const MESSAGES: usize = 60;

/// Before each: so long the other side's sync waits already, and the servers have done by then what
/// the last message left them to do.
const PAUSE: Duration = Duration::from_millis(300);

/// The hub's p50 of that of the same way between Synapses, at most.
const RATIO_MAX: f64 = 1.0;

/// One way from server to server.
struct Way {
    name: &'static str,
    room: OwnedRoomId,
    from: Client,
    to: Client,
    /// What the receiver has synced.
    since: String,
    /// Milliseconds each.
    spans: Vec<f64>,
}

pub(crate) async fn measure(stage: &mut Stage, report: &mut Report) -> Result<(), Failed> {
    let Stage { hub, synapses, .. } = stage;
    let [first, second] = synapses;
    let with_hub = meet(first, hub).await?;
    let without = meet(first, second).await?;
    let mut ways = [
        way("hub to Synapse", hub, first, &with_hub).await?,
        way("Synapse to hub", first, hub, &with_hub).await?,
        way("Synapse to another Synapse", first, second, &without).await?,
        way("another Synapse to Synapse", second, first, &without).await?,
    ];
    for number in 0..MESSAGES {
        // Forth and back, so that none is always the one after the same other one.
        let order = [[0, 1, 2, 3], [3, 2, 1, 0]][number % 2];
        for at in order {
            let way = &mut ways[at];
            let span = way.cross(&format!("crossing {number}")).await?;
            way.spans.push(span.as_secs_f64() * 1000.0);
        }
    }
    let [mut to, mut from, mut forth, mut back] = ways;
    // What is heard by the same Synapse, and what is said by it.
    let heard = tell(report, &mut back, None);
    tell(report, &mut to, Some(heard));
    let said = tell(report, &mut forth, None);
    tell(report, &mut from, Some(said));
    Ok(())
}

/// A room of the one that the other one has joined.
async fn meet(founder: &mut Server, guest: &mut Server) -> Result<OwnedRoomId, Failed> {
    let wish = json!({ "preset": "public_chat", "room_version": "12" });
    let room = founder.client.create_room(wish).await?;
    guest.join(&room, founder.name.as_str()).await?;
    Ok(room)
}

async fn way(
    name: &'static str,
    from: &Server,
    to: &Server,
    room: &OwnedRoomId,
) -> Result<Way, Failed> {
    let mut way = Way {
        name,
        room: room.clone(),
        from: from.another().await?,
        to: to.another().await?,
        since: String::new(),
        spans: Vec::new(),
    };
    let synced = way.to.sync(None, 0).await?;
    way.since = next(&synced)?;
    for number in 0..3 {
        way.cross(&format!("warming up {number}")).await?;
    }
    Ok(way)
}

impl Way {
    async fn cross(&mut self, text: &str) -> Result<Duration, Failed> {
        let Self {
            room,
            from,
            to,
            since,
            ..
        } = self;
        let text = format!("{text} {}", self.name); // others are heard in this room, too
        crossed((from, to), since, (room, &text), PAUSE).await
    }
}

/// Tells one way's figures, and gives its p50.
fn tell(report: &mut Report, way: &mut Way, base: Option<f64>) -> f64 {
    let spans = &mut way.spans;
    spans.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let index = spans.len() * part / 100;
        spans.get(index).copied().unwrap_or(f64::NAN)
    };
    let p50 = at(50);
    let figure = format!("p50 {p50:.1} ms, p90 {:.1}, p99 {:.1}", at(90), at(99));
    let (ratio, limit) = match base {
        Some(base) => (("p50 ×", p50 / base), Limit::AtMost(RATIO_MAX)),
        None => (("p50 ms", p50), Limit::None),
    };
    report.line(way.name, &figure, ratio, limit);
    p50
}
