//! Programs nobody here wrote, as the tests find, install and run them.
//!
//! Python and Node peers are installed once, at the versions and hashes locked in `tests/peers`,
//! into `target/peers/<hash of the lock>`, and kept. A peer that cannot be had makes its tests
//! ignored with the reason; under `CI=true` a required one makes them fail. What the peers are
//! asked to do is in the scripts of `tests/peers`, one JSON line each; this file knows nothing of it.

use std::{
    env, fs,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
};

use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::hub;

/// Whether a missing peer may pass under `CI=true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
}

/// What a test runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// aiocoap, matrix-nio and Synapse's own code, in one environment.
    Python,
    /// DTLS for aiocoap, which is built from its source; beside [`Peer::Python`].
    Tinydtls,
    /// libcoap's `coap-client-notls`.
    Libcoap,
    /// libcoap's `coap-client-openssl`.
    LibcoapOpenssl,
    /// libcoap's `coap-client-gnutls`.
    LibcoapGnutls,
    /// matrix-js-sdk.
    Node,
    /// The shim that models a power cut; needs a C compiler.
    Powercut,
}

impl Peer {
    fn find(self) -> Result<(), String> {
        match self {
            Self::Python => python().map(drop),
            Self::Tinydtls => tinydtls().map(drop),
            Self::Libcoap => libcoap("notls").map(drop),
            Self::LibcoapOpenssl => libcoap("openssl").map(drop),
            Self::LibcoapGnutls => libcoap("gnutls").map(drop),
            Self::Node => js_client().map(drop),
            Self::Powercut => powercut().map(drop),
        }
    }
}

/// A test that needs `peers`: ignored with the reason where one of them cannot be had.
pub(crate) fn trial<F>(
    name: impl Into<String>,
    need: Need,
    peers: &'static [Peer],
    test: F,
) -> Trial
where
    F: FnOnce() -> Result<(), Failed> + Send + 'static,
{
    Trial::ignorable_test(name, move || {
        for peer in peers {
            let Err(reason) = peer.find() else { continue };
            if need == Need::Required && in_ci() {
                return Err(reason.into());
            }
            return Ok(Completion::ignored_with(reason));
        }
        test().map(|()| Completion::Completed)
    })
}

/// The peers' own tests: that the judge judges and the power cut cuts.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "the_oracle_judges_hand_made_events",
            Need::Required,
            &[Peer::Python],
            || python_script("test_oracle.py", &[]).map(drop),
        ),
        trial(
            "the_power_cut_model_loses_what_was_not_synced",
            Need::Required,
            &[Peer::Python, Peer::Powercut],
            || python_script("test_powercut.py", &[]).map(drop),
        ),
    ]
}

/// The interpreter of the environment that holds every Python peer.
pub(crate) fn python() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(install_python).clone()
}

/// The folder of the module that aiocoap speaks DTLS with, for `PYTHONPATH`.
pub(crate) fn tinydtls() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(build_tinydtls).clone()
}

/// libcoap's client, built with this TLS library, or with none (`notls`).
pub(crate) fn libcoap(tls: &str) -> Result<PathBuf, String> {
    let name = format!("coap-client-{tls}");
    on_path(&name)
        .ok_or_else(|| format!("no {name} here; on Debian: sudo apt-get install libcoap3-bin"))
}

/// Node's interpreter.
pub(crate) fn node() -> Result<PathBuf, String> {
    on_path("node").ok_or_else(|| "no node here; it is optional, version 20 or newer".to_owned())
}

/// The script that drives matrix-js-sdk, beside the packages it imports; run it with [`node`].
pub(crate) fn js_client() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(install_js).clone()
}

/// The `LD_PRELOAD` library that models a power cut; `tests/peers/powercut.c` says how to use it.
pub(crate) fn powercut() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(build_powercut).clone()
}

/// A file of `tests/peers`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name)
}

/// Runs a script of `tests/peers` to its end and gives the JSON line it printed.
///
/// The scripts keep a deadline of their own (`--timeout`); this one's is far beyond theirs.
pub(crate) fn python_script(name: &str, args: &[&str]) -> Result<Value, Failed> {
    let mut command = Command::new(python()?);
    command.arg(script(name)).args(args);
    json_line(name, &hub::output(&mut command)?)
}

/// The same of a script that speaks DTLS.
pub(crate) fn tinydtls_script(name: &str, args: &[&str]) -> Result<Value, Failed> {
    let mut command = Command::new(python()?);
    command.env("PYTHONPATH", tinydtls()?);
    command.arg(script(name)).args(args);
    json_line(name, &hub::output(&mut command)?)
}

