//! `[registration]`: who may make an account.

use super::{key::section, value::FilePath};
use crate::app::secrets::Secret;

section! {
    /// Who may make an account. With nothing set here only `tramline user add` makes one.
    "registration." Registration {
        /// Whoever knows this token may register; better in `token_file`.
        token: Option<Secret> = "", Live;
        /// The file with that token.
        token_file: Option<FilePath> = "", Live;
        /// Tools that hold this secret may register anyone; better in `shared_secret_file`.
        shared_secret: Option<Secret> = "", Live;
        /// The file with that secret.
        shared_secret_file: Option<FilePath> = "", Live;
    }
}
