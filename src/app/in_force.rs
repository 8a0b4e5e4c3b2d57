//! Which settings count: those of the hub that runs, asked over its socket, or those configured here
//! where none runs.
//!
//! What is told and how it is laid over what is configured is `config::Told`'s.

use std::{
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::Duration,
};

use serde_json::Value as Json;
use tokio::time::timeout;

use super::{
    config::{self, Inputs, Loaded, Setting, Told},
    failure::Failure,
    operate,
    operator::{Client, Request},
};

/// The settings that count in the hub of this process; a reload replaces them.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// The settings, secrets left out.
    pub settings: Arc<RwLock<Vec<Setting>>>,
    /// Where the HTTPS door listens.
    pub https: Vec<SocketAddr>,
}

/// The hub that runs on a data directory.
pub struct Running {
    /// The way to ask it more.
    pub hub: Client,
    /// Where its HTTPS door listens.
    pub https: Vec<SocketAddr>,
    /// Why it did not tell its settings, if so: then those configured here have to do.
    pub silent: Option<String>,
}

/// The configuration as the hub that runs has it; where none runs, or none tells, as it is here. Fails
/// where it cannot be known whether one runs.
pub async fn load(inputs: &Inputs) -> Result<(Loaded, Option<Running>), Failure> {
    let (loaded, running) = look(inputs).await?;
    Ok((loaded, running?))
}

/// The same for who shows what there is: where it cannot be known whether a hub runs, the
/// configuration as it is here, and why.
pub async fn look(inputs: &Inputs) -> Result<(Loaded, Result<Option<Running>, Failure>), Failure> {
    let here = config::load(inputs)?;
    let mut hub = match operate::running(&here.config).await {
        Ok(Some(hub)) => hub,
        Ok(None) => return Ok((here, Ok(None))),
        Err(failure) => return Ok((here, Err(failure))),
    };
    let told = timeout(PATIENCE, told(&mut hub)).await;
    let told = told.unwrap_or_else(|_| Err("it does not answer".to_owned()));
    let (loaded, https, silent) = match told {
        Ok((told, https)) => (told.over(inputs)?, https, None),
        Err(why) => (here, Vec::new(), Some(why)),
    };
    Ok((loaded, Ok(Some(Running { hub, https, silent }))))
}

async fn told(hub: &mut Client) -> Result<(Told, Vec<SocketAddr>), String> {
    let (mut told, mut after) = (Told::default(), None);
    loop {
        let page = hub.ask(&Request::Settings { after }, |_| {}).await;
        let page = page.map_err(|error| error.to_string())?;
        after = told.add(&page);
        if after.is_none() {
            let https = page.get("https").and_then(Json::as_array);
            let https = https.into_iter().flatten();
            let https = https.filter_map(|address| address.as_str()?.parse().ok());
            return Ok((told, https.collect()));
        }
    }
}

/// How long the hub may take to tell: it has it in memory.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_cannot_be_asked_is_not_taken_for_no_hub() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tramline.toml");
        // below a file nothing can be, which is neither «not there» nor «nobody listens»
        std::fs::write(
            &file,
            "server_name = \"hub.example\"\n[admin]\nsocket = \"tramline.toml/hub.sock\"\n",
        )
        .unwrap();
        let mut inputs = Inputs {
            file: Some(file),
            ..Inputs::default()
        };

        let failure = load(&inputs).await.err().unwrap().to_string();
        let (_, looked) = look(&inputs).await.unwrap();
        inputs.options = vec!["admin.socket=none.sock".to_owned()];

        assert!(failure.starts_with("error[OPERATOR_SOCKET]: "), "{failure}");
        assert!(failure.contains("tramline.toml/hub.sock: "), "{failure}");
        assert_eq!(looked.err().unwrap().to_string(), failure);
        assert!(load(&inputs).await.unwrap().1.is_none());
    }
}
