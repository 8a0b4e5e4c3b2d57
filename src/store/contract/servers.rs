//! Promises about other servers.

use ruma::{OwnedServerName, owned_server_name as name};

use super::commit;
use crate::store::{Store, Write};

fn keys(server: &OwnedServerName, json: &str) -> Write {
    Write::PeerKeys {
        server: server.clone(),
        json: json.to_owned(),
    }
}

pub(super) async fn the_keys_of_a_server_are_the_last_that_were_kept(store: &dyn Store) {
    let (a, b) = (name!("a.example"), name!("b.example:8449"));
    assert_eq!(store.peer_keys(&a).await.expect("read"), None);
    commit(store, vec![keys(&a, "{}"), keys(&b, "{\"b\":1}")]).await;
    commit(store, vec![keys(&a, "{\"a\":1}")]).await;
    let read = async |server| store.peer_keys(server).await.expect("read");
    assert_eq!(read(&a).await.as_deref(), Some("{\"a\":1}"));
    assert_eq!(read(&b).await.as_deref(), Some("{\"b\":1}"));
}
