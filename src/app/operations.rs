//! What an operator's verbs do on a hub, running or opened for the purpose.
//!
//! Which verbs there are is [`super::operator::Request`]'s, how one gets here `operate`'s.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
};

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId};
use serde_json::{Value as Json, json};

use super::{
    config::Told,
    in_force::InForce,
    operator::{Operator, Progress, Request},
};
use crate::{
    api::{Refusal, passes_when},
    base::Timestamp,
    edge::credential_file::{HubFacts, credential_file},
    hub::{
        AccountWish, Gap, Hub, LinkWish,
        outbox::{PeerState, PeerStatus},
    },
    store::{StoreError, UserSummary},
};

/// The operator's verbs.
pub struct Operations {
    /// The hub.
    pub hub: Arc<Hub>,
    /// Whose it is.
    pub server_name: OwnedServerName,
    /// What a device is told that is linked.
    pub facts: Arc<HubFacts>,
    /// Which settings count; none in a hub that was opened for one verb.
    pub in_force: Option<InForce>,
}

#[async_trait]
impl Operator for Operations {
    async fn ask(&self, request: Request, _progress: Progress) -> Result<Json, Refusal> {
        match request {
            Request::Status => self.status().await,
            Request::AddUser {
                localpart,
                password,
                admin,
            } => {
                let password = Some(password.reveal().to_owned());
                let wish = AccountWish {
                    localpart,
                    password,
                    admin,
                };
                let user = self.hub.add_user(wish).await?;
                Ok(json!({ "user_id": user }))
            }
            Request::ListUsers { after } => self.users(after.as_deref()).await,
            Request::SetPassword {
                localpart,
                password,
            } => {
                let user = self.user(&localpart)?;
                let ended = self.hub.set_password(&user, password.reveal()).await?;
                Ok(json!({"user_id": user, "sessions_ended": ended}))
            }
            Request::DisableUser { localpart } => {
                let user = self.user(&localpart)?;
                let ended = self.hub.disable_user(&user).await?;
                Ok(json!({"user_id": user, "disabled": true, "sessions_ended": ended}))
            }
            Request::EnableUser { localpart } => {
                let user = self.user(&localpart)?;
                self.hub.enable_user(&user).await?;
                Ok(json!({"user_id": user, "disabled": false}))
            }
            Request::LinkDevice {
                localpart,
                device,
                edhoc_public,
                quic_spki,
                outer_observe_counted,
            } => {
                let user = self.user(&localpart)?;
                let wish = LinkWish {
                    device: device.into(),
                    edhoc_public_x: Some(public_key(&edhoc_public)?),
                    quic_spki: Some(bytes(&quic_spki)?),
                    outer_observe_counted,
                };
                let linked = self.hub.link_device(&user, wish).await?;
                let credentials = credential_file(&linked, &self.facts);
                Ok(json!({"credentials": credentials, "guessed": self.facts.guessed}))
            }
            Request::RemoveDevice { localpart, device } => {
                let user = self.user(&localpart)?;
                let device = OwnedDeviceId::from(device);
                self.hub.remove_device(&user, &device).await?;
                Ok(json!({"user_id": user, "device_id": device, "removed": true}))
            }
            Request::ListPeers { server, after } => {
                self.peers(server.as_deref(), after.as_deref()).await
            }
            Request::Explain { id } => self.hub.refusals().explain(&id),
            Request::RecentRefusals => Ok(self.hub.refusals().recent()),
            Request::ListGaps => self.gaps().await,
            Request::Settings { after } => self.settings(after.as_deref()),
            Request::ListDevices { localpart } => self.devices(&self.user(&localpart)?).await,
        }
    }
}

impl Operations {
    fn user(&self, localpart: &str) -> Result<OwnedUserId, Refusal> {
        let user = UserId::parse_with_server_name(localpart, &self.server_name);
        user.map_err(|_| Refusal::not_found(format!("there is no account {localpart:?}")))
    }

    async fn users(&self, after: Option<&UserId>) -> Result<Json, Refusal> {
        let page = self.hub.store().users(after, USERS_PER_PAGE).await;
        let page = page.map_err(|error| unread(&error))?;
        let whole = page.len() == USERS_PER_PAGE as usize;
        let next = page.last().filter(|_| whole).map(|last| last.user.clone());
        let told: Vec<_> = page.iter().map(account).collect();
        Ok(json!({"users": told, "next": next}))
    }

    async fn gaps(&self) -> Result<Json, Refusal> {
        let open = self.hub.open_gaps().await;
        let open = open.map_err(|error| unread(&error))?;
        let told: Vec<_> = open.iter().take(GAPS_TOLD_MAX).map(gap).collect();
        let (first, rest) = open.split_at(told.len());
        let first: HashSet<_> = first.iter().map(|(room, _)| room).collect();
        let more: HashSet<_> = rest.iter().map(|(room, _)| room).collect();
        let more = more.difference(&first).count();
        Ok(json!({"gaps": told, "more": more}))
    }

