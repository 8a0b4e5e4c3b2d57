//! `tramline lab`: a bad link between real programs, as a UDP relay in user space.
//!
//! Needs no privileges and no kernel support, unlike `tc netem`. What the link does is
//! `session::lab`; here are its arguments ([`args`]), its sockets ([`relay`]), what it shows while
//! it runs ([`display`]) and what it says at the end ([`summary`]).

pub mod args;
mod display;
mod relay;
mod summary;

use std::{io, net::SocketAddr};

use serde_json::json;
use tokio::net::{UdpSocket, lookup_host};

use self::{args::LabArgs, display::Display, relay::Relay};
use super::{
    clock::{self, Stopwatch},
    failure::Failure,
    output::{self, Format},
    signals::Signals,
};
use crate::{
    base::Rng as _,
    session::lab::{Link, profiles},
};

/// Lists the profiles, or relays until told to stop.
pub async fn run(args: LabArgs, format: Format) -> Result<(), Failure> {
    if args.list {
        return list(format);
    }
    let profile = args.profile()?;
    let seed = args
        .seed
        .unwrap_or_else(|| clock::rng().next_u64() >> SEED_SHIFT);
    let mut signals = Signals::listen().map_err(|error| Failure::failed("SIGNALS", error))?;
    let to = resolve("--to", args.to.as_deref()).await?;
    let at = resolve("--listen", args.listen.as_deref()).await?;
    let bound = async |at| {
        let socket = UdpSocket::bind(at).await?;
        let address = socket.local_addr()?;
        io::Result::Ok((socket, address))
    };
    let (socket, listen) = bound(at)
        .await
        .map_err(|error| Failure::failed("LISTEN", format!("{at}: {error}")))?;
    output::line(&ready(listen, to, &args.profile, seed))?;
    output::note(&format!("lab: {}; seed {seed}", profiles::line(&profile)));

    let clock = Stopwatch::start();
    let mut relay = Relay::new(socket, to, Link::new(profile, seed), clock);
    let display = Display::new(format);
    let outcome = relay.run(&mut signals, args.duration, display).await;
    let elapsed = clock.elapsed();
    let link = relay.into_link();
    format.print(
        &summary::text(&link, elapsed, seed),
        &summary::json(&link, elapsed, &args.profile, seed),
    )?;
    outcome
}

/// A seed of our own choice is short enough to be read out.
const SEED_SHIFT: u32 = 40;

fn list(format: Format) -> Result<(), Failure> {
    match format {
        Format::Text => {
            let about = profiles::all().into_iter().map(|named| {
                let (name, about) = (named.name, named.about);
                format!("{name:<11}{about}")
            });
            let about: Vec<String> = about.collect();
            output::line(&format!("{}\n{}", profiles::table(), about.join("\n")))
        }
        Format::Json => profiles::all().iter().try_for_each(|named| {
            let numbers = summary::profile_json(&named.profile);
            let (name, about) = (named.name, named.about);
            output::line(&json!({"name": name, "about": about, "profile": numbers}).to_string())
        }),
    }
}

/// One JSON line, like the ready line of `serve`.
fn ready(listen: SocketAddr, to: SocketAddr, profile: &str, seed: u64) -> String {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let listen = json!({"lab": [listen]});
    json!({
        "event": "ready", "version": version, "pid": pid, "listen": listen,
        "to": to, "profile": profile, "seed": seed,
    })
    .to_string()
}

async fn resolve(option: &str, address: Option<&str>) -> Result<SocketAddr, Failure> {
    let wrong = |reason: String| Failure::usage("LAB_ADDRESS", format!("{option}: {reason}"));
    let address = address.ok_or_else(|| wrong("give HOST:PORT".to_owned()))?;
    let mut found = lookup_host(address)
        .await
        .map_err(|error| wrong(format!("{address:?}: {error}; write HOST:PORT")))?;
    found
        .next()
        .ok_or_else(|| wrong(format!("{address:?} has no address")))
}
