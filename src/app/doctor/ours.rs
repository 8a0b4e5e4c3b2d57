//! This hub: its files, and what it shows to others.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use ruma::ServerName;
use rustls::pki_types;

use super::{
    Finding, Level,
    reached::{Reach, Reached, UNREACHED, days},
};
use crate::{
    app::{
        clock::SystemClock,
        config::Config,
        failure::Failure,
        keys::{self, SigningKey},
        open,
        tls::{Certificate, Validity},
    },
    base::{Clock as _, Timestamp},
    edge::matrix::outgoing::Ask,
    store::SigningKeyNote,
    wire::{
        json,
        matrix::{Host, Place, PublicKey, ServerKeys},
    },
};

/// Keys, store and certificate, as the hub reads them when it starts.
pub(super) async fn of_files(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let file: &Path = config.signing_key_file.as_ref();
    match note(config) {
        Ok(note) => {
            let cause = format!("this hub signs with {}", note.id);
            findings.push(Finding::ok("SIGNING_KEY", file.display(), cause));
            findings.push(match old_keys(config) {
                Some(wrong) => wrong,
                None => store(config, note).await,
            });
        }
        Err(failure) => {
            let finding = Finding::of_failure(file.display(), &failure);
            findings.push(finding.mended_by(
                "put the file back from your backup of `keys`; where there is none, this hub cannot go on: \
                 its store and other servers know it by that key, and who begins anew takes another \
                 `server_name`",
            ));
        }
    }
    let secrets: [&Path; 5] = [
        file,
        config.edhoc_key_file.as_ref(),
        config.https.key_file.as_ref(),
        config.quic.key_file.as_ref(),
        config.policy.key_file.as_ref(),
    ];
    findings.extend(secrets.into_iter().filter_map(mode));
    if !config.https.listen.addresses().is_empty() {
        findings.extend(certificate(config));
    }
    findings
}

/// The key as a store knows it.
pub(super) fn note(config: &Config) -> Result<SigningKeyNote, Failure> {
    SigningKey::read(config.signing_key_file.as_ref()).map(|key| key.note())
}

/// What is wrong with the keys that this hub signed with before; the store is looked at by them.
fn old_keys(config: &Config) -> Option<Finding> {
    let failure = keys::old(&config.federation).err()?;
    let file = config.federation.old_keys_file.as_ref().display();
    Some(Finding::of_failure(&file, &failure).mended_by(format!(
        "put {file} back from your backup of `keys`, or take out of it what is no key: the store is looked at \
         after that"
    )))
}

async fn store(config: &Config, note: SigningKeyNote) -> Finding {
    let about = open::store_file(config);
    match open::is_owned(config, note).await {
        Ok(()) => {
            let cause = "the store is this hub's and of this key".to_owned();
            Finding::ok("STORE_KEY", about.display(), cause)
        }
        Err(open::NotOwned { failure, mend }) => {
            let finding = Finding::of_failure(about.display(), &failure);
            finding.mended_by(mend.unwrap_or_else(|| {
                "put `keys` and the store of the same hub together; `tramline fsck` looks further"
                    .to_owned()
            }))
        }
    }
}

/// A secret that others of this machine may read; of one that cannot be read, others tell.
fn mode(file: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    let of_others = mode & 0o077;
    if of_others == 0 {
        return None;
    }
    let cause = format!("others of this machine may use the key (mode {mode:03o})");
    let finding = Finding::new("KEY_MODE", Level::Warn, file.display(), cause);
    Some(finding.mended_by(format!("chmod 600 {}", file.display())))
}

fn certificate(config: &Config) -> Vec<Finding> {
    let file: &Path = config.https.cert_file.as_ref();
    let shown = match Certificate::read(&config.https) {
        Ok(shown) => shown,
        Err(error) => {
            let finding = Finding::new(
                "CERTIFICATE",
                Level::Fail,
                file.display(),
                error.to_string(),
            );
            let mend = "put the pair back from a backup, or name another one in `https.cert_file` and \
                 `https.key_file`, then `kill -HUP` the hub";
            return vec![finding.mended_by(mend)];
        }
    };
    let mut findings = Vec::new();
    let named = config.federation.well_known.as_ref().map(|known| &known.0);
    let own = Place::of(&config.server_name).ok();
    if let Some(host) = named.or(own.as_ref()).map(Place::host)
        && let Some(name) = pki_name(host)
    {
        let (validity, is_good) = shown.looked_at(&name);
        findings.push(expiry(file, validity, SystemClock::new().now()));
        // Without federation, clients may know the hub by whatever name.
        if config.federation.enabled {
            findings.push(good_for(file, host, is_good));
        }
    }
    findings
}

