//! The command line: verbs, their help, and who does them.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration, 3 the store is
//! somebody else's. Results go to stdout, everything else to stderr.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    backup, check,
    config::{self, Inputs},
    failure::{Exit, Failure},
    init::init,
    lab::{self, args::LabArgs},
    link, open, operate,
    operator::Request,
    output::{self, Format},
    restore, run, talk, users,
};

/// A hub for chat rooms that span providers, made for thin links.
#[derive(Debug, Parser)]
#[command(
    name = "tramline",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  tramline init hub.example && tramline serve\n\nExit codes:\n  0 done; 1 refused or failed; 2 wrong usage or configuration;\n  3 the store belongs to another version, program or running process"
)]
pub struct Cli {
    /// Print one JSON object per line instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write the configuration, the keys and an empty store of a new hub
    #[command(after_help = "Example:\n  tramline init hub.example --dir /srv/hub")]
    Init(InitArgs),
    /// Run the hub
    #[command(
        after_help = "Example:\n  tramline serve --config /srv/hub/tramline.toml -O log.level=debug\n\n\
                      Prints one JSON line on stdout when it is ready. SIGTERM drains, SIGHUP reloads."
    )]
    Serve(HubArgs),
    /// Show every setting: its value, its default, where it came from, whether a reload takes it
    #[command(after_help = "Example:\n  tramline config --config /srv/hub/tramline.toml")]
    Config(ConfigArgs),
    /// List, make and change accounts, on the running hub or in its store
    #[command(
        after_help = "Example:\n  tramline user add ana --password-file ana.password\n  tramline user list"
    )]
    User(UserArgs),
    /// Make a device of an account for thin links, and write its credential file
    #[command(
        after_help = "Example:\n  tramline link ana --device TRACKER --out tracker.json\n  \
                      tramline link ana --device SENSOR --out sensor.json --for coap-client\n\n\
                      The file is the device: whoever has it is ana's TRACKER, on every door. \
                      `tramline unlink` takes that back."
    )]
    Link(LinkArgs),
    /// End a device of an account on every door, at once
    #[command(after_help = "Example:\n  tramline unlink ana --device TRACKER")]
    Unlink(UnlinkArgs),
    /// Talk in rooms, over HTTPS or CoAP
    #[command(
        after_help = "Example:\n  tramline client --login https://127.0.0.1:8448 ana \
                      --ca keys/https.cert.pem rooms\n  \
                      tramline client --login coap://127.0.0.1:5683 ana send '#all:hub.example' hello\n  \
                      tramline client --credentials phone.json sync --follow       # a linked device, over OSCORE"
    )]
    Client(ClientArgs),
    /// Show and check the whole thing in a temporary directory
    #[command(after_help = "Example:\n  tramline demo")]
    Demo,
    /// Check the store and its files: walk every room's chain, rebuild its state, hash every file
    #[command(
        after_help = "Example:\n  tramline fsck --config /srv/hub/tramline.toml\n\n\
                      Looks at a snapshot and changes nothing; the hub may run. Ends with 0 when \
                      nothing is wrong, 1 with findings, 3 on another hub's store."
    )]
    Fsck(HubArgs),
    /// Copy everything the hub is, at one moment, into a new directory; the hub may run
    #[command(
        after_help = "Example:\n  tramline backup --out /backup/hub-monday --config /srv/hub/tramline.toml\n\n\
                      It holds the hub's keys: keep it as safe as the hub."
    )]
    Backup(BackupArgs),
    /// Make a hub of a backup, in an empty directory
    #[command(
        after_help = "Example:\n  tramline restore /backup/hub-monday --dir /srv/hub\n\n\
                      Never run the original again. The README tells what users notice."
    )]
    Restore(RestoreArgs),
    /// Put a bad link between clients and a hub: a UDP relay that delays, loses and rebinds
    #[command(after_help = lab::args::after_help())]
    Lab(LabArgs),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The hub's name: what stands behind the colon in its users' ids
    #[arg(value_name = "SERVER_NAME")]
    pub server_name: String,
    /// Where to write
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// Which hub is meant.
#[derive(Clone, Debug, Default, Args)]
pub struct HubArgs {
    /// The configuration [default: `$TRAMLINE_CONFIG`, else ./tramline.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A setting that is stronger than file and environment
    #[arg(short = 'O', value_name = "SECTION.KEY=VALUE")]
    pub options: Vec<String>,
}

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The directory to make; nothing may be there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "BACKUP")]
    pub backup: PathBuf,
    /// Where to make the hub: an empty directory, or one that is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Do not walk the rooms of the restored store, and take it with its damage
    #[arg(long)]
    pub no_check: bool,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
    /// Print the table of all keys for the documentation; needs no hub
    #[arg(long, hide = true)]
    pub markdown: bool,
}

