//! A room of a scripted server, made in one go: its founder, its rules, and as many members as are
//! wanted, each with a join of their own that is hashed and signed.

use std::sync::Arc;

use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde_json::{Value, json};
use tramline::{
    base::Timestamp,
    wire::matrix::{Pdu, PduFields, ServerKey, Version},
};

use crate::common::{Failed, key_of};

pub(crate) struct Room {
    id: OwnedRoomId,
    key: ServerKey,
    founder: OwnedUserId,
    /// In the order in which it came to be.
    state: Vec<Arc<Pdu>>,
    servers: Vec<OwnedServerName>,
    /// What a message of the founder leans on; without the founder's membership what a join does.
    auth: Vec<OwnedEventId>,
    last: Arc<Pdu>,
    /// The newest message.
    said: Arc<Pdu>,
}

impl Room {
    /// A public room of `members` users, its founder among them, spread over the servers in turn.
    pub(crate) fn found(
        servers: &[OwnedServerName],
        members: usize,
        now: Timestamp,
    ) -> Result<Self, Failed> {
        let keys: Vec<ServerKey> = servers
            .iter()
            .map(|server| key_of(server.as_str()))
            .collect::<Result<_, _>>()?;
        let home = servers.first().ok_or("no server")?;
        let founder = OwnedUserId::try_from(format!("@founder:{home}"))?;
        let (create, key) = (created(&founder, now)?, key_of(home.as_str())?);
        let create = Arc::new(Pdu::sign(create, Version::V12, &key)?);
        let mut room = Self {
            id: create.fields().room_id.clone(),
            key,
            founder: founder.clone(),
            state: vec![Arc::clone(&create)],
            servers: servers.to_vec(),
            auth: Vec::new(),
            last: Arc::clone(&create),
            said: create,
        };
        let member = json!({ "membership": "join", "displayname": "The founder" });
        room.set("m.room.member", founder.as_str(), member, now)?;
        room.auth = vec![room.last.id().clone()];
        let levels = json!({ "users": {}, "users_default": 0, "events_default": 0 });
        room.set("m.room.power_levels", "", levels, now)?;
        room.auth.insert(0, room.last.id().clone());
        let rules = json!({ "join_rule": "public" });
        room.set("m.room.join_rules", "", rules, now)?;
        let rules = room.last.id().clone();
        let seen = json!({ "history_visibility": "shared" });
        room.set("m.room.history_visibility", "", seen, now)?;
        let levels = room.auth.first().ok_or("no power levels")?.clone();
        for number in 1..members {
            let at = number % servers.len();
            room.enter(number, (&servers[at], &keys[at]), [&levels, &rules], now)?;
        }
        room.say(now)?;
        Ok(room)
    }

    pub(crate) fn id(&self) -> &OwnedRoomId {
        &self.id
    }

    /// A message of the founder, which is the newest event then.
    pub(crate) fn say(&mut self, now: Timestamp) -> Result<Arc<Pdu>, Failed> {
        let content = json!({ "msgtype": "m.text", "body": "Meet me at the station" });
        let founder = self.founder.clone();
        let fields = self.fields("m.room.message", None, &founder, content, now)?;
        self.said = Arc::new(Pdu::sign(fields, Version::V12, &self.key)?);
        self.last = Arc::clone(&self.said);
        Ok(Arc::clone(&self.said))
    }

