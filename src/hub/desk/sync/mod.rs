//! Sync: what is new for a device since a token, and waiting when nothing is.
//!
//! A round reads the store up to a position fixed before it begins, so that everything in one
//! answer is of one moment. Whoever waits costs nothing until it is rung.

pub(super) mod filter;
mod invited;
mod left;
pub(super) mod lists;
mod mail;
mod outside;
mod presence;
mod room;
mod rooms;
mod state_delta;
mod summary;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_changed;
#[cfg(test)]
mod tests_together;
pub(super) mod token;
mod unread;
pub(super) mod view;

use std::time::Duration;

use ruma::{
    api::client::{
        filter::FilterDefinition,
        sync::sync_events::v3::{Request, Response},
    },
    push::Ruleset,
    serde::Raw,
};
use serde_json::value::to_raw_value;

use self::token::{NotAToken, SyncToken};
use crate::{
    api::{Caller, Door, Refusal},
    base::Position,
    hub::{
        Hub,
        desk::{
            access::ours,
            presence::{self as presences, Presences},
            push_rules::{self, KIND as PUSH_RULES},
        },
        fanout::Woken,
    },
    store::{AccountDataRecord, StoreError},
};

/// One look at the store for one device.
struct Round<'a> {
    hub: &'a Hub,
    caller: &'a Caller,
    filter: &'a FilterDefinition,
    since: Option<SyncToken>,
    /// Nothing newer than this is told.
    now: SyncToken,
    full_state: bool,
    /// Whether state is told as after the timeline, not as before it.
    state_after: bool,
    rules: Ruleset,
    /// Who is there, for who is shown that.
    presences: Option<&'a Presences>,
}

/// See `api::Command::Sync`.
///
/// spec: client-server-sync §Syncing
pub(super) async fn sync(
    hub: &Hub,
    door: Door,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let since = match &request.since {
        Some(token) => Some(read_since(hub, ("since", token))?),
        None => None,
    };
    let filter = filter::load(hub, caller, request.filter.clone()).await?;
    if let Some(since) = since {
        mail::acknowledge(hub, caller, since.mail()).await?;
    }
    let _there = presences::syncs(hub, door, caller, &request.set_presence).await;
    // Listening begins before the first look: what is stored in between rings.
    let mut listener = hub.fanout.listen(&caller.user);
    let mut answer = look(hub, door, caller, &request, &filter, since).await?;
    let wait = wait(hub, &request);
    if !is_empty(&answer) || wait.is_zero() {
        return Ok(answer);
    }
    let news = async {
        while listener.woken().await == Woken::News {
            answer = look(hub, door, caller, &request, &filter, since).await?;
            if !is_empty(&answer) {
                break;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(wait, news).await {
        Ok(Err(refusal)) => Err(refusal),
        Ok(Ok(())) | Err(_) => Ok(answer),
    }
}

/// The point that a parameter names.
fn read_since(hub: &Hub, (name, token): (&str, &str)) -> Result<SyncToken, Refusal> {
    let since: Result<SyncToken, NotAToken> = token.parse();
    let since = since.map_err(|error| error.refused_as(name))?;
    if since.position > hub.fanout.position() {
        let message = format!("`{name}` is {token:?}, which this hub has not reached");
        return Err(Refusal::invalid_param(message));
    }
    Ok(since)
}

/// How long an answer may wait: not the first one, and not one that is wanted whole.
fn wait(hub: &Hub, request: &Request) -> Duration {
    if request.since.is_none() || request.full_state {
        return Duration::ZERO;
    }
    let wanted = request.timeout.unwrap_or(Duration::ZERO);
    wanted.min(hub.desk.settings().limits.sync_wait_max)
}

/// One round, with everything that is new.
async fn look(
    hub: &Hub,
    door: Door,
    caller: &Caller,
    request: &Request,
    filter: &FilterDefinition,
    since: Option<SyncToken>,
) -> Result<Response, Refusal> {
    let now = SyncToken {
        position: hub.fanout.position(),
        typing: hub.desk.typing.version(),
        mail: None,
    };
    let mut round = Round {
        hub,
        caller,
        filter,
        since,
        now,
        full_state: request.full_state,
        state_after: request.use_state_after,
        rules: push_rules::ruleset(&caller.user),
        presences: presences::through(hub, door),
    };
    let mut response = Response::new(String::new());
    let data = round
        .account_data(round.position_since())
        .await
        .map_err(ours)?;
    round.fill_account_data(&data, &mut response)?;
    let met = rooms::fill(&round, &data, &mut response).await?;
    outside::fill(&round, &mut response).await?;
    presence::fill(&round, &met.joined, &mut response).await?;
    lists::fill(&round, met, &mut response).await?;
    round.now.mail = mail::fill(&round, &mut response).await?;
    response.next_batch = round.now.to_string();
    Ok(response)
}

impl Round<'_> {
    fn position_since(&self) -> Position {
        self.since.map_or(Position::ZERO, |since| since.position)
    }

    /// Account data stored after `since`, up to now.
    async fn account_data(&self, since: Position) -> Result<Vec<AccountDataRecord>, StoreError> {
        let store = &self.hub.store;
        let mut data = store.account_data(&self.caller.user, since).await?;
        data.retain(|record| record.position <= self.now.position);
        Ok(data)
    }

    fn fill_account_data(
        &self,
        data: &[AccountDataRecord],
        response: &mut Response,
    ) -> Result<(), Refusal> {
        let filter = &self.filter.account_data;
        let wanted =
            |kind: &str| filter::wants_type(filter.types.as_deref(), &filter.not_types, kind);
        let global = data.iter().filter(|record| record.room.is_none());
        response.account_data.events = global
            .clone()
            .filter(|record| wanted(&record.kind))
            .filter_map(|record| as_event(&record.kind, &record.json))
            .collect();
        // Clients look for their push rules here, also while they are everyone's.
        let has_rules = global.clone().any(|record| record.kind == PUSH_RULES);
        if self.since.is_none() && !has_rules && wanted(PUSH_RULES) {
            let rules = push_rules::content(&self.caller.user)?;
            let event = as_event(PUSH_RULES, &rules);
            response.account_data.events.extend(event);
        }
        Ok(())
    }
}

/// `{"type", "content"}`.
fn as_event<T>(kind: &str, content: &str) -> Option<Raw<T>> {
    #[derive(serde::Serialize)]
    struct Event<'a> {
        content: &'a serde_json::value::RawValue,
        #[serde(rename = "type")]
        kind: &'a str,
    }
    let event =
        serde_json::from_str(content).and_then(|content| to_raw_value(&Event { content, kind }));
    match event {
        Ok(event) => Some(Raw::from_json(event)),
        Err(error) => {
            tracing::error!(%error, kind, "stored account data cannot be read; it is left out");
            None
        }
    }
}

/// Whether there is nothing a client would have waited for.
fn is_empty(response: &Response) -> bool {
    response.rooms.is_empty()
        && response.account_data.is_empty()
        && response.to_device.is_empty()
        && response.device_lists.is_empty()
        && response.presence.is_empty()
}
