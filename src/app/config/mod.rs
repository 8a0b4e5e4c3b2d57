//! The configuration: defaults < file < `TRAMLINE_SECTION__KEY` < `-O section.key=value`.
//!
//! One file per section declares its keys; `key` holds the form they are declared in, `value` the
//! kinds of values, `read` the layers, `show` everything that prints keys. Nothing here opens
//! what the settings name.

mod admin;
mod coap;
mod coaps;
mod error;
mod federation;
mod https;
mod identity;
mod key;
mod limits;
mod log;
mod nearest;
mod policy;
mod presence;
mod public;
mod quic;
mod read;
mod registration;
mod running;
mod show;
mod store;
mod value;
mod wake;

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ruma::OwnedServerName;

pub use admin::Admin;
pub use coap::Coap;
pub use coaps::Coaps;
pub use error::{ConfigError, ConfigErrors, Source};
pub use federation::{Federation, OldKeys};
pub use https::Https;
pub use identity::Identity;
pub use key::{Key, Reload, Section};
pub use limits::Limits;
pub use log::Log;
pub use policy::Policy;
pub use presence::Presence;
pub use public::PublicAddress;
pub use quic::Quic;
pub use read::{Inputs, Setting};
pub use registration::Registration;
pub use running::{SERVER_NAME, Told, in_force, socket};
pub use show::{as_json, as_markdown, as_text, file_for};
pub use store::Store;
pub use value::{
    BaseUrl, Count, FilePath, Listen, LogFilter, LogFormat, Pace, PlainCoap, Rate, Size, Span,
    StoreUrl,
};

pub use wake::Wake;

use self::read::Reader;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The hub's name: the part behind the colon of its users' ids.
    pub server_name: OwnedServerName,
    /// The key that signs the hub's events.
    pub signing_key_file: FilePath,
    /// The key by which linked devices know the hub.
    pub edhoc_key_file: FilePath,
    /// Where everything is kept.
    pub store: Store,
    /// The door for ordinary clients.
    pub https: Https,
    /// The door for constrained clients.
    pub coap: Coap,
    /// The same, secured.
    pub coaps: Coaps,
    /// The door for linked devices that stay connected.
    pub quic: Quic,
    /// How sleeping devices are knocked at.
    pub wake: Wake,
    /// This hub among other Matrix servers.
    pub federation: Federation,
    /// `[policy]`.
    pub policy: Policy,
    /// `[presence]`.
    pub presence: Presence,
    /// The door for the operator.
    pub admin: Admin,
    /// Who may make an account.
    pub registration: Registration,
    /// Ceilings that an operator may move.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: Log,
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every key with its value and its source, in the order of the tables.
    pub settings: Vec<Setting>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What is configured here otherwise than the hub that runs has it, whose values count above.
    pub otherwise: Vec<Setting>,
    /// What counts above as it is configured here, though the hub that runs has another value, which
    /// is too long to be told.
    pub untold: Vec<&'static Key>,
    /// What the hub that runs would have after its next start, where that is known.
    pub next: Option<Box<Config>>,
    /// What is wrong with that.
    pub blocked: Blocked,
}

/// Whether the hub that runs can take what is configured here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    /// It takes no reload of it.
    pub reload: bool,
    /// It would not start with it.
    pub start: bool,
}

impl Loaded {
    /// The keys whose values differ in `newer`. Secrets compare equal: they are read on use.
    pub fn changed(&self, newer: &Self) -> Vec<&'static Key> {
        self.settings
            .iter()
            .zip(&newer.settings)
            .filter(|(old, new)| old.value != new.value)
            .map(|(old, _)| old.key)
            .collect()
    }
}

/// Every section, in the order in which they are shown.
pub fn sections() -> impl Iterator<Item = Section> {
    let section = |name, about, keys| Section { name, about, keys };
    [
        section("", Identity::ABOUT, Identity::KEYS),
        section("store", Store::ABOUT, Store::KEYS),
        section("https", Https::ABOUT, Https::KEYS),
        section("coap", Coap::ABOUT, Coap::KEYS),
        section("coaps", Coaps::ABOUT, Coaps::KEYS),
        section("quic", Quic::ABOUT, Quic::KEYS),
        section("wake", Wake::ABOUT, Wake::KEYS),
        section("federation", Federation::ABOUT, Federation::KEYS),
        section("policy", Policy::ABOUT, Policy::KEYS),
        section("presence", Presence::ABOUT, Presence::KEYS),
        section("admin", Admin::ABOUT, Admin::KEYS),
        section("registration", Registration::ABOUT, Registration::KEYS),
        section("limits", Limits::ABOUT, Limits::KEYS),
        section("log", Log::ABOUT, Log::KEYS),
    ]
    .into_iter()
}

/// Reads all layers and checks them; an error tells everything that is wrong at once.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigErrors> {
    load_over(inputs, &[])
}

