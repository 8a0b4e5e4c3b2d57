//! The list of every read a store has, once: for whoever puts something around all of them.
//!
//! The traits in [`store`](crate::store) say what each read promises; this only names them. A read
//! that is missing here does not compile where the list is used.

/// Gives each trait's reads to the macro `$reads`, as `Trait: name(argument: Type) -> Type; …`.
#[macro_export]
macro_rules! each_store_read {
    ($reads:ident) => {
        $reads! {
            Rooms:
            room(id: &ruma::RoomId) -> Option<$crate::store::RoomRecord>;
            room_by_nid(nid: $crate::store::RoomNid) -> Option<$crate::store::RoomRecord>;
            rooms(after: $crate::store::RoomNid, limit: u32) -> Vec<$crate::store::RoomRecord>;
            room_numbers(after: $crate::store::RoomNid, limit: u32) -> Vec<$crate::store::RoomNid>;
            event(id: $crate::base::EventHash) -> Option<$crate::store::EventRecord>;
            events(nids: &[$crate::store::EventNid]) -> Vec<$crate::store::EventRecord>;
            numbered(ids: &[$crate::base::EventHash]) -> Vec<($crate::base::EventHash, $crate::store::EventNid)>;
            current(room: $crate::store::RoomNid, keys: &[$crate::room::StateKey]) -> Vec<Option<$crate::store::EventRecord>>;
            current_all(room: $crate::store::RoomNid, kind: Option<&str>) -> Vec<$crate::store::EventRecord>;
            state(state: $crate::store::StateNid) -> Vec<$crate::store::EventNid>;
            in_state(state: $crate::store::StateNid, events: &[$crate::store::EventNid]) -> Vec<$crate::store::EventNid>;
            state_entries(room: $crate::store::RoomNid, state: $crate::store::StateNid, keys: &[$crate::room::StateKey]) -> Vec<Option<$crate::store::EventRecord>>;
            state_events(room: $crate::store::RoomNid, state: $crate::store::StateNid, kinds: $crate::store::Kinds<'_>) -> Vec<$crate::store::EventRecord>;
            log(room: $crate::store::RoomNid, from: $crate::base::Seq, to: $crate::base::Seq, order: $crate::store::Order, limit: u32) -> Vec<$crate::store::LogRecord>;
            seq_at(room: $crate::store::RoomNid, position: $crate::base::Position) -> $crate::base::Seq;
            places(room: $crate::store::RoomNid, anchor: $crate::base::Seq, order: $crate::store::Order, skip: u32, limit: u32) -> Vec<$crate::store::EventRecord>;
            anchors(room: $crate::store::RoomNid, from: $crate::base::Seq, to: $crate::base::Seq, limit: u32) -> Vec<$crate::base::Seq>;
            membership(user: &ruma::UserId, room: $crate::store::RoomNid) -> Option<$crate::store::MembershipRecord>;
            memberships(user: &ruma::UserId, since: Option<$crate::base::Position>) -> Vec<$crate::store::MembershipRecord>;
            joined(room: $crate::store::RoomNid, server: Option<&ruma::ServerName>) -> Vec<ruma::OwnedUserId>;
            audience(room: $crate::store::RoomNid, server: &ruma::ServerName) -> Vec<ruma::OwnedUserId>;
            neighbours(user: &ruma::UserId, limit: u32) -> Vec<ruma::OwnedUserId>;
            share_a_room(one: &ruma::UserId, other: &ruma::UserId) -> bool;
            txn(key: &$crate::store::TxnKey) -> Option<$crate::store::TxnAnswer>;
            txns(user: &ruma::UserId, device: &ruma::DeviceId) -> Vec<(String, String)>;
            policy_decision(event: $crate::base::EventHash) -> Option<$crate::store::PolicyDecision>;
            alias(alias: &ruma::RoomAliasId) -> Option<$crate::store::AliasRecord>;
            aliases(room: $crate::store::RoomNid) -> Vec<$crate::store::AliasRecord>;
            outside(user: &ruma::UserId, since: $crate::base::Position) -> Vec<$crate::store::OutsideRecord>;
            outside_of(user: &ruma::UserId, room: &ruma::RoomId) -> Option<$crate::store::OutsideRecord>;
            is_listed(room: $crate::store::RoomNid) -> bool;
            listed(after: Option<(u64, $crate::store::RoomNid)>, limit: u32) -> Vec<$crate::store::ListedRecord>;
            receipts(room: $crate::store::RoomNid, since: $crate::base::Position) -> Vec<$crate::store::ReceiptRecord>;
            receipts_of(room: $crate::store::RoomNid, user: &ruma::UserId) -> Vec<$crate::store::ReceiptRecord>;
            totals() -> $crate::store::Totals;
        }

        $reads! {
            Accounts:
            user(user: &ruma::UserId) -> Option<$crate::store::UserRecord>;
            users(after: Option<&ruma::UserId>, limit: u32) -> Vec<$crate::store::UserSummary>;
            session(token: &[u8; 32]) -> Option<$crate::store::SessionRecord>;
            profile(user: &ruma::UserId) -> Vec<(String, String)>;
            account_data(user: &ruma::UserId, since: $crate::base::Position) -> Vec<$crate::store::AccountDataRecord>;
            account_data_of(user: &ruma::UserId, room: Option<&ruma::RoomId>, kind: &str) -> Option<String>;
            filter(user: &ruma::UserId, id: u64) -> Option<String>;
        }

        $reads! {
            Devices:
            devices(user: &ruma::UserId) -> Vec<$crate::store::DeviceRecord>;
            device_keys(user: &ruma::UserId) -> Vec<$crate::store::DeviceKeysRecord>;
            one_time_counts(user: &ruma::UserId, device: &str) -> Vec<(String, u64)>;
            one_time_key(user: &ruma::UserId, device: &str, key_id: &str) -> Option<String>;
            mail_waiting(
                user: &ruma::UserId,
                device: &str,
                origin: Option<&ruma::ServerName>
            ) -> $crate::store::MailWaiting;
            unused_fallbacks(user: &ruma::UserId, device: &str) -> Vec<String>;
            device_changes(user: &ruma::UserId, since: $crate::base::Position, to: $crate::base::Position) -> Vec<ruma::OwnedUserId>;
            mail(
                user: &ruma::UserId,
                device: &str,
                after: $crate::base::Position,
                to: $crate::base::Position,
                limit: u32
            ) -> Vec<$crate::store::MailRecord>;
        }

        $reads! {
            CrossSigning:
            cross_signing_keys(user: &ruma::UserId) -> $crate::store::CrossSigningKeys;
            key_signatures(of: &ruma::UserId, viewer: &ruma::UserId) -> Vec<$crate::store::KeySignature>;
            signatures_made(signer: &ruma::UserId) -> u64;
        }

        $reads! {
            RemoteUsers:
            remote_list(user: &ruma::UserId) -> Option<$crate::store::RemoteList>;
            in_touch_since(user: &ruma::UserId, caller: &ruma::UserId, since: $crate::base::Position) -> bool;
            neighbours_of(user: &ruma::UserId, server: &ruma::ServerName, limit: u32) -> Vec<ruma::OwnedUserId>;
            devices_changed_at(user: &ruma::UserId, to: $crate::base::Position) -> $crate::base::Position;
            strangers(ours: &ruma::ServerName, after: Option<&ruma::UserId>, limit: u32) -> Vec<ruma::OwnedUserId>;
        }

        $reads! {
            ThinDevices:
            generation() -> [u8; 8];
            thin_names(user: &ruma::UserId, device: &str, wanted: &[($crate::wire::thin::NameKind, $crate::wire::thin::Alias)]) -> Vec<Option<String>>;
            thin_aliases(user: &ruma::UserId, device: &str, wanted: &[($crate::wire::thin::NameKind, String)]) -> Vec<Option<$crate::wire::thin::Alias>>;
        }

        $reads! {
            LinkedDevices:
            link(user: &ruma::UserId, device: &str) -> Option<$crate::store::LinkRecord>;
            link_by_recipient(recipient_id: &[u8]) -> Option<$crate::store::LinkRecord>;
            link_by_kid(kid: &[u8]) -> Option<$crate::store::LinkRecord>;
            links(after: Option<&$crate::api::DeviceName>, limit: u32) -> Vec<$crate::store::LinkRecord>;
            linked_session(user: &ruma::UserId, device: &str) -> Option<$crate::store::SessionRecord>;
            registrations() -> Vec<$crate::api::Registration>;
            restores() -> u64;
        }

        $reads! {
            Destinations:
            destinations() -> Vec<$crate::store::DestinationRecord>;
            backlog(server: Option<&ruma::ServerName>) -> Vec<(ruma::OwnedServerName, $crate::store::RoomNid)>;
            residents(room: $crate::store::RoomNid) -> Vec<ruma::OwnedServerName>;
            neighbour_servers(user: &ruma::UserId, limit: u32) -> Vec<ruma::OwnedServerName>;
            residencies(server: &ruma::ServerName, room: $crate::store::RoomNid) -> Vec<$crate::store::Residency>;
            relayed(room: $crate::store::RoomNid, from: $crate::base::Seq, to: $crate::base::Seq) -> Vec<$crate::base::Seq>;
            parcels(server: &ruma::ServerName, after: ($crate::base::Position, u64), limit: u32) -> Vec<$crate::store::ParcelRecord>;
            receipt_rooms(server: &ruma::ServerName, since: $crate::base::Position) -> Vec<$crate::store::RoomNid>;
            devices_changed_for(server: &ruma::ServerName, since: $crate::base::Position, to: $crate::base::Position) -> Vec<($crate::base::Position, ruma::OwnedUserId, $crate::store::KeysChange)>;
            deliveries(room: $crate::store::RoomNid, seq: $crate::base::Seq) -> Vec<$crate::store::DeliveryRecord>;
            lost(room: $crate::store::RoomNid, seqs: &[$crate::base::Seq]) -> Vec<$crate::base::Seq>;
        }

        $reads! {
            MediaIndex:
            media(id: &str) -> Option<$crate::store::MediaRecord>;
            media_rows(after: &[u8], limit: u32) -> Vec<$crate::store::MediaRow>;
            media_used(user: &ruma::UserId) -> u64;
        }

        $reads! {
            Servers:
            peer_keys(server: &ruma::ServerName) -> Option<String>;
            strays(limit: u32) -> Vec<$crate::store::StrayRow>;
        }
    };
}
