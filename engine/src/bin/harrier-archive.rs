//! `harrier-archive`, an archive as a separate process, alone or with a media driver (spec 02 §6.3, spec 03 §6.2).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use harrier::archive::ArchiveError;
use harrier::driver::program::{
    Arguments, CommandLine, Signals, Wish, failure, invalid, meaning, save_errors, say, warn,
};
use harrier::platform::{SystemClock, default_aeron_directory};
use harrier::ringbuf::Clock;
use harrier::{ArchiveNode, ArchiveNodeContext, Layout, NodeError};

const HELP: &str = "\
harrier-archive: an Aeron-compatible archive, beside a running media driver or with one

usage: harrier-archive [-v] [--ready] [--with-driver [--fused]] [-Dname=value]... [properties-file or file:// or http:// URL]...

  --with-driver  runs a media driver too; without it, the archive uses the driver that runs in aeron.dir
  --fused        with --with-driver: runs archive and driver on one thread
  -Dname=value   sets a setting, e.g. -Daeron.archive.dir=/data/archive; overrides AERON_* variables
  --ready        prints one line of JSON once clients can connect
  -v             prints the version

Settings are Aeron's. Two have no default: aeron.archive.control.channel (unless aeron.archive.control.channel.enabled is
false) and aeron.archive.replication.channel. aeron.print.configuration=true prints the effective configuration. The archive runs
until SIGINT or SIGTERM, whose number is then its exit code. With a driver it also ends with that driver, with exit code 0 after an
allowed terminate command.

example: harrier-archive --ready --with-driver -Daeron.dir=/dev/shm/aeron-demo -Daeron.archive.dir=/data/archive \\
  -Daeron.archive.control.channel=aeron:udp?endpoint=localhost:8010 -Daeron.archive.replication.channel=aeron:udp?endpoint=localhost:0
";
const READY: &str = "--ready";
const WITH_DRIVER: &str = "--with-driver";
const FUSED: &str = "--fused";
const DEFAULT_DIRECTORY: &str = "aeron-archive";
const UNKNOWN: &str = "generic error, see message";

fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_else(|| "harrier-archive".into());
    let line = CommandLine { program: &program, help: HELP, flags: &[READY, WITH_DRIVER, FUSED] };
    let outcome = match line.parse(words) {
        Ok(Wish::Print(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Wish::Run(arguments)) => run(&arguments),
        Err(text) => Err(text),
    };
    match outcome {
        Ok(signal) => ExitCode::from(signal),
        Err(text) => {
            warn(&text);
            ExitCode::FAILURE
        }
    }
}

/// Reads the settings.
fn context(arguments: &Arguments) -> Result<ArchiveNodeContext, String> {
    let mut context = ArchiveNodeContext::new(default_aeron_directory(), DEFAULT_DIRECTORY);
    if arguments.has(WITH_DRIVER) {
        context = context.with_driver();
    } else if arguments.has(FUSED) {
        return Err("--fused needs --with-driver".to_owned());
    }
    if arguments.has(FUSED) {
        context.layout = Layout::Fused;
    }
    for warning in context.apply(&arguments.properties).map_err(|error| invalid("context init", &error))? {
        warn(&warning);
    }
    Ok(context)
}

fn refused(error: &NodeError) -> String {
    match error {
        NodeError::Setting(_) | NodeError::Overlap(_) | NodeError::Archive(ArchiveError::Setting(_)) => {
            invalid("archive init", error)
        }
        NodeError::Driver(_) | NodeError::Transport(_) => failure("driver init", -1, UNKNOWN, error),
        NodeError::Io(source) => {
            failure("archive start", source.raw_os_error().unwrap_or(-1), &meaning(source), error)
        }
        _ => failure("archive init", -1, UNKNOWN, error),
    }
}

/// Runs the archive to its end; returns the number of the signal that ended it, 0 when a client ended the driver.
fn run(arguments: &Arguments) -> Result<u8, String> {
    let context = context(arguments)?;
    let signals = Signals::catch().map_err(|error| {
        failure("context init", error.raw_os_error().unwrap_or(-1), &meaning(&error), &"signal handler")
    })?;
    let (archive_directory, aeron_directory) =
        (context.archive.archive_directory.clone(), context.archive.aeron_directory.clone());
    let mark_directory = context.archive.mark_file_directory.clone().unwrap_or(archive_directory.clone());
    let is_printed = arguments.properties.get("aeron.print.configuration");
    if is_printed.is_some_and(|text| ["1", "on", "true"].iter().any(|yes| text.starts_with(yes))) {
        say(&context.printed());
    }
    let node = ArchiveNode::launch(context).map_err(|error| refused(&error))?;
    let epoch_ms = SystemClock.now().epoch_ms;
    save_errors(&mark_directory.join("archive"), node.previous_errors(), epoch_ms);
    save_errors(&aeron_directory, node.previous_driver_errors(), epoch_ms);
    for warning in node.warnings() {
        warn(&format!("WARNING: {warning}"));
    }
    signals.wait(|| node.is_ready() || node.is_ending());
    if arguments.has(READY) && node.is_ready() {
        let [archive, aeron] = [archive_directory, aeron_directory].map(|path| path.display().to_string());
        say(&format!(
            "{{\"ready\":true,\"archive_dir\":{archive:?},\"aeron_dir\":{aeron:?},\"pid\":{}}}\n",
            std::process::id()
        ));
    }
    signals.wait(|| node.is_ending());
    // An archive that never found its driver has nothing to shut down.
    if node.is_ready() || signals.number() > 0 {
        say("Shutting down archive...\n");
    }
    let (is_told, failures) = (signals.number() > 0 || node.is_terminating(), node.failures());
    let stopped = node.stop();
    if is_told {
        stopped.map_err(|error| failure("archive close", -1, UNKNOWN, &error))?;
        return Ok(signals.number());
    }
    let text = if failures.is_empty() { stopped.err().unwrap_or_default() } else { failures.join("\n") };
    Err(failure("archive", -1, UNKNOWN, &text))
}
