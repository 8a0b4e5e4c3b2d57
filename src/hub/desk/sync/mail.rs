//! Messages from device to device: told until the next token says that they arrived.

use ruma::{OneTimeKeyAlgorithm, UInt, api::client::sync::sync_events::v3::Response, serde::Raw};

use crate::{
    api::{Caller, Refusal},
    base::Position,
    hub::{
        Hub,
        desk::{access::ours, sync::Round},
    },
    store::{Batch, MailRecord, Write},
};

/// How many messages one answer brings; as many as Synapse sends.
const MAIL_MAX: usize = 100;

/// How many messages one commit may leave in one mailbox, where they cannot be told apart by
/// their position. A commit merges at most 512 requests.
const MAIL_OF_A_COMMIT_MAX: u32 = 16_384;

/// Takes what the device has got out of its mailbox. Costs a commit only when there is something.
///
/// spec: client-server-sync §Send-to-Device-messaging
pub(super) async fn acknowledge(hub: &Hub, caller: &Caller, to: Position) -> Result<(), Refusal> {
    let device = caller.device.as_str();
    let waiting = hub
        .store
        .mail(&caller.user, device, Position::ZERO, to, 1)
        .await
        .map_err(ours)?;
    if waiting.is_empty() {
        return Ok(());
    }
    let batch = Batch {
        writes: vec![Write::MailRead {
            user: caller.user.clone(),
            device: caller.device.clone(),
            to,
        }],
        may_conflict: false,
    };
    if let Err(error) = hub.writer.write(batch, Vec::new()).await {
        // The next sync tries again; until then it is only not told again.
        tracing::warn!(%error, "mail that has arrived stays in its box");
    }
    Ok(())
}

/// Adds waiting messages and what the device should know of its keys. Gives the position up to
/// which mail was told, when more is waiting.
pub(super) async fn fill(
    round: &Round<'_>,
    response: &mut Response,
) -> Result<Option<Position>, Refusal> {
    let (mail, more) = waiting(round).await?;
    response.to_device.events = mail
        .iter()
        .filter_map(|mail| match Raw::from_json_string(mail.json.clone()) {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::error!(%error, "a message in a mailbox cannot be read; it is left out");
                None
            }
        })
        .collect();
    let told = mail.last().map(|mail| mail.position);
    fill_keys(round, response).await?;
    Ok(told.filter(|_| more))
}

/// Whole commits of waiting messages, and whether there is more.
async fn waiting(round: &Round<'_>) -> Result<(Vec<MailRecord>, bool), Refusal> {
    let after = round
        .since
        .map_or(Position::ZERO, super::token::SyncToken::mail);
    let now = round.now.position;
    let limit = u32::try_from(MAIL_MAX + 1).unwrap_or(u32::MAX);
    let mut mail = read(round, after, now, limit).await?;
    if mail.len() <= MAIL_MAX {
        return Ok((mail, false));
    }
    let edge = mail.last().map_or(now, |mail| mail.position);
    mail.retain(|mail| mail.position < edge);
    if mail.is_empty() {
        mail = read(round, after, edge, MAIL_OF_A_COMMIT_MAX).await?;
        return Ok((mail, edge < now));
    }
    Ok((mail, true))
}

async fn read(
    round: &Round<'_>,
    after: Position,
    to: Position,
    limit: u32,
) -> Result<Vec<MailRecord>, Refusal> {
    let Caller { user, device, .. } = round.caller;
    round
        .hub
        .store
        .mail(user, device.as_str(), after, to, limit)
        .await
        .map_err(ours)
}

async fn fill_keys(round: &Round<'_>, response: &mut Response) -> Result<(), Refusal> {
    let store = &round.hub.store;
    let Caller { user, device, .. } = round.caller;
    let counts = store.one_time_counts(user, device.as_str()).await;
    // Said also when none are left: clients make new ones when they see a low number.
    response
        .device_one_time_keys_count
        .insert(OneTimeKeyAlgorithm::SignedCurve25519, UInt::MIN);
    for (algorithm, count) in counts.map_err(ours)? {
        let count = UInt::try_from(count).unwrap_or(UInt::MAX);
        response
            .device_one_time_keys_count
            .insert(algorithm.into(), count);
    }
    let fallbacks = store.unused_fallbacks(user, device.as_str()).await;
    let fallbacks = fallbacks.map_err(ours)?.into_iter();
    response.device_unused_fallback_key_types = Some(fallbacks.map(Into::into).collect());
    Ok(())
}
