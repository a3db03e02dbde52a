//! Processes, directories and ports of whole-system tests.
pub mod binaries;
pub mod client;
pub mod cluster;
pub mod messages;
pub mod ports;
pub mod process;
pub mod stopwatch;

use std::path::{Path, PathBuf};

use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use harrier::ringbuf::idle::{Backoff, IdleStrategy};

/// Maximum time of one wait; other tests may occupy the processor.
pub const PATIENCE_NS: i64 = 120_000_000_000;

/// Number of polls before others get a core for longer.
const LOOKS_AT_ONCE: u32 = 200;

/// Polls until there is a value; panics with `what` after [`PATIENCE_NS`].
pub fn until<V>(what: &str, mut condition: impl FnMut() -> Option<V>) -> V {
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(SystemClock.now().ns < deadline_ns, "{what} did not come");
        rest();
    }
}

/// Yields the core between two polls of a condition.
#[expect(clippy::disallowed_methods, reason = "a pause between two looks, not a wait for an outcome")]
pub fn rest() {
    std::thread::sleep(std::time::Duration::from_millis(1));
}

/// Idle strategy of tests: first short, then longer rests, so that waiting for a process does not occupy a core.
pub fn patient_idle() -> IdleStrategy {
    IdleStrategy::Backoff(Backoff::new(0, LOOKS_AT_ONCE, 100_000, 100_000))
}

/// A directory in shared memory that is deleted with its owner.
pub fn directory(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(&format!("harrier-{name}-")).tempdir_in("/dev/shm").unwrap()
}

/// A path below the sources of these tests.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}
