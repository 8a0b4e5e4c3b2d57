//! A homeserver that says what a script tells it to: `tests/peers/scripted.py`, driven a line at a
//! time. What can be asked of it stands at the head of that file; `evil.py` knows more.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::peers;

/// One process of one or several scripted homeservers. It ends when dropped.
pub(crate) struct Scripted {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Their names, `localhost:PORT`.
    pub(crate) servers: Vec<String>,
}

impl Scripted {
    /// Starts `count` servers of `program`, which hold the certificate for `localhost` that
    /// `start_synapse.py --cert localhost` made in `about` (also with `-n 0`: no Synapse at all).
    pub(crate) fn start(program: &str, about: &Value, count: usize) -> Result<Self, Failed> {
        let shown = &about["certs"]["localhost"];
        let file = |value: &Value| value.as_str().map(str::to_owned).ok_or("no certificate");
        let mut process = Command::new(peers::python()?)
            .arg(peers::script(program))
            .args(["--cert", &file(&shown["cert"])?])
            .args(["--key", &file(&shown["key"])?])
            .args(["--ca", &file(&about["ca_cert"])?])
            .args(["--count", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut scripted = Self {
            process,
            commands,
            answers,
            servers: Vec::new(),
        };
        let ready = scripted.read()?;
        let names = ready["servers"].as_array().ok_or("no servers")?;
        let name = |value: &Value| value.as_str().map(str::to_owned);
        scripted.servers = names.iter().filter_map(name).collect();
        Ok(scripted)
    }

    /// Certificates of an authority of its own in `folder`, for servers that need no Synapse beside
    /// them; the result is what [`Self::start`] takes as `about`.
    pub(crate) fn certificates(folder: &Path) -> Result<Value, Failed> {
        let python = peers::python()?.display().to_string();
        let run = folder.display().to_string();
        let args = ["--python", &python, "--dir", &run, "-n", "0"];
        let args = [&args[..], &["--cert", "localhost"]].concat();
        let mut command = Command::new(&python);
        command.arg(peers::script("start_synapse.py")).args(args);
        let told = crate::hub::output(&mut command)?;
        Ok(serde_json::from_slice(&told.stdout)?)
    }

    /// The answer to a command, which must not be an error.
    pub(crate) fn ask(&mut self, command: &Value) -> Result<Value, Failed> {
        // As one text: written piece by piece, each bracket would be a system call.
        self.commands.write_all(format!("{command}\n").as_bytes())?;
        self.commands.flush()?;
        let answer = self.read()?;
        if answer["ok"] == json!(true) {
            return Ok(answer);
        }
        let op = &command["op"];
        Err(format!("the scripted server cannot {op}: {answer}").into())
    }

    fn read(&mut self) -> Result<Value, Failed> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the scripted server ended; its reason is on stderr".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        // it holds nothing worth a farewell
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
