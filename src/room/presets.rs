//! What a new room starts with: the parts that `createRoom` implies, in the order it names.
//!
//! spec: room-creation §Creation. Aliases, third-party invites and the published directory are the
//! hub's.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedRoomAliasId, OwnedRoomId, OwnedUserId,
};

use crate::{
    room::{Founding, MemberChange, Part},
    wire::matrix::Version,
};

/// A room as someone describes it who wants it created.
#[derive(Clone, Debug, PartialEq)]
pub struct RoomWish {
    /// Who wants it.
    pub creator: OwnedUserId,
    /// Its version.
    pub version: Version,
    /// What kind of room it is.
    pub preset: Preset,
    /// Further content of the create event.
    pub creation_content: CanonicalJsonObject,
    /// Further content of the creator's join (`displayname`, `avatar_url`).
    pub profile: CanonicalJsonObject,
    /// What replaces members of the first power levels event.
    pub power_levels: CanonicalJsonObject,
    /// The canonical alias, already known to be free.
    pub alias: Option<OwnedRoomAliasId>,
    /// State to set, in order; stands in for what the preset would set.
    pub initial_state: Vec<InitialState>,
    /// The name.
    pub name: Option<String>,
    /// The topic, as plain text.
    pub topic: Option<String>,
    /// Who is invited.
    pub invite: Vec<OwnedUserId>,
    /// Whether the invites say that this is a direct chat.
    pub is_direct: bool,
}

/// One entry of `initial_state`.
#[derive(Clone, Debug, PartialEq)]
pub struct InitialState {
    /// The event type.
    pub kind: String,
    /// The state key.
    pub state_key: String,
    /// The content.
    pub content: CanonicalJsonObject,
}

/// The kinds of room the client API names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// By invitation.
    #[default]
    PrivateChat,
    /// By invitation, and who is invited has the creator's power.
    TrustedPrivateChat,
    /// Open to all users, not to guests.
    PublicChat,
}

impl Preset {
    /// The preset of a request that names none: its visibility in the directory decides.
    pub const fn of_visibility(is_public: bool) -> Self {
        if is_public {
            Self::PublicChat
        } else {
            Self::PrivateChat
        }
    }

    const fn join_rule(self) -> &'static str {
        match self {
            Self::PrivateChat | Self::TrustedPrivateChat => "invite",
            Self::PublicChat => "public",
        }
    }

    const fn guest_access(self) -> &'static str {
        match self {
            Self::PrivateChat | Self::TrustedPrivateChat => "can_join",
            Self::PublicChat => "forbidden",
        }
    }
}

/// The create event that a wish asks for. In v12 the invited of a trusted private chat become
/// creators.
pub fn founding(wish: &RoomWish, room_id: OwnedRoomId) -> Founding {
    let mut content = wish.creation_content.clone();
    if invited_become_creators(wish) {
        let named = content
            .entry("additional_creators".to_owned())
            .or_insert_with(|| CanonicalJsonValue::Array(Vec::new()));
        // What is no array is left for `found` to refuse, which also drops the doubles.
        if let CanonicalJsonValue::Array(named) = named {
            named.extend(wish.invite.iter().map(|user| user.as_str().into()));
        }
    }
    Founding {
        creator: wish.creator.clone(),
        version: wish.version,
        room_id,
        content,
    }
}

/// What follows the create event, all by the creator.
pub fn initial_parts(wish: &RoomWish) -> Vec<Part> {
    let mut parts = vec![
        Part::Member {
            target: wish.creator.clone(),
            change: MemberChange::Join,
            content: wish.profile.clone(),
        },
        state("m.room.power_levels", power_levels(wish)),
    ];
    if let Some(alias) = &wish.alias {
        let content = object([("alias", alias.as_str().into())]);
        parts.push(state("m.room.canonical_alias", content));
    }
    parts.extend(preset_parts(wish));
    parts.extend(wish.initial_state.iter().map(|entry| Part::Event {
        kind: entry.kind.clone(),
        state_key: Some(entry.state_key.clone()),
        content: entry.content.clone(),
    }));
    if let Some(name) = &wish.name {
        let content = object([("name", name.as_str().into())]);
        parts.push(state("m.room.name", content));
    }
    if let Some(topic) = &wish.topic {
        parts.push(state("m.room.topic", topic_content(topic)));
    }
    parts.extend(invites(wish));
    parts
}