/// Arguments of `user`.
#[derive(Debug, Args)]
pub struct UserArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: UserVerb,
}

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub enum UserVerb {
    /// List the accounts: devices, when made, when last seen; which are operators' or disabled
    #[command(after_help = "Example:\n  tramline user list --config /srv/hub/tramline.toml --json")]
    List(HubArgs),
    /// List the devices of an account: which are linked, when last seen
    #[command(after_help = "Example:\n  tramline user devices ana --json")]
    Devices(AccountArgs),
    /// Make an account
    #[command(
        after_help = "Example:\n  tramline user add ana --password-file ana.password --admin"
    )]
    Add(AddArgs),
    /// Give an account another password; all its devices are logged out
    #[command(after_help = "Example:\n  tramline user password ana --password-file ana.password")]
    Password(PasswordArgs),
    /// Log out all devices of an account and let nobody log in to it; its name stays taken
    #[command(after_help = "Example:\n  tramline user disable ana")]
    Disable(AccountArgs),
    /// Let somebody log in again who was disabled, with the same password
    #[command(after_help = "Example:\n  tramline user enable ana")]
    Enable(AccountArgs),
}

impl UserVerb {
    /// Which hub is meant.
    const fn hub(&self) -> &HubArgs {
        match self {
            Self::List(hub) => hub,
            Self::Add(args) => &args.hub,
            Self::Password(args) => &args.hub,
            Self::Disable(args) | Self::Enable(args) | Self::Devices(args) => &args.hub,
        }
    }
}

/// Arguments of `link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// What stands before the colon in the user's id
    pub localpart: String,
    /// The new device's id
    #[arg(long, value_name = "ID")]
    pub device: String,
    /// The credential file to write; never over one that is there
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print a command with which another program is this device, and write what that needs beside FILE
    #[arg(long = "for", value_name = "PROGRAM")]
    pub client: Option<ForClient>,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// A program that can be a linked device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ForClient {
    /// `aiocoap-client`, over OSCORE.
    Aiocoap,
    /// `coap-client-openssl` of libcoap, over DTLS.
    CoapClient,
    /// A script for aioquic.
    Aioquic,
}

