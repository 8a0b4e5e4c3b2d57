//! How a hub is put together, run and taken down; and the verbs that need store or client.
//!
//! Everything that touches `store`, `hub`, `edge` or `client` is in this file, at the places
//! marked SEAM.

use std::{
    future::Future,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    admin::{self, Health},
    cli::ClientArgs,
    config::{self, Config, Inputs},
    failure::Failure,
    keys::SigningKey,
    listen::Listeners,
    notify::Notify,
    operator::{self, Operator, Progress, Request},
    output::{self, Format},
    ready::Ready,
    reload::{Reloader, SharedTokens, Tokens},
    signals::{Signal, Signals},
    telemetry::{self, Telemetry},
    tls::{self, Certificate},
};
use crate::api::{Code, Refusal};

/// Runs a verb to its end.
pub fn block_on<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("RUNTIME", error))?
        .block_on(verb)
}

/// Runs the hub until it is told to stop.
pub async fn serve(inputs: Inputs) -> Result<(), Failure> {
    let loaded = config::load(&inputs)?;
    let config = loaded.config.clone();
    let telemetry = Telemetry::start(&config.log);
    let mut signals = Signals::listen().map_err(|error| Failure::failed("SIGNALS", error))?;
    let material = Material::read(&config)?;
    // Store and socket before the listeners: a second hub is told that there is a first one,
    // and not that some port is taken.
    let hub = Hub::open(&config, &material).await?;
    let socket = operator::Server::bind(config.admin.socket.as_ref())
        .await
        .map_err(|error| operator_failure(&error))?;
    let listeners = Listeners::bind(&config).await?;
    let listening = listeners
        .addresses()
        .map_err(|error| Failure::failed("LISTEN", error))?;

    let (stop, stopping) = watch::channel(false);
    let mut doors = JoinSet::new();
    open_doors(
        &mut doors, listeners, &hub, &material, &telemetry, &stopping,
    );
    let background = tokio::spawn(telemetry::upkeep(telemetry.metrics.clone()));
    let operators = tokio::spawn(socket.run(Arc::clone(&hub.operator)));
    Ready::new(config.server_name.as_str(), listening).print()?;

    let (certificate, tokens) = (material.certificate, material.tokens);
    let mut reloader = Reloader::new(inputs, loaded, telemetry, certificate, tokens);
    let outcome = attend(&hub, &mut doors, &mut signals, &mut reloader).await;

    hub.draining.store(true, Ordering::Relaxed);
    let _ = stop.send(true);
    drain(&mut doors, &mut signals, reloader.config()).await;
    background.abort();
    operators.abort();
    let _ = operators.await; // its socket goes with it
    hub.close().await?;
    tracing::info!("stopped");
    outcome
}

/// Minds signals and doors until one of them ends the hub.
async fn attend(
    hub: &Hub,
    doors: &mut JoinSet<Result<(), Failure>>,
    signals: &mut Signals,
    reloader: &mut Reloader,
) -> Result<(), Failure> {
    let notify = Notify::from_env();
    let status = format!("serving {}", reloader.config().server_name);
    notify.ready(&status);
    tracing::info!("{status}");
    let outcome = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Drain => break Ok(()),
                Signal::Reload => {
                    notify.reloading();
                    if reloader.reload_and_log().is_ok() {
                        hub.apply(reloader.config());
                    }
                    notify.ready(&status);
                }
            },
            Some(ended) = doors.join_next() => break Err(door_broke(ended)),
        }
    };
    tracing::info!("draining");
    notify.stopping();
    outcome
}

/// Waits for the doors to finish what is under way: for a while, or until told again.
async fn drain(doors: &mut JoinSet<Result<(), Failure>>, signals: &mut Signals, config: &Config) {
    let all = async { while doors.join_next().await.is_some() {} };
    let told_again = async { while signals.next().await != Signal::Drain {} };
    let in_time = timeout(config.limits.drain.0, async {
        tokio::select! {
            () = all => true,
            () = told_again => false,
        }
    });
    if !in_time.await.unwrap_or(false) {
        tracing::warn!("stopping with requests still under way");
        doors.shutdown().await;
    }
}

