//! How a hub is put together, run and taken down.

use std::{
    future::Future,
    sync::{Arc, RwLock},
};

use rustls::server::ResolvesServerCert;
use tokio::{net::UdpSocket, sync::watch, task::JoinSet, time::timeout};

use super::{
    admin::{self, Health},
    clock::{self, SystemClock},
    config::{self, Config, Inputs, PlainCoap},
    edhoc_key::EdhocKey,
    facts,
    failure::Failure,
    keys::SigningKey,
    listen::Listeners,
    notify::Notify,
    open::OpenHub,
    operator,
    output::Format,
    ready::Ready,
    reload::{Reloader, SharedTokens, Tokens},
    signals::{Signal, Signals},
    telemetry::{self, Telemetry},
    tls::{self, Certificate},
};
use crate::{
    api::{Links, Service},
    edge::{
        self, Front,
        coap::{Coap, Linked},
        coaps::{self, Coaps, LinkedKeys},
        credential_file::HubFacts,
        http::{Https, WellKnown},
        thin::{Books, Reach, Thin},
    },
    session::{coap::Timers, dtls, oscore::link::Plainly},
    wire::matrix::ServerKey,
};

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
    let hub = OpenHub::open(&config, &material).await?;
    let socket = operator::Server::bind(config.admin.socket.as_ref())
        .await
        .map_err(|error| operator_failure(&error))?;
    let listeners = Listeners::bind(&config).await?;
    let listening = listeners
        .addresses()
        .map_err(|error| Failure::failed("LISTEN", error))?;

    let facts = facts::of_running(&config, &material, &listening);

    let (stop, stopping) = watch::channel(false);
    let mut doors = JoinSet::new();
    open_doors(
        &mut doors, listeners, &hub, &material, &config, &telemetry, &facts, &stopping,
    )?;
    let background = tokio::spawn(telemetry::upkeep(telemetry.metrics.clone()));
    let operators = tokio::spawn(socket.run(hub.running(facts)));
    Ready::new(config.server_name.as_str(), listening).print()?;

    let (certificate, tokens) = (material.certificate.clone(), Arc::clone(&material.tokens));
    let mut reloader = Reloader::new(inputs, loaded, telemetry, certificate, tokens);
    let outcome = attend(&hub, &material, &mut doors, &mut signals, &mut reloader).await;

    hub.stop_waiting();
    let _ = stop.send(true);
    drain(&mut doors, &mut signals, reloader.config()).await;
    background.abort();
    operators.abort();
    let _ = operators.await; // its socket goes with it
    hub.close().await;
    tracing::info!("stopped");
    outcome
}

