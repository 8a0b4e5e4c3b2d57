//! The command line: verbs, their help, and who does them.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration, 3 the store is
//! somebody else's. Results go to stdout, everything else to stderr.

mod client;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ruma::OwnedServerName;

pub use self::client::{ClientArgs, ClientVerb, LinkClass, Login, LoginDoor, WantedDoor};
use super::{
    backup, check,
    config::{self, Config, Inputs},
    doctor, explain,
    failure::{Exit, Failure},
    in_force,
    init::init,
    lab::{self, args::LabArgs},
    link, open, operate,
    operator::Request,
    output::{self, Format},
    restore, rotate, run, talk, users,
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
    #[command(
        after_help = "Example:\n  tramline config --config /srv/hub/tramline.toml\n\n\
                      While the hub runs, these are its settings, what `serve` was given with -O included; \
                      what is configured here otherwise and waits for a reload or a start is said on stderr \
                      (with --json as `configured`). An -O of this command is stronger than both."
    )]
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
    /// Change the key that this hub signs with; the old one stays published, so that others believe what it signed
    #[command(after_help = "Example:\n  tramline keys rotate --config /srv/hub/tramline.toml")]
    Keys(KeysArgs),
    /// Tell how other servers take what is for them
    #[command(
        after_help = "Example:\n  tramline peer status --config /srv/hub/tramline.toml\n  \
                      tramline peer status matrix.example --json"
    )]
    Peer(PeerArgs),
    /// Tell why a request was refused: by which rule, and what would let it pass
    #[command(
        after_help = "Example:\n  tramline explain 0000002a --config /srv/hub/tramline.toml\n  \
                      tramline explain --recent --json\n\n\
                      A request's id is in its answer (X-Request-Id) and in the hub's log. The hub \
                      remembers the latest refusals, in memory, since its start."
    )]
    Explain(ExplainArgs),
    /// Check names, certificates, keys, clock and other servers, with the code the hub uses
    #[command(
        after_help = "Example:\n  tramline doctor --config /srv/hub/tramline.toml\n  \
                      tramline doctor --peer matrix.example --json\n\n\
                      Each finding has a code, its cause, and a command or setting that mends it. Works \
                      with the hub running or not; what needs it running is left out and said. Of a hub \
                      that runs, its own settings count, what `serve` was given with -O included; an -O \
                      of this command is stronger. Ends with 0 when nothing fails, 1 otherwise."
    )]
    Doctor(DoctorArgs),
    /// Talk in rooms: over HTTPS or CoAP, or as a linked device over OSCORE or QUIC
    #[command(
        after_help = "Example:\n  tramline client --login https://127.0.0.1:8448 ana \
                      --ca keys/https.cert.pem rooms\n  \
                      tramline client --login coap://127.0.0.1:5683 ana send '#all:hub.example' hello\n  \
                      tramline client --credentials phone.json sync --follow       # a linked device, over OSCORE\n  \
                      tramline client --credentials phone.json upload photo.jpg    # and over QUIC, as it is large"
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
    /// A setting that is stronger than file and environment. Relative paths in it start at the working directory, those of file and environment at the file's
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
    /// Print a command with which another program, which has to be installed, is this device, and write what that needs beside FILE
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

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: KeysVerb,
}

/// What to do with the hub's keys.
#[derive(Debug, Subcommand)]
pub enum KeysVerb {
    /// Make a new signing key and publish the old one as old; the hub must not run
    #[command(
        after_help = "Example:\n  tramline keys rotate --config /srv/hub/tramline.toml\n\n\
                      Stop the hub before, and start it after. The old key's file is kept beside the new one's. Linked devices notice nothing."
    )]
    Rotate(HubArgs),
}

/// Arguments of `peer`.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: PeerVerb,
}

/// What to do with other servers.
#[derive(Debug, Subcommand)]
pub enum PeerVerb {
    /// List them: whether they are told what is for them, how much waits, and why it does
    #[command(
        after_help = "Example:\n  tramline peer status matrix.example --json\n\n\
        A server is up to date, queued (its turn comes), in flight (it is being told), backing off (it took nothing, \
        and is tried again later) or at rest (no hub runs, or it runs without federation: nothing is sent). One that \
        was never heard of is an error, PEER_UNKNOWN."
    )]
    Status(PeerStatusArgs),
}

