//! The keys of other servers, as the hub keeps them for its edge.

use async_trait::async_trait;
use ruma::ServerName;

use super::{Hub, desk};
use crate::{
    api::{PeerKeys, Refusal},
    session::keyring::KnownKeys,
    store::{Batch, Write},
};

#[async_trait]
impl PeerKeys for Hub {
    async fn kept(&self, server: &ServerName) -> Result<Option<KnownKeys>, Refusal> {
        let json = self.store.peer_keys(server).await;
        let Some(json) = json.map_err(desk::ours)? else {
            return Ok(None);
        };
        serde_json::from_str(&json).map(Some).or_else(|error| {
            tracing::error!(%server, %error, "the keys that are kept of a server are damaged");
            Ok(None) // it is asked for them again
        })
    }

    async fn keep(&self, server: &ServerName, keys: &KnownKeys) -> Result<(), Refusal> {
        let json = serde_json::to_string(keys).map_err(|error| {
            tracing::error!(%server, %error, "keys could not be written as JSON");
            Refusal::internal()
        })?;
        let write = Write::PeerKeys {
            server: server.to_owned(),
            json,
        };
        let batch = Batch {
            writes: vec![write],
            may_conflict: false,
        };
        self.writer.write(batch, Vec::new()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::server_name as name;

    use super::*;
    use crate::{hub::testing::hub, wire::matrix::ServerKeys};

    #[tokio::test]
    async fn keys_are_kept_and_damaged_ones_are_learnt_anew() {
        let hub = hub().await;
        let server = name!("a.example");
        assert_eq!(hub.hub.kept(server).await.unwrap(), None);
        let mut keys = KnownKeys::default();
        let said = ServerKeys {
            current: [(
                "ed25519:1".parse().unwrap(),
                crate::wire::matrix::PublicKey([1; 32]),
            )]
            .into(),
            old: std::collections::BTreeMap::new(),
            valid_until: hub.hub.now() + Duration::from_hours(1),
            object: ruma::CanonicalJsonObject::new(),
        };
        keys.learn(&said, hub.hub.now());

        hub.hub.keep(server, &keys).await.unwrap();

        assert_eq!(hub.hub.kept(server).await.unwrap(), Some(keys));
        let damaged = Write::PeerKeys {
            server: server.to_owned(),
            json: "{".to_owned(),
        };
        hub.write(vec![damaged]).await;
        assert_eq!(hub.hub.kept(server).await.unwrap(), None);
    }
}
