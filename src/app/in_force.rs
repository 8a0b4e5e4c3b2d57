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
    config::{self, Blocked, Config, ConfigErrors, FilePath, Inputs, Loaded, Setting, Told},
    failure::Failure,
    obstacles::{self, Obstacle, Step},
    operate,
    operator::{Client, Request},
    output::{self, Format},
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
    /// What is wrong with the configuration here, if it cannot be gone by: then the settings are all
    /// the hub's.
    pub broken: Option<ConfigErrors>,
    /// What is wrong with the files that the configuration here names.
    pub obstacles: Vec<Obstacle>,
}

/// Says on stderr that the configuration here was not gone by.
pub fn tell_broken(broken: ConfigErrors, format: Format) {
    format.explain(&broken.into());
    tell_of_hub(format);
}

fn tell_of_hub(format: Format) {
    if format == Format::Text {
        output::note(
            "as the running hub has it: what is configured here cannot be gone by, and the hub would not \
             start again with it",
        );
    }
}

/// Says on stderr whose settings were shown, and why not the others. Fails where what is configured
/// here is wrong, as it does where no hub runs.
pub fn tell_whose(
    loaded: &Loaded,
    running: Result<Option<Running>, Failure>,
    format: Format,
) -> Result<(), Failure> {
    if let Ok(Some(running)) = &running {
        for one in &running.obstacles {
            format.explain(&one.failure);
        }
    }
    let note = match running {
        Ok(None) => return Ok(()),
        Ok(Some(Running {
            broken: Some(broken),
            ..
        })) => {
            tell_of_hub(format);
            return Err(broken.into());
        }
        Err(failure) => {
            format.explain(&failure);
            "as configured here: whether a hub runs is not known".to_owned()
        }
        Ok(Some(Running {
            silent: Some(why), ..
        })) => format!("as configured here: the running hub does not tell its settings: {why}"),
        Ok(Some(_)) => match &loaded.said_otherwise()[..] {
            [] => "as the running hub has it, and as configured here".to_owned(),
            each => format!(
                "as the running hub has it; configured otherwise here:\n  {}",
                each.join("\n  ")
            ),
        },
    };
    if format == Format::Text {
        output::note(&note);
    }
    Ok(())
}

/// The configuration for who has something done by the hub that runs, or on the store of one that does
/// not: as it is here. Where that cannot be gone by, the running hub's, and says so.
pub async fn usable(inputs: &Inputs, format: Format) -> Result<Config, Failure> {
    let broken = match config::load(inputs) {
        Ok(loaded) => return Ok(loaded.config),
        Err(broken) => broken,
    };
    let (loaded, running) = of_hub_alone(inputs, broken).await?;
    if let Some(broken) = running.broken {
        tell_broken(broken, format);
    }
    Ok(loaded.config)
}

