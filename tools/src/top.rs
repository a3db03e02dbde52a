//! `harrier top`: a driver, its streams and its cluster, live on a terminal.

mod sample;
mod terminal;
mod view;

use clap::Args;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;

use crate::aeron_directory::AeronDirectory;
use crate::watch::LookArguments;
use crate::{CommandError, print};
pub use sample::{Model, Sample};
pub use view::{Sorting, View, render};

const EXAMPLES: &str = "\
Examples:
  harrier top --aeron-dir /dev/shm/aeron-node-0
  harrier top --aeron-dir /dev/shm/aeron-node-0 --interval-ms 200
  harrier top --once --width 160
      one frame as text, with rates over one interval

Keys: q quit, p pause, s sort streams by stream, rate or backlog, up and down (also k and j) scroll, z rates since now.
Reads the driver's files only: it works beside a driver of any make, alive or dead.";

/// Arguments of `harrier top`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArguments {
    /// Directory of the media driver [default: AERON_DIR, or the driver's own default].
    #[arg(long, value_name = "DIR")]
    pub aeron_dir: Option<std::path::PathBuf>,
    /// Interval, ms.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub interval_ms: u64,
    /// Prints one frame as text and ends.
    #[arg(long)]
    pub once: bool,
    /// Columns of the frame that --once prints.
    #[arg(long, default_value_t = 140, value_parser = clap::value_parser!(u16).range(40..))]
    pub width: u16,
    /// Rows of the frame that --once prints.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(10..))]
    pub height: u16,
}

/// Shows the driver until a key or a signal ends it.
///
/// # Errors
/// [`CommandError::Failed`] for a directory that cannot be read, or a terminal that cannot be used.
pub fn run(arguments: &TopArguments) -> Result<(), CommandError> {
    let look = LookArguments {
        aeron_dir: arguments.aeron_dir.clone(),
        json: false,
        watch: false,
        interval_ms: arguments.interval_ms,
    };
    let path = look.directory();
    let see = || AeronDirectory::open(&path).map(|directory| Sample::take(&directory, &SystemClock.now()));
    let first = see().map_err(CommandError::failed)?;
    let mut model = Model::new(path.clone());
    model.add(first);
    if !arguments.once {
        return terminal::run(model, arguments.interval_ms, see);
    }
    crate::watch::rest_until(std::time::Duration::from_millis(arguments.interval_ms), || false);
    model.add(see().map_err(CommandError::failed)?);
    print::text(&terminal::frame(&model, arguments.width, arguments.height)?)
}
