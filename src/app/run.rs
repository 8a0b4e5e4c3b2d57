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
    federation,
    in_force::InForce,
    keys::{self, SigningKey},
    listen::Listeners,
    notify::Notify,
    open::{self, OpenHub},
    operator,
    output::Format,
    ready::Ready,
    reload::{Reloader, Replaceable, SharedTokens, Tokens},
    signals::{Signal, Signals},
    telemetry::{self, Telemetry},
    tls::{self, Certificate, DtlsCertificate},
};
use crate::{
    api::{Links, Service},
    base::Clock as _,
    edge::{
        self, Front,
        coap::{Coap, Exchanges, Linked, Sockets},
        coaps::{self, Coaps, LinkedKeys},
        credential_file::HubFacts,
        http::{Https, WellKnown},
        linked::{Answering, Answers},
        matrix::Federation,
        quic::{self, HubKey, Quic},
        thin::{Books, Reach, Thin},
        wake::{self, Wake},
        websocket::WebSockets,
    },
    session::{coap::Timers, dtls, edhoc::StaticKey, oscore::link::Plainly},
    wire::matrix::{PublicKey, ServerKey},
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
    open::refuse_foreign(&config).await?; // before anything is made beside it
    let telemetry = Telemetry::start(&config.log);
    let mut signals = Signals::listen().map_err(|error| Failure::failed("SIGNALS", error))?;
    let material = Material::read(&config)?;
    // Store and socket before the listeners: a second hub is told that there is a first one,
    // and not that some port is taken.
    let keeper = Arc::new(federation::Keeper::default());
    let federation = federation::open(&config, &material.signing_key, Arc::clone(&keeper))?;
    let remote = federation::remote(federation.as_ref());
    let hub = OpenHub::open_among(&config, &material, remote).await?;
    keeper.is(&hub.hub);
    let socket = operator::Server::bind(config.admin.socket.as_ref())
        .await
        .map_err(|error| operator_failure(&error))?;
    let listeners = Listeners::bind(&config).await?;
    let listening = listeners
        .addresses()
        .map_err(|error| Failure::failed("LISTEN", error))?;

    let facts = facts::of_running(&config, &material, &listening);
    let around = Around {
        facts: Arc::clone(&facts),
        policy_key: material
            .policy_key
            .as_ref()
            .map(|key| PublicKey(key.public()).base64()),
        federation,
    };

    let (stop, stopping) = watch::channel(false);
    let mut doors = JoinSet::new();
    open_doors(
        &mut doors, listeners, &hub, &material, &config, &telemetry, &around, &stopping,
    )?;
    let background = tokio::spawn(telemetry::upkeep(telemetry.metrics.clone()));
    let in_force = InForce {
        settings: Arc::new(RwLock::new(config::in_force(&loaded, &loaded))),
        https: listening.https.clone(),
    };
    let operators = tokio::spawn(socket.run(hub.running(facts, in_force.clone())));
    Ready::new(config.server_name.as_str(), listening).print()?;

    let taken = Replaceable {
        certificate: material.certificate.clone(),
        dtls_certificate: material.dtls_certificate.clone(),
        tokens: Arc::clone(&material.tokens),
        lists: around
            .federation
            .as_ref()
            .map(|federation| Arc::clone(&federation.lists)),
        in_force: in_force.settings,
    };
    let mut reloader = Reloader::new(inputs, loaded, telemetry, taken);
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
    pub dtls_certificate: Option<Arc<DtlsCertificate>>,
    /// What devices know the hub by on QUIC.
    pub quic_key: Option<HubKey>,
    /// What this hub vouches for events with; none unless it does.
    pub policy_key: Option<Arc<ServerKey>>,
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
            let read = read.map_err(|error| Failure::usage("CERTIFICATE", error))?;
            Some(Arc::new(DtlsCertificate::new(read)))
        };
        let quic_key = if config.quic.listen.addresses().is_empty() {
            None
        } else {
            Some(keys::quic_key(config.quic.key_file.as_ref())?)
        };
        let policy_key = if config.policy.enabled {
            let file = config.policy.key_file.as_ref();
            Some(Arc::new(keys::policy_key(file, &config.server_name)?))
        } else {
            None
        };
        let tokens = Arc::new(RwLock::new(Tokens::read(config)?));
        Ok(Self {
            signing_key,
            edhoc_key,
            certificate,
            dtls_certificate,
            quic_key,
            policy_key,
            tokens,
        })
    }
}

/// What the doors tell of this hub and know of others.
struct Around {
    facts: Arc<HubFacts>,
    /// None where federation is off.
    federation: Option<Arc<Federation>>,
    /// The public half of the key that it vouches for events with, in base64.
    policy_key: Option<String>,
}