/// The same with what the hub that runs has otherwise: stronger than file and environment, and weaker
/// than what this command line says.
fn load_over(inputs: &Inputs, running: &[Setting]) -> Result<Loaded, ConfigErrors> {
    let (path, named) = inputs.path();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(ConfigErrors(vec![ConfigError::Unreadable { path, source }])),
    };
    let dir = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
    let mut reader = Reader::new(&dir);
    if let Some(text) = &text {
        reader
            .add_file(&path, text)
            .map_err(|error| ConfigErrors(vec![error]))?;
    }
    reader.add_env(&inputs.env);
    reader.add_running(running);
    reader.add_options(&inputs.options);
    let is_read = text.is_some();
    match checked(reader) {
        Ok(loaded) => Ok(Loaded {
            file: is_read.then_some(path),
            ..loaded
        }),
        Err(ConfigErrors(errors)) if !is_read => {
            let errors = errors.into_iter().map(|error| without_file(error, &path));
            Err(ConfigErrors(errors.collect()))
        }
        Err(errors) => Err(errors),
    }
}

/// What the hub that runs tells and this command line says, where file and environment cannot be
/// gone by.
fn load_told(inputs: &Inputs, running: &[Setting]) -> Result<Loaded, ConfigErrors> {
    let (path, _) = inputs.path();
    let dir = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
    let mut reader = Reader::new(&dir);
    reader.add_running(running);
    reader.add_options(&inputs.options);
    checked(reader)
}

fn checked(mut reader: Reader<'_>) -> Result<Loaded, ConfigErrors> {
    let config = read_sections(&mut reader);
    if let Some(config) = &config {
        check_secrets(&mut reader);
        check_addresses(config, &mut reader);
    }
    match config {
        Some(config) if reader.errors.is_empty() => Ok(Loaded {
            config,
            settings: reader.settings,
            file: None,
            otherwise: Vec::new(),
            untold: Vec::new(),
            next: None,
            blocked: Blocked::default(),
        }),
        _ => Err(ConfigErrors(reader.errors)),
    }
}

/// Who has no configuration at all is not helped by the name of its first key.
fn without_file(error: ConfigError, path: &Path) -> ConfigError {
    match error {
        ConfigError::Missing {
            key: "server_name", ..
        } => ConfigError::NotFound {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        },
        other => other,
    }
}

/// Every section is read before the first missing one ends it: all errors show in one run.
fn read_sections(reader: &mut Reader<'_>) -> Option<Config> {
    let identity = Identity::read(reader);
    let store = Store::read(reader);
    let https = Https::read(reader);
    let coap = Coap::read(reader);
    let coaps = Coaps::read(reader);
    let quic = Quic::read(reader);
    let wake = Wake::read(reader);
    let federation = Federation::read(reader);
    let policy = Policy::read(reader);
    let presence = Presence::read(reader);
    let admin = Admin::read(reader);
    let registration = Registration::read(reader);
    let limits = Limits::read(reader);
    let log = Log::read(reader);
    let identity = identity?;
    Some(Config {
        server_name: identity.server_name,
        signing_key_file: identity.signing_key_file,
        edhoc_key_file: identity.edhoc_key_file,
        store: store?,
        https: https?,
        coap: coap?,
        coaps: coaps?,
        quic: quic?,
        wake: wake?,
        federation: federation?,
        policy: policy?,
        presence: presence?,
        admin: admin?,
        registration: registration?,
        limits: limits?,
        log: log?,
    })
}

/// A secret comes from one place, so that nobody changes the one that is not used. What a running hub
/// has is no such place: it tells its files and not its secrets, and nobody wrote both.
fn check_secrets(reader: &mut Reader<'_>) {
    let is_written = |source: &Source| !matches!(source, Source::Default | Source::Running(_));
    for (key, other) in [
        ("admin.token", "admin.token_file"),
        ("registration.token", "registration.token_file"),
        (
            "registration.shared_secret",
            "registration.shared_secret_file",
        ),
    ] {
        let at = reader.source(key);
        if is_written(&at) && is_written(&reader.source(other)) {
            reader.errors.push(ConfigError::Conflict {
                key,
                other,
                at,
                fix: "remove one of them".to_owned(),
            });
        }
    }
}

/// Two listeners of one protocol cannot share an address; the operating system's words for that
/// name neither.
fn check_addresses(config: &Config, reader: &mut Reader<'_>) {
    let (https, admin) = (&config.https.listen, &config.admin.listen);
    check_pair(
        reader,
        ("admin.listen", admin.addresses()),
        ("https.listen", https.addresses()),
    );
    let (coap, coaps) = (config.coap.addresses(), &config.coaps.listen);
    check_pair(
        reader,
        ("coaps.listen", coaps.addresses()),
        ("coap.listen", coap),
    );
    let quic = config.quic.listen.addresses();
    for other in [("coap.listen", coap), ("coaps.listen", coaps.addresses())] {
        check_pair(reader, ("quic.listen", quic), other);
    }
}

type Named<'a> = (&'static str, &'a [SocketAddr]);

fn check_pair(reader: &mut Reader<'_>, (key, addresses): Named<'_>, (other, taken): Named<'_>) {
    for address in addresses {
        if address.port() != 0 && taken.contains(address) {
            reader.errors.push(ConfigError::Conflict {
                key,
                other,
                at: reader.source(key),
                fix: format!("both say {address}; give one another port"),
            });
        }
    }
}