/// Minds signals and doors until one of them ends the hub.
async fn attend(
    hub: &OpenHub,
    material: &Material,
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
                        hub.apply(reloader.config(), &material.tokens);
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
pub struct Material {
    /// The name and key events are signed with.
    pub signing_key: Arc<ServerKey>,
    /// The key by which linked devices know the hub.
    pub edhoc_key: EdhocKey,
    /// What the HTTPS door shows.
    pub certificate: Option<Arc<Certificate>>,
    /// What the DTLS door shows.
    pub dtls_certificate: Option<dtls::Certificate>,
    /// Secrets that a reload replaces.
    pub tokens: SharedTokens,
}

impl Material {
    /// Reads the files that the configuration names.
    pub fn read(config: &Config) -> Result<Self, Failure> {
        let SigningKey { pair } = SigningKey::read(config.signing_key_file.as_ref())?;
        let signing_key = Arc::new(ServerKey::new(config.server_name.clone(), pair));
        let edhoc_key = EdhocKey::read_or_make(config.edhoc_key_file.as_ref())?;
        let certificate = if config.https.listen.addresses().is_empty() {
            None
        } else {
            let read = Certificate::read(&config.https);
            Some(Arc::new(
                read.map_err(|error| Failure::usage("CERTIFICATE", error))?,
            ))
        };
        let dtls_certificate = if config.coaps.listen.addresses().is_empty() {
            None
        } else {
            let read = tls::for_dtls(&config.coaps);
            Some(read.map_err(|error| Failure::usage("CERTIFICATE", error))?)
        };
        let tokens = Arc::new(RwLock::new(Tokens::read(config)?));
        Ok(Self {
            signing_key,
            edhoc_key,
            certificate,
            dtls_certificate,
            tokens,
        })
    }
}

/// Starts what serves each listener. A door that ends before it is told to ends the hub.
fn open_doors(
    doors: &mut JoinSet<Result<(), Failure>>,
    listeners: Listeners,
    hub: &OpenHub,
    material: &Material,
    config: &Config,
    telemetry: &Telemetry,
    facts: &Arc<HubFacts>,
    stopping: &watch::Receiver<bool>,
) -> Result<(), Failure> {
    let dtls_address = listeners.coaps.first().map(UdpSocket::local_addr);
    let dtls_port = dtls_address.and_then(|address| Some(address.ok()?.port()));
    let front = Front::telling(Arc::clone(&hub.hub) as Arc<dyn Service>, dtls_port);
    if config.coap.plain == PlainCoap::Any && !listeners.coap.is_empty() {
        tracing::warn!("plain CoAP from anywhere: passwords and tokens cross the network in clear");
    }
    if let Some(certificate) = &material.certificate {
        let tls =
            edge::http::tls::server_config(Arc::clone(certificate) as Arc<dyn ResolvesServerCert>)
                .map_err(|error| Failure::usage("CERTIFICATE", error))?;
        for listener in listeners.https {
            let door = https_door(&front, config, facts);
            let served = edge::http::serve(listener, Arc::clone(&tls), door, stopping.clone());
            doors.spawn(async move {
                served.await;
                Ok(())
            });
        }
    }
    let books = Books::new();
    let linked = linked(hub, &front, &books);
    for (index, socket) in listeners.coap.into_iter().enumerate() {
        let mut door = coap_door(&front, config);
        // One socket has all contexts: two would use the same numbers.
        door.linked = Some(linked.clone()).filter(|_| index == 0);
        if index > 0 {
            tracing::warn!("OSCORE is served on the first address of `coap.listen` only");
        }
        let served = edge::coap::serve(socket, door, stopping.clone());
        doors.spawn(async move {
            served.await;
            Ok(())
        });
    }
    for socket in listeners.coaps {
        let mut coap = coap_door(&front, config);
        coap.linked = Some(linked.clone());
        let door = Coaps {
            coap,
            dtls: dtls::ServerConfig {
                certificate: material.dtls_certificate.clone(),
                psk: Some(Arc::new(LinkedKeys(Arc::clone(&linked.links)))),
                limits: dtls::Limits::default(),
            },
            base: clock::instant(),
        };
        let served = coaps::serve(socket, door, stopping.clone()).map_err(|error| {
            let fix = "`coaps.cert_file` and `coaps.key_file` name a pair, `coaps.listen = \"off\"` needs none";
            Failure::usage("CERTIFICATE", format!("{error}; {fix}"))
        })?;
        doors.spawn(async move {
            served.await;
            Ok(())
        });
    }
    let service = Arc::clone(&hub.hub);
    let health = Health {
        ready: Arc::new(move || service.ready()),
        metrics: telemetry.metrics.clone(),
        books,
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
    Ok(())
}

/// What the doors need to serve linked devices.
fn linked(hub: &OpenHub, front: &Arc<Front>, books: &Arc<Books>) -> Linked {
    let links = Arc::clone(&hub.hub) as Arc<dyn Links>;
    let thin = Thin::with_books(
        Arc::clone(front),
        Arc::clone(&links),
        Arc::new(SystemClock::new()),
        Reach::new(),
        Arc::clone(books),
    );
    Linked { links, thin }
}

fn coap_door(front: &Arc<Front>, config: &Config) -> Coap {
    Coap {
        front: Arc::clone(front),
        clock: Arc::new(SystemClock::new()),
        rng: Box::new(clock::rng()),
        timers: Timers::default(),
        limits: edge::coap::Limits {
            drain: config.limits.drain.0,
            ..edge::coap::Limits::default()
        },
        plainly: match config.coap.plain {
            PlainCoap::Off => Plainly::Nobody,
            PlainCoap::Loopback => Plainly::Loopback,
            PlainCoap::Any => Plainly::Anyone,
        },
        linked: None,
    }
}

fn https_door(front: &Arc<Front>, config: &Config, facts: &Arc<HubFacts>) -> Https {
    let limits = &config.limits;
    Https {
        front: Arc::clone(front),
        limits: edge::http::Limits {
            connections_max: limits.connections.0 as usize,
            connections_per_address_max: limits.connections_per_address.0 as usize,
            drain: limits.drain.0,
            ..edge::http::Limits::default()
        },
        well_known: WellKnown {
            client_base_url: config.https.public_url.as_ref().map(|url| url.0.clone()),
            server: None, // federation is not in this release
        },
        facts: Some(Arc::clone(facts)),
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

/// Shows and checks the whole thing in a temporary directory.
pub async fn demo(format: Format) -> Result<(), Failure> {
    let json = format == Format::Json;
    super::demo::run(&mut std::io::stdout(), json)
        .await
        .map_err(|error| Failure::failed("DEMO", format!("{error:#}")))
}

fn operator_failure(error: &operator::ServerError) -> Failure {
    match error {
        operator::ServerError::Answered { .. } => Failure::store("HUB_RUNNING", error),
        _ => Failure::failed("OPERATOR_SOCKET", error),
    }
}
