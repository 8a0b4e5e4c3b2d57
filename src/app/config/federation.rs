//! `[federation]`: this hub among other Matrix servers.

use std::{collections::BTreeMap, path::Path, time::Duration};

use ruma::OwnedServerName;
use serde_json::{Value as Json, json};

use super::{
    key::section,
    value::{FilePath, Raw, Span, Value},
};
use crate::{
    base::Timestamp,
    edge::matrix::keys::Pinned,
    session::server_list::ServerList,
    wire::matrix::{Glob, KeyId, OldKey, Place, PublicKey, server_name},
};

section! {
    /// This hub among other Matrix servers.
    "federation." Federation {
        /// Whether other servers are answered and asked.
        enabled: bool = "false", Restart;
        /// What /.well-known/matrix/server tells other servers to use, as "host:port"; unset, there is no such answer.
        well_known: Option<WellKnownServer> = "", Restart;
        /// Further roots, in PEM, for the certificates of other servers, beside those of the system.
        ca_file: Option<FilePath> = "", Restart;
        /// Whether other servers may be in private networks and on this machine.
        allow_private_addresses: bool = "false", Restart;
        /// An HTTP proxy for everything that goes to other servers, as "http://host:port". It decides which addresses a name may have.
        proxy: Option<Proxy> = "", Restart;
        /// With which servers this hub speaks, as patterns like "*.example"; unset, with all.
        allow: Option<Patterns> = "", Live;
        /// With which servers it does not, even if `allow` names them.
        deny: Option<Patterns> = "", Live;
        /// Whether other servers are shown the directory of rooms. Its rooms are joined and found by alias without that.
        share_directory: bool = "false", Live;
        /// Keys of servers whose own word for them is not taken: "server ed25519:id base64".
        pinned_keys: Option<PinnedKeys> = "", Restart;
        /// Servers that are asked for the keys of others that cannot be reached, and believed. What they say of servers that can be asked themselves does not count.
        notaries: Option<ServerNames> = "", Restart;
        /// Whether a server that tells of a room, or sends an event, is believed about the keys of servers that cannot be reached and were never heard of: it could make them up. Without that, such events are left out.
        believe_tellers: bool = "false", Restart;
        /// Keys that this hub signed with before, so that others can still check what it signed: "ed25519:id base64 ms", the last when it stopped, in milliseconds since 1970.
        old_keys: Option<OldKeys> = "", Restart;
        /// The same, a line each, as `tramline keys rotate` writes them; there need not be such a file.
        old_keys_file: FilePath = "keys/old_signing_keys", Restart;
        /// How long a server that takes nothing is left alone at most before it is tried again, from "2s" to "1d". It is tried at once when it asks for something.
        retry_max: RetryMax = "1h", Restart;
    }
}

impl Federation {
    /// The lists, as those who go by them take them.
    pub fn lists(&self) -> ServerList {
        ServerList {
            allow: self.allow.as_ref().map(|patterns| patterns.0.clone()),
            deny: self.deny.as_ref().map_or_else(Vec::new, |d| d.0.clone()),
        }
    }
}

/// Patterns over server names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(pub Vec<Glob>);

impl Value for Patterns {
    const KIND: &'static str = "list of patterns over server names";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let fix = |found: &str| {
            format!("{found:?} can match no server name; write names or patterns: [\"*.example\"]")
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]*?".contains(c);
        let patterns = raw.texts()?.into_iter().map(|text| {
            if text.is_empty() || !text.chars().all(is_plain) {
                return Err(fix(text));
            }
            Ok(Glob::new(text.to_ascii_lowercase()))
        });
        patterns.collect::<Result<_, _>>().map(Self)
    }

    fn json(&self) -> Json {
        json!(self.0.iter().map(Glob::as_str).collect::<Vec<_>>())
    }
}

/// Names of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNames(pub Vec<OwnedServerName>);

impl Value for ServerNames {
    const KIND: &'static str = "list of server names";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let names = raw.texts()?.into_iter().map(|text| {
            let fix = |error| format!("{text:?}: {error}; write names: [\"notary.example\"]");
            server_name(text).map_err(fix)
        });
        names.collect::<Result<_, _>>().map(Self)
    }

    fn json(&self) -> Json {
        json!(self.0.iter().map(|name| name.as_str()).collect::<Vec<_>>())
    }
}

/// What the well-known file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WellKnownServer(pub Place);

impl Value for WellKnownServer {
    const KIND: &'static str = "host and port";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        Place::parse(raw.text()?).map(Self).map_err(|error| {
            format!("{error}; write a host, and a port unless it is 8448: \"hub.example:443\"")
        })
    }

    fn json(&self) -> Json {
        json!(self.0.as_str())
    }
}

