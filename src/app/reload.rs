//! SIGHUP: the configuration anew. All of it is taken, or none of it.
//!
//! Everything new is read and checked first; only then is anything changed. Keys that need a
//! restart are named and keep their old value until then.

use std::sync::{Arc, PoisonError, RwLock};

use super::{
    config::{self, Config, Inputs, Loaded, Reload, SERVER_NAME, Setting},
    failure::Failure,
    secrets::{self, Secret, SecretError},
    telemetry::Telemetry,
    tls::{self, Certificate, DtlsCertificate},
};
use crate::edge::matrix::Lists;

/// The secrets that are read again on a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Opens the admin listener.
    pub admin: Option<Secret>,
    /// Opens registration.
    pub registration: Option<Secret>,
    /// Lets a tool register anyone.
    pub shared_secret: Option<Secret>,
}

impl Tokens {
    /// Reads what the configuration names.
    pub fn read(config: &Config) -> Result<Self, Failure> {
        let about = |key: &'static str| {
            move |error: SecretError| Failure::usage(error.code(), format!("`{key}`: {error}"))
        };
        let (admin, registration) = (&config.admin, &config.registration);
        let admin_token = if admin.listen.addresses().is_empty() {
            None // nobody would ask for it
        } else {
            secrets::resolve(admin.token.as_ref(), admin.token_file.as_ref())
                .map_err(about("admin.token_file"))?
        };
        Ok(Self {
            admin: admin_token,
            registration: secrets::resolve(
                registration.token.as_ref(),
                registration.token_file.as_ref(),
            )
            .map_err(about("registration.token_file"))?,
            shared_secret: secrets::resolve(
                registration.shared_secret.as_ref(),
                registration.shared_secret_file.as_ref(),
            )
            .map_err(about("registration.shared_secret_file"))?,
        })
    }
}

/// Tokens that a reload may replace under those who use them.
pub type SharedTokens = Arc<RwLock<Tokens>>;

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new values count now.
    pub taken: Vec<&'static str>,
    /// Keys whose new values wait for a restart.
    pub waiting: Vec<&'static str>,
    /// The key whose new value is never taken, where it was changed.
    pub never: Option<&'static str>,
}

/// What a reload may replace under those who use it.
#[derive(Clone, Debug, Default)]
pub struct Replaceable {
    /// What the HTTPS door shows, if it is open.
    pub certificate: Option<Arc<Certificate>>,
    /// What the DTLS door shows, if it is open.
    pub dtls_certificate: Option<Arc<DtlsCertificate>>,
    /// Secrets.
    pub tokens: SharedTokens,
    /// With which servers this hub speaks, where it does with any.
    pub lists: Option<Arc<Lists>>,
    /// What operators are told of the settings.
    pub in_force: Arc<RwLock<Vec<Setting>>>,
}

/// Takes the configuration anew, as often as asked.
pub struct Reloader {
    inputs: Inputs,
    /// As the hub was started: what the keys that need a restart still say.
    started: Loaded,
    /// As of the last reload.
    current: Loaded,
    telemetry: Telemetry,
    taken: Replaceable,
}

impl Reloader {
    /// Begins with what the hub was started with.
    pub fn new(inputs: Inputs, loaded: Loaded, telemetry: Telemetry, taken: Replaceable) -> Self {
        Self {
            inputs,
            started: loaded.clone(),
            current: loaded,
            telemetry,
            taken,
        }
    }

    /// The configuration as of the last reload.
    pub const fn config(&self) -> &Config {
        &self.current.config
    }