fn pki_name(host: &Host) -> Option<pki_types::ServerName<'static>> {
    match host {
        Host::Ip(address) => Some(pki_types::ServerName::IpAddress((*address).into())),
        Host::Dns(name) => {
            pki_types::ServerName::try_from(name.trim_end_matches('.').to_owned()).ok()
        }
    }
}

fn expiry(file: &Path, validity: Option<Validity>, now: Timestamp) -> Finding {
    let (level, cause) = match validity {
        None => (Level::Warn, "when it ends cannot be read".to_owned()),
        Some(validity) if validity.until < now => (
            Level::Fail,
            format!("it ended {}", validity.until.rfc3339()),
        ),
        Some(validity) if now < validity.from => (
            Level::Fail,
            format!("it begins {}", validity.from.rfc3339()),
        ),
        Some(validity) => {
            let left = validity.until.since(now);
            let level = if left < ENDS_SOON {
                Level::Warn
            } else {
                Level::Ok
            };
            let until = validity.until.rfc3339();
            (level, format!("it ends {until}, in {} days", days(left)))
        }
    };
    let finding = Finding::new("CERTIFICATE_TIME", level, file.display(), cause);
    match level {
        Level::Ok => finding,
        _ => finding.mended_by(
            "put a new pair into `https.cert_file` and `https.key_file`, then `kill -HUP` the hub",
        ),
    }
}

fn good_for(file: &Path, host: &Host, is_good: bool) -> Finding {
    if is_good {
        let cause = format!("it is good for {host}");
        return Finding::ok("CERTIFICATE_NAME", file.display(), cause);
    }
    let cause = format!("it is not good for {host}, by which other servers ask for this hub");
    Finding::new("CERTIFICATE_NAME", Level::Fail, file.display(), cause).mended_by(format!(
        "get a certificate for {host}, put it into `https.cert_file`, then `kill -HUP` the hub"
    ))
}

/// What other servers see at this hub's name, which listens there.
pub(super) async fn from_outside(
    config: &Config,
    reach: &Reach,
    listening: &[SocketAddr],
) -> Vec<Finding> {
    let own = &config.server_name;
    let Reached {
        mut findings,
        keys: published,
        answers,
    } = reach.reach(own, "OUR").await;
    if !answers {
        for finding in findings.iter_mut().filter(|one| one.level == Level::Fail) {
            listens(finding, listening);
            self_issued(finding, config);
        }
        let left = ["OUR_KEY", "OUR_WELL_KNOWN"];
        findings.extend(left.map(|code| Finding::skipped(code, own, UNREACHED)));
        return findings;
    }
    match published {
        Some(published) => findings.extend(our_key(config, &published)),
        None => findings.push(Finding::skipped("OUR_KEY", own, "its keys cannot be read")),
    }
    findings.push(well_known(config, own, reach).await);
    findings
}

/// Adds where the hub listens to what says that it is not reached.
fn listens(finding: &mut Finding, listening: &[SocketAddr]) {
    if listening.is_empty() {
        finding
            .cause
            .push_str("; this hub has no HTTPS door (`https.listen = \"off\"`)");
        return;
    }
    let each: Vec<_> = listening.iter().map(ToString::to_string).collect();
    let each = each.join(" and ");
    finding.cause = format!("{}; this hub listens on {each}", finding.cause);
    if finding.code == "OUR_UNREACHED" || finding.code == "OUR_PORT_8448" {
        let here = "let `https.listen` be an address and port that the name leads to, or have what \
                    stands before the hub pass them on to";
        let before = finding.mend.take().unwrap_or_default();
        finding.mend = Some(format!("{here} {each}; then `{before}`"));
    }
}

/// Nobody has an authority to name for a certificate that vouches for itself.
fn self_issued(finding: &mut Finding, config: &Config) {
    if finding.code == "OUR_TLS"
        && Certificate::read(&config.https).is_ok_and(|shown| shown.is_self_issued())
    {
        let file: &Path = config.https.cert_file.as_ref();
        finding.mend = Some(format!(
            "{} is the certificate that `init` made, or one like it: no other server believes it; set \
             `https.cert_file` and `https.key_file` to a pair that others believe, then `kill -HUP` the hub",
            file.display()
        ));
    }
}