/// Arguments of `unlink`.
#[derive(Debug, Args)]
pub struct UnlinkArgs {
    /// What stands before the colon in the user's id
    pub localpart: String,
    /// The device's id
    #[arg(long, value_name = "ID")]
    pub device: String,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Arguments of `user disable`, `user devices` and `user enable`.
#[derive(Debug, Args)]
pub struct AccountArgs {
    /// What stands before the colon in the user's id
    pub localpart: String,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Arguments of `user password`.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// What stands before the colon in the user's id
    pub localpart: String,
    /// The file with the password, - for stdin; without it you are asked
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Arguments of `user add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What stands before the colon in the user's id
    pub localpart: String,
    /// The file with the password, - for stdin; without it you are asked
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Make the account an operator's
    #[arg(long)]
    pub admin: bool,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Arguments of `client`.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// A credential file
    #[arg(long, value_name = "FILE", conflicts_with = "login")]
    pub credentials: Option<PathBuf>,
    /// Sign in with a password: an https:// or coap:// URL, and a user
    #[arg(long, num_args = 2, value_names = ["URL", "USER"])]
    pub login: Option<Vec<String>>,
    /// Trust only this certificate, in PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "login",
        conflicts_with = "credentials"
    )]
    pub ca: Option<PathBuf>,
    /// The file with the password, - for stdin; without it you are asked
    #[arg(
        long,
        value_name = "FILE",
        requires = "login",
        conflicts_with = "credentials"
    )]
    pub password_file: Option<PathBuf>,
    /// Keep the new session as a credential file, for --credentials
    #[arg(
        long,
        value_name = "FILE",
        requires = "login",
        conflicts_with = "credentials"
    )]
    pub save: Option<PathBuf>,
    /// Say on stderr what it cost: bytes and datagrams, signing in included (`send` always does)
    #[arg(short = 'v', long, visible_alias = "verbose", global = true)]
    pub cost: bool,
    /// What to do
    #[command(subcommand)]
    pub verb: Option<ClientVerb>,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ClientVerb {
    /// List the rooms you are in, are invited to or have asked to join
    #[command(after_help = "Example:\n  tramline client --credentials ana.json rooms")]
    Rooms,
    /// Make a room and print its id
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json create --name Crew --invite @bob:hub.example"
    )]
    Create {
        /// Its name
        #[arg(long)]
        name: Option<String>,
        /// Its alias on this hub, without # and server
        #[arg(long)]
        alias: Option<String>,
        /// Whom to invite; may be given again
        #[arg(long, value_name = "USER")]
        invite: Vec<String>,
        /// Let anyone join
        #[arg(long)]
        public: bool,
        /// Its version [default: the hub's]
        #[arg(long, value_name = "VERSION")]
        room_version: Option<String>,
    },
    /// Invite somebody
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json invite '#crew:hub.example' @bob:hub.example"
    )]
    Invite {
        /// The room's id or alias
        room: String,
        /// The user's id
        user: String,
    },
    /// Join a room, or accept an invitation
    #[command(
        after_help = "Example:\n  tramline client --credentials bob.json join '#crew:hub.example'"
    )]
    Join {
        /// The room's id or alias
        room: String,
    },
    /// Leave a room, or decline an invitation
    #[command(
        after_help = "Example:\n  tramline client --credentials bob.json leave '#crew:hub.example'"
    )]
    Leave {
        /// The room's id or alias
        room: String,
    },
    /// Send a message and print its event id
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json send '#crew:hub.example' 'hello, all'"
    )]
    Send {
        /// The room's id or alias
        room: String,
        /// The text
        text: String,
        /// The transaction id; a retry with the same one is not sent twice
        #[arg(long, value_name = "ID")]
        txn: Option<String>,
    },
    /// Print the newest messages of a room, oldest first
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json read '#crew:hub.example' --limit 20"
    )]
    Read {
        /// The room's id or alias
        room: String,
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Go on from the place that an earlier read printed
        #[arg(long, value_name = "TOKEN")]
        from: Option<String>,
    },
    /// Print what is new
    #[command(after_help = "Example:\n  tramline client --credentials ana.json sync --follow")]
    Sync {
        /// Since this place; without it from the beginning
        #[arg(long, value_name = "TOKEN")]
        since: Option<String>,
        /// Wait so many seconds for something new
        #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
        timeout: Duration,
        /// Go on until interrupted
        #[arg(long)]
        follow: bool,
    },
    /// Who am I, where, and does the hub answer?
    #[command(after_help = "Example:\n  tramline client --credentials ana.json status")]
    Status,
    /// Approve a new device of yours, and print the code that makes it one
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json approve --device PHONE\n\n\
                      The code is good once, for ten minutes; on the new device: \
                      tramline client link CODE --out phone.json --server https://HUB:8448"
    )]
    Approve {
        /// The new device's id
        #[arg(long, value_name = "ID")]
        device: String,
    },
    /// Make this a linked device, with a code from `approve`
    #[command(
        after_help = "Example:\n  tramline client link AAAAA-BBBBB-CCCCC-DDDDD-EEEEE-FFFFF-GGGGG-HH222 \
                      --out phone.json --server https://hub.example:8448"
    )]
    Link {
        /// The code; case, spaces and hyphens do not matter
        code: String,
        /// The credential file to write; never over one that is there
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Where the hub's HTTPS is
        #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:8448")]
        server: String,
        /// Trust only this certificate, in PEM; without it, the one whose key the code names
        #[arg(id = "link_ca", long = "ca", value_name = "FILE")]
        ca: Option<PathBuf>,
    },
    /// What a linked device has spent, day by day: bytes with headers, datagrams, wake-ups
    #[command(after_help = "Example:\n  tramline client --credentials k1.json ledger")]
    Ledger,
    /// Tell the hub what a linked device's link is like: how patiently to send, how much at once
    #[command(
        after_help = "Example:\n  tramline client --credentials phone.json link-class radio-300 --daily-kilobytes 200"
    )]
    LinkClass {
        /// The kind of link; timers, block sizes and how long to gather records follow from it
        class: LinkClass,
        /// Kilobytes a day, headers included; near it the hub leaves out receipts and typing, then
        /// profiles, then reactions, never messages. 0 for no limit
        #[arg(long, value_name = "KB", default_value_t = 0)]
        daily_kilobytes: u64,
    },
    /// End the session on the hub and take the access token out of the credential file
    #[command(after_help = "Example:\n  tramline client --credentials ana.json logout")]
    Logout,
}

/// The classes of links. spec: thin-profile §11
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinkClass {
    /// Not said
    Unknown,
    /// Radio up to 300 bit/s
    #[value(name = "radio-300")]
    Radio300,
    /// Radio up to 2,400 bit/s
    #[value(name = "radio-2400")]
    Radio2400,
    /// Satellite, narrow
    Satellite,
    /// NB-IoT or LTE-M
    NbIot,
    /// GPRS or EDGE
    Gprs,
    /// 3G, LTE or Wi-Fi
    Broadband,
}

impl LinkClass {
    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Radio300 => 1,
            Self::Radio2400 => 2,
            Self::Satellite => 3,
            Self::NbIot => 4,
            Self::Gprs => 5,
            Self::Broadband => 6,
        }
    }

    /// Its name on the command line; that of another program's class is its number.
    pub fn name_of(number: u8) -> String {
        let named = Self::value_variants()
            .iter()
            .find(|class| class.number() == number)
            .and_then(ValueEnum::to_possible_value);
        named.map_or_else(|| number.to_string(), |value| value.get_name().to_owned())
    }
}

/// The door that a `--login` URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginDoor {
    /// `https://`.
    Https,
    /// `coap://`.
    Coap,
}

/// What `--login` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The door.
    pub door: LoginDoor,
    /// Host and port; the port may be left out.
    pub authority: http::uri::Authority,
    /// The user: a localpart or an id.
    pub user: String,
}

