//! The kinds of values a key takes: how each is read, and how it is shown again.
//!
//! Sizes and durations are strings with a unit ("64MiB", "30s") and nothing else: a bare number
//! is refused, because nobody remembers which unit it was.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};
use serde_json::{Value as Json, json};

use crate::app::secrets::Secret;

/// A value as it was written, before anyone knows its key.
#[derive(Clone, PartialEq)]
pub(super) enum Raw {
    /// A TOML string.
    Text(String),
    /// What stood behind `=` on the command line or in the environment, or a default.
    Word(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Flag(bool),
    /// A TOML array.
    List(Vec<Self>),
    /// Something no key takes; its TOML name.
    Other(&'static str),
}

impl Raw {
    /// What was found, for an error message about a key that is no secret.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) | Self::Word(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(items) => {
                let shown: Vec<_> = items.iter().take(SHOWN_MAX).map(Self::shown).collect();
                let more = if items.len() > SHOWN_MAX { ", …" } else { "" };
                format!("[{}{more}]", shown.join(", "))
            }
            Self::Other(kind) => format!("a {kind}"),
        }
    }

    /// Each of a list; what stands alone is a list of one, and words are parted by commas.
    pub(super) fn texts(&self) -> Result<Vec<&str>, String> {
        match self {
            Self::List(items) => {
                let texts = items.iter().enumerate();
                let texts = texts.map(|(at, item)| {
                    let wrong = |fix| format!("number {} of the list: {fix}", at + 1);
                    item.text().map_err(wrong)
                });
                texts.collect()
            }
            Self::Word(word) => Ok(word.split(',').map(str::trim).collect()),
            other => Ok(vec![other.text()?]),
        }
    }

    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Word(text) => Ok(text.trim()),
            Self::Integer(number) => Err(format!("write it in quotes: \"{number}\"")),
            _ => Err("write it as a string in quotes".to_owned()),
        }
    }
}

/// How many of a list an error message repeats.
const SHOWN_MAX: usize = 8;

/// A kind of value. An `Err` says how to write it right.
pub(super) trait Value: Sized {
    /// What it looks like, for people.
    const KIND: &'static str;
    /// Whether it must never be shown.
    const SECRET: bool = false;
    /// Whether it may be unset.
    const OPTIONAL: bool = false;

    /// Reads it; relative paths start at `dir`.
    fn read(raw: &Raw, dir: &Path) -> Result<Self, String>;

    /// Shows it as one would write it; null when it is unset.
    fn json(&self) -> Json;
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    const SECRET: bool = T::SECRET;
    const OPTIONAL: bool = true;

    fn read(raw: &Raw, dir: &Path) -> Result<Self, String> {
        if matches!(raw, Raw::Word(word) if word.is_empty()) {
            return Ok(None);
        }
        T::read(raw, dir).map(Some)
    }

    fn json(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::json)
    }
}

impl Value for bool {
    const KIND: &'static str = "true or false";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let flag = match raw {
            Raw::Flag(flag) => Some(*flag),
            Raw::Word(word) => word.trim().parse().ok(),
            _ => None,
        };
        flag.ok_or_else(|| "write true or false, without quotes".to_owned())
    }

    fn json(&self) -> Json {
        json!(self)
    }
}

impl Value for OwnedServerName {
    const KIND: &'static str = "server name";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let text = raw.text()?;
        ServerName::parse(text)
            .map_err(|error| format!("{error}; write a host name like \"hub.example\""))
    }

    fn json(&self) -> Json {
        json!(self.as_str())
    }
}

/// A path; relative ones start at the directory of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl AsRef<Path> for FilePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Value for FilePath {
    const KIND: &'static str = "path";

    fn read(raw: &Raw, dir: &Path) -> Result<Self, String> {
        let text = raw.text()?;
        if text.is_empty() {
            return Err("write a path".to_owned());
        }
        Ok(Self(dir.join(text)))
    }

    fn json(&self) -> Json {
        json!(self.0.to_string_lossy())
    }
}

