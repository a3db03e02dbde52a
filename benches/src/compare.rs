//! Comparison of our programs with those of the peers, run by run.
//!
//! The host moves the two cores of a small virtual machine: a cache line takes about 100 ns from one to the other or
//! several times that, and figures of shared memory depend on it. Therefore the programs take turns, the cache line
//! is timed before each run and gives the run a tag, and only runs of one turn with the same tag form a pair. The
//! result is the median of the pairs' ratios. An A/A comparison, the same program against itself, shows how far the
//! ratio may be trusted. When it is off by more than five percent, all bars are widened by that much, and the report
//! says so.

mod chart;
mod plan;
mod program;
mod report;
mod statistics;

use std::path::{Path, PathBuf};

use crate::{BenchError, cache_line};

pub use plan::{Bar, CDriver, COMPARISONS, Comparison, Lane, Peer};
pub use program::Peers;
pub use report::{Entry, Results, this_machine};
pub use statistics::{Ratio, Round, Tag, ratios, tolerance};

/// Options of a comparison.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// Number of pairs with one tag.
    pub pairs: usize,
    /// Most turns, when tags keep changing.
    pub max_rounds: usize,
    /// Short runs that check whether everything works; their numbers mean little.
    pub quick: bool,
}

impl CompareOptions {
    /// Options for seven pairs.
    pub fn thorough() -> Self {
        Self { pairs: 7, max_rounds: 12, quick: false }
    }

    /// Options for one pair of short runs.
    pub fn quick() -> Self {
        Self { pairs: 1, max_rounds: 2, quick: true }
    }
}

/// Runs a comparison and returns its rounds.
///
/// # Errors
///
/// One of the programs fails.
pub fn compare(
    comparison: &Comparison,
    peers: &Peers,
    options: &CompareOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Round>, BenchError> {
    let mut rounds: Vec<Round> = Vec::new();
    while rounds.len() < options.max_rounds && statistics::largest_group(&rounds) < options.pairs {
        let number = rounds.len();
        // The first program alternates, so that a drift of the machine affects both equally.
        let is_ours_first = number.is_multiple_of(2);
        let mut ours = None;
        let mut theirs = None;
        for is_ours in [is_ours_first, !is_ours_first] {
            let tag = Tag::of(cache_line::round_trip_ns());
            let samples = if is_ours {
                peers.run_ours(comparison, options.quick)?
            } else {
                peers.run_peer(comparison, options.quick)?
            };
            progress(&format!(
                "{} {number} {}: {samples}",
                comparison.name,
                if is_ours { "ours" } else { "peer" }
            ));
            *(if is_ours { &mut ours } else { &mut theirs }) = Some((tag, samples));
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            rounds.push(Round { ours, theirs });
        }
    }
    Ok(rounds)
}

/// Folder of the peers' harnesses and of the results, when the sources are present.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