    /// Takes the configuration anew, or says why it stays as it is.
    pub fn reload(&mut self) -> Result<Reloaded, Failure> {
        let newer = config::load(&self.inputs)?;
        let tokens = Tokens::read(&newer.config)?;
        let wrong = |error| Failure::usage("CERTIFICATE", error);
        let dtls = match &self.taken.dtls_certificate {
            Some(shown) => Some((shown, tls::for_dtls(&newer.config.coaps).map_err(wrong)?)),
            None => None,
        };
        // Last of what can fail, since it checks and takes in one step.
        if let Some(certificate) = &self.taken.certificate {
            certificate.reload(&newer.config.https).map_err(wrong)?;
        }
        if let Some((shown, certificate)) = dtls {
            shown.send_replace(certificate);
        }
        *self
            .taken
            .tokens
            .write()
            .unwrap_or_else(PoisonError::into_inner) = tokens;
        if let Some(lists) = &self.taken.lists {
            lists.replace(newer.config.federation.lists());
        }
        self.telemetry.set_level(&newer.config.log.level);
        let names = |keys: Vec<&'static config::Key>, class: Reload| {
            keys.into_iter()
                .filter(|key| key.reload == class)
                .map(|key| key.name)
                .collect()
        };
        let mut reloaded = Reloaded {
            taken: names(self.current.changed(&newer), Reload::Live),
            waiting: names(self.started.changed(&newer), Reload::Restart),
            never: None,
        };
        if let Some(at) = reloaded.waiting.iter().position(|key| *key == SERVER_NAME) {
            reloaded.never = Some(reloaded.waiting.remove(at));
        }
        self.current = newer;
        *self
            .taken
            .in_force
            .write()
            .unwrap_or_else(PoisonError::into_inner) =
            config::in_force(&self.started, &self.current);
        Ok(reloaded)
    }

    /// [`Reloader::reload`], with the outcome in the log.
    pub fn reload_and_log(&mut self) -> Result<Reloaded, Failure> {
        let outcome = self.reload();
        let lists = self.taken.lists.as_ref();
        let lists = lists.map(|lists| lists.version().to_string());
        if let Ok(Reloaded { never: Some(_), .. }) = &outcome {
            let name = self.started.config.server_name.as_str();
            tracing::error!(
                server_name = name,
                "`server_name` was changed, which no reload and no start takes: the store and other servers \
                 know this hub by its name; set it back, or the hub will not start again"
            );
        }
        match &outcome {
            Ok(Reloaded { taken, waiting, .. }) if waiting.is_empty() => {
                tracing::info!(?taken, lists, "reload accepted");
            }
            Ok(Reloaded { taken, waiting, .. }) => tracing::warn!(
                ?taken, lists, needs_restart = ?waiting,
                "reload accepted; what needs a restart keeps its old value until then"
            ),
            Err(failure) => {
                let failure = failure.to_string().replace('\n', "; "); // one line of the log
                tracing::error!(failure, lists, "reload rejected; nothing changed");
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn write(dir: &Path, text: &str) {
        let text = format!("server_name = \"hub.example\"\n{text}");
        fs::write(dir.join("tramline.toml"), text).unwrap();
    }

    fn reloader(dir: &Path) -> Reloader {
        let inputs = Inputs {
            file: Some(dir.join("tramline.toml")),
            options: vec!["admin.listen=off".to_owned()],
            ..Inputs::default()
        };
        let loaded = config::load(&inputs).unwrap();
        crate::base::test_log::Log::install(); // the log of this process belongs to the tests
        let telemetry = Telemetry::start(&loaded.config.log);
        let tokens = Arc::new(RwLock::new(Tokens::read(&loaded.config).unwrap()));
        let taken = Replaceable {
            tokens,
            ..Replaceable::default()
        };
        Reloader::new(inputs, loaded, telemetry, taken)
    }

    #[test]
    fn whatever_is_wrong_with_a_reload_is_one_line_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "");
        let mut reloader = reloader(dir.path());
        write(
            dir.path(),
            "limits.media_size = \"much\"\nlimits.shards = \"many\"",
        );

        crate::base::test_log::Log::begin();
        reloader.reload_and_log().unwrap_err();
        let log = crate::base::test_log::Log::text();

        let line = log.lines().find(|line| line.contains("reload rejected"));
        let line = line.unwrap_or_default();
        assert!(
            line.contains("limits.media_size") && line.contains("limits.shards"),
            "{log}"
        );
        assert!(!line.contains("\\n"), "{log}");
    }

    #[test]
    fn another_server_name_is_said_to_be_taken_never() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "");
        let mut reloader = reloader(dir.path());
        let other = "server_name = \"other.example\"\n";
        fs::write(dir.path().join("tramline.toml"), other).unwrap();

        crate::base::test_log::Log::begin();
        let outcome = reloader.reload_and_log().unwrap();
        let log = crate::base::test_log::Log::text();

        assert_eq!(outcome.never, Some("server_name"));
        assert!(outcome.waiting.is_empty());
        assert!(
            log.contains("no reload and no start takes") && log.contains("hub.example"),
            "{log}"
        );
    }

    #[test]
    fn a_live_key_is_taken_and_one_that_needs_a_restart_waits() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "");
        let mut reloader = reloader(dir.path());
        write(
            dir.path(),
            "limits.media_size = \"1MiB\"\nlimits.shards = 2\nregistration.token = \"open\"",
        );

        crate::base::test_log::Log::begin();
        let first = reloader.reload_and_log().unwrap();
        let log = crate::base::test_log::Log::text();
        let second = reloader.reload().unwrap();

        assert!(
            log.contains("WARN") && log.contains("needs_restart=[\"limits.shards\"]"),
            "{log}"
        );
        assert_eq!(first.waiting, ["limits.shards"]);
        assert!(first.taken.contains(&"limits.media_size"));
        assert_eq!(reloader.config().limits.media_size.0, 1 << 20);
        let told = reloader.taken.in_force.read().unwrap().clone();
        let told = |key: &str| told.iter().find(|one| one.key.name == key).cloned();
        assert_eq!(told("limits.media_size").unwrap().value, "1MiB");
        assert_ne!(told("limits.shards").unwrap().value, 2);
        assert!(told("registration.token").is_none(), "it is a secret");
        let tokens = reloader.taken.tokens.read().unwrap();
        assert!(tokens.registration.as_ref().unwrap().matches("open"));
        assert_eq!(second.taken, <[&str; 0]>::default());
        assert_eq!(second.waiting, ["limits.shards"]);
    }

    #[test]
    fn a_wrong_configuration_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "registration.token = \"old\"");
        let mut reloader = reloader(dir.path());
        write(
            dir.path(),
            "registration.token = \"new\"\nlimits.shards = 0",
        );

        let failure = reloader.reload().unwrap_err().to_string();

        assert!(failure.contains("`limits.shards`"), "{failure}");
        let tokens = reloader.taken.tokens.read().unwrap();
        assert!(tokens.registration.as_ref().unwrap().matches("old"));
    }

    #[test]
    fn a_reload_says_which_lists_are_in_force_and_keeps_the_old_ones_when_it_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "federation.deny = [\"evil.*\"]");
        let mut reloader = reloader(dir.path());
        let lists = Lists::new(reloader.config().federation.lists());
        reloader.taken.lists = Some(Arc::clone(&lists));
        let evil = ruma::server_name!("evil.example");
        crate::base::test_log::Log::begin();

        write(dir.path(), "federation.deny = [\"evil example\"]");
        reloader.reload_and_log().unwrap_err();
        assert!(lists.check(evil).is_err());
        write(dir.path(), "");
        reloader.reload_and_log().unwrap();

        assert!(lists.check(evil).is_ok());
        let log = crate::base::test_log::Log::text();
        let said = |what: &str, version: &str| {
            let mut lines = log.lines();
            lines.any(|line| line.contains(what) && line.contains(version))
        };
        assert!(said("reload rejected", "lists=\"1 ("), "{log}");
        assert!(said("reload accepted", "lists=\"2 ("), "{log}");
    }

    #[test]
    fn a_secret_file_is_read_again_though_its_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "old\n").unwrap();
        write(dir.path(), "registration.shared_secret_file = \"secret\"");
        let mut reloader = reloader(dir.path());
        fs::write(dir.path().join("secret"), "new\n").unwrap();

        reloader.reload().unwrap();

        let tokens = reloader.taken.tokens.read().unwrap();
        assert!(tokens.shared_secret.as_ref().unwrap().matches("new"));
    }

    #[test]
    fn the_dtls_door_shows_what_its_files_hold_now_and_never_what_it_cannot_use() {
        let dir = tempfile::tempdir().unwrap();
        let pair = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let made = rcgen::CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
            let made = made.self_signed(&key).unwrap();
            fs::write(dir.path().join("cert"), made.pem()).unwrap();
            fs::write(dir.path().join("key"), key.serialize_pem()).unwrap();
        };
        write(
            dir.path(),
            "coaps.cert_file = \"cert\"\ncoaps.key_file = \"key\"",
        );
        pair(&rcgen::PKCS_ECDSA_P256_SHA256);
        let mut reloader = reloader(dir.path());
        let first = tls::for_dtls(&reloader.config().coaps).unwrap();
        let shown = Arc::new(DtlsCertificate::new(first));
        let mut door = shown.subscribe();
        reloader.taken.dtls_certificate = Some(shown);

        pair(&rcgen::PKCS_ED25519);
        let failure = reloader.reload().unwrap_err().to_string();
        assert!(failure.contains("coaps.key_file"), "{failure}");
        assert!(!door.has_changed().unwrap());
        pair(&rcgen::PKCS_ECDSA_P256_SHA256);
        reloader.reload().unwrap();

        assert!(door.has_changed().unwrap());
        door.borrow_and_update().is_usable().unwrap();
    }
}