/// Runs the matrix-js-sdk script, which trusts the certificates of `ca`.
pub(crate) fn js_script(ca: &Path, args: &[&str]) -> Result<Value, Failed> {
    let mut command = Command::new(node()?);
    command
        .arg(js_client()?)
        .args(args)
        .env("NODE_EXTRA_CA_CERTS", ca);
    json_line("client.mjs", &command.output()?)
}

/// Synapse's rules, asked a line at a time; `tests/peers/oracle.py` lists the requests.
pub(crate) struct Oracle {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    pub(crate) fn start() -> Result<Self, Failed> {
        let mut process = Command::new(python()?)
            .arg(script("oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = process.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut oracle = Self {
            process,
            requests,
            answers,
        };
        oracle.read()?;
        Ok(oracle)
    }

    /// The answer to one request; an answer with `"ok": false` is an answer too.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Value, Failed> {
        // As one text: written piece by piece, each bracket would be a system call.
        self.requests.write_all(format!("{request}\n").as_bytes())?;
        self.requests.flush()?;
        self.read()
    }

    fn read(&mut self) -> Result<Value, Failed> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the oracle ended; its reason is on stderr".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // it holds nothing worth a farewell
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A real Synapse on loopback, stopped and removed when dropped.
pub(crate) struct Synapse {
    folder: PathBuf,
    /// What `start_synapse.py` printed: addresses, users, certificates.
    pub(crate) about: Value,
}

impl Synapse {
    /// Starts `count` servers that federate, in `folder`, which must not exist yet.
    pub(crate) fn start(folder: &Path, count: usize, args: &[&str]) -> Result<Self, Failed> {
        let python = python()?;
        let output = Command::new(&python)
            .arg(script("start_synapse.py"))
            .arg("--python")
            .arg(&python)
            .arg("--dir")
            .arg(folder)
            .args(["-n", &count.to_string()])
            .args(args)
            .output()?;
        // made before the answer is read: whatever did start is stopped
        let mut synapse = Self {
            folder: folder.to_owned(),
            about: Value::Null,
        };
        if !output.status.success() {
            return Err(failure("start_synapse.py", &output).into());
        }
        synapse.about = serde_json::from_slice(&output.stdout)?;
        Ok(synapse)
    }

