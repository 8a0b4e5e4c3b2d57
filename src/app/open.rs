//! A store opened by this process alone, and the hub on it.

use std::{
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ruma::OwnedServerName;

use super::{
    backup,
    clock::{self, SystemClock},
    config::{self, Config, Inputs, Rate, StoreUrl},
    failure::Failure,
    in_force::InForce,
    init::shell_word,
    keys::{self, SigningKey},
    operations::Operations,
    operator::Operator,
    reload::{SharedTokens, Tokens},
    run::Material,
};
use crate::{
    api::{Nobody, Remote},
    edge::credential_file::HubFacts,
    hub::{Hub, HubParts, Limits, OutboxSettings, Quota, RegistrationRules, Settings},
    store::{
        OpenError, SharedStore, SigningKeyNote,
        media::MediaFiles,
        sqlite::{Copied, OpenOptions, Sqlite},
    },
};

/// A hub and the store under it.
pub struct OpenHub {
    /// The hub.
    pub hub: Arc<Hub>,
    store: Arc<Sqlite>,
    server_name: OwnedServerName,
}

/// Makes the store of a new hub, readable by its owner only.
pub async fn create(file: &Path) -> Result<(), Failure> {
    let inputs = Inputs::of_process(Some(file.to_owned()), Vec::new());
    let config = config::load(&inputs)?.config;
    let path = store_file(&config);
    let wrong = |error| Failure::failed("STORE", format!("{}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(&path).map_err(wrong)?;
    let key = SigningKey::read(config.signing_key_file.as_ref())?;
    open(&config, Some(key.note())).await?.close().await;
    Ok(())
}

/// Opens the store that a configuration names; nobody else may have it.
///
/// One that is not there is not made: a disk that is not mounted must not look like an empty hub.
pub async fn store(config: &Config, key: Option<SigningKeyNote>) -> Result<Sqlite, Failure> {
    must_be_there(config)?;
    open(config, key).await
}

/// The store as it stands now, for reading only, also beside a hub that runs.
pub async fn snapshot(config: &Config) -> Result<Sqlite, Failure> {
    must_be_there(config)?;
    let opened = match options(config) {
        Ok(options) => Sqlite::snapshot(&options).await,
        Err(error) => Err(error),
    };
    opened.map_err(|error| not_opened(config, &error))
}

/// Whether the store is this hub's, and of this key; looks at a snapshot and changes nothing.
pub async fn is_owned(config: &Config, key: SigningKeyNote) -> Result<(), NotOwned> {
    must_be_there(config).map_err(NotOwned::other)?;
    let retired = retired(config).map_err(NotOwned::other)?;
    let opened = match options(config) {
        Ok(options) => Sqlite::snapshot(&options.signing_key(key).retired_keys(retired)).await,
        Err(error) => Err(error),
    };
    let store = opened.map_err(|error| NotOwned {
        failure: not_opened(config, &error),
        mend: mend(config, &error),
    })?;
    store.close().await;
    Ok(())
}

/// Why a store is not this hub's.
#[derive(Debug)]
pub struct NotOwned {
    /// Why not.
    pub failure: Failure,
    /// What mends it, where there is more to say than of any store.
    pub mend: Option<String>,
}

impl NotOwned {
    fn other(failure: Failure) -> Self {
        Self {
            failure,
            mend: None,
        }
    }
}

/// Refuses what is no store of this program's before anything is written, keys of a hub included.
pub async fn refuse_foreign(config: &Config) -> Result<(), Failure> {
    let looked_at = match options(config) {
        Ok(options) => Sqlite::refuse_foreign(&options).await,
        Err(error) => Err(error),
    };
    looked_at.map_err(|error| not_opened(config, &error))
}

/// Copies the store as it stands now, also beside a hub that runs.
pub(super) async fn copy(config: &Config, to: &Path) -> Result<Copied, Failure> {
    must_be_there(config)?;
    let copied = match options(config) {
        Ok(options) => Sqlite::copy(&options, to).await,
        Err(error) => Err(error),
    };
    copied.map_err(|error| not_opened(config, &error))
}

/// How large the store is now, without what is not folded into it yet.
pub(super) fn store_bytes(config: &Config) -> u64 {
    std::fs::metadata(store_file(config)).map_or(0, |found| found.len())
}

fn must_be_there(config: &Config) -> Result<(), Failure> {
    let path = store_file(config);
    let there = std::fs::metadata(&path).is_ok_and(|found| found.len() > 0);
    if !there {
        let reason = format!(
            "no store at {}: restore it, or make a new hub with `tramline init`",
            path.display()
        );
        return Err(Failure::store("STORE_MISSING", reason));
    }
    Ok(())
}

/// The database file, without the parameter that its name may carry.
pub(super) fn store_file(config: &Config) -> PathBuf {
    let StoreUrl::Sqlite(path) = &config.store.url;
    let text = path.to_string_lossy();
    PathBuf::from(text.split('?').next().unwrap_or_default())
}

async fn open(config: &Config, key: Option<SigningKeyNote>) -> Result<Sqlite, Failure> {
    let retired = retired(config)?;
    let opened = match options(config) {
        Ok(options) => {
            Sqlite::open(match key {
                Some(key) => options.signing_key(key).retired_keys(retired),
                None => options,
            })
            .await
        }
        Err(error) => Err(error),
    };
    opened.map_err(|error| not_opened(config, &error))
}

/// The keys that the hub publishes as those it signed with before.
fn retired(config: &Config) -> Result<Vec<SigningKeyNote>, Failure> {
    let keys = keys::old(&config.federation)?.into_iter();
    let notes = keys.map(|(id, old)| SigningKeyNote {
        id: id.to_string(),
        public: old.public.0,
    });
    Ok(notes.collect())
}

fn options(config: &Config) -> Result<OpenOptions, OpenError> {
    let StoreUrl::Sqlite(path) = &config.store.url;
    // The path may carry a parameter for the power-cut test; see `OpenOptions::from_url`.
    let url = format!("sqlite:{}", path.display());
    OpenOptions::from_url(&url, Path::new(""), config.server_name.clone())
}

fn not_opened(config: &Config, error: &OpenError) -> Failure {
    match error {
        OpenError::Locked { .. } => Failure::store("STORE_LOCKED", error),
        OpenError::Format { .. } => {
            let store = store_file(config);
            Failure::store("STORE_FORMAT", format!("{}: {error}", store.display()))
        }
        OpenError::Backup => {
            let (store, mend) = (store_file(config), restore_of(config));
            let reason = format!("{}: {error}: `{mend}`", store.display());
            Failure::store("STORE_FORMAT", reason)
        }
        OpenError::OtherServer { found, .. } => {
            let reason = format!(
                "{}: {error}: {}",
                store_file(config).display(),
                name_back(found)
            );
            Failure::store("STORE_OF_ANOTHER_SERVER", reason)
        }
        OpenError::OtherKey { expected, found } => {
            let file: &Path = config.signing_key_file.as_ref();
            let (file, store) = (file.display(), store_file(config));
            let store = store.display();
            let reason = format!(
                "{file} holds the signing key {found}, but the hub of {store} signs with \
                 {expected}: with another key, nobody could tell that it is still the same hub. \
                 Put the file with {expected} back (it is in your backup of `keys`), or name it in \
                 `signing_key_file`. To change the key on purpose, use `tramline keys rotate`, or \
                 publish the old one in `federation.old_keys`"
            );
            Failure::store("STORE_OF_ANOTHER_KEY", reason)
        }
        OpenError::Store(_) => Failure::failed("STORE", with_causes(error)),
    }
}

/// What mends a store that cannot be opened, where that is known.
fn mend(config: &Config, error: &OpenError) -> Option<String> {
    match error {
        OpenError::Backup => Some(restore_of(config)),
        OpenError::OtherServer { found, .. } => Some(name_back(found)),
        OpenError::Locked { .. }
        | OpenError::Format { .. }
        | OpenError::OtherKey { .. }
        | OpenError::Store(_) => None,
    }
}

/// The command that makes a hub of the backup in which a configuration is.
fn restore_of(config: &Config) -> String {
    let store = store_file(config);
    let mut dirs = store.ancestors().skip(1);
    let backup = dirs.find(|dir| dir.join(backup::MANIFEST).exists());
    let backup = match backup {
        Some(dir) if dir.as_os_str().is_empty() => ".".to_owned(),
        Some(dir) => shell_word(&dir.to_string_lossy()),
        None => "BACKUP".to_owned(),
    };
    format!("tramline restore {backup} --dir NEW-DIRECTORY")
}

fn name_back(found: &str) -> String {
    format!(
        "set `server_name` back to \"{found}\" (a hub keeps its name), or name the store of the hub that is \
         meant in `store.url`"
    )
}

/// The same, from a configuration file.
pub async fn store_of(file: &Path) -> Result<Sqlite, Failure> {
    let inputs = Inputs::of_process(Some(file.to_owned()), Vec::new());
    store(&config::load(&inputs)?.config, None).await
}

impl OpenHub {
    /// Opens the store and starts a hub on it, which speaks with nobody else.
    pub async fn open(config: &Config, material: &Material) -> Result<Self, Failure> {
        Self::open_among(config, material, Arc::new(Nobody)).await
    }

    /// Opens the store and starts a hub on it, among other servers.
    pub async fn open_among(
        config: &Config,
        material: &Material,
        remote: Arc<dyn Remote>,
    ) -> Result<Self, Failure> {
        let key = SigningKeyNote {
            id: material.signing_key.id(),
            public: material.signing_key.public(),
        };
        let sqlite = Arc::new(store(config, Some(key)).await?);
        let media_dir: &Path = config.store.media_dir.as_ref();
        let media = MediaFiles::new(media_dir).await.map_err(|error| {
            Failure::failed("MEDIA_DIR", format!("{}: {error}", media_dir.display()))
        })?;
        let hub = Hub::start(HubParts {
            store: Arc::clone(&sqlite) as SharedStore,
            media,
            key: Arc::clone(&material.signing_key),
            clock: Arc::new(SystemClock::new()),
            rng: Box::new(clock::rng()),
            settings: settings(config, &material.tokens),
            edhoc_public_x: material.edhoc_key.public_x(),
            policy_key: material.policy_key.clone(),
            remote,
        })
        .await
        .map_err(|error| Failure::failed("STORE", with_causes(&error)))?;
        Ok(Self {
            hub,
            store: sqlite,
            server_name: config.server_name.clone(),
        })
    }

    /// What operators meet through the socket of a hub that runs.
    pub fn running(&self, facts: Arc<HubFacts>, in_force: InForce) -> Arc<dyn Operator> {
        Arc::new(self.operations(facts, Some(in_force)))
    }

    /// What an operator meets who has the store to himself.
    pub fn alone(&self, facts: Arc<HubFacts>) -> Operations {
        self.operations(facts, None)
    }

    /// Takes the settings that a reload may change.
    pub fn apply(&self, config: &Config, tokens: &SharedTokens) {
        self.hub.reconfigure(settings(config, tokens));
    }

    /// Tells everyone who waits for news that there will be none.
    pub fn stop_waiting(&self) {
        self.hub.stop_waiting();
    }

    /// Finishes what was taken, then closes the store.
    pub async fn close(self) {
        self.hub.drain().await;
        drop(self.hub);
        if let Ok(store) = Arc::try_unwrap(self.store) {
            store.close().await;
        } else {
            // Some request outlived its door. What it was told is stored; the rest is not owed.
            tracing::warn!("the store is still being read; leaving it as it is");
        }
    }

    fn operations(&self, facts: Arc<HubFacts>, in_force: Option<InForce>) -> Operations {
        Operations {
            facts,
            in_force,
            hub: Arc::clone(&self.hub),
            server_name: self.server_name.clone(),
        }
    }
}

fn settings(config: &Config, tokens: &SharedTokens) -> Settings {
    let Tokens {
        registration,
        shared_secret,
        ..
    } = tokens
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let limits = &config.limits;
    Settings {
        registration: RegistrationRules {
            token: registration.map(|token| token.reveal().to_owned()),
            shared_secret: shared_secret.map(|secret| secret.reveal().to_owned()),
        },
        limits: Limits {
            login_per_address: quota(limits.login_per_address),
            login_per_account: quota(limits.login_per_account),
            register_per_address: quota(limits.register_per_address),
            events_per_account: quota(limits.messages_per_account),
            requests_per_account: quota(limits.requests_per_account),
            password_hashes_at_once: limits.password_checks.0 as usize,
            media_bytes_max: limits.media_size.0,
            media_bytes_per_account: limits.media_quota.0,
            ..Limits::default()
        },
        shards: limits.shards.0 as usize,
        policy: config.policy.rules(),
        share_directory: config.federation.share_directory,
        outbox: OutboxSettings {
            enabled: config.federation.enabled,
            retry_max: config.federation.retry_max.0,
            ..OutboxSettings::default()
        },
        presence: config.presence.enabled,
    }
}

fn quota(Rate(pace): Rate) -> Quota {
    pace.map_or(
        Quota {
            per_second: 0.0,
            burst: 0,
        },
        |pace| Quota {
            per_second: f64::from(pace.count.get()) / pace.per.as_secs_f64(),
            burst: pace.burst.get(),
        },
    )
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|error| Failure::failed("STORE_DIR", format!("{}: {error}", dir.display())))
}

/// An error and what caused it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
