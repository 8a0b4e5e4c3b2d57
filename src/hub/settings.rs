//! What the operator decided, as the hub sees it. `app::config` makes it.

use std::time::Duration;

use super::outbox::PATIENCE;
use crate::room::PolicyRules;

/// Settings of a hub.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may make an account.
    pub registration: RegistrationRules,
    /// Ceilings.
    pub limits: Limits,
    /// How many room shards decide side by side.
    pub shards: usize,
    /// By what this hub vouches for events, where it is asked to.
    pub policy: PolicyRules,
    /// Whether other servers are shown the directory.
    pub share_directory: bool,
    /// How other servers are told things.
    pub outbox: OutboxSettings,
    /// Whether users see who is there, here and on other servers. Taken when the hub starts.
    pub presence: bool,
}

/// How other servers are told things. Taken when the hub starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxSettings {
    /// Whether they are.
    pub enabled: bool,
    /// How long a server that takes nothing is left alone at first; twice as long each time.
    pub retry_first: Duration,
    /// How long it is left alone at most.
    pub retry_max: Duration,
    /// How long it may take for a transaction.
    pub patience: Duration,
    /// When it has taken nothing for so long, what is older than that is given up.
    pub expires_after: Duration,
}

impl Default for OutboxSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            retry_first: Duration::from_secs(2),
            retry_max: Duration::from_hours(1),
            patience: PATIENCE,
            expires_after: Duration::from_hours(24 * 7),
        }
    }
}

/// Who may make an account. Closed when neither is set.
#[derive(Clone, Default)]
pub struct RegistrationRules {
    /// Whoever knows this token (`m.login.registration_token`).
    pub token: Option<String>,
    /// Whoever knows this secret (`/_synapse/admin/v1/register`).
    pub shared_secret: Option<String>,
}

impl std::fmt::Debug for RegistrationRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistrationRules(…)") // secrets stay out of logs
    }
}

/// A number of things per time: a bucket of `burst`, refilled at `per_second`. Zero in either means
/// that nothing is limited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// How many refill each second.
    pub per_second: f64,
    /// How many may come at once.
    pub burst: u32,
}

/// Ceilings an operator may move.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Failed and successful logins per address.
    pub login_per_address: Quota,
    /// Logins per account.
    pub login_per_account: Quota,
    /// Registrations per address.
    pub register_per_address: Quota,
    /// Requests that make events, per account.
    pub events_per_account: Quota,
    /// Requests of any other kind per account.
    pub requests_per_account: Quota,
    /// How many password hashes are computed at once; each takes 19 MiB.
    pub password_hashes_at_once: usize,
    /// The largest file, in bytes.
    pub media_bytes_max: u64,
    /// All files of one account, in bytes.
    pub media_bytes_per_account: u64,
    /// The longest a sync waits.
    pub sync_wait_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registration: RegistrationRules::default(),
            limits: Limits::default(),
            shards: 4,
            policy: PolicyRules::default(),
            share_directory: false,
            outbox: OutboxSettings::default(),
            presence: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_per_address: Quota {
                per_second: 0.2,
                burst: 10,
            },
            login_per_account: Quota {
                per_second: 0.1,
                burst: 10,
            },
            register_per_address: Quota {
                per_second: 0.1,
                burst: 5,
            },
            events_per_account: Quota {
                per_second: 20.0,
                burst: 200,
            },
            requests_per_account: Quota {
                per_second: 50.0,
                burst: 500,
            },
            password_hashes_at_once: 2,
            media_bytes_max: 50 * 1024 * 1024,
            media_bytes_per_account: 1024 * 1024 * 1024,
            sync_wait_max: Duration::from_mins(2),
        }
    }
}