impl ClientArgs {
    /// What `--login` says, if it is there.
    pub fn login(&self) -> Result<Option<Login>, Failure> {
        let Some([url, user]) = self.login.as_deref() else {
            return Ok(None);
        };
        let (door, rest) = if let Some(rest) = url.strip_prefix("https://") {
            (LoginDoor::Https, rest)
        } else if let Some(rest) = url.strip_prefix("coap://") {
            (LoginDoor::Coap, rest)
        } else {
            return Err(login_url(url));
        };
        let authority: http::uri::Authority = rest
            .trim_end_matches('/')
            .parse()
            .map_err(|_| login_url(url))?;
        if authority.as_str().contains('@') {
            return Err(login_url(url));
        }
        let user = user.clone();
        Ok(Some(Login {
            door,
            authority,
            user,
        }))
    }
}

impl HubArgs {
    fn inputs(self) -> Inputs {
        Inputs::of_process(self.config, self.options)
    }
}

/// Does what the command line asks.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, wanted_format(&args)),
    };
    let format = Format::of(cli.json);
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            format.explain(&failure);
            failure.exit.into()
        }
    }
}

/// What a command line that cannot be read asks for all the same.
fn wanted_format(args: &[OsString]) -> Format {
    let options = args.iter().take_while(|arg| *arg != "--");
    Format::of(options.into_iter().any(|arg| arg == "--json"))
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let format = Format::of(cli.json);
    match cli.verb {
        Verb::Init(args) => {
            let made = init(&args.server_name, &args.dir)?;
            run::block_on(open::create(&args.dir.join("tramline.toml")))?;
            format.print(&made.text(), &made.json())
        }
        Verb::Serve(hub) => run::block_on(run::serve(hub.inputs())),
        Verb::Config(args) if args.markdown => output::line(&config::as_markdown()),
        Verb::Config(args) => show_config(&args.hub.inputs(), format),
        Verb::User(UserArgs { verb }) => {
            let config = config::load(&verb.hub().clone().inputs())?.config;
            match users::request(&verb, &config.server_name)? {
                Some(request) => run::block_on(operate::operate(&config, request, format)),
                None => match verb {
                    UserVerb::Devices(args) => {
                        let name = users::checked_localpart(&args.localpart, &config.server_name)?;
                        run::block_on(operate::list_devices(&config, name, format))
                    }
                    _ => run::block_on(operate::list_users(&config, format)),
                },
            }
        }
        Verb::Link(args) => {
            let config = config::load(&args.hub.clone().inputs())?.config;
            let name = users::checked_localpart(&args.localpart, &config.server_name)?;
            run::block_on(link::link(&config, name, &args, format))
        }
        Verb::Unlink(args) => {
            let config = config::load(&args.hub.inputs())?.config;
            let localpart = users::checked_localpart(&args.localpart, &config.server_name)?;
            let device = args.device;
            let request = Request::RemoveDevice { localpart, device };
            run::block_on(operate::operate(&config, request, format))
        }
        Verb::Client(args) => run::block_on(talk::client(args, format)),
        Verb::Demo => run::block_on(run::demo(format)),
        Verb::Lab(args) => run::block_on(lab::run(args, format)),
        Verb::Backup(BackupArgs { out, hub }) => {
            run::block_on(backup::run(&hub.inputs(), &out, format))
        }
        Verb::Restore(args) => {
            let check = !args.no_check;
            run::block_on(restore::run(&args.backup, &args.dir, check, format))
        }
        Verb::Fsck(hub) => {
            let loaded = config::load(&hub.inputs())?;
            run::block_on(check::run(&loaded.config, format))
        }
    }
}

