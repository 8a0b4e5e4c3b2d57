//! The client library: one API over the doors, used by the CLI, the demo and the tests.
//!
//! A [`Client`] speaks to one hub through one door and counts every byte at the socket. It keeps
//! no state on disk; what it was told of its session is in [`Credentials`].

mod coap;
mod credentials;
mod error;
mod http;
mod ledger;
pub mod plain;
pub mod quic;
mod target;
pub mod thin;

use std::{fmt::Display, path::Path, sync::Arc};

use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::{Map, Value, json};

pub use credentials::{
    Credentials, CredentialsError, EdhocKeys, OscoreKeys, PskKeys, QuicKeys, ServerInfo,
};
pub use error::ClientError;
pub use ledger::{Cost, Ledger};
pub use target::{Target, TargetError};

use crate::{
    base::{Clock, Rng},
    wire::link_code::{self, KEY_HASH_BYTES, LinkCode},
};

/// An HTTP method, also where the door is CoAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the methods' own names")]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

/// Where a client takes time and chance from.
#[derive(Clone)]
pub struct World {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// A fresh source of chance, unpredictable outside tests.
    pub rng: fn() -> Box<dyn Rng + Send>,
}

/// One request: the path in segments, not yet encoded for any door.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Everything after `/_matrix/client/v3`, one segment each.
    pub path: Vec<&'a str>,
    /// Query parameters.
    pub query: Vec<(&'a str, String)>,
    /// The JSON body.
    pub body: Option<Value>,
}

/// A session with a hub through one door.
pub struct Client {
    door: Door,
    token: Option<String>,
    ledger: Ledger,
}

enum Door {
    Https(Box<http::HttpsDoor>),
    Coap(Box<coap::CoapDoor>),
    Thin(Box<thin::ThinDoor>),
}

impl Client {
    /// Gets ready to speak to `target`; connects with the first request.
    pub async fn open(target: &Target, world: &World) -> Result<Self, ClientError> {
        let door = match target {
            Target::Https(target) => Door::Https(Box::new(http::HttpsDoor::new(target)?)),
            Target::Coap(address) => {
                Door::Coap(Box::new(coap::CoapDoor::open(*address, world).await?))
            }
        };
        Ok(Self {
            door,
            token: None,
            ledger: Ledger::default(),
        })
    }

    /// Gets ready to speak HTTPS to a hub whose certificate has the key of a link code.
    pub fn pinned(url: &str, key_hash: [u8; KEY_HASH_BYTES]) -> Result<Self, ClientError> {
        let target = Target::parse(url, Some("")).map_err(|error| ClientError::Unreachable {
            at: url.to_owned(),
            source: Box::new(error),
            is_sent: false,
        })?;
        let Target::Https(target) = target else {
            return Err(ClientError::Unreachable {
                at: url.to_owned(),
                source: "a device is linked over https://".into(),
                is_sent: false,
            });
        };
        Ok(Self {
            door: Door::Https(Box::new(http::HttpsDoor::pinned(target, key_hash)?)),
            token: None,
            ledger: Ledger::default(),
        })
    }

    /// Approves a new device: gives the code that makes it one. Over HTTPS only.
    pub async fn approve_link(&mut self, device: &str) -> Result<String, ClientError> {
        let path = ["_tramline", "client", "v1", "link", "approve"];
        let call = Call::post(&path, json!({ "device_id": device }));
        text(&self.call("approve", call).await?, "code")
    }

    /// Redeems the secret part of a code: gives the credential file, without the keys that were
    /// made here.
    pub async fn redeem_link(
        &mut self,
        code: &LinkCode,
        edhoc_public: &[u8],
        quic_spki: &[u8],
    ) -> Result<Value, ClientError> {
        let path = ["_tramline", "client", "v1", "link", "redeem"];
        let body = json!({
            "code": link_code::secret_text(&code.secret),
            "edhoc_public": hex::encode(edhoc_public),
            "quic_spki": hex::encode(quic_spki),
        });
        self.call("redeem", Call::post(&path, body)).await
    }

    /// The same, with an access token from before.
    pub async fn resume(target: &Target, token: &str, world: &World) -> Result<Self, ClientError> {
        let mut client = Self::open(target, world).await?;
        client.token = Some(token.to_owned());
        Ok(client)
    }

    /// A linked device, whose state beside its credential file is open for this process alone.
    pub async fn linked(
        file: &Path,
        credentials: &Credentials,
        world: &World,
        choice: thin::DoorChoice,
    ) -> Result<Self, ClientError> {
        let door = thin::ThinDoor::open(file, credentials, world, choice).await?;
        Ok(Self {
            door: Door::Thin(Box::new(door)),
            token: None,
            ledger: Ledger::default(),
        })
    }