/// What the hub that runs has, where what is configured here cannot be gone by; fails with what is
/// wrong with that where no hub tells.
async fn of_hub_alone(inputs: &Inputs, broken: ConfigErrors) -> Result<(Loaded, Running), Failure> {
    let Some(socket) = config::socket(inputs) else {
        return Err(broken.into());
    };
    let mut hub = match operate::running_at(&socket).await {
        Ok(Some(hub)) => hub,
        Ok(None) => return Err(broken.into()),
        Err(failure) => return Err(Failure::from(broken).and(failure)),
    };
    let Ok(Ok((told, https))) = timeout(PATIENCE, told(&mut hub)).await else {
        return Err(broken.into());
    };
    // An option that is wrong is among what is broken already.
    let Ok(mut loaded) = told.alone(inputs) else {
        return Err(broken.into());
    };
    loaded.config.admin.socket = FilePath(socket); // where it was reached
    let running = Running {
        hub,
        https,
        silent: None,
        broken: Some(broken),
        obstacles: Vec::new(),
    };
    Ok((loaded, running))
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
    let here = match config::load(inputs) {
        Ok(here) => here,
        Err(broken) => {
            let (loaded, running) = of_hub_alone(inputs, broken).await?;
            return Ok((loaded, Ok(Some(running))));
        }
    };
    let mut hub = match operate::running(&here.config).await {
        Ok(Some(hub)) => hub,
        Ok(None) => return Ok((here, Ok(None))),
        Err(failure) => return Ok((here, Err(failure))),
    };
    let told = timeout(PATIENCE, told(&mut hub)).await;
    let told = told.unwrap_or_else(|_| Err("it does not answer".to_owned()));
    let (mut loaded, https, silent) = match told {
        Ok((told, https)) => (told.over(inputs)?, https, None),
        Err(why) => (here, Vec::new(), Some(why)),
    };
    let obstacles = match &loaded.next {
        Some(next) => obstacles::find(next, &loaded.config).await,
        None => Vec::new(),
    };
    loaded.blocked = Blocked {
        reload: obstacles.iter().any(|one| one.to == Step::Reload),
        start: !obstacles.is_empty(),
    };
    let running = Running {
        hub,
        https,
        silent,
        broken: None,
        obstacles,
    };
    Ok((loaded, Ok(Some(running))))
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
    use async_trait::async_trait;

    use super::*;
    use crate::{
        api::Refusal,
        app::{
            failure::Exit,
            operator::{Operator, Progress, Server},
        },
    };

    /// Tells the settings it was started with.
    struct Hub(Vec<Setting>);

    #[async_trait]
    impl Operator for Hub {
        async fn ask(&self, request: Request, _: Progress) -> Result<Json, Refusal> {
            match request {
                Request::Settings { after } => Ok(Told::page(&self.0, after.as_deref())),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_hub_that_runs_is_gone_by_where_the_file_is_broken_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tramline.toml");
        let good = "server_name = \"hub.example\"\n[limits]\nshards = 3\n";
        std::fs::write(&file, good).unwrap();
        let inputs = |options: &[&str]| Inputs {
            file: Some(file.clone()),
            options: options.iter().map(ToString::to_string).collect(),
            ..Inputs::default()
        };
        let hub = config::load(&inputs(&["log.level=debug"])).unwrap();
        let socket = dir.path().join("run/operator.sock");
        let server = Server::bind(&socket).await.unwrap();
        let told = config::in_force(&hub, &hub);
        let hub = tokio::spawn(server.run(Arc::new(Hub(told))));

        for (text, code) in [
            (Some(format!("{good}x = [")), "CONFIG_SYNTAX"),
            (Some(format!("{good}quic = 1")), "CONFIG_UNKNOWN_KEY"),
            (None, "CONFIG_UNREADABLE"),
        ] {
            match text {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            let (loaded, running) = load(&inputs(&["limits.shards=5"])).await.unwrap();
            let usable = usable(&inputs(&[]), Format::Json).await.unwrap();
            let wrong = load(&inputs(&["limits.shards=many"])).await;

            let (shown, hub) = look(&inputs(&[])).await.unwrap();
            let told = tell_whose(&shown, hub, Format::Json).unwrap_err();
            assert_eq!(told.exit, Exit::Usage, "as where no hub runs");
            let broken = running.and_then(|hub| hub.broken).unwrap();
            assert_eq!(broken.0.first().unwrap().code(), code);
            assert_eq!(loaded.config.limits.shards.0, 5, "what is said here counts");
            assert_eq!(loaded.config.log.level.0, "debug");
            assert_eq!(usable.limits.shards.0, 3);
            assert_eq!(usable.admin.socket.0, socket);
            assert_eq!(usable.store.media_dir.0, dir.path().join("store/media"));
            let wrong = wrong.err().unwrap().to_string();
            assert!(wrong.starts_with(&format!("error[{code}]")), "{wrong}");
        }
        hub.abort();
        let _ = hub.await;
        std::fs::remove_file(&socket).ok();
        let alone = usable(&inputs(&[]), Format::Json).await.unwrap_err();
        assert!(alone.to_string().contains("CONFIG_UNREADABLE"), "{alone}");
    }

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