/// Whether what is published is the key that is here.
fn our_key(config: &Config, published: &ServerKeys) -> Option<Finding> {
    let own = &config.server_name;
    let SigningKey { pair } = SigningKey::read(config.signing_key_file.as_ref()).ok()?;
    let id = format!("ed25519:{}", pair.version());
    let mut current = published.current.iter();
    let key = current.find(|(known, _)| known.as_str() == id);
    Some(match key {
        Some((_, key)) if *key == PublicKey(pair.public_key()) => Finding::ok(
            "OUR_KEY",
            own,
            format!("{id} is published at this name, signed by itself"),
        ),
        _ => Finding::new(
            "OUR_KEY",
            Level::Fail,
            own,
            format!("who answers at this name does not publish {id}: it is another hub, or was started with another key"),
        )
        .mended_by("start this hub again; if another answers, mend `federation.well_known`, SRV records or the port"),
    })
}

async fn well_known(config: &Config, own: &ServerName, reach: &Reach) -> Finding {
    let code = "OUR_WELL_KNOWN";
    let wanted = config
        .federation
        .well_known
        .as_ref()
        .map(|known| known.0.as_str());
    let ask = Ask::get("/.well-known/matrix/server").unsigned();
    let said = match reach.stranger.outgoing.ask(own, &ask).await {
        Ok(told) if told.status == 404 => None,
        Ok(told) => {
            let object = json::read_lax(&told.body).ok();
            let named = object
                .as_ref()
                .and_then(|object| object.get("m.server")?.as_str());
            Some(named.unwrap_or("something that is no such file").to_owned())
        }
        Err(error) => {
            let finding = Finding::new(code, Level::Fail, own, error.to_string());
            let mend = format!("curl -v https://{own}/.well-known/matrix/server");
            return finding.mended_by(mend);
        }
    };
    if said.as_deref() == wanted {
        let cause = match wanted {
            Some(wanted) => format!("/.well-known/matrix/server says {wanted}, as configured"),
            None => "there is no /.well-known/matrix/server, as configured".to_owned(),
        };
        return Finding::ok(code, own, cause);
    }
    let cause = format!(
        "/.well-known/matrix/server says {}, and `federation.well_known` {}",
        said.as_deref().unwrap_or("nothing"),
        wanted.unwrap_or("nothing"),
    );
    Finding::new(code, Level::Fail, own, cause)
        .mended_by("start the hub again after a change of `federation.well_known`; mend what a proxy in front of it answers")
}

/// When to see to a new certificate: who renews by themselves do it a month before.
const ENDS_SOON: Duration = Duration::from_hours(14 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_is_not_reached_says_where_it_listens() {
        let found = || {
            let cause = "nobody there".to_owned();
            let found = Finding::new("OUR_UNREACHED", Level::Fail, "hub.example:443", cause);
            found.mended_by("nc -vz hub.example 443")
        };
        let (mut somewhere, mut nowhere) = (found(), found());

        listens(&mut somewhere, &["127.0.0.1:8448".parse().unwrap()]);
        listens(&mut nowhere, &[]);

        assert!(somewhere.cause.contains("listens on 127.0.0.1:8448"));
        let mend = somewhere.mend.unwrap();
        assert!(
            mend.contains("`https.listen`") && mend.contains("nc -vz"),
            "{mend}"
        );
        assert!(nowhere.cause.contains("no HTTPS door"), "{nowhere:?}");
    }

    #[test]
    fn the_certificate_of_init_is_to_be_replaced_and_not_to_be_believed() {
        let dir = tempfile::tempdir().unwrap();
        crate::app::init::init("hub.example", dir.path()).unwrap();
        let inputs = crate::app::config::Inputs {
            file: Some(dir.path().join("tramline.toml")),
            ..crate::app::config::Inputs::default()
        };
        let config = crate::app::config::load(&inputs).unwrap().config;
        let found = |code: &str| {
            let found = Finding::new(
                code,
                Level::Fail,
                "hub.example",
                "unknown issuer".to_owned(),
            );
            found.mended_by("name that in `federation.ca_file`")
        };
        let (mut tls, mut other) = (found("OUR_TLS"), found("OUR_DNS"));

        self_issued(&mut tls, &config);
        self_issued(&mut other, &config);

        let mend = tls.mend.unwrap();
        assert!(
            mend.contains("that `init` made") && !mend.contains("ca_file"),
            "{mend}"
        );
        assert!(other.mend.unwrap().contains("ca_file"));
    }

    #[test]
    fn a_certificate_is_watched_before_it_ends_and_fails_after() {
        let at = |day: u64| Timestamp(day * 24 * 60 * 60 * 1000);
        let validity = Validity {
            from: at(100),
            until: at(200),
        };
        for (now, level) in [
            (99, Level::Fail),
            (100, Level::Ok),
            (190, Level::Warn),
            (201, Level::Fail),
        ] {
            let found = expiry(Path::new("cert"), Some(validity), at(now));
            assert_eq!(found.level, level, "day {now}: {found:?}");
            assert_eq!(found.mend.is_some(), level != Level::Ok);
        }
    }
}
