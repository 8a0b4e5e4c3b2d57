//! One room's log, as far as it fits.

use super::{
    LOOKED_AT_MAX,
    names::{self, Numbers},
    pack::Pack,
    shown::{Entry, group},
};
use crate::{
    api::{Caller, Refusal, ThinReply},
    base::Seq,
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{
                outsider,
                page::{self, Span},
                visibility::Standing,
            },
        },
    },
    store::EventRecord,
    wire::thin::{Alias, Record, Shown},
};

/// See [`crate::api::Thin::Log`].
///
/// spec: thin-profile §7
pub(super) async fn log(
    hub: &Hub,
    caller: &Caller,
    alias: Alias,
    from: Seq,
    bytes_max: u32,
) -> Result<ThinReply, Refusal> {
    let room = names::room(hub, caller, alias).await?;
    let standing = outsider::standing(hub, &caller.user, &room).await?;
    let head = standing.horizon(&hub.store).await?.seq(&standing);
    let before = from.0.saturating_sub(1).min(head.0);
    let span = Span {
        from: Seq(before),
        to: Seq(before.saturating_add(LOOKED_AT_MAX).min(head.0)),
    };
    let (entries, end) = read(hub, caller, &standing, span, bytes_max).await?;
    let names = entries.iter().flat_map(Entry::names).collect();
    let numbers = Numbers::of(hub, caller, names).await?;
    let group = if entries.iter().any(Entry::is_mls) {
        group(hub, standing.room.nid).await.map_err(ours)?
    } else {
        None
    };

    let mut pack = Pack::new(bytes_max, &covered(head, Some(head)));
    let (mut through, now) = (end, hub.now());
    for entry in &entries {
        let record = entry.record(&numbers, now, group.as_ref())?;
        if !pack.put(record, || entry.too_large(&numbers, now))? {
            through = Seq(entry.seq.0.saturating_sub(1));
            break;
        }
    }
    let more = through < head;
    let mut records = pack.into_records();
    records.push(covered(through, more.then_some(head)));
    Ok(ThinReply::Records {
        records,
        through: Some((alias, through)),
        more,
    })
}

/// The visible entries of a span, no more than could fit, and the last seq that was looked at.
async fn read(
    hub: &Hub,
    caller: &Caller,
    standing: &Standing,
    span: Span,
    bytes_max: u32,
) -> Result<(Vec<Entry>, Seq), Refusal> {
    let want = usize::try_from(LOOKED_AT_MAX).unwrap_or(usize::MAX);
    let page = page::newer(&hub.store, standing, span, want, &any).await;
    let mut entries = Vec::new();
    let mut bytes = 0;
    for seen in page.map_err(ours)?.seen {
        let entry = Entry::of(hub, caller, &standing.room, (&seen.event, seen.before)).await;
        let Some(entry) = entry.map_err(ours)? else {
            continue;
        };
        bytes += entry.least_bytes();
        let seq = entry.seq;
        entries.push(entry);
        if Pack::is_beyond(bytes_max, bytes) {
            return Ok((entries, seq));
        }
    }
    Ok((entries, span.to))
}

fn any(_: &EventRecord) -> bool {
    true
}

fn covered(seq: Seq, head: Option<Seq>) -> Record {
    Record {
        room: None,
        what: Shown::Covered {
            seq: seq.0,
            head: head.map(|head| head.0),
        },
    }
}
