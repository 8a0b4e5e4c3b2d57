//! The desk: makes a caller of whoever asks, and hands each command to those who know it.
//!
//! One flat list, in the order of `api::Command`.

mod absent;
mod access;
mod account_data;
mod account_end;
mod accounts;
mod aliases;
mod canonical_alias;
mod cross_signing;
mod deliveries;
mod devices;
mod devices_elsewhere;
mod directory;
mod discovery;
mod filters;
mod keys;
mod linking;
pub(super) mod media;
mod media_elsewhere;
mod passwords;
mod peers;
pub(super) mod presence;
mod profile;
mod push_rules;
mod rates;
mod reading;
mod receipts;
mod registration;
mod remote;
mod rooms;
mod secret_registration;
mod spaces;
mod sync;
#[cfg(test)]
mod tests_account_end;
#[cfg(test)]
mod tests_accounts;
#[cfg(test)]
mod tests_devices;
#[cfg(test)]
mod tests_directory;
#[cfg(test)]
mod tests_linking;
mod thin;
mod tickets;
mod to_device;
mod turns;
mod uia;
mod user_search;
mod words;

use std::sync::{Arc, PoisonError, RwLock};

pub(super) use access::{named, ours, who};
pub use linking::LinkWish;
pub use peers::gaps::Gap;
pub use registration::AccountWish;

use crate::{
    api::{Command, Origin, Refusal, Reply},
    base::Clock,
    hub::{Hub, Settings, fanout::Touched},
    store::{Batch, Write, media::MediaFiles},
};

/// What the desk holds between requests: settings, budgets, what is typed right now.
pub struct Desk {
    rules: RwLock<Rules>,
    media: MediaFiles,
    sessions: access::Sessions,
    passwords: passwords::Passwords,
    nonces: secret_registration::Nonces,
    passed: registration::Passed,
    login_tokens: accounts::LoginTokens,
    codes: linking::Codes,
    turns: Arc<turns::Turns>,
    resting: peers::past::Resting,
    gaps: peers::gaps::Gaps,
    tied: peers::tying::Tied,
    typing: receipts::TypingBoard,
    /// None where nobody sees who is there.
    presences: Option<presence::Presences>,
    elsewhere: remote::Elsewhere,
    fetches: devices_elsewhere::Fetches,
    files_elsewhere: media_elsewhere::Files,
}

/// What a reload may replace under those who use it.
#[derive(Clone)]
struct Rules {
    settings: Arc<Settings>,
    rates: Arc<rates::Rates>,
}

impl Desk {
    /// A desk with nothing on it.
    pub fn new(settings: Settings, media: MediaFiles, clock: &Arc<dyn Clock>, seed: u64) -> Self {
        let rates = Arc::new(rates::Rates::new(&settings.limits, clock));
        let settings = Arc::new(settings);
        let typing = presence::versions(settings.presence, &**clock);
        let presences = settings
            .presence
            .then(|| presence::Presences::new(typing.clone()));
        Self {
            sessions: access::Sessions::default(),
            passwords: passwords::Passwords::new(settings.limits.password_hashes_at_once),
            nonces: secret_registration::Nonces::default(),
            passed: registration::Passed::default(),
            login_tokens: accounts::LoginTokens::default(),
            codes: linking::Codes::default(),
            turns: Arc::new(turns::Turns::new(seed)),
            resting: peers::past::Resting::default(),
            gaps: peers::gaps::Gaps::default(),
            tied: peers::tying::Tied::default(),
            typing,
            presences,
            elsewhere: remote::Elsewhere::default(),
            fetches: devices_elsewhere::Fetches::default(),
            files_elsewhere: media_elsewhere::Files::beside(&media, seed),
            rules: RwLock::new(Rules { settings, rates }),
            media,
        }
    }

    /// Takes new settings. Budgets that did not change keep what was used of them.
    pub(super) fn reconfigure(&self, settings: Settings, clock: &Arc<dyn Clock>) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if rules.settings.limits != settings.limits {
            rules.rates = Arc::new(rates::Rates::new(&settings.limits, clock));
        }
        rules.settings = Arc::new(settings);
    }

    fn settings(&self) -> Arc<Settings> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&rules.settings)
    }

    fn rates(&self) -> Arc<rates::Rates> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&rules.rates)
    }
}

