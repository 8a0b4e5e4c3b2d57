//! The edge of a hub among Matrix servers, in this process: its own code asks others as any name and
//! with any key.

use std::{collections::BTreeMap, error::Error, path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tramline::{
    app::clock::{self, SystemClock},
    edge::matrix::{Federation, Lists, Parts, outgoing::SystemNames},
    session::server_list::ServerList,
    wire::matrix::ServerKey,
};

/// The edge of a hub of this name and key, which believes one authority.
pub(crate) fn edge(
    key: ServerKey,
    ca: &Path,
) -> Result<Arc<Federation>, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    Ok(Federation::new(Parts {
        key: Arc::new(key),
        old_keys: BTreeMap::new(),
        lists: Lists::new(ServerList::default()),
        pinned: BTreeMap::new(),
        notaries: Vec::new(),
        believes_tellers: false,
        roots,
        allow_private_addresses: true,
        proxy: None,
        names: Arc::new(SystemNames::new()),
        kept: None,
        clock: Arc::new(SystemClock::new()),
        rng: Box::new(clock::rng()),
    })?)
}
