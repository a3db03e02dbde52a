//! `harrier-driver`: a media driver as a process of its own (spec 02 §6.3).
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harrier_driver::configuration::Properties;
use harrier_driver::context::{DriverContext, ThreadingMode};
use harrier_driver::{Driver, ExecutorMode};
use harrier_platform::{HostTransport, MappedMemory, SystemClock, pin_current_thread};
use harrier_ringbuf::Clock;

const HELP: &str = "\
harrier-driver: an Aeron-compatible media driver

usage: harrier-driver [-v] [--ready] [-Dname=value]... [properties-file]...

  -Dname=value   sets a setting, e.g. -Daeron.threading.mode=SHARED; overrides AERON_* variables
  --ready        prints one line of JSON once clients can connect
  -v             prints the version

Settings are Aeron's: see tuning.md. The driver runs until SIGINT, SIGTERM or an allowed terminate command.

example: harrier-driver --ready -Daeron.dir=/dev/shm/aeron-demo -Daeron.threading.mode=SHARED
";

/// How often the main thread looks for a signal.
const SIGNAL_PERIOD: Duration = Duration::from_millis(20);

struct Arguments {
    properties: Properties,
    prints_ready: bool,
}

enum Wish {
    Run(Box<Arguments>),
    Print(String),
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Wish::Run(arguments)) => arguments,
        Ok(Wish::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err((text, code)) => {
            eprintln!("{text}");
            return ExitCode::from(code);
        }
    };
    match run(*arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ERROR: driver init {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Wish, (String, u8)> {
    let mut properties = Properties::from_environment(std::env::vars());
    let mut prints_ready = false;
    for argument in arguments {
        if let Some(definition) = argument.strip_prefix("-D") {
            properties.define(definition).map_err(|error| (error.to_string(), 1))?;
        } else if argument == "-v" {
            let version = harrier_protocol::AERON_VERSION;
            let text = format!("harrier-driver <aeron version={version}> major 1 minor 51 patch 0\n");
            return Ok(Wish::Print(text));
        } else if argument == "--help" || argument == "-h" {
            return Ok(Wish::Print(HELP.to_owned()));
        } else if argument == "--ready" {
            prints_ready = true;
        } else if argument.starts_with('-') {
            return Err((format!("Usage: harrier-driver [-v][--ready][-Dname=value]; got {argument}"), 2));
        } else {
            let text = std::fs::read_to_string(&argument)
                .map_err(|error| (format!("ERROR: loading properties from {argument}: {error}"), 1))?;
            properties.load(&text);
        }
    }
    Ok(Wish::Run(Box::new(Arguments { properties, prints_ready })))
}

fn default_directory() -> PathBuf {
    let user = std::env::var("USER").unwrap_or_else(|_| "default".into());
    let shm = PathBuf::from("/dev/shm");
    let parent = if shm.is_dir() { shm } else { std::env::temp_dir() };
    parent.join(format!("aeron-{user}"))
}

fn run(arguments: Arguments) -> Result<(), String> {
    let mut context = DriverContext::new(default_directory());
    let clock = SystemClock;
    let now = clock.now();
    context.seed = (now.epoch_ms as u64) ^ (now.ns as u64).rotate_left(32) ^ u64::from(std::process::id());
    for warning in arguments.properties.apply(&mut context).map_err(|error| error.to_string())? {
        eprintln!("{warning}");
    }
    if context.threading_mode == ThreadingMode::Invoker {
        context.threading_mode = ThreadingMode::Shared;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|error| error.to_string())?;
    }
    if context.warn_if_directory_exists && context.directory.is_dir() {
        eprintln!("WARNING: {} exists", context.directory.display());
    }
    if context.print_configuration {
        println!("{context:#?}");
    }
    let transport = HostTransport::new(&context.transport).map_err(|error| error.to_string())?;
    let driver = Driver::build(context.clone(), MappedMemory, transport, ExecutorMode::Queued, &now)
        .map_err(|error| error.to_string())?;
    save_errors(&context, &driver.previous_errors, now.epoch_ms);
    let running = driver.launch(clock, pin_current_thread).map_err(|error| error.to_string())?;
    if arguments.prints_ready {
        let directory = context.directory.display().to_string();
        println!(
            "{{\"ready\":true,\"aeron_dir\":{directory:?},\"threading_mode\":\"{}\",\"pid\":{}}}",
            context.threading_mode.name(),
            std::process::id()
        );
    }
    while !stop.load(Ordering::Relaxed) && !running.is_ending() {
        rest();
    }
    running.stop()
}

#[expect(clippy::disallowed_methods, reason = "the main thread only waits for signals")]
fn rest() {
    std::thread::sleep(SIGNAL_PERIOD);
}

/// Keeps what the driver before had recorded, next to the directory (spec 02 §5.14).
fn save_errors(context: &DriverContext, errors: &[String], epoch_ms: i64) {
    if errors.is_empty() {
        return;
    }
    let name = context.directory.file_name().unwrap_or_default().to_string_lossy();
    let path = context.directory.with_file_name(format!("{name}-{epoch_ms}-error.log"));
    match std::fs::write(&path, errors.join("\n\n")) {
        Ok(()) => eprintln!("WARNING: Existing errors saved to: {}", path.display()),
        Err(error) => eprintln!("WARNING: cannot save existing errors to {}: {error}", path.display()),
    }
}