/// Keys, certificate and tokens: everything that can be wrong before the first socket is open.
struct Material {
    #[expect(
        dead_code,
        reason = "SEAM(hub): `Hub::open` hands it to the room rules"
    )]
    signing_key: SigningKey,
    certificate: Option<Arc<Certificate>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    tokens: SharedTokens,
}

impl Material {
    fn read(config: &Config) -> Result<Self, Failure> {
        let signing_key = SigningKey::read(config.signing_key_file.as_ref())?;
        let certificate = if config.https.listen.addresses().is_empty() {
            None
        } else {
            let read = Certificate::read(&config.https);
            Some(Arc::new(
                read.map_err(|error| Failure::usage("CERTIFICATE", error))?,
            ))
        };
        let tls = certificate.clone().map(tls::server_config).transpose();
        let tls = tls.map_err(|error| Failure::failed("TLS", error))?;
        let tokens = Arc::new(RwLock::new(Tokens::read(config)?));
        Ok(Self {
            signing_key,
            certificate,
            tls,
            tokens,
        })
    }
}

/// The parts of a running hub that the doors and the operator meet.
struct Hub {
    // SEAM(hub): service: Arc<dyn crate::api::Service>,
    operator: Arc<dyn Operator>,
    draining: Arc<AtomicBool>,
}

impl Hub {
    /// Opens the store alone and starts the hub on it.
    #[expect(clippy::unused_async, reason = "SEAM(store): opening will wait")]
    async fn open(_config: &Config, _material: &Material) -> Result<Self, Failure> {
        // SEAM(store): open `config.store.url` and `config.store.media_dir`; a lock that is held,
        //   another format or another server name is `Failure::store(code, reason)`, exit code 3.
        // SEAM(hub): build the desk from the store, `material.signing_key`, `clock::SystemClock`,
        //   `clock::rng()`, `config.limits` and `material.tokens`; let it implement `Operator`.
        let operator = Arc::new(NoHub);
        let draining = Arc::new(AtomicBool::new(false));
        Ok(Self { operator, draining })
    }

    /// Whether work is accepted.
    fn is_ready(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let draining = Arc::clone(&self.draining);
        // SEAM(hub): `&& service.ready()`
        move || !draining.load(Ordering::Relaxed)
    }

    /// Takes the settings that a reload may change. The tokens are shared and already new.
    #[expect(clippy::unused_self, reason = "SEAM(hub): hands them to the desk")]
    fn apply(&self, _config: &Config) {
        // SEAM(hub): limits of media and rates, `https.public_url`
    }

    /// Finishes the last commit and closes the store.
    #[expect(clippy::unused_async, reason = "SEAM(store): closing will wait")]
    async fn close(self) -> Result<(), Failure> {
        // SEAM(hub, store): stop the writer, then close the store.
        drop(self);
        Ok(())
    }
}

/// Starts what serves each listener. A door that ends before it is told to ends the hub.
fn open_doors(
    doors: &mut JoinSet<Result<(), Failure>>,
    listeners: Listeners,
    hub: &Hub,
    material: &Material,
    telemetry: &Telemetry,
    stopping: &watch::Receiver<bool>,
) {
    if let Some(_tls) = &material.tls {
        for _listener in listeners.https {
            // SEAM(edge): doors.spawn(edge::http::serve(listener, tls, service, stopped(stopping)));
        }
    }
    for _socket in listeners.coap {
        // SEAM(edge): doors.spawn(edge::coap::serve(socket, config.coap.plain, service, clock, …));
    }
    let health = Health {
        ready: Arc::new(hub.is_ready()),
        metrics: telemetry.metrics.clone(),
        tokens: Arc::clone(&material.tokens),
    };
    for listener in listeners.admin {
        let router = admin::router(health.clone());
        let stopped = stopped(stopping.clone());
        doors.spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
                .map_err(|error| Failure::failed("ADMIN_LISTENER", error))
        });
    }
}

