//! What is kept of how users here vouch for devices and for each other, and what is noted when the
//! keys of a user change.
//!
//! A key is kept as it was uploaded; signatures that came later stand beside it, so that a device
//! which uploads its keys again does not lose them. Whether a signature is right was seen before.

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::StoreError;

/// What a cross-signing key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    /// It vouches for the other two.
    Master,
    /// It vouches for its user's devices.
    SelfSigning,
    /// It vouches for other users, which only its user sees.
    UserSigning,
}

impl Usage {
    /// As it stands in a key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// The cross-signing keys of a user here, each as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrossSigningKeys {
    /// [`Usage::Master`].
    pub master: Option<String>,
    /// [`Usage::SelfSigning`].
    pub self_signing: Option<String>,
    /// [`Usage::UserSigning`].
    pub user_signing: Option<String>,
}

impl CrossSigningKeys {
    /// The place of one of them.
    pub fn of(&mut self, usage: Usage) -> &mut Option<String> {
        match usage {
            Usage::Master => &mut self.master,
            Usage::SelfSigning => &mut self.self_signing,
            Usage::UserSigning => &mut self.user_signing,
        }
    }
}

/// A signature on somebody's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeySignature {
    /// What is signed: a device by its id, or a master key by itself in base64.
    pub item: String,
    /// Who signed it.
    pub signer: OwnedUserId,
    /// With which key: `ed25519:` and a device's id or the key itself.
    pub key: String,
    /// The signature in base64.
    pub signature: String,
}

/// What changed of a user's keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeysChange {
    /// The whole list of devices, or nobody knows which of them.
    Devices,
    /// One device.
    Device(OwnedDeviceId),
    /// The cross-signing keys that everyone sees.
    CrossSigning,
    /// Something that only this user sees: signatures of their own.
    SeenBy(OwnedUserId),
}

/// One thing to write about cross-signing.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "fields are named after the records they become"
)]
pub enum CrossSigningWrite {
    /// A key, instead of the one for the same use; gone when none.
    Key {
        user: OwnedUserId,
        usage: Usage,
        json: Option<String>,
    },
    /// A signature on a key of `of`.
    Signature {
        of: OwnedUserId,
        signature: KeySignature,
    },
    /// All signatures on one thing of a user go.
    ForgetSignaturesOn { user: OwnedUserId, item: String },
    /// All signatures made with one key of a user go.
    ForgetSignaturesBy { signer: OwnedUserId, key: String },
}

/// How users here vouch.
#[async_trait]
pub trait CrossSigning: Send + Sync + 'static {
    /// The keys of a user.
    async fn cross_signing_keys(&self, user: &UserId) -> Result<CrossSigningKeys, StoreError>;

    /// The signatures on keys of `of` that this user or `viewer` made, in order.
    async fn key_signatures(
        &self,
        of: &UserId,
        viewer: &UserId,
    ) -> Result<Vec<KeySignature>, StoreError>;

    /// How many signatures of a user are kept.
    async fn signatures_made(&self, signer: &UserId) -> Result<u64, StoreError>;
}