/// Starts what serves each listener. A door that ends before it is told to ends the hub.
#[expect(
    clippy::too_many_arguments,
    reason = "each door takes another part of the hub"
)]
fn open_doors(
    doors: &mut JoinSet<Result<(), Failure>>,
    listeners: Listeners,
    hub: &OpenHub,
    material: &Material,
    config: &Config,
    telemetry: &Telemetry,
    around: &Around,
    stopping: &watch::Receiver<bool>,
) -> Result<(), Failure> {
    let dtls_address = listeners.coaps.first().map(UdpSocket::local_addr);
    let dtls_port = dtls_address.and_then(|address| Some(address.ok()?.port()));
    let front = Front::telling(Arc::clone(&hub.hub) as Arc<dyn Service>, dtls_port);
    let books = Books::new();
    let linked = linked(hub, &front, &books);
    let clock = Arc::new(SystemClock::new());
    let (answers, pusher) = Answers::new(Arc::clone(&linked.thin), &linked.links, clock);
    tokio::spawn(pusher); // ends with the doors that hold `answers`
    let websockets = WebSockets::new(Arc::clone(&answers) as Arc<dyn Answering>, &linked.links);
    if config.coap.plain == PlainCoap::Any && !listeners.coap.is_empty() {
        tracing::warn!("plain CoAP from anywhere: passwords and tokens cross the network in clear");
    }
    if let Some(certificate) = &material.certificate {
        let tls =
            edge::http::tls::server_config(Arc::clone(certificate) as Arc<dyn ResolvesServerCert>)
                .map_err(|error| Failure::usage("CERTIFICATE", error))?;
        for listener in listeners.https {
            let door = https_door(&front, config, around, &websockets);
            let served = edge::http::serve(listener, Arc::clone(&tls), door, stopping.clone());
            doors.spawn(async move {
                served.await;
                Ok(())
            });
        }
    }
    if !listeners.coap.is_empty() {
        let mut door = coap_door(&front, config);
        door.linked = Some(linked.clone());
        door.exchanges = Some(exchanges(&linked.links, material)?);
        // One door for all of them: it has all contexts, and two would use the same numbers.
        let sockets = Sockets::new(listeners.coap);
        let sockets = sockets.map_err(|error| Failure::failed("LISTEN", error))?;
        let served = edge::coap::serve(sockets, door, stopping.clone());
        doors.spawn(async move {
            served.await;
            Ok(())
        });
    }
    for socket in listeners.coaps {
        let mut coap = coap_door(&front, config);
        coap.linked = Some(linked.clone());
        let shown = material.dtls_certificate.as_ref();
        let door = Coaps {
            coap,
            certificate: shown.map(|shown| shown.subscribe()),
            dtls: dtls::ServerConfig {
                certificate: shown.map(|shown| shown.borrow().clone()),
                psk: Some(Arc::new(LinkedKeys(Arc::clone(&linked.links)))),
                limits: dtls::Limits::default(),
            },
            base: clock::instant(),
        };
        let sockets = Sockets::new(vec![socket]);
        let sockets = sockets.map_err(|error| Failure::failed("LISTEN", error))?;
        let served = coaps::serve(sockets, door, stopping.clone()).map_err(|error| {
            let fix = "`coaps.cert_file` and `coaps.key_file` name a pair, `coaps.listen = \"off\"` needs none";
            Failure::usage("CERTIFICATE", format!("{error}; {fix}"))
        })?;
        doors.spawn(async move {
            served.await;
            Ok(())
        });
    }
    let knocking = wake::run(knocking(&linked, config), stopping.clone());
    doors.spawn(async move {
        let ended = knocking.await;
        ended.map_err(|error| Failure::failed("WAKE", error))
    });
    let thin = (&front, &linked.links, &answers);
    open_quic(doors, listeners.quic, thin, material, config, stopping)?;
    let service = Arc::clone(&hub.hub);
    let health = Health {
        ready: Arc::new(move || service.ready()),
        metrics: telemetry.metrics.clone(),
        books,
        refusals: Arc::clone(hub.hub.refusals()),
        since: SystemClock::new().now(),
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

/// The QUIC door.
fn open_quic(
    doors: &mut JoinSet<Result<(), Failure>>,
    sockets: Vec<UdpSocket>,
    (front, links, linked): (&Arc<Front>, &Arc<dyn Links>, &Arc<Answers>),
    material: &Material,
    config: &Config,
    stopping: &watch::Receiver<bool>,
) -> Result<(), Failure> {
    let Some(key) = &material.quic_key else {
        return Ok(());
    };
    let certificate = material.certificate.clone();
    for socket in sockets {
        let door = Quic {
            front: Arc::clone(front),
            answering: Arc::clone(linked) as Arc<dyn Answering>,
            links: Arc::clone(links),
            key: key.clone(),
            certificate: certificate
                .clone()
                .map(|shown| shown as Arc<dyn ResolvesServerCert>),
            limits: quic::Limits {
                idle: config.quic.idle.0,
                drain: config.limits.drain.0,
                ..quic::Limits::default()
            },
        };
        let failed = |error: &dyn std::fmt::Display| Failure::failed("QUIC", error.to_string());
        let socket = socket.into_std().map_err(|error| failed(&error))?;
        let bound = quic::open(socket, door).map_err(|error| failed(&error))?;
        let served = quic::serve(bound, stopping.clone());
        doors.spawn(async move {
            served.await;
            Ok(())
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

/// What knocking at sleeping devices needs.
fn knocking(linked: &Linked, config: &Config) -> Wake {
    Wake {
        thin: Arc::clone(&linked.thin),
        links: Arc::clone(&linked.links),
        clock: Arc::new(SystemClock::new()),
        roots: wake::native_roots(),
        allow_private_addresses: config.wake.allow_private_addresses,
        retries: wake::RETRIES.to_vec(),
    }
}

/// How devices come by new keys.
fn exchanges(links: &Arc<dyn Links>, material: &Material) -> Result<Arc<Exchanges>, Failure> {
    let key = StaticKey::parse(material.edhoc_key.private())
        .ok_or_else(|| Failure::usage("EDHOC_KEY", "the EDHOC key is none"))?;
    let clock = Arc::new(SystemClock::new());
    let exchanges = Exchanges::new(key, Arc::clone(links), clock, Box::new(clock::rng()));
    Ok(Arc::new(exchanges))
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
        exchanges: None,
    }
}

fn https_door(
    front: &Arc<Front>,
    config: &Config,
    around: &Around,
    websockets: &Arc<WebSockets>,
) -> Https {
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
            server: federation::well_known(config),
            policy_key: around.policy_key.clone(),
        },
        websockets: Some(Arc::clone(websockets)),
        facts: Some(Arc::clone(&around.facts)),
        federation: around.federation.clone(),
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