    async fn devices(&self, user: &UserId) -> Result<Json, Refusal> {
        let store = self.hub.store();
        let account = store.user(user).await.map_err(|error| unread(&error))?;
        if account.is_none() {
            return Err(Refusal::not_found(format!("there is no account {user}")));
        }
        let found = store.devices(user).await;
        let mut told = Vec::new();
        for known in found.map_err(|error| unread(&error))? {
            let link = store.link(user, known.device.as_str()).await;
            let link = link.map_err(|error| unread(&error))?;
            // To the store, one that was linked was seen then; its first request has an address.
            let unused = link.is_some() && known.seen_at.is_none();
            let seen = known.seen.filter(|_| !unused);
            told.push(json!({
                "device_id": known.device, "name": known.name, "linked": link.is_some(),
                "last_seen": seen.map(Timestamp::rfc3339), "last_address": known.seen_at,
            }));
        }
        Ok(json!({"user_id": user, "devices": told}))
    }

    async fn peers(
        &self,
        server: Option<&ServerName>,
        after: Option<&ServerName>,
    ) -> Result<Json, Refusal> {
        let found = self.hub.peers(server, after, PEERS_PER_PAGE).await;
        let found = found.map_err(|error| unread(&error))?;
        let whole = found.len() == PEERS_PER_PAGE;
        let next = found.last().filter(|_| whole);
        let next = next.map(|last| last.server.clone());
        let told: Vec<_> = found.iter().map(peer).collect();
        Ok(json!({"peers": told, "next": next}))
    }

    fn settings(&self, after: Option<&str>) -> Result<Json, Refusal> {
        let none = || Refusal::not_found("this hub was opened for one verb");
        let in_force = self.in_force.as_ref().ok_or_else(none)?;
        let settings = in_force.settings.read();
        let settings = settings.unwrap_or_else(PoisonError::into_inner);
        let mut page = Told::page(&settings, after);
        if let Some(page) = page.as_object_mut() {
            page.insert("https".to_owned(), json!(in_force.https));
        }
        Ok(page)
    }

    async fn status(&self) -> Result<Json, Refusal> {
        let totals = self.hub.store().totals().await;
        let totals = totals.map_err(|error| unread(&error))?;
        Ok(json!({
            "server_name": self.server_name,
            "version": env!("CARGO_PKG_VERSION"),
            "rooms": totals.rooms, "events": totals.events, "users": totals.users,
        }))
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>, Refusal> {
    hex::decode(hex).map_err(|error| Refusal::invalid_param(format!("a key: {error}")))
}

fn public_key(hex: &str) -> Result<[u8; 32], Refusal> {
    let key: Result<_, Vec<u8>> = bytes(hex)?.try_into();
    key.map_err(|key| Refusal::invalid_param(format!("a key of {} bytes, not 32", key.len())))
}

fn account(known: &UserSummary) -> Json {
    json!({
        "user_id": known.user, "admin": known.admin, "disabled": known.disabled,
        "devices": known.devices, "created": known.created.rfc3339(),
        "last_seen": known.seen.map(Timestamp::rfc3339),
    })
}

fn peer(known: &PeerStatus) -> Json {
    let (state, next_try) = match known.state {
        PeerState::Idle => ("up to date", None),
        PeerState::Queued => ("queued", None),
        PeerState::InFlight => ("in flight", None),
        PeerState::Waiting(until) => ("backing off", Some(until)),
        PeerState::AtRest => ("at rest", None),
    };
    json!({
        "server": known.server, "state": state,
        "waiting": known.waiting, "waiting_is_all": known.is_all,
        "in_flight": known.state == PeerState::InFlight,
        "failing_since": known.failing_since.map(Timestamp::rfc3339),
        "next_try": next_try.map(Timestamp::rfc3339), "last_error": known.last_error,
    })
}

fn gap((room, gap): &(OwnedRoomId, Gap)) -> Json {
    let cause: String = gap.cause.chars().take(CAUSE_CHARS_MAX).collect();
    json!({
        "room_id": room, "server": gap.server, "missing": gap.missing, "reason": gap.code,
        "cause": cause, "passes_when": passes_when(gap.code),
        "since": gap.since.rfc3339(), "last": gap.last.rfc3339(),
        "request": gap.request.map(|request| request.to_string()),
    })
}

fn unread(error: &StoreError) -> Refusal {
    tracing::error!(%error, "the store failed");
    Refusal::internal()
}

/// How many gaps one answer tells: at two kilobytes at most each they fit the socket's line.
const GAPS_TOLD_MAX: usize = 20;

/// How much of a gap's cause is told, in characters.
const CAUSE_CHARS_MAX: usize = 300;

/// How many servers one answer tells: an error may have some hundred bytes.
const PEERS_PER_PAGE: usize = 50;

/// How many accounts one answer tells: at about 400 bytes each they fit the socket's line.
const USERS_PER_PAGE: u32 = 100;