#[cfg(test)]
impl Desk {
    /// What is stored of a password.
    pub(super) async fn hash_password(&self, password: &str) -> String {
        self.passwords
            .hash(password, [7; 16])
            .await
            .expect("the queue is empty")
    }
}

#[expect(clippy::too_many_lines, reason = "one flat list")]
pub(super) async fn ask(hub: &Hub, origin: Origin, command: Command) -> Result<Reply, Refusal> {
    match command {
        Command::Versions(request) => discovery::versions(hub, &origin, *request)
            .await
            .map(|reply| Reply::Versions(Box::new(reply))),
        Command::Capabilities(request) => {
            let caller = access::caller(hub, &origin).await?;
            discovery::capabilities(hub, &caller, *request)
                .await
                .map(|reply| Reply::Capabilities(Box::new(reply)))
        }
        Command::LoginTypes(request) => accounts::login_types(hub, &origin, *request)
            .await
            .map(|reply| Reply::LoginTypes(Box::new(reply))),
        Command::Login(request) => accounts::login(hub, &origin, *request)
            .await
            .map(|reply| Reply::Login(Box::new(reply))),
        Command::Logout(request) => {
            let caller = access::caller(hub, &origin).await?;
            accounts::logout(hub, &caller, *request)
                .await
                .map(|reply| Reply::Logout(Box::new(reply)))
        }
        Command::LogoutAll(request) => {
            let caller = access::caller(hub, &origin).await?;
            accounts::logout_all(hub, &caller, *request)
                .await
                .map(|reply| Reply::LogoutAll(Box::new(reply)))
        }
        Command::Register(request) => registration::register(hub, &origin, *request)
            .await
            .map(|reply| Reply::Register(Box::new(reply))),
        Command::UsernameAvailable(request) => {
            registration::username_available(hub, &origin, *request)
                .await
                .map(|reply| Reply::UsernameAvailable(Box::new(reply)))
        }
        Command::Whoami(request) => {
            let caller = access::caller(hub, &origin).await?;
            accounts::whoami(hub, &caller, *request)
                .await
                .map(|reply| Reply::Whoami(Box::new(reply)))
        }
        Command::Profile(request) => profile::profile(hub, &origin, *request)
            .await
            .map(|reply| Reply::Profile(Box::new(reply))),
        Command::ProfileField(request) => profile::profile_field(hub, &origin, *request)
            .await
            .map(|reply| Reply::ProfileField(Box::new(reply))),
        Command::SetProfileField(request) => {
            let caller = access::caller(hub, &origin).await?;
            profile::set_profile_field(hub, &caller, *request)
                .await
                .map(|reply| Reply::SetProfileField(Box::new(reply)))
        }
        Command::DeleteProfileField(request) => {
            let caller = access::caller(hub, &origin).await?;
            profile::delete_profile_field(hub, &caller, *request)
                .await
                .map(|reply| Reply::DeleteProfileField(Box::new(reply)))
        }
        Command::CreateRoom(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::create_room(hub, &caller, *request)
                .await
                .map(|reply| Reply::CreateRoom(Box::new(reply)))
        }
        Command::Event(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::event(hub, &caller, *request)
                .await
                .map(|reply| Reply::Event(Box::new(reply)))
        }
        Command::RoomAliases(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::room_aliases(hub, &caller, *request)
                .await
                .map(|reply| Reply::RoomAliases(Box::new(reply)))
        }
        Command::Join(request) => {
            let caller = access::sender(hub, &origin).await?;
            let reply = rooms::join(hub, &caller, *request).await?;
            presence::appears(hub, origin.door, &caller).await;
            Ok(Reply::Join(Box::new(reply)))
        }
        Command::JoinByIdOrAlias(request) => {
            let caller = access::sender(hub, &origin).await?;
            let reply = rooms::join_by_id_or_alias(hub, &caller, *request).await?;
            presence::appears(hub, origin.door, &caller).await;
            Ok(Reply::JoinByIdOrAlias(Box::new(reply)))
        }
        Command::Knock(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::knock(hub, &caller, *request)
                .await
                .map(|reply| Reply::Knock(Box::new(reply)))
        }
        Command::Leave(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::leave(hub, &caller, *request)
                .await
                .map(|reply| Reply::Leave(Box::new(reply)))
        }
        Command::Forget(request) => {
            let caller = access::caller(hub, &origin).await?;
            rooms::forget(hub, &caller, *request)
                .await
                .map(|reply| Reply::Forget(Box::new(reply)))
        }
        Command::Invite(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::invite(hub, &caller, *request)
                .await
                .map(|reply| Reply::Invite(Box::new(reply)))
        }
        Command::Kick(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::kick(hub, &caller, *request)
                .await
                .map(|reply| Reply::Kick(Box::new(reply)))
        }
        Command::Ban(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::ban(hub, &caller, *request)
                .await
                .map(|reply| Reply::Ban(Box::new(reply)))
        }
        Command::Unban(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::unban(hub, &caller, *request)
                .await
                .map(|reply| Reply::Unban(Box::new(reply)))
        }
        Command::Members(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::members(hub, &caller, *request)
                .await
                .map(|reply| Reply::Members(Box::new(reply)))
        }
        Command::JoinedMembers(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::joined_members(hub, &caller, *request)
                .await
                .map(|reply| Reply::JoinedMembers(Box::new(reply)))
        }
        Command::JoinedRooms(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::joined_rooms(hub, &caller, *request)
                .await
                .map(|reply| Reply::JoinedRooms(Box::new(reply)))
        }
        Command::Send(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::send(hub, &caller, *request)
                .await
                .map(|reply| Reply::Send(Box::new(reply)))
        }
        Command::Messages(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::messages(hub, &caller, *request)
                .await
                .map(|reply| Reply::Messages(Box::new(reply)))
        }
        Command::Context(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::context(hub, &caller, *request)
                .await
                .map(|reply| Reply::Context(Box::new(reply)))
        }
        Command::SendState(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::send_state(hub, &caller, *request)
                .await
                .map(|reply| Reply::SendState(Box::new(reply)))
        }
        Command::State(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::state(hub, &caller, *request)
                .await
                .map(|reply| Reply::State(Box::new(reply)))
        }
        Command::StateForKey(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::state_for_key(hub, &caller, *request)
                .await
                .map(|reply| Reply::StateForKey(Box::new(reply)))
        }
        Command::Redact(request) => {
            let caller = access::sender(hub, &origin).await?;
            rooms::redact(hub, &caller, *request)
                .await
                .map(|reply| Reply::Redact(Box::new(reply)))
        }
        Command::CreateAlias(request) => {
            let caller = access::caller(hub, &origin).await?;
            aliases::create_alias(hub, &caller, *request)
                .await
                .map(|reply| Reply::CreateAlias(Box::new(reply)))
        }
        Command::DeleteAlias(request) => {
            let caller = access::caller(hub, &origin).await?;
            aliases::delete_alias(hub, &caller, *request)
                .await
                .map(|reply| Reply::DeleteAlias(Box::new(reply)))
        }
        Command::Alias(request) => aliases::alias(hub, &origin, *request)
            .await
            .map(|reply| Reply::Alias(Box::new(reply))),
        Command::CreateFilter(request) => {
            let caller = access::caller(hub, &origin).await?;
            filters::create_filter(hub, &caller, *request)
                .await
                .map(|reply| Reply::CreateFilter(Box::new(reply)))
        }
        Command::Filter(request) => {
            let caller = access::caller(hub, &origin).await?;
            filters::filter(hub, &caller, *request)
                .await
                .map(|reply| Reply::Filter(Box::new(reply)))
        }
        Command::AccountData(request) => {
            let caller = access::caller(hub, &origin).await?;
            account_data::account_data(hub, &caller, *request)
                .await
                .map(|reply| Reply::AccountData(Box::new(reply)))
        }
        Command::SetAccountData(request) => {
            let caller = access::caller(hub, &origin).await?;
            account_data::set_account_data(hub, &caller, *request)
                .await
                .map(|reply| Reply::SetAccountData(Box::new(reply)))
        }
        Command::RoomAccountData(request) => {
            let caller = access::caller(hub, &origin).await?;
            account_data::room_account_data(hub, &caller, *request)
                .await
                .map(|reply| Reply::RoomAccountData(Box::new(reply)))
        }
        Command::SetRoomAccountData(request) => {
            let caller = access::caller(hub, &origin).await?;
            account_data::set_room_account_data(hub, &caller, *request)
                .await
                .map(|reply| Reply::SetRoomAccountData(Box::new(reply)))
        }
        Command::Receipt(request) => {
            let caller = access::actor(hub, &origin).await?;
            receipts::receipt(hub, &caller, *request)
                .await
                .map(|reply| Reply::Receipt(Box::new(reply)))
        }
        Command::ReadMarkers(request) => {
            let caller = access::actor(hub, &origin).await?;
            receipts::read_markers(hub, &caller, *request)
                .await
                .map(|reply| Reply::ReadMarkers(Box::new(reply)))
        }
        Command::PublicRooms(request) => {
            let caller = access::caller(hub, &origin).await?;
            directory::public_rooms(hub, &caller, *request)
                .await
                .map(|reply| Reply::PublicRooms(Box::new(reply)))
        }
        Command::SearchPublicRooms(request) => {
            let caller = access::caller(hub, &origin).await?;
            directory::search_public_rooms(hub, &caller, *request)
                .await
                .map(|reply| Reply::SearchPublicRooms(Box::new(reply)))
        }
        Command::Hierarchy(request) => {
            let caller = access::caller(hub, &origin).await?;
            spaces::hierarchy(hub, &caller, *request)
                .await
                .map(|reply| Reply::Hierarchy(Box::new(reply)))
        }
        Command::EventByTime(request) => {
            let caller = access::caller(hub, &origin).await?;
            reading::event_by_time(hub, &caller, *request)
                .await
                .map(|reply| Reply::EventByTime(Box::new(reply)))
        }
        Command::RoomVisibility(request) => directory::room_visibility(hub, &origin, *request)
            .await
            .map(|reply| Reply::RoomVisibility(Box::new(reply))),
        Command::SetRoomVisibility(request) => {
            let caller = access::caller(hub, &origin).await?;
            directory::set_room_visibility(hub, &caller, *request)
                .await
                .map(|reply| Reply::SetRoomVisibility(Box::new(reply)))
        }
        Command::SearchUsers(request) => {
            // Costs about what an event does.
            let caller = access::sender(hub, &origin).await?;
            user_search::search_users(hub, &caller, *request)
                .await
                .map(|reply| Reply::SearchUsers(Box::new(reply)))
        }
        Command::ChangePassword(request) => {
            let caller = access::caller(hub, &origin).await?;
            account_end::change_password(hub, &caller, *request)
                .await
                .map(|reply| Reply::ChangePassword(Box::new(reply)))
        }
        Command::Deactivate(request) => {
            let caller = access::caller(hub, &origin).await?;
            account_end::deactivate(hub, &caller, *request)
                .await
                .map(|reply| Reply::Deactivate(Box::new(reply)))
        }
        Command::Presence(request) => {
            let caller = access::caller(hub, &origin).await?;
            presence::presence(hub, &caller, *request)
                .await
                .map(|reply| Reply::Presence(Box::new(reply)))
        }
        Command::SetPresence(request) => {
            let caller = access::caller(hub, &origin).await?;
            presence::set_presence(hub, origin.door, &caller, *request)
                .await
                .map(|reply| Reply::SetPresence(Box::new(reply)))
        }
        Command::Protocols(_) => {
            access::caller(hub, &origin).await?;
            Ok(Reply::Protocols(Box::new(absent::protocols())))
        }
        Command::Typing(request) => {
            let caller = access::actor(hub, &origin).await?;
            receipts::typing(hub, &caller, *request)
                .await
                .map(|reply| Reply::Typing(Box::new(reply)))
        }
        Command::PushRules(request) => {
            let caller = access::caller(hub, &origin).await?;
            push_rules::push_rules(hub, &caller, *request)
                .await
                .map(|reply| Reply::PushRules(Box::new(reply)))
        }
        Command::PushRulesGlobal(request) => {
            let caller = access::caller(hub, &origin).await?;
            push_rules::push_rules_global(hub, &caller, *request)
                .await
                .map(|reply| Reply::PushRulesGlobal(Box::new(reply)))
        }
        Command::Devices(request) => {
            let caller = access::caller(hub, &origin).await?;
            devices::devices(hub, &caller, *request)
                .await
                .map(|reply| Reply::Devices(Box::new(reply)))
        }
        Command::Device(request) => {
            let caller = access::caller(hub, &origin).await?;
            devices::device(hub, &caller, *request)
                .await
                .map(|reply| Reply::Device(Box::new(reply)))
        }
        Command::UpdateDevice(request) => {
            let caller = access::caller(hub, &origin).await?;
            devices::update_device(hub, &caller, *request)
                .await
                .map(|reply| Reply::UpdateDevice(Box::new(reply)))
        }
        Command::DeleteDevice(request) => {
            let caller = access::caller(hub, &origin).await?;
            devices::delete_device(hub, &caller, *request)
                .await
                .map(|reply| Reply::DeleteDevice(Box::new(reply)))
        }
        Command::DeleteDevices(request) => {
            let caller = access::caller(hub, &origin).await?;
            devices::delete_devices(hub, &caller, *request)
                .await
                .map(|reply| Reply::DeleteDevices(Box::new(reply)))
        }
        Command::UploadKeys(request) => {
            let caller = access::caller(hub, &origin).await?;
            keys::upload_keys(hub, &caller, *request)
                .await
                .map(|reply| Reply::UploadKeys(Box::new(reply)))
        }
        Command::QueryKeys(request) => {
            let caller = access::caller(hub, &origin).await?;
            keys::query_keys(hub, &caller, *request)
                .await
                .map(|reply| Reply::QueryKeys(Box::new(reply)))
        }
        Command::ClaimKeys(request) => {
            let caller = access::caller(hub, &origin).await?;
            keys::claim_keys(hub, &caller, *request)
                .await
                .map(|reply| Reply::ClaimKeys(Box::new(reply)))
        }
        Command::UploadSigningKeys(request) => {
            let caller = access::caller(hub, &origin).await?;
            cross_signing::upload_signing_keys(hub, &caller, *request)
                .await
                .map(|reply| Reply::UploadSigningKeys(Box::new(reply)))
        }
        Command::UploadSignatures(request) => {
            let caller = access::caller(hub, &origin).await?;
            cross_signing::upload_signatures(hub, &caller, *request)
                .await
                .map(|reply| Reply::UploadSignatures(Box::new(reply)))
        }
        Command::KeyChanges(request) => {
            let caller = access::caller(hub, &origin).await?;
            keys::key_changes(hub, &caller, *request)
                .await
                .map(|reply| Reply::KeyChanges(Box::new(reply)))
        }
        Command::SendToDevice(request) => {
            let caller = access::caller(hub, &origin).await?;
            to_device::send_to_device(hub, &caller, *request)
                .await
                .map(|reply| Reply::SendToDevice(Box::new(reply)))
        }
        Command::Sync(request) => {
            let caller = access::caller(hub, &origin).await?;
            sync::sync(hub, origin.door, &caller, *request)
                .await
                .map(|reply| Reply::Sync(Box::new(reply)))
        }
        Command::MediaConfig(request) => {
            let caller = access::caller(hub, &origin).await?;
            media::media_config(hub, &caller, *request)
                .await
                .map(|reply| Reply::MediaConfig(Box::new(reply)))
        }
        Command::AuthenticatedMediaConfig(request) => {
            let caller = access::caller(hub, &origin).await?;
            media::authenticated_media_config(hub, &caller, *request)
                .await
                .map(|reply| Reply::AuthenticatedMediaConfig(Box::new(reply)))
        }
        Command::TurnServer => access::caller(hub, &origin)
            .await
            .map(|_| Reply::TurnServer),
        Command::ThirdPartyIds => access::caller(hub, &origin)
            .await
            .map(|_| Reply::ThirdPartyIds),
        Command::RegisterNonce => secret_registration::nonce(hub, &origin),
        Command::RegisterWithSecret(request) => {
            secret_registration::register(hub, &origin, *request)
                .await
                .map(|reply| Reply::RegisterWithSecret(Box::new(reply)))
        }
        Command::Deliveries(asked) => {
            let caller = access::caller(hub, &origin).await?;
            deliveries::deliveries(hub, &caller, &asked)
                .await
                .map(Reply::Deliveries)
        }
        Command::Peer(command) => peers::ask(hub, &origin, *command)
            .await
            .map(|reply| Reply::Peer(Box::new(reply))),
        Command::Thin(wish) => {
            let caller = access::caller(hub, &origin).await?;
            thin::thin(hub, &caller, wish).await.map(Reply::Thin)
        }
        Command::Linking(asked) => linking::linking(hub, &origin, *asked).await,
    }
}

/// Stores what belongs to no room's log and cannot collide with what is there.
async fn keep(hub: &Hub, writes: Vec<Write>, touched: Vec<Touched>) -> Result<(), Refusal> {
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    hub.writer.write(batch, touched).await?;
    Ok(())
}
