//! Shared parts of the standalone programs: command line, messages and signals (spec 02 §6.3).

mod command_line;

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harrier_ringbuf::date::Date;

pub use command_line::{Arguments, CommandLine, Wish};

/// Interval at which the main thread checks for a signal.
const SIGNAL_PERIOD: Duration = Duration::from_millis(20);

/// Writes to standard output. It is no error when nobody reads it.
pub fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let _nobody_listens = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Writes a line to standard error. It is no error when nobody reads it.
pub fn warn(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr().lock(), "{line}");
}

/// Formats a refused setting as Aeron's driver does: stage, code with its meaning, then the text.
#[track_caller]
pub fn invalid(stage: &str, error: &dyn Display) -> String {
    failure(stage, 22, "Invalid argument", error)
}

/// Formats an error as Aeron's driver does: stage, code with its meaning, then place and text.
#[track_caller]
pub fn failure(stage: &str, code: i32, meaning: &str, text: &dyn Display) -> String {
    let place = std::panic::Location::caller();
    format!("ERROR: {stage} ({code}) {meaning}\n[run, {}:{}] {text}", place.file(), place.line())
}

/// Returns the system's text of an error, without its number.
pub fn meaning(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

/// The signals that end a program: SIGINT and SIGTERM.
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// The system refuses a signal handler.
    pub fn catch() -> std::io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_usize(number, signal.clone(), number as usize)?;
        }
        Ok(Self(signal))
    }

    /// Number of the signal that has arrived; 0 for none.
    pub fn number(&self) -> u8 {
        u8::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(u8::MAX)
    }

    /// Waits until a signal arrives or `has_ended` says that the program has ended by itself.
    #[expect(clippy::disallowed_methods, reason = "the main thread only waits for signals")]
    pub fn wait(&self, has_ended: impl Fn() -> bool) {
        while self.number() == 0 && !has_ended() {
            std::thread::sleep(SIGNAL_PERIOD);
        }
    }
}

/// Saves the errors of an earlier run to `PREFIX-DATE-error.log` in the form of the released programs, and says so
/// (spec 02 §5.14).
pub fn save_errors<E: Display>(prefix: &Path, errors: &[E], epoch_ms: i64) {
    if errors.is_empty() {
        return;
    }
    let name = prefix.file_name().unwrap_or_default().to_string_lossy();
    let path = prefix.with_file_name(format!("{name}-{}-error.log", Date::of(epoch_ms).in_file_name()));
    let text: String = errors.iter().map(|error| format!("\n{error}\n")).collect();
    match std::fs::write(&path, format!("{text}\n{} distinct errors observed.\n", errors.len())) {
        Ok(()) => warn(&format!("WARNING: Existing errors saved to: {}", path.display())),
        Err(error) => warn(&format!("WARNING: cannot save existing errors to {}: {error}", path.display())),
    }
}