impl Value for Secret {
    const KIND: &'static str = "secret string";
    const SECRET: bool = true;

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let text = raw.text()?;
        if text.is_empty() {
            return Err("it must not be empty".to_owned());
        }
        Ok(Self::new(text))
    }

    fn json(&self) -> Json {
        json!("(secret)")
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(Vec<SocketAddr>);

impl Listen {
    /// The addresses; none when it is off.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }

    fn address(text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| Self::fix(text))
    }

    /// A number is a port without its address, which quotes alone do not mend.
    fn text(raw: &Raw) -> Result<&str, String> {
        match raw {
            Raw::Integer(port) => Err(Self::fix(&port.to_string())),
            other => other.text(),
        }
    }

    /// How to write what was meant.
    fn fix(text: &str) -> String {
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            let whole = SocketAddr::from((address, 8448));
            return format!("write the port too: \"{whole}\"");
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let Ok(port) = port.parse::<u16>() else {
            return "write an IP address and a port: \"127.0.0.1:8448\", or \"off\"".to_owned();
        };
        let here = format!("\"127.0.0.1:{port}\"");
        match host {
            "" => format!(
                "write the address too, in quotes: {here} for this machine only, \
                 \"0.0.0.0:{port}\" for every address it has"
            ),
            "localhost" => format!("names are not looked up; write its address: {here}"),
            "*" => format!("write \"0.0.0.0:{port}\" for every address of this machine"),
            _ => format!(
                "{host:?} is not an IP address, and names are not looked up; write {here} for \
                 this machine only, \"0.0.0.0:{port}\" for every address it has, or one of them"
            ),
        }
    }
}

impl Value for Listen {
    const KIND: &'static str = "\"address:port\", a list of them, or \"off\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let texts: Vec<&str> = match raw {
            Raw::List(items) => items.iter().map(Self::text).collect::<Result<_, _>>()?,
            Raw::Word(word) => word.split(',').map(str::trim).collect(),
            other => vec![Self::text(other)?],
        };
        if texts.is_empty() {
            return Err("write \"off\" for no listener".to_owned());
        }
        if texts == ["off"] {
            return Ok(Self(Vec::new()));
        }
        texts
            .into_iter()
            .map(Self::address)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn json(&self) -> Json {
        match self.0.as_slice() {
            [] => json!("off"),
            [one] => json!(one),
            many => json!(many),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = largest_unit(SIZE_UNITS, self.0);
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Value for Size {
    const KIND: &'static str = "size with its unit";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let fix = || "write a whole number and B, KiB, MiB, GiB or TiB: \"64MiB\"".to_owned();
        let text = raw.text().map_err(|_| fix())?;
        with_unit(text, SIZE_UNITS).map(Self).ok_or_else(fix)
    }

    fn json(&self) -> Json {
        json!(self.to_string())
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// In milliseconds.
const SPAN_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) = largest_unit(SPAN_UNITS, ms);
        write!(f, "{}{unit}", ms / factor)
    }
}

impl Value for Span {
    const KIND: &'static str = "duration with its unit";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let fix = || "write a whole number and ms, s, m, h or d: \"30s\"".to_owned();
        let text = raw.text().map_err(|_| fix())?;
        let ms = with_unit(text, SPAN_UNITS).ok_or_else(fix)?;
        Ok(Self(Duration::from_millis(ms)))
    }

    fn json(&self) -> Json {
        json!(self.to_string())
    }
}

/// So many per so long, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many.
    pub count: NonZeroU32,
    /// In how long.
    pub per: Duration,
    /// How many at once.
    pub burst: NonZeroU32,
}

/// A rate limit: a pace, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub Option<Pace>);

impl Rate {
    fn pace(text: &str) -> Option<Pace> {
        let (steady, burst) = match text.split_once(" burst ") {
            Some((steady, burst)) => (steady, Some(burst.trim().parse().ok()?)),
            None => (text, None),
        };
        let (count, unit) = steady.split_once('/')?;
        let count = count.trim().parse().ok()?;
        let per = match unit.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return None,
        };
        let burst = burst.unwrap_or(count);
        Some(Pace { count, per, burst })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pace) = self.0 else {
            return f.write_str("off");
        };
        let unit = match pace.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit} burst {}", pace.count, pace.burst)
    }
}

impl Value for Rate {
    const KIND: &'static str = "rate, or \"off\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let fix = || {
            "write a number per s, m or h, and what may come at once: \"10/s burst 50\", or \"off\""
                .to_owned()
        };
        match raw.text().map_err(|_| fix())? {
            "off" => Ok(Self(None)),
            text => Self::pace(text)
                .map(|pace| Self(Some(pace)))
                .ok_or_else(fix),
        }
    }

    fn json(&self) -> Json {
        json!(self.to_string())
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Value for Count<MIN, MAX> {
    const KIND: &'static str = "whole number";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let number = match raw {
            Raw::Integer(number) => Some(*number),
            Raw::Word(word) => word.parse().ok(),
            _ => None,
        };
        let beyond = match number {
            Some(number) if number > i64::from(MAX) => format!("not above {MAX}; "),
            Some(number) if number < i64::from(MIN) => format!("not below {MIN}; "),
            _ => String::new(),
        };
        number
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Self)
            .ok_or_else(|| {
                format!("{beyond}write a whole number from {MIN} to {MAX}, without quotes")
            })
    }

    fn json(&self) -> Json {
        json!(self.0)
    }
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// An `SQLite` database in this file.
    Sqlite(PathBuf),
}

