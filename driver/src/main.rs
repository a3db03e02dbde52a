//! `harrier-driver`, a media driver as a separate process (spec 02 §6.3).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use harrier_driver::context::{DriverContext, ThreadingMode};
use harrier_driver::program::{
    Arguments, CommandLine, Signals, Wish, failure, invalid, meaning, save_errors, say, warn,
};
use harrier_driver::{Driver, ExecutorMode, StartError, heartbeat_age_ms};
use harrier_platform::{
    HostTransport, MappedMemory, SystemClock, default_aeron_directory, pin_current_thread,
};
use harrier_ringbuf::{Clock, MemoryError, Now, TransportError};

const HELP: &str = "\
harrier-driver: an Aeron-compatible media driver

usage: harrier-driver [-v] [--ready] [-Dname=value]... [properties-file or file:// or http:// URL]...

  -Dname=value   sets a setting, e.g. -Daeron.threading.mode=SHARED; overrides AERON_* variables
  --ready        prints one line of JSON once clients can connect
  -v             prints the version

Settings are Aeron's: see tuning.md. The driver runs until SIGINT or SIGTERM, whose number is then its exit code, or until an
allowed terminate command, with exit code 0.

example: harrier-driver --ready -Daeron.dir=/dev/shm/aeron-demo -Daeron.threading.mode=SHARED
";

const READY: &str = "--ready";
const UNKNOWN: &str = "generic error, see message";

fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_else(|| "harrier-driver".into());
    let outcome = match (CommandLine { program: &program, help: HELP, flags: &[READY] }).parse(words) {
        Ok(Wish::Print(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Wish::Run(arguments)) => run(*arguments),
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

fn refused(context: &DriverContext, error: &StartError) -> String {
    let system = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match error {
        StartError::ActiveDriver { path } => format!(
            "ERROR: driver init (0) [run, {file}:{line}] Active media driver detected: {}\n\
             [run, {file}:{line}] could not recreate aeron dir: {}",
            path.display(),
            context.directory.display(),
            file = file!(),
            line = line!(),
        ),
        StartError::Setting(error) => invalid("driver init", error),
        StartError::Memory(MemoryError::Space { .. }) => {
            failure("driver init", 28, "No space left on device", error)
        }
        other => match system {
            Some(source) => {
                failure("driver init", source.raw_os_error().unwrap_or(-1), &meaning(source), other)
            }
            None => failure("driver init", -1, UNKNOWN, other),
        },
    }
}

/// Runs the driver to its end; returns the number of the signal that ended it, 0 when a client did.
fn run(arguments: Arguments) -> Result<u8, String> {
    let mut context = DriverContext::new(default_aeron_directory());
    let clock = SystemClock;
    let now = clock.now();
    context.seed = (now.epoch_ms as u64) ^ (now.ns as u64).rotate_left(32) ^ u64::from(std::process::id());
    let warnings =
        arguments.properties.apply(&mut context).map_err(|error| invalid("context init", &error))?;
    for warning in warnings {
        warn(&warning);
    }
    let mode = match (context.threading_mode, context.async_executor_enabled) {
        (ThreadingMode::Invoker, _) | (_, false) => ExecutorMode::Inline,
        _ => ExecutorMode::Queued,
    };
    let signals = Signals::catch().map_err(|error| {
        failure("context init", error.raw_os_error().unwrap_or(-1), &meaning(&error), &"signal handler")
    })?;
    warn_if_exists(&context, &now);
    let transport = HostTransport::new(&context.transport)
        .map_err(|error: TransportError| failure("context init", -1, UNKNOWN, &error))?;
    let driver = Driver::build(context.clone(), MappedMemory, transport, mode, &now)
        .map_err(|error| refused(&context, &error))?;
    if context.print_configuration {
        say(&context.printed());
    }
    save_errors(&context.directory, &driver.previous_errors, now.epoch_ms);
    let running = driver.launch(clock, pin_current_thread).map_err(|error| {
        let code = error.raw_os_error().unwrap_or(-1);
        failure("driver start", code, &meaning(&error), &"no thread for an agent")
    })?;
    if arguments.has(READY) {
        let directory = context.directory.display().to_string();
        say(&format!(
            "{{\"ready\":true,\"aeron_dir\":{directory:?},\"threading_mode\":\"{}\",\"pid\":{}}}\n",
            context.threading_mode.name(),
            std::process::id()
        ));
    }
    signals.wait(|| running.is_ending());
    say("Shutting down driver...\n");
    running.stop().map_err(|error| failure("driver close", -1, UNKNOWN, &error))?;
    Ok(signals.number())
}

fn warn_if_exists(context: &DriverContext, now: &Now) {
    if !context.warn_if_directory_exists || !context.directory.is_dir() {
        return;
    }
    warn(&format!("WARNING: {} exists", context.directory.display()));
    if let Some(age_ms) = heartbeat_age_ms(&MappedMemory, &context.directory, now) {
        warn(&format!("INFO: Aeron driver heartbeat is {age_ms} ms old"));
    }
}