    /// The linked device, if this is one: what the thin profile has is asked of it.
    pub fn thin(&mut self) -> Option<&mut thin::ThinDoor> {
        match &mut self.door {
            Door::Thin(door) => Some(door),
            Door::Https(_) | Door::Coap(_) => None,
        }
    }

    /// What a linked device has spent in this run, headers included.
    pub fn spent_on_the_wire(&self) -> Option<thin::Line> {
        match &self.door {
            Door::Thin(door) => Some(door.spent()),
            Door::Https(_) | Door::Coap(_) => None,
        }
    }

    /// Says goodbye where there is a connection to be ended. The next call would make another one.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        match &mut self.door {
            Door::Thin(door) => Ok(door.close().await?),
            Door::Https(_) | Door::Coap(_) => Ok(()),
        }
    }

    /// The access token, once logged in.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// What everything has cost so far, per operation.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether a linked device speaks over QUIC.
    pub fn is_over_quic(&self) -> bool {
        matches!(&self.door, Door::Thin(door) if door.door().0 == "quic")
    }

    /// Whether the door is datagrams, which can be counted; a stream's cannot.
    pub fn is_over_udp(&self) -> bool {
        matches!(self.door, Door::Coap(_) | Door::Thin(_))
    }

    /// Sends a request and waits for its answer. `operation` is the ledger's line.
    pub async fn call(&mut self, operation: &str, call: Call<'_>) -> Result<Value, ClientError> {
        let token = self.token.as_deref();
        let (answer, cost) = match &mut self.door {
            Door::Https(door) => door.call(token, &call).await,
            Door::Coap(door) => door.call(token, &call).await,
            Door::Thin(door) => (below_tilde(door, operation, &call).await, Cost::default()),
        };
        self.ledger.add(operation, cost);
        answer
    }

    /// Logs in with a password and keeps the token.
    pub async fn login(
        &mut self,
        user: &str,
        password: &str,
        device_id: Option<&str>,
    ) -> Result<Credentials, ClientError> {
        let mut body = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
        });
        if let (Some(device), Some(object)) = (device_id, body.as_object_mut()) {
            object.insert("device_id".to_owned(), device.into());
        }
        let answer = self.call("login", Call::post(&["login"], body)).await?;
        let token = text(&answer, "access_token")?;
        self.token = Some(token.clone());
        Ok(Credentials::new(
            text(&answer, "user_id")?,
            text(&answer, "device_id")?,
            token,
        ))
    }

    /// Ends the session.
    pub async fn logout(&mut self) -> Result<(), ClientError> {
        self.call("logout", Call::post(&["logout"], json!({})))
            .await?;
        self.token = None;
        Ok(())
    }

    /// Creates a room; `wish` is the body of `createRoom`.
    pub async fn create_room(&mut self, wish: Value) -> Result<OwnedRoomId, ClientError> {
        let answer = self
            .call("create room", Call::post(&["createRoom"], wish))
            .await?;
        id(&answer, "room_id")
    }

    /// Joins a room by id or alias.
    pub async fn join(&mut self, room: &str) -> Result<OwnedRoomId, ClientError> {
        self.join_via(room, &[]).await
    }

    /// The same with servers that are in the room, for the id of one that is elsewhere.
    pub async fn join_via(
        &mut self,
        room: &str,
        via: &[String],
    ) -> Result<OwnedRoomId, ClientError> {
        let mut call = Call::post(&["join", room], json!({}));
        call.query = via.iter().map(|server| ("via", server.clone())).collect();
        let answer = self.call("join", call).await?;
        id(&answer, "room_id")
    }

    /// Leaves a room.
    pub async fn leave(&mut self, room: &RoomId) -> Result<(), ClientError> {
        self.call(
            "leave",
            Call::post(&["rooms", room.as_str(), "leave"], json!({})),
        )
        .await?;
        Ok(())
    }

    /// Invites someone.
    pub async fn invite(&mut self, room: &RoomId, user: &UserId) -> Result<(), ClientError> {
        let body = json!({ "user_id": user });
        self.call(
            "invite",
            Call::post(&["rooms", room.as_str(), "invite"], body),
        )
        .await?;
        Ok(())
    }

    /// Sends an event under a transaction id of the caller's: a retry with the same id gets the
    /// first answer.
    pub async fn send(
        &mut self,
        room: &RoomId,
        kind: &str,
        txn: &str,
        content: Value,
    ) -> Result<OwnedEventId, ClientError> {
        let call = Call::put(&["rooms", room.as_str(), "send", kind, txn], content);
        id(&self.call("send", call).await?, "event_id")
    }

    /// Sends a text message.
    pub async fn say(
        &mut self,
        room: &RoomId,
        txn: &str,
        text: &str,
    ) -> Result<OwnedEventId, ClientError> {
        let content = json!({"msgtype": "m.text", "body": text});
        self.send(room, "m.room.message", txn, content).await
    }

    /// Sets a piece of state.
    pub async fn set_state(
        &mut self,
        room: &RoomId,
        kind: &str,
        key: &str,
        content: Value,
    ) -> Result<OwnedEventId, ClientError> {
        let call = Call::put(&["rooms", room.as_str(), "state", kind, key], content);
        id(&self.call("set state", call).await?, "event_id")
    }

    /// Redacts an event.
    pub async fn redact(
        &mut self,
        room: &RoomId,
        event: &ruma::EventId,
        txn: &str,
    ) -> Result<OwnedEventId, ClientError> {
        let call = Call::put(
            &["rooms", room.as_str(), "redact", event.as_str(), txn],
            json!({}),
        );
        id(&self.call("redact", call).await?, "event_id")
    }

    /// A page of a room's history; `from` none for the newest.
    pub async fn messages(
        &mut self,
        room: &RoomId,
        from: Option<&str>,
        backward: bool,
        limit: u32,
    ) -> Result<Value, ClientError> {
        let mut query = vec![
            ("dir", if backward { "b" } else { "f" }.to_owned()),
            ("limit", limit.to_string()),
        ];
        query.extend(from.map(|from| ("from", from.to_owned())));
        let call = Call::get(&["rooms", room.as_str(), "messages"], query);
        self.call("page back", call).await
    }

    /// What is new since `since`; waits up to `wait_ms` for something to be.
    pub async fn sync(&mut self, since: Option<&str>, wait_ms: u64) -> Result<Value, ClientError> {
        let mut query = vec![("timeout", wait_ms.to_string())];
        query.extend(since.map(|since| ("since", since.to_owned())));
        let operation = if since.is_some() {
            "sync"
        } else {
            "initial sync"
        };
        self.call(operation, Call::get(&["sync"], query)).await
    }

    /// Who this session is.
    pub async fn whoami(&mut self) -> Result<Value, ClientError> {
        self.call("whoami", Call::get(&["account", "whoami"], Vec::new()))
            .await
    }

    /// The rooms the user is in.
    pub async fn joined_rooms(&mut self) -> Result<Vec<OwnedRoomId>, ClientError> {
        let answer = self
            .call("joined rooms", Call::get(&["joined_rooms"], Vec::new()))
            .await?;
        let rooms = answer.get("joined_rooms").cloned().unwrap_or_default();
        serde_json::from_value(rooms).map_err(|error| unusable("joined_rooms", &error))
    }
}