impl Value for StoreUrl {
    const KIND: &'static str = "store URL";

    fn read(raw: &Raw, dir: &Path) -> Result<Self, String> {
        let text = raw.text()?;
        if text.starts_with("postgres") {
            return Err(format!(
                "Postgres is not in this release ({}); use \"sqlite:store/tramline.db\"",
                env!("CARGO_PKG_VERSION")
            ));
        }
        match text.strip_prefix("sqlite:") {
            Some("" | "//" | ":memory:" | "//:memory:") | None => {
                Err("write \"sqlite:\" and the path of a file: \"sqlite:store/tramline.db\"".into())
            }
            // «sqlite:///a» is the usual spelling of an absolute path, «sqlite://a» of a relative one.
            Some(path) => Ok(Self::Sqlite(
                dir.join(path.strip_prefix("//").unwrap_or(path)),
            )),
        }
    }

    fn json(&self) -> Json {
        let Self::Sqlite(path) = self;
        json!(format!("sqlite:{}", path.display()))
    }
}

/// An `https:` or `http:` URL without path, as `.well-known` files name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(pub String);

impl Value for BaseUrl {
    const KIND: &'static str = "URL";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let text = raw.text()?.trim_end_matches('/');
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        match rest.map(str::parse::<http::uri::Authority>) {
            Some(Ok(_)) => Ok(Self(text.to_owned())),
            _ => Err("write a URL without a path: \"https://matrix.hub.example\"".to_owned()),
        }
    }

    fn json(&self) -> Json {
        json!(self.0)
    }
}

/// Declares a choice between fixed words.
macro_rules! choice {
    ($(#[doc = $about:literal])* $Name:ident, $kind:literal, $fix:literal {
        $($(#[doc = $doc:literal])* $Variant:ident = $word:literal,)*
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Name { $($(#[doc = $doc])* $Variant,)* }

        impl Value for $Name {
            const KIND: &'static str = $kind;

            fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
                match raw.text() {
                    $(Ok($word) => Ok(Self::$Variant),)*
                    _ => Err($fix.to_owned()),
                }
            }

            fn json(&self) -> Json {
                match self { $(Self::$Variant => json!($word),)* }
            }
        }
    };
}

choice! {
    /// Who may speak CoAP without security.
    PlainCoap, "\"off\", \"loopback\" or \"any\"", "write \"off\", \"loopback\" or \"any\"" {
        /// Nobody.
        Off = "off",
        /// Peers on this machine.
        Loopback = "loopback",
        /// Everyone: their passwords and messages cross the network in clear.
        Any = "any",
    }
}

choice! {
    /// How log lines look.
    LogFormat, "\"text\" or \"json\"", "write \"text\" or \"json\"" {
        /// For people.
        Text = "text",
        /// One object per line.
        Json = "json",
    }
}

/// Which log lines are written: a level, or `tracing` directives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(pub String);

impl Value for LogFilter {
    const KIND: &'static str = "level or filter";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let fix = "write error, warn, info, debug or trace, or directives like \"info,tramline::edge=debug\"";
        let text = raw.text().map_err(|_| fix.to_owned())?;
        // A single word that is no level would be taken for a module's name and silence the log.
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let known = text.split(',').all(|directive| {
            let level = directive.rsplit('=').next().unwrap_or(directive).trim();
            levels.contains(&level.to_ascii_lowercase().as_str())
        });
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if known => Ok(Self(text.to_owned())),
            _ => Err(fix.to_owned()),
        }
    }

    fn json(&self) -> Json {
        json!(self.0)
    }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that divides `amount`, so that what is shown reads back as the same.
fn largest_unit(units: &[(&'static str, u64)], amount: u64) -> (&'static str, u64) {
    let fits = |(_, factor): &&(&str, u64)| amount > 0 && amount.is_multiple_of(*factor);
    let smallest = units.last().copied().unwrap_or(("", 1));
    units.iter().find(fits).copied().unwrap_or(smallest)
}
