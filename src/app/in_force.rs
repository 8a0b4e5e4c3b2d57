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

/// The configuration as the hub that runs has it; where none runs, or none tells, as it is here.
pub async fn load(inputs: &Inputs) -> Result<(Loaded, Option<Running>), Failure> {
    let here = config::load(inputs)?;
    let socket = here.config.admin.socket.as_ref();
    let Some(mut hub) = Client::connect(socket).await.ok().flatten() else {
        return Ok((here, None));
    };
    let told = timeout(PATIENCE, told(&mut hub)).await;
    let told = told.unwrap_or_else(|_| Err("it does not answer".to_owned()));
    let (loaded, https, silent) = match told {
        Ok((told, https)) => (told.over(inputs)?, https, None),
        Err(why) => (here, Vec::new(), Some(why)),
    };
    Ok((loaded, Some(Running { hub, https, silent })))
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
