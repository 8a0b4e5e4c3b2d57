//! Everything the outside may ask, as one list.
//!
//! The shapes of requests and answers are ruma's (spec v1.19); this file says which of them the
//! hub serves. Both doors build their routes from the same list, by [`for_each_endpoint!`], so
//! that neither can serve what the other does not.

/// Calls `$callback!` with every endpoint: `Variant => ruma::api::client path, login: needed|open`.
///
/// Media bodies are streams and are not here; see [`super::Service`].
macro_rules! for_each_endpoint {
    ($callback:ident) => {
        $callback! {
            /// `GET /versions`
            Versions => discovery::get_supported_versions,
            /// `GET /capabilities`
            Capabilities => discovery::get_capabilities::v3,
            /// `GET /login`
            LoginTypes => session::get_login_types::v3,
            /// `POST /login`
            Login => session::login::v3,
            /// `POST /logout`
            Logout => session::logout::v3,
            /// `POST /logout/all`
            LogoutAll => session::logout_all::v3,
            /// `POST /register`
            Register => account::register::v3,
            /// `GET /register/available`
            UsernameAvailable => account::get_username_availability::v3,
            /// `GET /account/whoami`
            Whoami => account::whoami::v3,
            /// `GET /profile/{userId}`
            Profile => profile::get_profile::v3,
            /// `GET /profile/{userId}/{field}`
            ProfileField => profile::get_profile_field::v3,
            /// `PUT /profile/{userId}/{field}`
            SetProfileField => profile::set_profile_field::v3,
            /// `DELETE /profile/{userId}/{field}`
            DeleteProfileField => profile::delete_profile_field::v3,
            /// `POST /createRoom`
            CreateRoom => room::create_room::v3,
            /// `GET /rooms/{roomId}/event/{eventId}`
            Event => room::get_room_event::v3,
            /// `GET /rooms/{roomId}/aliases`
            RoomAliases => room::aliases::v3,
            /// `POST /rooms/{roomId}/join`
            Join => membership::join_room_by_id::v3,
            /// `POST /join/{roomIdOrAlias}`
            JoinByIdOrAlias => membership::join_room_by_id_or_alias::v3,
            /// `POST /knock/{roomIdOrAlias}`
            Knock => knock::knock_room::v3,
            /// `POST /rooms/{roomId}/leave`
            Leave => membership::leave_room::v3,
            /// `POST /rooms/{roomId}/forget`
            Forget => membership::forget_room::v3,
            /// `POST /rooms/{roomId}/invite`
            Invite => membership::invite_user::v3,
            /// `POST /rooms/{roomId}/kick`
            Kick => membership::kick_user::v3,
            /// `POST /rooms/{roomId}/ban`
            Ban => membership::ban_user::v3,
            /// `POST /rooms/{roomId}/unban`
            Unban => membership::unban_user::v3,
            /// `GET /rooms/{roomId}/members`
            Members => membership::get_member_events::v3,
            /// `GET /rooms/{roomId}/joined_members`
            JoinedMembers => membership::joined_members::v3,
            /// `GET /joined_rooms`
            JoinedRooms => membership::joined_rooms::v3,
            /// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`
            Send => message::send_message_event::v3,
            /// `GET /rooms/{roomId}/messages`
            Messages => message::get_message_events::v3,
            /// `GET /rooms/{roomId}/context/{eventId}`
            Context => context::get_context::v3,
            /// `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`
            SendState => state::send_state_event::v3,
            /// `GET /rooms/{roomId}/state`
            State => state::get_state_events::v3,
            /// `GET /rooms/{roomId}/state/{eventType}/{stateKey}`
            StateForKey => state::get_state_event_for_key::v3,
            /// `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`
            Redact => redact::redact_event::v3,
            /// `PUT /directory/room/{roomAlias}`
            CreateAlias => alias::create_alias::v3,
            /// `DELETE /directory/room/{roomAlias}`
            DeleteAlias => alias::delete_alias::v3,
            /// `GET /directory/room/{roomAlias}`
            Alias => alias::get_alias::v3,
            /// `POST /user/{userId}/filter`
            CreateFilter => filter::create_filter::v3,
            /// `GET /user/{userId}/filter/{filterId}`
            Filter => filter::get_filter::v3,
            /// `GET /user/{userId}/account_data/{type}`
            AccountData => config::get_global_account_data::v3,
            /// `PUT /user/{userId}/account_data/{type}`
            SetAccountData => config::set_global_account_data::v3,
            /// `GET /user/{userId}/rooms/{roomId}/account_data/{type}`
            RoomAccountData => config::get_room_account_data::v3,
            /// `PUT /user/{userId}/rooms/{roomId}/account_data/{type}`
            SetRoomAccountData => config::set_room_account_data::v3,
            /// `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`
            Receipt => receipt::create_receipt::v3,
            /// `POST /rooms/{roomId}/read_markers`
            ReadMarkers => read_marker::set_read_marker::v3,
            /// `GET /publicRooms`
            PublicRooms => directory::get_public_rooms::v3,
            /// `POST /publicRooms`
            SearchPublicRooms => directory::get_public_rooms_filtered::v3,
            /// `GET /rooms/{roomId}/hierarchy`
            Hierarchy => space::get_hierarchy::v1,
            /// `GET /rooms/{roomId}/timestamp_to_event`
            EventByTime => room::get_event_by_timestamp::v1,
            /// `GET /directory/list/room/{roomId}`
            RoomVisibility => directory::get_room_visibility::v3,
            /// `PUT /directory/list/room/{roomId}`
            SetRoomVisibility => directory::set_room_visibility::v3,
            /// `POST /user_directory/search`
            SearchUsers => user_directory::search_users::v3,
            /// `POST /account/password`
            ChangePassword => account::change_password::v3,
            /// `POST /account/deactivate`
            Deactivate => account::deactivate::v3,
            /// `GET /presence/{userId}/status`
            Presence => presence::get_presence::v3,
            /// `PUT /presence/{userId}/status`
            SetPresence => presence::set_presence::v3,
            /// `GET /thirdparty/protocols`
            Protocols => thirdparty::get_protocols::v3,
            /// `PUT /rooms/{roomId}/typing/{userId}`
            Typing => typing::create_typing_event::v3,
            /// `GET /pushrules/`
            PushRules => push::get_pushrules_all::v3,
            /// `GET /pushrules/global/`
            PushRulesGlobal => push::get_pushrules_global_scope::v3,
            /// `GET /devices`
            Devices => device::get_devices::v3,
            /// `GET /devices/{deviceId}`
            Device => device::get_device::v3,
            /// `PUT /devices/{deviceId}`
            UpdateDevice => device::update_device::v3,
            /// `DELETE /devices/{deviceId}`
            DeleteDevice => device::delete_device::v3,
            /// `POST /delete_devices`
            DeleteDevices => device::delete_devices::v3,
            /// `POST /keys/upload`
            UploadKeys => keys::upload_keys::v3,
            /// `POST /keys/query`
            QueryKeys => keys::get_keys::v3,
            /// `POST /keys/claim`
            ClaimKeys => keys::claim_keys::v3,
            /// `POST /keys/device_signing/upload`
            UploadSigningKeys => keys::upload_signing_keys::v3,
            /// `POST /keys/signatures/upload`
            UploadSignatures => keys::upload_signatures::v3,
            /// `GET /keys/changes`
            KeyChanges => keys::get_key_changes::v3,
            /// `PUT /sendToDevice/{eventType}/{txnId}`
            SendToDevice => to_device::send_event_to_device::v3,
            /// `GET /sync`
            Sync => sync::sync_events::v3,
            /// `GET /media/config`
            MediaConfig => media::get_media_config::v3,
            /// `GET /client/v1/media/config`
            AuthenticatedMediaConfig => authenticated_media::get_media_config::v1,
        }
    };
}
pub(crate) use for_each_endpoint;

