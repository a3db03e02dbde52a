//! A child process whose output is read line by line. It is killed with its owner.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::{PATIENCE_NS, until};

/// A running child process.
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
    errors_end: Receiver<()>,
}

impl Process {
    /// Starts a program with piped standard streams. Where `setpriv` is installed, the program is killed with the
    /// calling thread, so that it does not outlive a killed test.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = bound_to_this_thread(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let (mut error_output, collected) = (child.stderr.take().unwrap(), errors.clone());
        let (end, errors_end) = channel();
        spawn(move || {
            // Dropped at the end of the output.
            let _end: Sender<()> = end;
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = error_output.read(&mut bytes) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { name: name.to_owned(), input: child.stdin.take(), child, lines, errors, errors_end }
    }

    /// Runs a program to its end; panics unless it succeeds. Returns its standard output and errors.
    pub fn run(name: &str, command: &mut Command) -> (String, String) {
        let (status, output, errors) = Self::finish(name, command);
        assert!(status.success(), "{name}: {status}\n{output}\n{errors}");
        (output, errors)
    }

    /// Runs a program to its end; returns its status, standard output and errors.
    pub fn finish(name: &str, command: &mut Command) -> (ExitStatus, String, String) {
        let mut process = Self::start(name, command);
        process.input = None;
        let status = process.wait();
        let mut output = String::new();
        while let Some(line) = process.line_or_end() {
            output.push_str(&line);
            output.push('\n');
        }
        (status, output, process.errors())
    }

    /// The next line of standard output; panics after a timeout.
    pub fn line(&mut self) -> String {
        self.line_or_end().unwrap_or_else(|| panic!("{} ended; its errors:\n{}", self.name, self.errors()))
    }

    fn line_or_end(&mut self) -> Option<String> {
        match self.lines.recv_timeout(Duration::from_nanos(PATIENCE_NS as u64)) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} is silent; its errors:\n{}", self.name, self.errors())
            }
        }
    }

    /// Unread lines of standard output.
    pub fn lines_so_far(&mut self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Unread lines of standard output up to its end.
    pub fn last_lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line_or_end()).collect()
    }

    /// Writes a line to standard input.
    pub fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("an open input");
        if writeln!(input, "{line}").and_then(|()| input.flush()).is_err() {
            panic!("{} takes no input; its errors:\n{}", self.name, self.errors());
        }
    }

    /// Output on standard error so far.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// Sends a signal by its name, e.g. `TERM`.
    pub fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").arg(format!("-{signal}")).arg(self.id().to_string()).status().unwrap();
        assert!(status.success(), "kill -{signal}: {status}");
    }

    /// Id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the process and of its standard error.
    pub fn wait(&mut self) -> ExitStatus {
        let name = format!("the end of {}", self.name);
        let status = until(&name, || self.child.try_wait().unwrap());
        let _disconnected = self.errors_end.recv_timeout(Duration::from_nanos(PATIENCE_NS as u64));
        status
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let errors = self.errors();
        if std::thread::panicking() && !errors.is_empty() {
            eprintln!("--- errors of {}\n{errors}---", self.name);
        }
    }
}

/// A command in a private file system of `size`, mounted at `path` for it and its children only.
pub fn in_small_file_system(path: &Path, size: &str, command: &Command) -> Option<Command> {
    let mut shell = Command::new("unshare");
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    shell.arg(if is_root { "-m" } else { "-rm" });
    let script = format!("mount -t tmpfs -o size={size} tmpfs {} && exec \"$@\"", path.display());
    let probe = Command::new(shell.get_program())
        .args(shell.get_args())
        .args(["sh", "-c", &script, "sh", "true"])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: this user cannot mount a file system of its own");
        return None;
    }
    shell.args(["sh", "-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Some(shell)
}

fn bound_to_this_thread(command: &Command) -> Command {
    static HAS_SETPRIV: OnceLock<bool> = OnceLock::new();
    let has_setpriv = *HAS_SETPRIV.get_or_init(|| {
        let probe = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).output();
        probe.is_ok_and(|output| output.status.success())
    });
    let mut bound = if has_setpriv {
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL"]).arg(command.get_program());
        bound
    } else {
        Command::new(command.get_program())
    };
    bound.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        bound.current_dir(directory);
    }
    bound
}

#[expect(clippy::disallowed_methods, reason = "reading two pipes at once takes a thread for each")]
fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}
