//! The client's verbs: sign in or take a credential file, do the verb, say what came of it and
//! what it cost.
//!
//! `verbs` has the verbs, `rooms`, `alias`, `leaving` and `deliveries` some of them, `thin` and `files` those of linked devices, `shapes` what an id looks like, `tell` the words for what happened in a
//! room and `happened` the JSON, `labels` the names of rooms, `cost` the price.
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null where there is nothing"
)]

mod alias;
mod cost;
mod deliveries;
mod files;
mod happened;
mod labels;
mod leaving;
mod link;
mod rooms;
mod shapes;
mod tell;
mod thin;
mod verbs;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use serde_json::{Value as Json, json};

use self::cost::Spent;
use super::{
    cli::{ClientArgs, ClientVerb, WantedDoor},
    clock::world,
    failure::Failure,
    output::{self, Format},
    users,
};
use crate::client::{
    Client, ClientError, Credentials, Target,
    thin::{DoorChoice, ThinError},
};

/// What a verb has to say once it is done.
enum Said {
    /// One result.
    One { text: String, json: Json },
    /// Its lines are out already.
    Lines,
}

impl Said {
    fn one(text: impl Into<String>, json: Json) -> Self {
        let text = text.into();
        Self::One { text, json }
    }
}

/// Does a client's verb.
pub async fn client(args: ClientArgs, format: Format) -> Result<(), Failure> {
    let login = args.login()?;
    if let Some(verb) = &args.verb {
        shapes::check(verb)?; // what cannot be right costs neither a password nor a byte
    }
    if let Some(ClientVerb::Link {
        code,
        out,
        server,
        ca,
    }) = &args.verb
    {
        let ca = ca.as_deref().map(read_ca).transpose()?;
        let told = link::Told {
            format,
            wants_cost: args.cost,
        };
        return link::redeem(code, out, server, ca.as_deref(), told).await;
    }
    // A login that nothing keeps is ended again, so that scripts do not leave sessions behind.
    let (mut client, me, keep) = if let Some(login) = login {
        if args.verb == Some(ClientVerb::Logout) {
            return Err(Failure::usage("CLIENT_VERB", LOGOUT_WANTS_FILE));
        }
        let (client, credentials) = log_in(&args, &login.user).await?;
        (client, credentials, args.save.is_some())
    } else {
        if args.verb.is_none() && args.credentials.is_some() {
            return Err(nothing_to_do());
        }
        let is_approval = matches!(args.verb, Some(ClientVerb::Approve { .. }));
        let file = args.credentials.as_deref();
        let (client, credentials) = resume(file, is_approval, args.door).await?;
        (client, credentials, true)
    };
    // Who sends wants to know what that costs.
    let (is_send, is_short) = match &args.verb {
        Some(ClientVerb::Send { text, .. }) => (true, text.len() <= cost::COMPARED_BYTES_MAX),
        _ => (false, false),
    };
    let wants_cost = args.cost || is_send;
    let is_soon = args.verb.as_ref().is_some_and(is_soon_over);
    let waits = Waits::of(format, is_soon && client.thin().is_some());
    let outcome = match args.verb {
        Some(ClientVerb::Logout) => log_out(&mut client, &me, args.credentials.as_deref()).await,
        Some(wanted) => {
            let work = verbs::verb(&mut client, &me, wanted, format, args.cost);
            waits.tell_during(work).await
        }
        None => saved(&me, args.save.as_deref()),
    };
    let ended = if keep {
        client.close().await.map_err(failed)
    } else {
        client.logout().await.map_err(failed)
    };
    let is_compared = is_short && outcome.is_ok();
    report(
        outcome,
        wants_cost.then(|| Spent::by(&client).of_short_send(is_compared)),
        format,
    )?;
    ended
}

/// Whether a verb is over with a few answers; the others say themselves how far they have got.
const fn is_soon_over(verb: &ClientVerb) -> bool {
    match verb {
        ClientVerb::Sync {
            follow, timeout, ..
        } => !*follow && timeout.is_zero(),
        ClientVerb::Upload { .. } | ClientVerb::Download { .. } | ClientVerb::Ledger => false,
        _ => true,
    }
}

/// Tells a person what is waited for, once that has taken a while.
struct Waits(bool);