macro_rules! commands_and_replies {
    ($($(#[$doc:meta])* $name:ident => $($path:ident)::+,)*) => {
        /// One thing a client asks, whichever door it came through.
        #[derive(Clone)]
        #[expect(deprecated, reason = "old clients still ask for the unauthenticated media config")]
        pub enum Command {
            $($(#[$doc])* $name(Box<ruma::api::client::$($path)::+::Request>),)*
            /// `GET /voip/turnServer`: there is none.
            TurnServer,
            /// `GET /account/3pid`: there are none.
            ThirdPartyIds,
            /// A nonce for [`Command::RegisterWithSecret`]: `GET /_synapse/admin/v1/register`.
            RegisterNonce,
            /// Registration by whoever holds the shared secret: `POST /_synapse/admin/v1/register`.
            RegisterWithSecret(Box<SecretRegistration>),
            /// What became of an event at other servers.
            Deliveries(super::Deliveries),
            /// Another server's.
            Peer(Box<super::PeerCommand>),
            /// A linked device's, in the thin profile.
            Thin(super::Thin),
            /// Linking a device by a code.
            Linking(Box<super::Linking>),
        }

        // Requests hold passwords and tokens: only the name may reach a log.
        impl std::fmt::Debug for Command {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Command {
            /// The endpoint's name, for logs, metrics and rate limits.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                    Self::TurnServer => "TurnServer",
                    Self::ThirdPartyIds => "ThirdPartyIds",
                    Self::RegisterNonce => "RegisterNonce",
                    Self::RegisterWithSecret(_) => "RegisterWithSecret",
                    Self::Deliveries(_) => "Deliveries",
                    Self::Peer(command) => command.name(),
                    Self::Thin(thin) => thin.name(),
                    Self::Linking(_) => "Linking",
                }
            }
        }

        /// The answer to the [`Command`] of the same name.
        #[derive(Clone)]
        #[expect(missing_docs, reason = "each variant answers the command of its name")]
        pub enum Reply {
            $($name(Box<ruma::api::client::$($path)::+::Response>),)*
            /// `{}`, which is not what ruma has: clients take an empty list of servers for one.
            TurnServer,
            /// With the empty list, which ruma leaves out and clients look for.
            ThirdPartyIds,
            RegisterNonce { nonce: String },
            /// The same shape as [`Reply::Register`].
            RegisterWithSecret(Box<ruma::api::client::account::register::v3::Response>),
            /// To [`Command::Deliveries`].
            Deliveries(super::Delivered),
            /// To [`Command::Peer`].
            Peer(Box<super::PeerReply>),
            /// To [`Command::Thin`].
            Thin(super::ThinReply),
            /// To [`Command::Linking`].
            Linking(Box<super::Linked>),
        }

        // Answers hold access tokens: only the name may reach a log.
        impl std::fmt::Debug for Reply {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $(Self::$name(_) => stringify!($name),)*
                    Self::TurnServer => "TurnServer",
                    Self::ThirdPartyIds => "ThirdPartyIds",
                    Self::RegisterNonce { .. } => "RegisterNonce",
                    Self::RegisterWithSecret(_) => "RegisterWithSecret",
                    Self::Deliveries(_) => "Deliveries",
                    Self::Peer(_) => "Peer",
                    Self::Thin(_) => "Thin",
                    Self::Linking(_) => "Linking",
                })
            }
        }
    };
}
for_each_endpoint!(commands_and_replies);

/// The body of a registration by shared secret, as Synapse's admin tools send it.
#[derive(Clone, serde::Deserialize)]
pub struct SecretRegistration {
    /// From [`Reply::RegisterNonce`]; used once.
    pub nonce: String,
    /// The localpart wanted.
    pub username: String,
    /// The password wanted.
    pub password: String,
    /// Whether the account is an operator's.
    #[serde(default)]
    pub admin: bool,
    /// HMAC-SHA1 in hex over `nonce NUL username NUL password NUL admin|notadmin`.
    pub mac: String,
}
