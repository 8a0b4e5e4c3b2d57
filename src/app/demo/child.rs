//! The hub as a process of its own.
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null where there is nothing"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::client::Target;

/// A hub in a directory.
pub(super) struct HubProcess {
    dir: PathBuf,
    child: Option<Child>,
    ready: Value,
}

/// The password of a demo user; the directory is gone when the demo ends.
pub(super) fn password(user: &str) -> String {
    format!("the demo's {user}")
}

impl HubProcess {
    /// `tramline init`, then `tramline user add` for each user.
    pub(super) fn init(dir: &Path, users: &[&str]) -> anyhow::Result<Self> {
        let hub = Self {
            dir: dir.to_owned(),
            child: None,
            ready: Value::Null,
        };
        run(tramline()?.args(["init", "demo.example", "--dir"]).arg(dir))?;
        for user in users {
            let file = dir.join(format!("password-{user}"));
            fs::write(&file, password(user))?;
            let mut command = tramline()?;
            command
                .args(["user", "add", user, "--config"])
                .arg(hub.config());
            run(command.arg("--password-file").arg(&file))?;
        }
        Ok(hub)
    }

    /// `tramline serve` on free ports; returns when it is ready.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))?;
        let mut command = tramline()?;
        command.arg("serve").arg("--config").arg(self.config());
        for door in ["https", "coap", "coaps", "quic", "admin"] {
            command.arg("-O").arg(format!("{door}.listen=127.0.0.1:0"));
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = child.stdout.take().context("a piped stdout")?;
        self.child = Some(child); // from here on dropping this ends the process
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the hub did not start: {}", self.log());
        self.ready = serde_json::from_str(&line).context("the ready line")?;
        Ok(())
    }

    /// `tramline link`.
    pub(super) fn link(&self, user: &str, device: &str, out: &Path) -> anyhow::Result<()> {
        let mut command = tramline()?;
        command.args(["link", user, "--device", device, "--config"]);
        run(command.arg(self.config()).arg("--out").arg(out))
    }

    /// The ready line.
    pub(super) fn ready(&self) -> &Value {
        &self.ready
    }

    /// A door of the running hub.
    pub(super) fn target(&self, door: &str) -> anyhow::Result<Target> {
        let address = self.ready["listen"][door][0].as_str();
        let address = address.with_context(|| format!("no {door} door in {}", self.ready))?;
        let ca = fs::read_to_string(self.dir.join("keys/https.cert.pem"))?;
        Ok(Target::parse(&format!("{door}://{address}"), Some(&ca))?)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; the hub must end with 0.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("a running hub")?;
        run(Command::new("kill")
            .arg("-TERM")
            .arg(child.id().to_string()))?;
        let status = child.wait()?;
        ensure!(
            status.success(),
            "the hub ended with {status}: {}",
            self.log()
        );
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.dir.join("tramline.toml")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "the demo's hub could not be ended");
        }
    }
}

fn tramline() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
    command.stdin(Stdio::null());
    Ok(command)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