/// An HTTP proxy that takes CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy(pub Place);

impl Value for Proxy {
    const KIND: &'static str = "URL of an HTTP proxy";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let fix = "write \"http://host:port\"; it is not asked for a password";
        let text = raw.text()?.trim_end_matches('/');
        let place = text.strip_prefix("http://").ok_or(fix)?;
        Place::parse(place)
            .map(Self)
            .map_err(|error| format!("{error}; {fix}"))
    }

    fn json(&self) -> Json {
        json!(format!("http://{}", self.0))
    }
}

/// Keys of other servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedKeys(pub Pinned);

impl Value for PinnedKeys {
    const KIND: &'static str = "list of keys with their servers";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let mut keys = Pinned::new();
        for text in raw.texts()? {
            let fix = |wrong: String| {
                format!(
                    "{wrong}; write \"server ed25519:id base64\", as the server's operator gives it"
                )
            };
            let words: Vec<&str> = text.split_whitespace().collect();
            let [server, id, key] = words.as_slice() else {
                return Err(fix(format!("{text:?} has not three words")));
            };
            let server = server_name(server).map_err(|error| fix(error.to_string()))?;
            let (id, key) = key_of(id, key).map_err(fix)?;
            keys.entry(server).or_default().insert(id, key);
        }
        Ok(Self(keys))
    }

    fn json(&self) -> Json {
        let lines = self.0.iter().flat_map(|(server, keys)| {
            let line =
                move |(id, key): (&KeyId, &PublicKey)| format!("{server} {id} {}", key.base64());
            keys.iter().map(line)
        });
        json!(lines.collect::<Vec<_>>())
    }
}

/// Keys of this hub that are not used any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OldKeys(pub BTreeMap<KeyId, OldKey>);

impl Value for OldKeys {
    const KIND: &'static str = "list of keys with their ends";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        Self::of_lines(raw.texts()?)
    }

    fn json(&self) -> Json {
        let lines = self.0.iter().map(|(id, old)| Self::line(id, old));
        json!(lines.collect::<Vec<_>>())
    }
}

impl OldKeys {
    /// Reads them as they are written, each in a text of its own.
    pub fn of_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut keys = BTreeMap::new();
        for text in lines {
            let fix = |wrong: String| {
                format!(
                    "{wrong}; write \"ed25519:id base64 ms\", the key as /_matrix/key/v2/server \
                     showed it, and when it was replaced in milliseconds since 1970"
                )
            };
            let words: Vec<&str> = text.split_whitespace().collect();
            let [id, key, expired] = words.as_slice() else {
                return Err(fix(format!("{text:?} has not three words")));
            };
            let (id, public) = key_of(id, key).map_err(fix)?;
            let expired = expired.parse().ok().filter(|ms| *ms <= JSON_INTEGER_MAX);
            let expired = Timestamp(expired.ok_or_else(|| fix(format!("{text:?} has no end")))?);
            keys.insert(id, OldKey { public, expired });
        }
        Ok(Self(keys))
    }

    /// One of them as it is written.
    pub fn line(id: &KeyId, old: &OldKey) -> String {
        format!("{id} {} {}", old.public.base64(), old.expired.0)
    }
}

/// The longest wait before a server that takes nothing is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryMax(pub Duration);

impl Value for RetryMax {
    const KIND: &'static str = Span::KIND;

    fn read(raw: &Raw, dir: &Path) -> Result<Self, String> {
        let Span(wait) = Span::read(raw, dir)?;
        if (RETRY_MIN..=RETRY_MAX).contains(&wait) {
            return Ok(Self(wait));
        }
        let (from, to, found) = (Span(RETRY_MIN), Span(RETRY_MAX), Span(wait));
        Err(format!("not {found}; write a duration from {from} to {to}"))
    }

    fn json(&self) -> Json {
        Span(self.0).json()
    }
}

/// The first wait after a failure: none can be shorter.
const RETRY_MIN: Duration = Duration::from_secs(2);

/// What is older than a week is given up: tried once a day, a server has seven chances.
const RETRY_MAX: Duration = Duration::from_hours(24);

fn key_of(id: &str, key: &str) -> Result<(KeyId, PublicKey), String> {
    let id = id.parse::<KeyId>().map_err(|error| error.to_string())?;
    let key = key
        .parse::<PublicKey>()
        .map_err(|error| format!("the key {key:?}: {error}"))?;
    Ok((id, key))
}

/// The largest integer that Matrix's JSON has.
const JSON_INTEGER_MAX: u64 = (1 << 53) - 1;
