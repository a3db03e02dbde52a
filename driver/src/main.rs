//! `harrier-driver`, a media driver as a separate process (spec 02 §6.3).
#![forbid(unsafe_code)]

mod command_line;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harrier_driver::context::{DriverContext, ThreadingMode};
use harrier_driver::{Driver, ExecutorMode, PreviousError, StartError, heartbeat_age_ms};
use harrier_platform::{
    HostTransport, MappedMemory, SystemClock, default_aeron_directory, pin_current_thread,
};
use harrier_ringbuf::date::Date;
use harrier_ringbuf::{Clock, MemoryError, Now, TransportError};

use command_line::{Arguments, Wish};

/// Interval at which the main thread checks for a signal.
const SIGNAL_PERIOD: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_else(|| "harrier-driver".into());
    let outcome = match command_line::parse(&program, words) {
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

/// Writes to standard output. It is no error when nobody reads it.
fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let _nobody_listens = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Writes a line to standard error. It is no error when nobody reads it.
fn warn(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr().lock(), "{line}");
}

/// Formats an error as Aeron's driver does: a code with its meaning, then place and text.
macro_rules! failure {
    ($stage:literal, $code:expr, $meaning:expr, $text:expr) => {
        format!("ERROR: {} ({}) {}\n[run, {}:{}] {}", $stage, $code, $meaning, file!(), line!(), $text)
    };
}

fn invalid(stage: &str, error: &dyn std::fmt::Display) -> String {
    let (file, line) = (file!(), line!());
    format!("ERROR: {stage} (22) Invalid argument\n[run, {file}:{line}] {error}")
}

/// Returns the system's text of an error, without its number.
fn meaning(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
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
            failure!("driver init", 28, "No space left on device", error)
        }
        other => match system {
            Some(source) => {
                failure!("driver init", source.raw_os_error().unwrap_or(-1), meaning(source), other)
            }
            None => failure!("driver init", -1, "generic error, see message", other),
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
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_usize(number, signal.clone(), number as usize).map_err(|error| {
            failure!("context init", error.raw_os_error().unwrap_or(-1), meaning(&error), "signal handler")
        })?;
    }
    warn_if_exists(&context, &now);
    let transport = HostTransport::new(&context.transport)
        .map_err(|error: TransportError| failure!("context init", -1, "generic error, see message", error))?;
    let driver = Driver::build(context.clone(), MappedMemory, transport, mode, &now)
        .map_err(|error| refused(&context, &error))?;
    if context.print_configuration {
        say(&context.printed());
    }
    save_errors(&context, &driver.previous_errors, now.epoch_ms);
    let running = driver.launch(clock, pin_current_thread).map_err(|error| {
        failure!(
            "driver start",
            error.raw_os_error().unwrap_or(-1),
            meaning(&error),
            "no thread for an agent"
        )
    })?;
    if arguments.prints_ready {
        let directory = context.directory.display().to_string();
        say(&format!(
            "{{\"ready\":true,\"aeron_dir\":{directory:?},\"threading_mode\":\"{}\",\"pid\":{}}}\n",
            context.threading_mode.name(),
            std::process::id()
        ));
    }
    while signal.load(Ordering::Relaxed) == 0 && !running.is_ending() {
        rest();
    }
    say("Shutting down driver...\n");
    running.stop().map_err(|error| failure!("driver close", -1, "generic error, see message", error))?;
    Ok(u8::try_from(signal.load(Ordering::Relaxed)).unwrap_or(u8::MAX))
}

#[expect(clippy::disallowed_methods, reason = "the main thread only waits for signals")]
fn rest() {
    std::thread::sleep(SIGNAL_PERIOD);
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

/// Saves the errors of the previous driver next to the directory, in the form of the released driver (spec 02 §5.14).
fn save_errors(context: &DriverContext, errors: &[PreviousError], epoch_ms: i64) {
    if errors.is_empty() {
        return;
    }
    let name = context.directory.file_name().unwrap_or_default().to_string_lossy();
    let date = Date::of(epoch_ms).in_file_name();
    let path = context.directory.with_file_name(format!("{name}-{date}-error.log"));
    let text: String = errors.iter().map(|error| format!("\n{error}\n")).collect();
    match std::fs::write(&path, format!("{text}\n{} distinct errors observed.\n", errors.len())) {
        Ok(()) => warn(&format!("WARNING: Existing errors saved to: {}", path.display())),
        Err(error) => warn(&format!("WARNING: cannot save existing errors to {}: {error}", path.display())),
    }
}