fn preset_parts(wish: &RoomWish) -> impl Iterator<Item = Part> {
    [
        ("m.room.join_rules", "join_rule", wish.preset.join_rule()),
        ("m.room.history_visibility", "history_visibility", "shared"),
        (
            "m.room.guest_access",
            "guest_access",
            wish.preset.guest_access(),
        ),
    ]
    .into_iter()
    // Setting what `initial_state` sets again at once would leave the room open in between.
    .filter(|(kind, ..)| {
        let mut set = wish.initial_state.iter();
        !set.any(|entry| entry.kind == *kind && entry.state_key.is_empty())
    })
    .map(|(kind, field, value)| state(kind, object([(field, value.into())])))
}

fn invites(wish: &RoomWish) -> Vec<Part> {
    let mut content = CanonicalJsonObject::new();
    if wish.is_direct {
        content.insert("is_direct".to_owned(), true.into());
    }
    let mut invited: Vec<&OwnedUserId> = Vec::with_capacity(wish.invite.len());
    for user in &wish.invite {
        if !invited.contains(&user) {
            invited.push(user);
        }
    }
    invited
        .into_iter()
        .map(|target| Part::Member {
            target: target.clone(),
            change: MemberChange::Invite,
            content: content.clone(),
        })
        .collect()
}

/// The defaults are the specification's, written out so that clients see them; what can close or
/// take over a room needs 100. Since v12 the creators stand above, are named nowhere, and sending
/// a tombstone needs more than any other state.
fn power_levels(wish: &RoomWish) -> CanonicalJsonObject {
    let privileged = wish
        .version
        .rules()
        .authorization
        .explicitly_privilege_room_creators;
    let events = [
        ("m.room.avatar", 50),
        ("m.room.canonical_alias", 50),
        ("m.room.encryption", 100),
        ("m.room.history_visibility", 100),
        ("m.room.name", 50),
        ("m.room.power_levels", 100),
        ("m.room.server_acl", 100),
        ("m.room.tombstone", if privileged { 150 } else { 100 }),
    ];
    let mut users = CanonicalJsonObject::new();
    if !privileged {
        users.insert(wish.creator.to_string(), level(100));
        if wish.preset == Preset::TrustedPrivateChat {
            users.extend(
                wish.invite
                    .iter()
                    .map(|user| (user.to_string(), level(100))),
            );
        }
    }
    let mut content = object([
        ("ban", level(50)),
        (
            "events",
            object(events.map(|(kind, at)| (kind, level(at)))).into(),
        ),
        ("events_default", level(0)),
        ("invite", level(0)),
        ("kick", level(50)),
        ("redact", level(50)),
        ("state_default", level(50)),
        ("users", users.into()),
        ("users_default", level(0)),
    ]);
    content.extend(wish.power_levels.clone());
    content
}

fn invited_become_creators(wish: &RoomWish) -> bool {
    let rules = &wish.version.rules().authorization;
    wish.preset == Preset::TrustedPrivateChat
        && rules.additional_room_creators
        && !wish.invite.is_empty()
}

fn topic_content(topic: &str) -> CanonicalJsonObject {
    let text = object([("body", topic.into()), ("mimetype", "text/plain".into())]);
    let block = object([("m.text", CanonicalJsonValue::Array(vec![text.into()]))]);
    object([("m.topic", block.into()), ("topic", topic.into())])
}

fn state(kind: &str, content: CanonicalJsonObject) -> Part {
    Part::Event {
        kind: kind.to_owned(),
        state_key: Some(String::new()),
        content,
    }
}

fn level(number: i32) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::from(number))
}

fn object<const N: usize>(entries: [(&str, CanonicalJsonValue); N]) -> CanonicalJsonObject {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