    /// `kill`s or `start`s one of them, as a machine that fails and comes back would.
    pub(crate) fn again(&self, verb: &str, index: usize) -> Result<(), Failed> {
        let folder = self.folder.display().to_string();
        python_script("synapse_again.py", &[&folder, verb, &index.to_string()]).map(drop)
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        if let Ok(python) = python() {
            let _ = Command::new(python)
                .arg(script("stop_synapse.py"))
                .arg(&self.folder)
                .arg("--remove")
                .output();
        }
    }
}

pub(crate) fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn json_line(name: &str, output: &Output) -> Result<Value, Failed> {
    if !output.status.success() {
        return Err(failure(name, output).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text
        .lines()
        .last()
        .ok_or_else(|| format!("{name} printed nothing"))?;
    serde_json::from_str(last).map_err(|error| format!("{name} printed {last:?}: {error}").into())
}

/// What a program that failed had to say, cut to its end, where the reason is.
fn failure(name: &str, output: &Output) -> String {
    const LINES_MAX: usize = 30;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines
        .get(lines.len().saturating_sub(LINES_MAX)..)
        .unwrap_or(&lines);
    format!("{name}: {}\n{}", output.status, tail.join("\n"))
}

fn succeed(name: &str, command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(failure(name, &output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn install_python() -> Result<PathBuf, String> {
    let version = python_version()?;
    let lock = read("requirements.txt")?;
    let folder = peers_folder(&[version.as_bytes(), &lock])?;
    let python = folder.join("venv/bin/python");
    let packages = lock
        .split(|byte| *byte == b'\n')
        .filter(|line| line.contains(&b'='))
        .filter(|line| line.first().is_some_and(u8::is_ascii_alphabetic));
    let what = format!(
        "{version} with {} packages (Synapse, matrix-nio, aiocoap …)",
        packages.count()
    );
    once(&folder, &what, || {
        make_venv(&folder.join("venv"))?;
        // wheels only: a source package would want compilers, and runs its own code to install
        let mut pip = pip_install(&python, "requirements.txt");
        succeed("pip install", pip.args(["--only-binary", ":all:"])).map(drop)
    })?;
    Ok(python)
}

fn python_version() -> Result<String, String> {
    succeed(
        "python3 --version",
        Command::new("python3").arg("--version"),
    )
    .map_err(|error| format!("{error}; on Debian: sudo apt-get install python3 python3-venv"))
}

fn make_venv(venv: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(venv);
    succeed(
        "python3 -m venv",
        Command::new("python3").args(["-m", "venv"]).arg(venv),
    )
    .map(drop)
    .map_err(|error| format!("{error}\non Debian: sudo apt-get install python3-venv"))
}

/// What installs a lock of `tests/peers` with the interpreter of an environment.
fn pip_install(python: &Path, lock: &str) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-input"]);
    pip.args([
        "--disable-pip-version-check",
        "--require-hashes",
        "--requirement",
    ]);
    pip.arg(script(lock));
    pip
}

/// What it is built with is locked, too: pip would fetch the newest of that by itself.
fn build_tinydtls() -> Result<PathBuf, String> {
    let version = python_version()?;
    let (tools, lock) = (read("dtls/build.txt")?, read("dtls/requirements.txt")?);
    let folder = peers_folder(&[version.as_bytes(), &tools, &lock])?;
    let modules = folder.join("modules");
    once(&folder, "DTLS for aiocoap, built from its source", || {
        for program in ["autoreconf", "automake", "cc"] {
            on_path(program).ok_or_else(|| format!("no {program} here; {TINYDTLS_NEEDS}"))?;
        }
        let venv = folder.join("venv");
        make_venv(&venv)?;
        let python = venv.join("bin/python");
        let mut pip = pip_install(&python, "dtls/build.txt");
        succeed("pip install", pip.args(["--only-binary", ":all:"]))?;
        let _ = fs::remove_dir_all(&modules);
        let mut pip = pip_install(&python, "dtls/requirements.txt");
        pip.args(["--no-deps", "--no-build-isolation", "--no-binary", ":all:"]);
        succeed("pip install", pip.arg("--target").arg(&modules))
            .map(drop)
            .map_err(|error| format!("{error}\n{TINYDTLS_NEEDS}"))?;
        fs::remove_dir_all(&venv).map_err(|error| format!("{}: {error}", venv.display()))
    })?;
    Ok(modules)
}

const TINYDTLS_NEEDS: &str =
    "on Debian: sudo apt-get install autoconf automake gcc libc6-dev python3-dev";

fn install_js() -> Result<PathBuf, String> {
    node()?;
    let version = succeed("node --version", Command::new("node").arg("--version"))?;
    let (package, lock) = (read("js/package.json")?, read("js/package-lock.json")?);
    let client = read("js/client.mjs")?;
    // the client is in the hash: it must lie beside node_modules, and is copied once
    let folder = peers_folder(&[version.as_bytes(), &package, &lock, &client])?;
    once(
        &folder,
        &format!("matrix-js-sdk for Node {version}"),
        || {
            for name in ["package.json", "package-lock.json", "client.mjs"] {
                fs::copy(script("js").join(name), folder.join(name))
                    .map_err(|error| format!("{name}: {error}"))?;
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
                .current_dir(&folder);
            succeed("npm ci", &mut npm).map(drop)
        },
    )?;
    Ok(folder.join("client.mjs"))
}

fn build_powercut() -> Result<PathBuf, String> {
    let source = read("powercut.c")?;
    let folder = peers_folder(&[&source])?;
    let library = folder.join("powercut.so");
    once(&folder, "the power-cut shim", || {
        let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut cc = Command::new(&compiler);
        cc.args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(script("powercut.c"));
        succeed(&compiler, cc.args(["-ldl", "-lpthread"]))
            .map(drop)
            .map_err(|error| {
                format!(
                    "{error}\na C compiler is needed; on Debian: sudo apt-get install gcc libc6-dev"
                )
            })
    })?;
    Ok(library)
}

fn read(name: &str) -> Result<Vec<u8>, String> {
    fs::read(script(name)).map_err(|error| format!("tests/peers/{name}: {error}"))
}

/// Where what is made of `parts` is kept: another lock or interpreter is another folder.
fn peers_folder(parts: &[&[u8]]) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let name = hex::encode(hash.finalize().get(..6).expect("a SHA-256 has 32 bytes"));
    // cargo sets it to <target>/tmp for integration tests and benches
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        Path::to_owned,
    );
    let folder = target.join("peers").join(name);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Runs `install` unless it has once succeeded here; others wait for it meanwhile.
fn once(
    folder: &Path,
    what: &str,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", folder.display());
    let ready = folder.join(".ready");
    let lock = File::create(folder.join(".lock")).map_err(at)?;
    lock.lock().map_err(at)?;
    if ready.exists() {
        return Ok(());
    }
    eprintln!("peers: installing {what}, once");
    install()?;
    File::create(ready).map_err(at)?;
    let mib = bytes_below(folder).div_ceil(1024 * 1024);
    eprintln!("peers: installed {what}: {mib} MiB in {}", folder.display());
    Ok(())
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |about| about.len()),
        _ => 0,
    };
    entries.map(size).sum()
}
