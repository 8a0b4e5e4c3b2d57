//! `tramline init`: the directory of a new hub. Asks nothing, overwrites nothing.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use ruma::ServerName;
use serde_json::json;

use super::{clock, config, edhoc_key::EdhocKey, failure::Failure, keys};

/// What `init` made.
#[derive(Debug)]
pub struct Initialised {
    /// The directory.
    pub dir: PathBuf,
    /// What is in it, relative to it.
    pub files: Vec<PathBuf>,
    /// The three commands to go on with.
    pub next: [String; 3],
}

impl Initialised {
    /// For people.
    pub fn text(&self) -> String {
        let [serve, user, client] = &self.next;
        let line = |file: &PathBuf| format!("  {}", self.dir.join(file).display());
        let files: Vec<String> = self.files.iter().map(line).collect();
        let files = files.join("\n");
        format!("Wrote\n{files}\n\nNext:\n  {serve}\n  {user}\n  {client}\n")
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "event": "initialised",
            "dir": self.dir,
            "files": self.files,
            "next": self.next,
        })
    }
}

/// One file or directory of a new hub.
struct Item {
    path: &'static str,
    mode: u32,
    /// None for a directory.
    text: Option<String>,
}

/// Writes a new hub's directory.
pub fn init(server_name: &str, dir: &Path) -> Result<Initialised, Failure> {
    let name = ServerName::parse(server_name).map_err(|error| {
        let fix = "write a host name like hub.example";
        Failure::usage("SERVER_NAME", format!("{server_name:?}: {error}; {fix}"))
    })?;
    if server_name.chars().any(|c| c.is_ascii_uppercase()) {
        let fix = format!("write {}", server_name.to_ascii_lowercase());
        let reason = format!("{server_name:?}: a server's name has no capital letters; {fix}");
        return Err(Failure::usage("SERVER_NAME", reason));
    }
    let items = contents(&name)?;
    refuse_to_overwrite(dir, &items)?;
    let mut made = Vec::new();
    if let Err((path, error)) = write_all(dir, &items, &mut made) {
        undo(&made);
        return Err(Failure::failed(
            "INIT",
            format!("cannot write {}: {error}", path.display()),
        ));
    }
    Ok(Initialised {
        dir: dir.to_owned(),
        files: items.iter().map(|item| PathBuf::from(item.path)).collect(),
        next: next_commands(dir, port_of(&name).unwrap_or(HTTPS_PORT)),
    })
}

/// In the order in which they are made: a directory before what is in it.
fn contents(name: &ServerName) -> Result<Vec<Item>, Failure> {
    let (certificate, key) = certificate_for(name)
        .map_err(|error| Failure::failed("INIT", format!("cannot make a certificate: {error}")))?;
    let no_chance = |error| Failure::failed("INIT", format!("no randomness: {error}"));
    let signing_key = keys::generate().map_err(no_chance)?;
    let quic_key = keys::generate().map_err(no_chance)?;
    let edhoc_key = EdhocKey::generate().map_err(no_chance)?.text();
    let token = admin_token().map_err(no_chance)?;
    let item = |path, mode, text| Item { path, mode, text };
    Ok(vec![
        item("keys", 0o700, None),
        item("keys/signing.pem", 0o600, Some(signing_key)),
        item("keys/edhoc.key", 0o600, Some(edhoc_key)),
        item("keys/https.cert.pem", 0o644, Some(certificate)),
        item("keys/https.key.pem", 0o600, Some(key)),
        item("keys/quic.key", 0o600, Some(quic_key)),
        item("keys/admin.token", 0o600, Some(token)),
        item("store", 0o700, None),
        item("run", 0o700, None),
        // Last: who finds it finds the rest. It may come to hold a token, so it is the owner's.
        item(
            "tramline.toml",
            0o600,
            Some(config::file_for(name.as_str(), &listening(port_of(name)))),
        ),
    ])
}

/// The port that is part of the name, where others look for the hub then.
fn port_of(name: &ServerName) -> Option<u16> {
    name.port().filter(|port| *port != 0)
}

