//! The command line of `client`: who speaks, through which door, and the verbs.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use crate::app::failure::Failure;

/// Arguments of `client`.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// A credential file
    #[arg(long, value_name = "FILE", conflicts_with = "login")]
    pub credentials: Option<PathBuf>,
    /// Sign in with a password: an https:// or coap:// URL, and a user
    #[arg(long, num_args = 2, value_names = ["URL", "USER"])]
    pub login: Option<Vec<String>>,
    /// Trust only this certificate, in PEM; without it, those that this system trusts. --save keeps it in
    /// the credential file, so that --credentials needs none
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
    /// Keep the new session, and the certificate of --ca, as a credential file for --credentials
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
    /// The door of a linked device
    #[arg(
        long,
        value_name = "DOOR",
        default_value = "auto",
        conflicts_with = "login"
    )]
    pub door: WantedDoor,
    /// What to do
    #[command(subcommand)]
    pub verb: Option<ClientVerb>,
}

/// The door that `--door` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WantedDoor {
    /// OSCORE; QUIC for large files, and where OSCORE does not get through
    Auto,
    /// OSCORE over UDP: no handshake, the fewest bytes for what is small
    Oscore,
    /// QUIC: a handshake for each command, the fewest bytes for what is large
    Quic,
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
        after_help = "Example:\n  tramline client --credentials bob.json join '#crew:hub.example'\n  tramline client --credentials bob.json join '!room' --via synapse.example"
    )]
    Join {
        /// The room's id or alias
        room: String,
        /// A server that is in the room, for the id of a room that is elsewhere; up to 20 of them
        #[arg(long, value_name = "SERVER")]
        via: Vec<String>,
    },
    /// Give a room an alias and make it its main one; or take one away, or list them
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json alias '!room' '#crew'\n  \
                      tramline client --credentials ana.json alias '!room'\n\n\
                      The alias is made in your own server's directory, unless it names the room already; an alias of another \
                      server must name the room there. The main alias of before stays, and is shown beside it. \
                      --remove takes an alias out of what the room shows, and one of your own server out of its directory."
    )]
    Alias {
        /// The room's id or alias
        room: String,
        /// The alias; one without a server's name is of your own server. Without it, all are listed
        #[arg(value_name = "ALIAS")]
        alias: Option<String>,
        /// Take it away
        #[arg(long, requires = "alias")]
        remove: bool,
    },
    /// Leave a room, or decline an invitation
    #[command(
        after_help = "Example:\n  tramline client --credentials bob.json leave '#crew:hub.example'"
    )]
    Leave {
        /// The room's id or alias
        room: String,
    },
    /// Send a message; print its event id, or its number in the room for a linked device
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
        #[arg(long, default_value_t = 20, allow_negative_numbers = true,
            value_parser = read_limit)]
        limit: u32,
        /// Go on from the place that an earlier read printed
        #[arg(long, value_name = "TOKEN")]
        from: Option<String>,
    },
    /// Print what is new
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json sync --follow\n\n\
                      While a linked device follows, no other verb can use its file: end it first, with Ctrl-C."
    )]
    Sync {
        /// Since this place; without it a session gets the newest of each room. A linked device goes on by itself
        /// from where it was, and the first time only notes where that is
        #[arg(long, value_name = "TOKEN")]
        since: Option<String>,
        /// Wait so many seconds for something new
        #[arg(long, value_name = "SECONDS", default_value = "0", allow_negative_numbers = true,
            value_parser = seconds)]
        timeout: Duration,
        /// Go on until interrupted
        #[arg(long)]
        follow: bool,
    },
    /// Who am I, where, and does the hub answer? Or, of a room: what became of my newest messages at other servers?
    #[command(
        after_help = "Example:\n  tramline client --credentials ana.json status\n  \
                      tramline client --credentials ana.json status '#crew:hub.example'\n\n\
                      A message is queued (and why, if not only for its turn), in flight, acked, refused (and why) or \
                      expired, for each server that it is for. Changes of state are listed where a server did not take them."
    )]
    Status {
        /// The room's id or alias
        room: Option<String>,
    },
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
        /// profiles, then reactions, never messages, and a file that takes more than is left goes only with
        /// --beyond-limit. 0 for no limit [default: as it was]
        #[arg(long, value_name = "KB", allow_negative_numbers = true,
            value_parser = daily_kilobytes)]
        daily_kilobytes: Option<u64>,
    },
    /// Upload a file from a linked device, and print its mxc: URI
    #[command(
        after_help = "Example:\n  tramline client --credentials phone.json upload photo.jpg --type image/jpeg"
    )]
    Upload {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What it is
        #[arg(long = "type", value_name = "MEDIA_TYPE")]
        media_type: Option<String>,
        /// What others are to call it [default: nothing]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Send it also where it takes more than is left of the daily limit
        #[arg(long)]
        beyond_limit: bool,
    },
    /// Download a file to a linked device
    #[command(
        after_help = "Example:\n  tramline client --credentials phone.json download mxc://hub.example/Aqe3 --out photo.jpg"
    )]
    Download {
        /// Its mxc: URI
        #[arg(value_name = "MXC")]
        uri: String,
        /// The file to write; never over one that is there
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Fetch it also where it takes more than is left of the daily limit
        #[arg(long)]
        beyond_limit: bool,
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

fn login_url(url: &str) -> Failure {
    // An URL could carry a password; what stands before its @ is not repeated.
    let shown = url.rsplit('@').next().unwrap_or(url);
    Failure::usage(
        "LOGIN_URL",
        format!("{shown:?}: write https://HOST:PORT or coap://HOST:PORT"),
    )
}

fn seconds(text: &str) -> Result<Duration, String> {
    number(text.trim_end_matches('s'), 0..=SYNC_SECONDS_MAX).map(Duration::from_secs)
}

fn read_limit(text: &str) -> Result<u32, String> {
    let limit = number(text, 1..=u64::from(READ_LIMIT_MAX))?;
    Ok(u32::try_from(limit).unwrap_or(READ_LIMIT_MAX))
}

fn daily_kilobytes(text: &str) -> Result<u64, String> {
    number(text, 0..=DAILY_KILOBYTES_MAX)
}

/// Reads a whole number, and says which side of the range it is beyond.
fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (least, most) = (range.start(), range.end());
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("write a whole number, from {least} to {most}"));
    }
    match text.parse::<u64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(number) if number < *least => Err(format!("not below {least}")),
        Err(_) if text.starts_with('-') => Err(format!("not below {least}")),
        _ => Err(format!("not above {most}")),
    }
}

/// How many messages one `client read` prints: what a hub gives in one page.
const READ_LIMIT_MAX: u32 = 1000;

/// A terabyte a day: above it, no limit is meant.
const DAILY_KILOBYTES_MAX: u64 = 1_000_000_000;

/// How long one `client sync` may wait: longer than any hub holds a request.
const SYNC_SECONDS_MAX: u64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_refused_is_told_which_limit_it_is_beyond() {
        assert_eq!(read_limit("1000"), Ok(1000));
        for (text, wanted) in [
            ("1001", "not above 1000"),
            ("99999999999999999999999999", "not above 1000"),
            ("0", "not below 1"),
            ("-3", "not below 1"),
            ("-99999999999999999999999999", "not below 1"),
            ("many", "write a whole number, from 1 to 1000"),
            ("", "write a whole number, from 1 to 1000"),
        ] {
            assert_eq!(read_limit(text), Err(wanted.to_owned()), "{text}");
        }
        assert_eq!(seconds("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("3601"), Err("not above 3600".to_owned()));
        assert_eq!(
            daily_kilobytes("1000000001"),
            Err("not above 1000000000".to_owned())
        );
    }
}
