//! Commands that read a driver's directory once or repeatedly.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::Value;

use crate::aeron_directory::{AeronDirectory, DirectoryError, default_directory};
use crate::node::stop_on_signals;
use crate::{CommandError, print};

/// Directory to read, and form of the output.
#[derive(Debug, Args)]
pub struct LookArguments {
    /// Directory of the media driver [default: AERON_DIR, or the driver's own default].
    #[arg(long, value_name = "DIR")]
    pub aeron_dir: Option<PathBuf>,
    /// Prints JSON: one document, or one per line with --watch.
    #[arg(long)]
    pub json: bool,
    /// Repeats until a signal.
    #[arg(long)]
    pub watch: bool,
    /// Interval, ms.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub interval_ms: u64,
}

/// Result of a reading: as text and as a document.
pub struct Seen {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
}

impl LookArguments {
    /// The directory.
    pub fn directory(&self) -> PathBuf {
        self.aeron_dir.clone().unwrap_or_else(default_directory)
    }

    /// Reads once or until a signal. The directory is opened anew each time, so that a restarted driver is seen; a
    /// driver that is gone for a moment is waited for.
    ///
    /// # Errors
    ///
    /// A directory that cannot be read at the first time.
    pub fn run(
        &self,
        look: impl Fn(&AeronDirectory, i64) -> Result<Seen, DirectoryError>,
    ) -> Result<(), CommandError> {
        let path = self.directory();
        let see = || {
            let directory = AeronDirectory::open(&path)?;
            look(&directory, SystemClock.now().epoch_ms)
        };
        let first = see().map_err(CommandError::failed)?;
        if !self.watch {
            return self.show(&first);
        }
        let stop = stop_on_signals()?;
        let mut seen: Result<Seen, DirectoryError> = Ok(first);
        while !stop.load(Ordering::Relaxed) {
            match &seen {
                Ok(seen) => self.show_again(seen)?,
                Err(error) if self.json => print::json(&serde_json::json!({ "error": error.to_string() }))?,
                Err(error) => print::text(&format!("{CLEAR}{error}\n"))?,
            }
            rest_until(Duration::from_millis(self.interval_ms), || stop.load(Ordering::Relaxed));
            seen = see();
        }
        Ok(())
    }

    fn show(&self, seen: &Seen) -> Result<(), CommandError> {
        if self.json { print::json(&seen.json) } else { print::text(&seen.text) }
    }

    fn show_again(&self, seen: &Seen) -> Result<(), CommandError> {
        if self.json { print::json(&seen.json) } else { print::text(&format!("{CLEAR}{}", seen.text)) }
    }
}

/// Moves to the top left and clears the screen.
pub(crate) const CLEAR: &str = "\x1b[H\x1b[2J";

/// Sleeps for a time, in short naps, so that a signal is noticed at once.
pub(crate) fn rest_until(time: Duration, is_over: impl Fn() -> bool) {
    let deadline_ns = SystemClock.now().ns + time.as_nanos() as i64;
    while SystemClock.now().ns < deadline_ns && !is_over() {
        crate::node::rest();
    }
}
