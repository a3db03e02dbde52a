//! Commands that look at a driver's directory, once or again and again.

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

/// Which directory to look at, and how to say what is there.
#[derive(Debug, Args)]
pub struct LookArguments {
    /// Directory of the media driver [default: AERON_DIR, or the driver's own default].
    #[arg(long, value_name = "DIR")]
    pub aeron_dir: Option<PathBuf>,
    /// Prints JSON: one document, with --watch one a line.
    #[arg(long)]
    pub json: bool,
    /// Looks again and again until a signal.
    #[arg(long)]
    pub watch: bool,
    /// Time between two looks, ms.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub interval_ms: u64,
}

/// What a look has found: as text and as a document.
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

    /// Looks, once or until a signal. The directory is opened anew for each look, so that a restarted driver is seen; one
    /// that is gone for a moment is waited for.
    ///
    /// # Errors
    /// A directory that cannot be read at the first look.
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

/// Rests for a time, in short naps, so that a signal is heard at once.
pub(crate) fn rest_until(time: Duration, is_over: impl Fn() -> bool) {
    let deadline_ns = SystemClock.now().ns + time.as_nanos() as i64;
    while SystemClock.now().ns < deadline_ns && !is_over() {
        crate::node::rest();
    }
}