fn show_config(inputs: &Inputs, format: Format) -> Result<(), Failure> {
    let loaded = config::load(inputs)?;
    match format {
        Format::Text => output::line(&config::as_text(&loaded)),
        Format::Json => config::as_json(&loaded).try_for_each(|key| output::line(&key.to_string())),
    }
}

/// Help and version go to stdout with 0; anything wrong goes to stderr with a code.
fn usage(error: &clap::Error, format: Format) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    // Without any argument it is the help that stands there, which is no error's reason.
    match (text.strip_prefix("error: "), format) {
        (None, Format::Text) => output::note(text.trim_end()),
        (said, _) => format.explain(&Failure::usage("USAGE", said.unwrap_or(&text).trim_end())),
    }
    Exit::Usage.into()
}

fn login_url(url: &str) -> Failure {
    // An URL could carry a password; what stands before its @ is not repeated.
    let shown = url.rsplit('@').next().unwrap_or(url);
    Failure::usage(
        "LOGIN_URL",
        format!("{shown:?}: write https://HOST:PORT or coap://HOST:PORT"),
    )
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text
        .trim_end_matches('s')
        .parse()
        .map_err(|_| "write a whole number")?;
    if seconds > SYNC_SECONDS_MAX {
        return Err(format!("at most {SYNC_SECONDS_MAX}"));
    }
    Ok(Duration::from_secs(seconds))
}

/// How long one `client sync` may wait: longer than any hub holds a request.
const SYNC_SECONDS_MAX: u64 = 3600;

#[cfg(test)]
mod tests;
