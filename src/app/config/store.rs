//! `[store]`: where everything is kept.

use super::{
    key::section,
    value::{FilePath, StoreUrl},
};

section! {
    /// Where everything is kept.
    "store." Store {
        /// The database: "sqlite:" and the path of a file.
        url: StoreUrl = "sqlite:store/tramline.db", Restart;
        /// The directory of uploaded files, each under the hash of its bytes.
        media_dir: FilePath = "store/media", Restart;
    }
}