/// After how long.
const WAITS_TOLD_AFTER: Duration = Duration::from_secs(3);

impl Waits {
    fn of(format: Format, is_wanted: bool) -> Self {
        Self(is_wanted && format == Format::Text)
    }

    async fn tell_during<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if self.0 {
            match tokio::time::timeout(WAITS_TOLD_AFTER, &mut work).await {
                Ok(done) => return done,
                Err(_) => output::note("-- waiting for the hub …"),
            }
        }
        work.await
    }
}

/// Prints the result and the cost: a field for programs, a line on stderr for people.
fn report(
    outcome: Result<Said, Failure>,
    cost: Option<Spent>,
    format: Format,
) -> Result<(), Failure> {
    let price = cost.as_ref().map(Spent::json);
    let printed = match outcome {
        Ok(Said::One { text, mut json }) => {
            if let (Some(json), Some(price)) = (json.as_object_mut(), price) {
                json.insert("cost".to_owned(), price);
            }
            format.print(&text, &json)
        }
        Ok(Said::Lines) => match (format, price) {
            (Format::Json, Some(price)) => format.print("", &json!({ "cost": price })),
            _ => Ok(()),
        },
        Err(failure) => Err(failure),
    };
    // What failed has cost something, too.
    if let (Format::Text, Some(cost)) = (format, cost) {
        output::note(&cost.line());
    }
    printed
}

/// Without a verb, signing in was what was wanted.
fn saved(me: &Credentials, file: Option<&Path>) -> Result<Said, Failure> {
    let Some(file) = file else {
        return Err(nothing_to_do());
    };
    let (user, device, path) = (&me.user_id, &me.device_id, file.display().to_string());
    Ok(Said::one(
        format!("saved the session of {user} (device {device}) in {path}"),
        json!({"user_id": user, "device_id": device, "file": path}),
    ))
}

fn nothing_to_do() -> Failure {
    let reason = "say what to do (see `tramline client --help`), or --save FILE to sign in only";
    Failure::usage("CLIENT_VERB", reason)
}

async fn log_in(args: &ClientArgs, user: &str) -> Result<(Client, Credentials), Failure> {
    if args.verb.is_none() && args.save.is_none() {
        return Err(nothing_to_do()); // before anyone is asked for a password
    }
    let taken = |file: &&Path| file.exists() && !Credentials::is_logged_out(file);
    if let Some(file) = args.save.as_deref().filter(taken) {
        let reason = format!("{} exists already; choose another name", file.display());
        return Err(Failure::failed("CREDENTIALS", reason));
    }
    let target = target(args)?;
    let password = match &args.password_file {
        Some(file) => users::password_from(file)?,
        None => users::prompt(&format!("Password of {user}"))?,
    };
    let failed_there = |error| failed_by(error, args.ca.as_deref());
    let mut client = Client::open(&target, &world())
        .await
        .map_err(failed_there)?;
    let signed_in = client.login(user, password.reveal(), None).await;
    let mut credentials = signed_in.map_err(failed_there)?;
    credentials.reached(&target);
    if let Some(file) = &args.save
        && let Err(error) = credentials.write(file)
    {
        client.logout().await.map_err(failed)?; // a session nobody has must not stay
        return Err(Failure::failed("CREDENTIALS", error));
    }
    Ok((client, credentials))
}

/// Ends the session; the token is of no use afterwards, and goes.
async fn log_out(
    client: &mut Client,
    me: &Credentials,
    file: Option<&Path>,
) -> Result<Said, Failure> {
    let file = file.ok_or_else(|| Failure::usage("CLIENT_VERB", LOGOUT_WANTS_FILE))?;
    let (user, device, path) = (&me.user_id, &me.device_id, file.display());
    let (ended, what) = match client.logout().await {
        Ok(()) => (true, format!("logged out {user} (device {device})")),
        // The hub knows of no such session: what was wanted is so already.
        Err(ClientError::Refused { status: 401, .. }) => (
            false,
            format!("the hub had already ended the session of {user} (device {device})"),
        ),
        // So it is when the answer to a logout is overtaken by what ends the device at its door.
        Err(ClientError::Thin(ThinError::Unlinked { .. })) => (
            false,
            format!("the hub does not know device {device} of {user} any more"),
        ),
        Err(error) => return Err(failed(error)),
    };
    Credentials::forget_token(file).map_err(|error| {
        let reason = format!("the session has ended, but its token is still in the file: {error}");
        Failure::failed("CREDENTIALS", reason)
    })?;
    Ok(Said::one(
        format!("{what}; took the access token out of {path}"),
        json!({"user_id": user, "device_id": device, "file": path.to_string(),
            "session_ended": ended, "token_removed": true}),
    ))
}

