//! The node of the demonstration: this program, run as `harrier node` in a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harrier::platform::{SystemClock, free_ports};
use harrier::ringbuf::Clock;

use crate::CommandError;
use crate::node::rest;

/// Longest time for the node to end after SIGTERM.
const STOP_LIMIT_NS: i64 = 10_000_000_000;

pub(super) struct NodeProcess {
    child: Child,
    directory: PathBuf,
    aeron_directory: PathBuf,
    errors: PathBuf,
    sync_level: u8,
    members: String,
    ingress_endpoints: String,
}

impl NodeProcess {
    /// Starts a node on free ports.
    pub(super) fn start(directory: &Path, scratch: &Path, sync_level: u8) -> Result<Self, CommandError> {
        let ports = free_ports(5).map_err(|error| CommandError::Failed(format!("no free ports: {error}")))?;
        let endpoints: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let members = format!("0,{}", endpoints.join(","));
        let aeron_directory = scratch.join("node-driver");
        let errors = scratch.join("node.log");
        let child = spawn(directory, &aeron_directory, &members, sync_level, &errors)?;
        let ingress_endpoints = format!("0={}", endpoints[0]);
        let directory = directory.to_owned();
        Ok(Self { child, directory, aeron_directory, errors, sync_level, members, ingress_endpoints })
    }

    /// Returns the ingress endpoints for clients: `0=host:port`.
    pub(super) fn ingress_endpoints(&self) -> &str {
        &self.ingress_endpoints
    }

    /// Waits for the line which says that clients are served.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), CommandError> {
        let Some(out) = self.child.stdout.take() else { return Ok(()) };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).map_err(CommandError::failed)?;
        if line.contains("\"ready\":true") {
            return Ok(());
        }
        Err(CommandError::Failed(format!("the node does not start{}", self.said())))
    }

    /// Fails when the node has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), CommandError> {
        match self.child.try_wait().map_err(CommandError::failed)? {
            None => Ok(()),
            Some(status) => Err(CommandError::Failed(format!("the node has ended: {status}"))),
        }
    }

    /// Returns what the node has written to stderr.
    pub(super) fn said(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(&self.errors) {
            let _unreadable = file.read_to_string(&mut text);
        }
        if text.is_empty() { text } else { format!("; the node said:\n{text}") }
    }

    /// Sends SIGKILL, then starts the same node again on its files.
    pub(super) fn kill_and_restart(&mut self) -> Result<(), CommandError> {
        self.child.kill().map_err(CommandError::failed)?;
        self.child.wait().map_err(CommandError::failed)?;
        self.child =
            spawn(&self.directory, &self.aeron_directory, &self.members, self.sync_level, &self.errors)?;
        // Nobody waits for the line here: the client notices the node by itself. The pipe stays open while the node
        // lives.
        Ok(())
    }

    /// Sends SIGTERM; the node must end with exit code 0.
    pub(super) fn stop(&mut self) -> Result<(), CommandError> {
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().map_err(CommandError::failed)?;
        if !told.success() {
            return Err(CommandError::Failed(format!("cannot tell the node (process {pid}) to end")));
        }
        let deadline_ns = SystemClock.now().ns + STOP_LIMIT_NS;
        while SystemClock.now().ns < deadline_ns {
            if let Some(status) = self.child.try_wait().map_err(CommandError::failed)? {
                if status.success() {
                    return Ok(());
                }
                let signal = status.signal().map(|signal| format!(", signal {signal}")).unwrap_or_default();
                return Err(CommandError::Failed(format!(
                    "the node ended with {status}{signal}{}",
                    self.said()
                )));
            }
            rest();
        }
        Err(CommandError::Failed("the node does not end after SIGTERM".into()))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // After a normal stop there is nothing left to kill.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn spawn(
    directory: &Path,
    aeron_directory: &Path,
    members: &str,
    sync_level: u8,
    errors: &Path,
) -> Result<Child, CommandError> {
    let program = std::env::current_exe().map_err(CommandError::failed)?;
    let errors =
        std::fs::OpenOptions::new().create(true).append(true).open(errors).map_err(CommandError::failed)?;
    Command::new(program)
        .arg("node")
        .arg("--dir")
        .arg(directory)
        .arg("--aeron-dir")
        .arg(aeron_directory)
        .args(["--member-id", "0", "--members", members, "--service", "book", "--layout", "fused"])
        .args(["--sync-level", &sync_level.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|error| CommandError::Failed(format!("cannot start a node: {error}")))
}