/// What the thin profile has no resource of its own for. spec: thin-profile §3
async fn below_tilde(
    door: &mut thin::ThinDoor,
    operation: &str,
    call: &Call<'_>,
) -> Result<Value, ClientError> {
    let request = coap::request(&["~"], None, call);
    let answer = door.ask(operation, thin::Ask::Other(request)).await?;
    match answer {
        thin::Answer::Whole(response) => coap::read(&response),
        _ => Err(thin::ThinError::OtherAnswer.into()),
    }
}

impl<'a> Call<'a> {
    /// A GET.
    pub fn get(path: &[&'a str], query: Vec<(&'a str, String)>) -> Self {
        Self {
            method: Method::Get,
            path: path.to_vec(),
            query,
            body: None,
        }
    }

    /// A POST.
    pub fn post(path: &[&'a str], body: Value) -> Self {
        Self {
            method: Method::Post,
            path: path.to_vec(),
            query: Vec::new(),
            body: Some(body),
        }
    }

    /// A PUT.
    pub fn put(path: &[&'a str], body: Value) -> Self {
        Self {
            method: Method::Put,
            path: path.to_vec(),
            query: Vec::new(),
            body: Some(body),
        }
    }
}

fn text(answer: &Value, field: &'static str) -> Result<String, ClientError> {
    answer
        .get(field)
        .and_then(Value::as_str)
        .map(ToOwned::to_owned)
        .ok_or(ClientError::Shape { wanted: field })
}

fn id<T>(answer: &Value, field: &'static str) -> Result<T, ClientError>
where
    T: for<'a> TryFrom<&'a str, Error: Display>,
{
    T::try_from(&text(answer, field)?).map_err(|error| unusable(field, &error))
}

fn unusable(field: &'static str, error: &impl Display) -> ClientError {
    let reason = error.to_string();
    ClientError::Field { field, reason }
}

/// Reads an answer's body: the value, or the refusal it spells.
fn outcome(status: u16, body: Value) -> Result<Value, ClientError> {
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let body: Map<String, Value> = match body {
        Value::Object(body) => body,
        _ => Map::new(),
    };
    let text = |field: &str| {
        body.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let errcode = if body.contains_key("errcode") {
        text("errcode")
    } else {
        "M_UNKNOWN".to_owned()
    };
    let retry_after_ms = body.get("retry_after_ms").and_then(Value::as_u64);
    Err(ClientError::Refused {
        status,
        errcode,
        error: text("error"),
        retry_after_ms,
    })
}