/// Arguments of `peer status`.
#[derive(Debug, Args)]
pub struct PeerStatusArgs {
    /// One of them; without it, all that this hub has told something or is to
    #[arg(value_name = "SERVER")]
    pub server: Option<OwnedServerName>,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct ExplainArgs {
    /// The request's id
    #[arg(value_name = "REQUEST-ID", group = "which")]
    pub id: Option<String>,
    /// The last refusals, newest first, instead of one
    #[arg(long, group = "which")]
    pub recent: bool,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A server to look at, beside those that the running hub has to do with; may be given again
    #[arg(long = "peer", value_name = "SERVER")]
    pub peers: Vec<String>,
    /// Which hub is meant.
    #[command(flatten)]
    pub hub: HubArgs,
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
        Verb::Config(args) => run::block_on(show_config(&args.hub.inputs(), format)),
        Verb::User(UserArgs { verb }) => {
            let config = usable(verb.hub().clone().inputs(), format)?;
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
            let config = usable(args.hub.clone().inputs(), format)?;
            let name = users::checked_localpart(&args.localpart, &config.server_name)?;
            run::block_on(link::link(&config, name, &args, format))
        }
        Verb::Unlink(args) => {
            let config = usable(args.hub.inputs(), format)?;
            let localpart = users::checked_localpart(&args.localpart, &config.server_name)?;
            let device = args.device;
            let request = Request::RemoveDevice { localpart, device };
            run::block_on(operate::operate(&config, request, format))
        }
        Verb::Keys(KeysArgs {
            verb: KeysVerb::Rotate(hub),
        }) => {
            let config = config::load(&hub.inputs())?.config;
            run::block_on(rotate::run(&config, format))
        }
        Verb::Peer(PeerArgs {
            verb: PeerVerb::Status(args),
        }) => {
            let config = usable(args.hub.inputs(), format)?;
            run::block_on(operate::list_peers(&config, args.server, format))
        }
        Verb::Explain(args) => {
            let inputs = args.hub.inputs();
            let file = inputs.file.clone();
            let config = usable(inputs, format)?;
            run::block_on(explain::run(&config, file.as_deref(), args.id, format))
        }
        Verb::Doctor(args) => run::block_on(doctor::run(&args.hub.inputs(), args.peers, format)),
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
        Verb::Fsck(hub) => run::block_on(async {
            let (loaded, running) = in_force::load(&hub.inputs()).await?;
            if let Some(broken) = running.and_then(|hub| hub.broken) {
                in_force::tell_broken(broken, format);
            }
            check::run(&loaded.config, format).await
        }),
    }
}

fn usable(inputs: Inputs, format: Format) -> Result<Config, Failure> {
    run::block_on(async { in_force::usable(&inputs, format).await })
}

async fn show_config(inputs: &Inputs, format: Format) -> Result<(), Failure> {
    let (loaded, running) = in_force::look(inputs).await?;
    match format {
        Format::Text => output::line(config::as_text(&loaded).trim_end())?,
        Format::Json => {
            config::as_json(&loaded).try_for_each(|key| output::line(&key.to_string()))?;
        }
    }
    in_force::tell_whose(&loaded, running, format)
}

/// What a parser cannot know of why two arguments exclude each other.
fn explained(text: String) -> String {
    let Some((said, usage)) = text.split_once("\n\n") else {
        return text;
    };
    if !(said.contains("'--ca <FILE>'") && said.contains("'--credentials <FILE>'")) {
        return text;
    }
    format!(
        "{said}: the credential file keeps the certificate of the --ca that it was saved with; for another \
         one, sign in again with --login, --ca and --save\n\n{usage}"
    )
}

/// Help and version go to stdout with 0; anything wrong goes to stderr with a code.
fn usage(error: &clap::Error, format: Format) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = explained(error.render().to_string());
    // Without any argument it is the help that stands there, which is no error's reason.
    match (text.strip_prefix("error: "), format) {
        (None, Format::Text) => output::note(text.trim_end()),
        (Some(said), Format::Text) => {
            format.explain(&Failure::usage("USAGE", said.trim_end()));
        }
        (said, Format::Json) => {
            let said = on_one_line(said.unwrap_or(&text));
            format.explain(&Failure::usage("USAGE", said));
        }
    }
    Exit::Usage.into()
}

/// What clap says in paragraphs and lists, as one line: the parts joined by `; `.
fn on_one_line(text: &str) -> String {
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { "; " });
        }
        line.push_str(part);
    }
    line
}

#[cfg(test)]
mod tests;