/// The settings of a hub that listens at the port of its name; none for one without.
fn listening(port: Option<u16>) -> Vec<(&'static str, String)> {
    let Some(port) = port else {
        return Vec::new();
    };
    let mut settings = vec![("https.listen", format!("127.0.0.1:{port}"))];
    if port == ADMIN_PORT {
        settings.push(("admin.listen", format!("127.0.0.1:{}", ADMIN_PORT + 1)));
    }
    settings
}

/// Where the admin listener is unless a setting says otherwise; a test holds them together.
const ADMIN_PORT: u16 = 9090;

fn refuse_to_overwrite(dir: &Path, items: &[Item]) -> Result<(), Failure> {
    let there: Vec<String> = items
        .iter()
        .filter(|item| dir.join(item.path).symlink_metadata().is_ok())
        .map(|item| item.path.to_owned())
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(
        "INIT_EXISTS",
        format!(
            "{} already has {}; nothing was changed. Choose another --dir, or move them away first",
            dir.display(),
            there.join(", ")
        ),
    ))
}

fn write_all(
    dir: &Path,
    items: &[Item],
    made: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
    fs::create_dir_all(dir).map_err(|error| (dir.to_owned(), error))?;
    for item in items {
        let path = dir.join(item.path);
        write(&path, item).map_err(|error| (path.clone(), error))?;
        made.push(path);
    }
    sync_dir(dir).map_err(|error| (dir.to_owned(), error))
}