    /// What a user joins with.
    pub(crate) fn template(&self, user: &str, now: Timestamp) -> Result<String, Failed> {
        let user = OwnedUserId::try_from(user)?;
        let content = json!({ "membership": "join" });
        let mut fields = self.fields("m.room.member", Some(user.as_str()), &user, content, now)?;
        fields.auth = self.of_kinds(&["m.room.power_levels", "m.room.join_rules"]);
        let event = Pdu::template(&fields, Version::V12)?;
        Ok(format!(r#"{{"room_version":"12","event":{event}}}"#))
    }

    /// Somebody has joined: what they are told. Their join is the newest event then.
    pub(crate) fn joined(&mut self, join: &Pdu, omit_members: bool) -> Result<String, Failed> {
        self.last = Arc::new(join.clone());
        let state = self.state.iter();
        let state = state.filter(|event| !omit_members || event.fields().kind != "m.room.member");
        let servers = serde_json::to_string(&self.servers)?;
        Ok(format!(
            r#"{{"state":[{}],"auth_chain":[{}],"event":{},"members_omitted":{omit_members},"servers_in_room":{servers},"origin":"{}"}}"#,
            texts(state),
            texts(self.auth_chain()),
            join.json(),
            self.key.name(),
        ))
    }

    /// The whole state before whoever joined.
    pub(crate) fn state(&self) -> String {
        let (state, auth) = (texts(self.state.iter()), texts(self.auth_chain()));
        format!(r#"{{"pdus":[{state}],"auth_chain":[{auth}]}}"#)
    }

    /// The same as ids.
    pub(crate) fn state_ids(&self) -> String {
        let state: Vec<_> = self.state.iter().map(|event| event.id()).collect();
        let auth: Vec<_> = self.auth_chain().map(|event| event.id()).collect();
        json!({ "pdu_ids": state, "auth_chain_ids": auth }).to_string()
    }

    /// The text of an event, if it is the newest message or of the state.
    pub(crate) fn event(&self, id: &str) -> Option<String> {
        let mut all = self.state.iter().chain([&self.said]);
        let found = all.find(|event| event.id() == id)?;
        Some(found.json().to_string())
    }

    /// What the state leans on: the first events of it.
    fn auth_chain(&self) -> impl Iterator<Item = &Arc<Pdu>> {
        self.state.iter().take(4)
    }

    fn of_kinds(&self, kinds: &[&str]) -> Vec<OwnedEventId> {
        let events = self.state.iter().take(5);
        let events = events.filter(|event| kinds.contains(&event.fields().kind.as_str()));
        events.map(|event| event.id().clone()).collect()
    }

    /// The founder sets a piece of state.
    fn set(&mut self, kind: &str, key: &str, content: Value, now: Timestamp) -> Result<(), Failed> {
        let founder = self.founder.clone();
        let fields = self.fields(kind, Some(key), &founder, content, now)?;
        self.last = Arc::new(Pdu::sign(fields, Version::V12, &self.key)?);
        self.state.push(Arc::clone(&self.last));
        Ok(())
    }

    /// One more member.
    fn enter(
        &mut self,
        number: usize,
        (server, key): (&OwnedServerName, &ServerKey),
        auth: [&OwnedEventId; 2],
        now: Timestamp,
    ) -> Result<(), Failed> {
        let user = OwnedUserId::try_from(format!("@member-{number}:{server}"))?;
        let content = json!({ "membership": "join", "displayname": format!("Member {number}") });
        let mut fields = self.fields("m.room.member", Some(user.as_str()), &user, content, now)?;
        fields.auth = auth.map(Clone::clone).to_vec();
        self.last = Arc::new(Pdu::sign(fields, Version::V12, key)?);
        self.state.push(Arc::clone(&self.last));
        Ok(())
    }

    fn fields(
        &self,
        kind: &str,
        state_key: Option<&str>,
        sender: &OwnedUserId,
        content: Value,
        now: Timestamp,
    ) -> Result<PduFields, Failed> {
        Ok(PduFields {
            room_id: self.id.clone(),
            kind: kind.to_owned(),
            sender: sender.clone(),
            state_key: state_key.map(ToOwned::to_owned),
            content: serde_json::from_value(content)?,
            redacts: None,
            at: now,
            depth: self.last.fields().depth + 1,
            prev: vec![self.last.id().clone()],
            auth: self.auth.clone(),
        })
    }
}

/// Events side by side, as a list has them.
fn texts<'a>(events: impl Iterator<Item = &'a Arc<Pdu>>) -> String {
    let texts: Vec<&str> = events.map(|event| &**event.json()).collect();
    texts.join(",")
}

fn created(founder: &OwnedUserId, now: Timestamp) -> Result<PduFields, Failed> {
    // The room's id is the hash of this: something must be new, or it is a room there already is.
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let content: CanonicalJsonObject =
        serde_json::from_value(json!({ "room_version": "12", "number": number }))?;
    Ok(PduFields {
        room_id: "!to-come:localhost".try_into()?,
        kind: "m.room.create".to_owned(),
        sender: founder.clone(),
        state_key: Some(String::new()),
        content,
        redacts: None,
        at: now,
        depth: 1,
        prev: Vec::new(),
        auth: Vec::new(),
    })
}
