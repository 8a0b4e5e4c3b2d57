//! What an exchange is for: the parameters of an OSCORE context.

use std::fmt;

use lakers::{Completed, MAX_KDF_CONTEXT_LEN, edhoc_exporter};
use zeroize::Zeroize;

use super::guarded::Guarded;
use crate::session::oscore::{Id, Parameters};

const MASTER_SECRET_BYTES: usize = 16;
const MASTER_SALT_BYTES: usize = 8;

/// Secret, salt and ids, from this end's side.
#[derive(Clone, PartialEq, Eq)]
pub struct Keying {
    master_secret: [u8; MASTER_SECRET_BYTES],
    master_salt: [u8; MASTER_SALT_BYTES],
    sender_id: Id,
    recipient_id: Id,
}

impl Keying {
    /// spec: rfc9528 §A.1
    pub(super) fn derive(
        completed: &Completed,
        crypto: &mut Guarded<'_>,
        sender_id: Id,
        recipient_id: Id,
    ) -> Self {
        let mut master_secret = [0; MASTER_SECRET_BYTES];
        let mut master_salt = [0; MASTER_SALT_BYTES];
        let mut export = |label, out: &mut [u8]| {
            let context = [0; MAX_KDF_CONTEXT_LEN];
            let exported = edhoc_exporter(completed, crypto, label, &context, 0, out.len());
            out.iter_mut()
                .zip(exported)
                .for_each(|(to, from)| *to = from);
        };
        export(0, &mut master_secret);
        export(1, &mut master_salt);
        Self {
            master_secret,
            master_salt,
            sender_id,
            recipient_id,
        }
    }

    /// For [`crate::session::oscore::SecurityContext::new`].
    pub fn parameters(&self) -> Parameters<'_> {
        let mut parameters =
            Parameters::new(&self.master_secret, self.sender_id, self.recipient_id);
        parameters.master_salt = &self.master_salt;
        parameters
    }

    /// The common secret.
    pub const fn master_secret(&self) -> &[u8; MASTER_SECRET_BYTES] {
        &self.master_secret
    }

    /// The common salt.
    pub const fn master_salt(&self) -> &[u8; MASTER_SALT_BYTES] {
        &self.master_salt
    }

    /// Ours.
    pub const fn sender_id(&self) -> Id {
        self.sender_id
    }

    /// The peer's.
    pub const fn recipient_id(&self) -> Id {
        self.recipient_id
    }
}

impl Drop for Keying {
    fn drop(&mut self) {
        self.master_secret.zeroize();
    }
}

impl fmt::Debug for Keying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sender_id,
            recipient_id,
            ..
        } = self;
        write!(f, "Keying({sender_id:?}, {recipient_id:?}, …)")
    }
}