fn write(path: &Path, item: &Item) -> io::Result<()> {
    let Some(text) = &item.text else {
        return fs::DirBuilder::new().mode(item.mode).create(path);
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true) // also where a file appeared after we looked
        .mode(item.mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    fs::File::open(dir)?.sync_all()
}

/// Takes back a half-written hub, so that a second try does not meet the first one's rest.
fn undo(made: &[PathBuf]) {
    for path in made.iter().rev() {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    }
}

/// A certificate and its key, good for this machine and for the hub's own name.
fn certificate_for(name: &ServerName) -> Result<(String, String), rcgen::Error> {
    let host = name.host().trim_matches(['[', ']']).to_owned();
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    if !names.contains(&host) {
        names.push(host);
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    // Not an authority: clients pin this very certificate, and it can vouch for no other.
    params.is_ca = IsCa::ExplicitNoCa;
    // Good for as long as a two-digit year can say: it is replaced, not renewed.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Tramline {name}"));
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn admin_token() -> io::Result<String> {
    let mut bytes = [0; 32];
    clock::fill_from_system(&mut bytes)?;
    Ok(format!("{}\n", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Where the HTTPS door is unless a setting says otherwise.
const HTTPS_PORT: u16 = 8448;

fn next_commands(dir: &Path, port: u16) -> [String; 3] {
    let here = dir == Path::new(".") || dir.as_os_str().is_empty();
    let path = |name: &str| {
        let path = if here {
            PathBuf::from(name)
        } else {
            dir.join(name)
        };
        shell_word(&path.to_string_lossy())
    };
    let config = if here {
        String::new()
    } else {
        format!(" --config {}", path("tramline.toml"))
    };
    [
        format!("tramline serve{config}"),
        format!("tramline user add ana{config}"),
        format!(
            "tramline client --login https://127.0.0.1:{port} ana --ca {} status",
            path("keys/https.cert.pem")
        ),
    ]
}

/// `text` as a shell takes it for one word.
pub(super) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

    use super::*;
    use crate::app::{
        config::{Inputs, load},
        keys::SigningKey,
        tls,
    };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_init_writes_is_a_hub_that_loads() {
        let dir = tempfile::tempdir().unwrap();

        init("hub.example", dir.path()).unwrap();

        let inputs = Inputs {
            file: Some(dir.path().join("tramline.toml")),
            ..Inputs::default()
        };
        let config = load(&inputs).unwrap().config;
        assert_eq!(config.server_name, "hub.example");
        assert!(SigningKey::read(config.signing_key_file.as_ref()).is_ok());
        assert!(tls::Certificate::read(&config.https).is_ok());
    }

    #[test]
    fn secrets_and_their_directories_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        init("hub.example", dir.path()).unwrap();

        for name in ["keys", "store", "run"] {
            assert_eq!(mode(&dir.path().join(name)), 0o700, "{name}");
        }
        for name in [
            "tramline.toml",
            "keys/signing.pem",
            "keys/https.key.pem",
            "keys/quic.key",
            "keys/edhoc.key",
            "keys/admin.token",
        ] {
            assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn init_refuses_to_overwrite_and_says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        init("hub.example", dir.path()).unwrap();
        let before = fs::read(dir.path().join("keys/signing.pem")).unwrap();

        let failure = init("other.example", dir.path()).unwrap_err();

        assert_eq!(failure.exit, super::super::failure::Exit::Failed);
        assert!(failure.to_string().contains("tramline.toml"), "{failure}");
        assert_eq!(
            fs::read(dir.path().join("keys/signing.pem")).unwrap(),
            before
        );
    }

    #[test]
    fn one_file_that_is_there_is_enough_to_write_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tramline.toml"), "mine").unwrap();

        assert!(init("hub.example", dir.path()).is_err());

        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(
            fs::read_to_string(dir.path().join("tramline.toml")).unwrap(),
            "mine"
        );
    }

    #[test]
    fn a_name_that_is_no_server_name_is_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();

        let failure = init("not a name", dir.path()).unwrap_err();

        assert_eq!(failure.exit, super::super::failure::Exit::Usage);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_with_capital_letters_is_refused_with_the_one_that_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let refused = init("Hub.EXAMPLE:8448", dir.path())
            .unwrap_err()
            .to_string();
        assert!(refused.starts_with("error[SERVER_NAME]"), "{refused}");
        assert!(refused.contains("write hub.example:8448"), "{refused}");
        assert!(!dir.path().join("tramline.toml").exists());
    }

    #[test]
    fn the_next_commands_name_a_directory_with_spaces_as_one_word() {
        let [serve, _, client] = next_commands(Path::new("/srv/my hub"), 8448);

        assert_eq!(serve, "tramline serve --config '/srv/my hub/tramline.toml'");
        assert!(client.contains("--ca '/srv/my hub/keys/https.cert.pem'"));
        assert_eq!(next_commands(Path::new("."), 8448)[0], "tramline serve");
    }

    #[test]
    fn a_hub_with_a_port_in_its_name_listens_there() {
        for (name, https, admin) in [
            ("hub.example", "127.0.0.1:8448", "127.0.0.1:9090"),
            ("hub.example:18448", "127.0.0.1:18448", "127.0.0.1:9090"),
            ("localhost:9090", "127.0.0.1:9090", "127.0.0.1:9091"),
        ] {
            let dir = tempfile::tempdir().unwrap();

            let made = init(name, dir.path()).unwrap();

            let inputs = Inputs {
                file: Some(dir.path().join("tramline.toml")),
                ..Inputs::default()
            };
            let config = load(&inputs).unwrap().config;
            assert_eq!(config.server_name, name);
            assert_eq!(config.https.listen.addresses(), [https.parse().unwrap()]);
            assert_eq!(config.admin.listen.addresses(), [admin.parse().unwrap()]);
            assert!(made.next[2].contains(&format!("https://{https} ")));
        }
    }

    #[test]
    fn a_client_that_pins_the_certificate_reaches_the_hub_by_every_name() {
        let (certificate, key) = certificate_for("hub.example:8448".try_into().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cert"), &certificate).unwrap();
        fs::write(dir.path().join("key"), key).unwrap();
        let certificate =
            tls::Certificate::from_files(&dir.path().join("cert"), &dir.path().join("key"))
                .unwrap();
        let server = crate::edge::http::tls::server_config(Arc::new(certificate)).unwrap();
        for name in ["localhost", "127.0.0.1", "::1", "hub.example"] {
            tls::tests::handshake(&server, &dir.path().join("cert"), name).unwrap();
        }
        assert!(tls::tests::handshake(&server, &dir.path().join("cert"), "evil.example").is_err());
    }
}
