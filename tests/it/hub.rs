//! A hub as a process: the real binary, in a directory of its own, on free ports.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use libtest_mimic::Failed;
use serde_json::Value;
use tempfile::TempDir;
use tramline::{
    app::clock::world,
    client::{Client, Target},
};

/// The server name of every hub in these tests that does not federate.
pub(crate) const NAME: &str = "hub.example";

/// How long a hub may take to be ready on a busy machine.
const READY: Duration = Duration::from_mins(1);

/// A directory that `tramline init` made, and perhaps a hub running in it.
pub(crate) struct Hub {
    name: String,
    path: PathBuf,
    made: Option<TempDir>,
    running: Option<Running>,
    options: Vec<String>,
    env: Vec<(String, String)>,
}

struct Running {
    child: Child,
    ready: Value,
}

impl Hub {
    /// Initialises a directory; nothing runs yet.
    pub(crate) fn init() -> Result<Self, Failed> {
        Self::init_as(NAME)
    }

    fn init_as(name: &str) -> Result<Self, Failed> {
        let dir = tempfile::tempdir()?;
        let mut hub = Self::adopt(dir.path());
        hub.made = Some(dir);
        name.clone_into(&mut hub.name);
        run(tramline().args(["init", name, "--dir"]).arg(hub.path()))?;
        Ok(hub)
    }

    /// A hub that runs as `localhost:PORT`, where other servers reach it by its name.
    ///
    /// The name comes before the hub, and so does the port, which another program may take in
    /// between: then it is another hub with another name.
    pub(crate) fn federating(users: &[&str], options: &[String]) -> Result<Self, Failed> {
        Self::federating_with(users, options, |_| Ok(()))
    }