/// Waits until the hub is told to stop.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone: then it is time, too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn door_broke(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Failure {
    let failure = match ended {
        Ok(Ok(())) => Failure::failed("DOOR", "a listener ended by itself"),
        Ok(Err(failure)) => failure,
        Err(error) => Failure::failed("DOOR", format!("a listener broke: {error}")),
    };
    tracing::error!(%failure, "stopping");
    failure
}

/// Does an operator's verb: through the running hub, or on the store when there is none.
pub async fn operate(config: &Config, request: Request, format: Format) -> Result<(), Failure> {
    let path = config.admin.socket.as_ref();
    let running = operator::Client::connect(path).await.map_err(|error| {
        let path = path.display();
        Failure::failed("OPERATOR_SOCKET", format!("{path}: {error}"))
    })?;
    let result = match running {
        Some(mut hub) => hub
            .ask(&request, |step| tell_progress(&step))
            .await
            .map_err(asked_in_vain)?,
        None => operate_alone(config, request).await?,
    };
    format.print(&as_lines(&result), &result)
}

/// Opens the store alone, does the verb, closes it.
#[expect(clippy::unused_async, reason = "SEAM(store): opening will wait")]
async fn operate_alone(_config: &Config, _request: Request) -> Result<Json, Failure> {
    // SEAM(store, hub): as in `Hub::open`, but without listeners; then
    //   let (sender, steps) = mpsc::channel(16), tell_progress for each step,
    //   hub.operator.ask(request, Progress::to(sender)).await, and hub.close().await.
    Err(not_built("the store"))
}

/// Does a client's verb.
#[expect(clippy::unused_async, reason = "SEAM(client): talking will wait")]
pub async fn client(args: ClientArgs, _format: Format) -> Result<(), Failure> {
    let _login = args.login()?;
    // SEAM(client): sign in over the door of `login` (password: `args.password_file` through
    //   `users::password_from`, else `users::prompt`) or read `args.credentials`; then do
    //   `args.verb` and print its result with `format.print`.
    Err(not_built("the client"))
}

/// Shows and checks the whole thing in a temporary directory.
#[expect(clippy::unused_async, reason = "SEAM(demo): it will wait")]
pub async fn demo(_format: Format) -> Result<(), Failure> {
    // SEAM(demo)
    Err(not_built("the demo"))
}

fn not_built(what: &str) -> Failure {
    Failure::failed("NOT_BUILT", format!("{what} is not in this build"))
}

/// Stands in the hub's place until there is one. SEAM(hub): goes.
struct NoHub;

#[async_trait]
impl Operator for NoHub {
    async fn ask(&self, request: Request, _: Progress) -> Result<Json, Refusal> {
        match request {
            Request::Status => Ok(json!({"version": env!("CARGO_PKG_VERSION")})),
            _ => Err(Refusal::new(Code::Unrecognized, "not in this build")),
        }
    }
}

fn operator_failure(error: &operator::ServerError) -> Failure {
    match error {
        operator::ServerError::Answered { .. } => Failure::store("HUB_RUNNING", error),
        _ => Failure::failed("OPERATOR_SOCKET", error),
    }
}

fn asked_in_vain(error: operator::ClientError) -> Failure {
    match error {
        operator::ClientError::Refused { code, message } => Failure::failed(&code, message),
        operator::ClientError::Io(_) => Failure::failed("OPERATOR_SOCKET", error),
    }
}

fn tell_progress(step: &Json) {
    output::note(&as_lines(step).replace('\n', ", "));
}

/// A result for people: `name: value`, a line each.
fn as_lines(result: &Json) -> String {
    let Json::Object(members) = result else {
        return result.to_string();
    };
    let line = |(name, value): (&String, &Json)| match value {
        Json::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    };
    members.iter().map(line).collect::<Vec<_>>().join("\n")
}