const LOGOUT_WANTS_FILE: &str =
    "logout ends the session of a credential file: give --credentials FILE";

fn target(args: &ClientArgs) -> Result<Target, Failure> {
    let url = args
        .login
        .as_ref()
        .and_then(|login| login.first())
        .map_or("", String::as_str);
    let ca = args.ca.as_deref().map(read_ca).transpose()?;
    Target::parse(url, ca.as_deref())
        .map_err(|error| Failure::usage("LOGIN_URL", format!("--login: {error}")))
}

fn read_ca(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        let why = crate::client::plain::io(&error);
        Failure::usage("CA_FILE", format!("--ca {}: {why}", path.display()))
    })
}

const SESSION_WANTED: &str = "who are you? Give --credentials FILE, or --login URL USER (with --save FILE to keep the session)";

async fn resume(
    file: Option<&Path>,
    is_approval: bool,
    door: WantedDoor,
) -> Result<(Client, Credentials), Failure> {
    let file = file.ok_or_else(|| Failure::usage("CREDENTIALS", SESSION_WANTED))?;
    let wrong = |error| Failure::usage("CREDENTIALS", error);
    let mut credentials = Credentials::read(file).map_err(wrong)?;
    if fs::metadata(file).is_ok_and(|it| it.permissions().mode() & 0o077 != 0) {
        let path = file.display();
        output::note(&format!(
            "-- others can read the keys in {path}: chmod 600 {path}"
        ));
    }
    if is_approval {
        // What is told there is secret.
        (credentials.server.coap, credentials.server.quic) = (None, None);
    }
    // Keys beat tokens: a linked device is its context.
    let has_door = credentials.server.coap.is_some() || credentials.server.quic.is_some();
    if credentials.oscore.is_some() && has_door {
        let client = Client::linked(file, &credentials, &world(), choice(door)).await;
        return Ok((client.map_err(failed)?, credentials));
    }
    if door != WantedDoor::Auto {
        let reason = "--door is for linked devices: this file is a session with a token";
        return Err(Failure::usage("DOOR", reason));
    }
    let target = credentials.target(file).map_err(wrong)?;
    let client = Client::resume(&target, &credentials.access_token, &world()).await;
    Ok((client.map_err(failed)?, credentials))
}

const fn choice(door: WantedDoor) -> DoorChoice {
    match door {
        WantedDoor::Auto => DoorChoice::Auto,
        WantedDoor::Oscore => DoorChoice::Oscore,
        WantedDoor::Quic => DoorChoice::Quic,
    }
}

fn failed(error: ClientError) -> Failure {
    failed_by(error, None)
}

/// The same with the file that was given with --ca, if one was.
fn failed_by(error: ClientError, ca: Option<&Path>) -> Failure {
    if let (true, Some(ca)) = (error.is_unvouched(), ca) {
        // what it is for a certificate of another authority, and for one of the same name
        let hint = format!(
            "{} (given with --ca) does not vouch for the certificate this server shows",
            ca.display()
        );
        return Failure::failed("UNREACHABLE", format!("{error}; {hint}"));
    }
    match &error {
        ClientError::Refused { errcode, error, .. } => Failure::failed(errcode, error),
        // What a person does about it stands in the README's first example.
        ClientError::Unreachable { .. } if error.is_unvouched() => {
            let hint = "give the certificate of who does with --ca FILE (a hub's own is keys/https.cert.pem)";
            Failure::failed("UNREACHABLE", format!("{error}; {hint}"))
        }
        ClientError::Unreachable { .. } => Failure::failed("UNREACHABLE", &error),
        ClientError::Thin(error) => thin::failed(error),
        ClientError::Ca(_) => Failure::usage("CA_FILE", &error),
        ClientError::Decode(_) | ClientError::Shape { .. } | ClientError::Field { .. } => {
            Failure::failed("BAD_ANSWER", &error)
        }
    }
}