    /// The same, prepared further before it starts.
    pub(crate) fn federating_with(
        users: &[&str],
        options: &[String],
        prepare: impl Fn(&Self) -> Result<(), Failed>,
    ) -> Result<Self, Failed> {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let mut hub = Self::init_as(&format!("localhost:{}", free.port()))?;
            hub.option(&format!("https.listen={free}"));
            for option in options {
                hub.option(option);
            }
            for user in users {
                hub.add_user(user)?;
            }
            prepare(&hub)?;
            match hub.start() {
                Ok(()) => return Ok(hub),
                Err(_) if hub.log_text().contains("error[LISTEN]") => {}
                Err(error) => return Err(error),
            }
        }
        Err(format!("{TRIES} free ports were taken in the moment they were to be used").into())
    }

    /// A directory that is already initialised, and stays when this is dropped.
    pub(crate) fn adopt(path: &Path) -> Self {
        let path = path.to_owned();
        Self {
            name: NAME.to_owned(),
            path,
            made: None,
            running: None,
            options: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Initialises a directory, adds `users` whose passwords are `secret-NAME`, and starts.
    pub(crate) fn with_users(users: &[&str]) -> Result<Self, Failed> {
        let mut hub = Self::init()?;
        for user in users {
            hub.add_user(user)?;
        }
        hub.start()?;
        Ok(hub)
    }

    /// Its server name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where everything is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A further `-O` for the next start.
    pub(crate) fn option(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    /// A further environment variable for the next start.
    pub(crate) fn env(&mut self, name: &str, value: impl Into<String>) {
        self.env.push((name.to_owned(), value.into()));
    }

    /// Adds a user whose password is `secret-NAME`.
    pub(crate) fn add_user(&self, user: &str) -> Result<(), Failed> {
        let file = self.path().join(format!("password-{user}"));
        fs::write(&file, format!("secret-{user}"))?;
        let mut command = tramline();
        command
            .args(["user", "add", user, "--password-file"])
            .arg(&file)
            .arg("--config");
        run(command.arg(self.config()))?;
        Ok(())
    }

    /// Starts the hub and waits for its ready line.
    pub(crate) fn start(&mut self) -> Result<(), Failed> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = tramline();
        command.arg("serve").arg("--config").arg(self.config());
        for door in ["https", "coap", "coaps", "quic", "admin"] {
            command.args(["-O", &format!("{door}.listen=127.0.0.1:0")]);
        }
        for limit in [
            "login_per_address",
            "login_per_account",
            "register_per_address",
            "messages_per_account",
            "requests_per_account",
        ] {
            command.args(["-O", &format!("limits.{limit}=off")]);
        }
        for option in &self.options {
            command.args(["-O", option]);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let ready = first_line(&mut child).map_err(|why| {
            let _ = child.kill();
            let _ = child.wait();
            Failed::from(format!("the hub is not ready: {why}\n{}", self.log_text()))
        })?;
        self.running = Some(Running {
            child,
            ready: serde_json::from_str(&ready)?,
        });
        Ok(())
    }

    /// The ready line.
    pub(crate) fn ready(&self) -> &Value {
        &self.running.as_ref().expect("the hub runs").ready
    }

    /// `host:port` of a door.
    pub(crate) fn address(&self, door: &str) -> String {
        let address = self.ready()["listen"][door][0].as_str();
        address
            .unwrap_or_else(|| panic!("no {door} door in {}", self.ready()))
            .to_owned()
    }

    /// `https://localhost:PORT`.
    pub(crate) fn https(&self) -> String {
        let address = self.address("https");
        let port = address
            .rsplit(':')
            .next()
            .expect("rsplit gives at least one part");
        format!("https://localhost:{port}")
    }

    /// `coap://127.0.0.1:PORT`.
    pub(crate) fn coap(&self) -> String {
        format!("coap://{}", self.address("coap"))
    }

    /// The certificate clients trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("keys/https.cert.pem")
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("tramline.toml")
    }

    /// Where the hub logs to.
    pub(crate) fn log(&self) -> PathBuf {
        self.path().join("stderr.log")
    }

    /// What the hub has logged.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The hub's door as a client's target.
    pub(crate) fn target(&self, door: &str) -> Result<Target, Failed> {
        let url = if door == "coap" {
            self.coap()
        } else {
            self.https()
        };
        Ok(Target::parse(&url, Some(&fs::read_to_string(self.ca())?))?)
    }

    /// A client that is logged in.
    pub(crate) async fn client(&self, door: &str, user: &str) -> Result<Client, Failed> {
        let mut client = Client::open(&self.target(door)?, &world()).await?;
        client.login(user, &format!("secret-{user}"), None).await?;
        Ok(client)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<(), Failed> {
        if let Some(mut running) = self.running.take() {
            running.child.kill()?;
            ended(&mut running.child)?;
        }
        Ok(())
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> Result<u32, Failed> {
        let running = self.running.as_ref().ok_or("the hub does not run")?;
        Ok(running.child.id())
    }

    /// SIGHUP: the configuration anew.
    pub(crate) fn reload(&self) -> Result<(), Failed> {
        let running = self.running.as_ref().ok_or("the hub does not run")?;
        let id = running.child.id().to_string();
        run(Command::new("kill").args(["-HUP", &id])).map(drop)
    }

    /// SIGTERM; the exit code.
    pub(crate) fn stop(&mut self) -> Result<i32, Failed> {
        let mut running = self.running.take().ok_or("the hub does not run")?;
        run(Command::new("kill")
            .arg("-TERM")
            .arg(running.child.id().to_string()))?;
        Ok(ended(&mut running.child)?.code().unwrap_or(-1))
    }

    /// `tramline fsck --json` on the stopped hub: the exit code and what it printed.
    pub(crate) fn fsck(&self) -> Result<(i32, String), Failed> {
        let output = tramline()
            .arg("fsck")
            .arg("--json")
            .arg("--config")
            .arg(self.config())
            .output()?;
        let code = output.status.code().unwrap_or(-1);
        Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The binary under test.
pub(crate) fn tramline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tramline"));
    command.stdin(Stdio::null());
    command
}

/// How long a program may run at all. One that hangs must fail under its own name.
const RUNS_MAX: Duration = Duration::from_mins(10);

/// Kills a child that runs for longer than it may, until this is dropped.
struct Limit(mpsc::Sender<()>);

impl Limit {
    fn of(child: &Child) -> Self {
        let id = child.id().to_string();
        let (over, is_over) = mpsc::channel();
        std::thread::spawn(move || {
            if is_over.recv_timeout(RUNS_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &id]).status();
            }
        });
        Self(over)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Waits for a child, for as long as it may run.
pub(crate) fn ended(child: &mut Child) -> io::Result<ExitStatus> {
    let _limit = Limit::of(child);
    child.wait()
}

/// What a command prints and how it ends, within the time that it may run.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let _limit = Limit::of(&child);
    child.wait_with_output()
}

/// Runs a command that must succeed; gives its stdout.
pub(crate) fn run(command: &mut Command) -> Result<String, Failed> {
    let output = output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{command:?} ended with {}: {said}", output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first line of a child's stdout; the rest is read and dropped so that it never blocks.
fn first_line(child: &mut Child) -> Result<String, String> {
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let (sender, line) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut first = String::new();
        let read = stdout.read_line(&mut first);
        let _ = sender.send(read.map(|_| first));
        let _ = stdout.read_to_end(&mut Vec::new());
    });
    match line.recv_timeout(READY) {
        Ok(Ok(line)) if !line.is_empty() => Ok(line),
        Ok(Ok(_)) => Err("it ended without a word".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no ready line within {READY:?}")),
    }
}

/// Runs an async test to its end.
pub(crate) fn block_on<T>(test: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(test)
}
