//! The benchmarks by name.

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::measurement::Measurement;
use crate::{BenchError, cache_line, cluster, floor, footprint, leases, rings, rtt, state, throughput};

/// Parameters of a benchmark.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// Length of the payload of a message, bytes; at least 8.
    pub size: usize,
    /// Time before the measurement, s.
    pub warmup_s: f64,
    /// Time of the measurement, s.
    pub seconds: f64,
    /// Most outstanding requests; only for clusters.
    pub window: usize,
}

/// Result of the body of a benchmark.
pub(crate) struct Outcome {
    pub(crate) parameters: Vec<(&'static str, Value)>,
    pub(crate) latency: Option<Histogram<u64>>,
    pub(crate) msgs_per_s: f64,
}

type Body = fn(&Parameters) -> Result<Outcome, BenchError>;

/// A benchmark.
pub struct Benchmark {
    /// Name on the command line.
    pub name: &'static str,
    /// Description of what it measures.
    pub about: &'static str,
    /// Default sizes, bytes.
    pub sizes: &'static [usize],
    body: Body,
}

const fn benchmark(
    name: &'static str,
    about: &'static str,
    sizes: &'static [usize],
    body: Body,
) -> Benchmark {
    Benchmark { name, about, sizes, body }
}

/// All benchmarks.
pub const BENCHMARKS: [Benchmark; 25] = [
    benchmark("ipc-rtt", "round trip through shared memory, one message in flight", &[32], rtt::ipc),
    benchmark(
        "ipc-throughput",
        "messages through shared memory, exclusive publication",
        &[32, 1_344],
        throughput::ipc_exclusive,
    ),
    benchmark(
        "ipc-throughput-invoked",
        "messages through shared memory, driver invoked in the subscriber's thread",
        &[32, 1_344],
        throughput::ipc_invoked,
    ),
    benchmark(
        "ipc-throughput-short",
        "the same with terms of 512 KiB",
        &[32, 1_344],
        throughput::ipc_invoked_short,
    ),
    benchmark(
        "ipc-throughput-concurrent",
        "messages through shared memory, publication with many writers",
        &[32, 1_344],
        throughput::ipc_concurrent,
    ),
    benchmark("udp-rtt", "round trip over UDP, driver invoked in the client's thread", &[32], rtt::udp),
    benchmark(
        "udp-throughput",
        "messages over UDP, driver on dedicated threads",
        &[32, 1_344],
        throughput::udp_dedicated,
    ),
    benchmark(
        "udp-throughput-invoked",
        "messages over UDP, driver invoked in the client's thread",
        &[32, 1_344],
        throughput::udp_invoked,
    ),
    benchmark("udp-floor", "round trip of plain sockets that spin", &[32], floor::udp),
    benchmark(
        "driver-footprint",
        "start of harrier-driver until clients can connect, and its memory beyond mapped files",
        &[8],
        footprint::ours,
    ),
    benchmark("driver-footprint-c", "the same of the C driver", &[8], footprint::c),
    benchmark("driver-footprint-java", "the same of the Java driver", &[8], footprint::java),
    benchmark("one-to-one", "ring from one thread to another", &[8, 64], rings::one_to_one),
    benchmark("many-to-one", "ring for many writers, with one", &[8, 64], rings::many_to_one),
    benchmark("rtrb", "the ring of the crate rtrb", &[8, 64], rings::rtrb),
    benchmark("cluster-1", "echoes of a fused one-member cluster", &[32, 288], cluster::one_member),
    benchmark(
        "cluster-snapshot",
        "snapshots of a fused node; the size is that of its state",
        &[STATE],
        state::snapshot,
    ),
    benchmark(
        "cluster-restart",
        "starts of a fused node from a snapshot; the size is that of its state",
        &[STATE],
        state::restart,
    ),
    benchmark("lease-claims", "leases claimed and released, fused one-member cluster", &[64], leases::claims),
    benchmark("lease-claims-sync", "the same with each write synced", &[64], leases::claims_sync),
    benchmark("lease-renewals", "held leases renewed, fused one-member cluster", &[64], leases::renewals),
    benchmark("lease-renewals-sync", "the same with each write synced", &[64], leases::renewals_sync),
    benchmark(
        "lease-takeover",
        "from the end of a dead holder's lease to the next leader",
        &[64],
        leases::takeovers,
    ),
    benchmark(
        "lease-held",
        "50,000 leases renewed every 10 s; share of a core in the service's thread",
        &[64],
        leases::held,
    ),
    benchmark("cluster-timers", "timers that a service sets and that fire", &[32], state::timers),
];

/// Length of a member's state in snapshots and restarts, bytes.
pub(crate) const STATE: usize = 100_000_000;

/// Runs a benchmark in this process.
///
/// # Errors
/// See [`BenchError`].
pub fn run(name: &str, parameters: &Parameters) -> Result<Measurement, BenchError> {
    let benchmark = find(name)?;
    if parameters.size < 8 || parameters.window == 0 {
        return Err(BenchError::Parameter(
            "a message has at least 8 bytes, a window at least 1 request".into(),
        ));
    }
    let cross_core_ns = cache_line::round_trip_ns();
    let outcome = (benchmark.body)(parameters)?;
    Ok(Measurement {
        name: benchmark.name,
        parameters: outcome.parameters,
        latency: outcome.latency,
        msgs_per_s: outcome.msgs_per_s,
        size: parameters.size,
        cross_core_ns,
    })
}

/// Returns the benchmark with this name.
///
/// # Errors
///
/// [`BenchError::Unknown`].
pub fn find(name: &str) -> Result<&'static Benchmark, BenchError> {
    BENCHMARKS.iter().find(|benchmark| benchmark.name == name).ok_or_else(|| BenchError::Unknown {
        what: "benchmark",
        name: name.to_owned(),
        known: BENCHMARKS.map(|benchmark| benchmark.name).join(", "),
    })
}

/// Returns the message lengths to measure, bytes: the requested one, else the benchmark's own.
///
/// # Errors
///
/// [`BenchError::Unknown`].
pub fn sizes(name: &str, asked: Option<usize>) -> Result<Vec<usize>, BenchError> {
    let own = find(name)?.sizes;
    Ok(asked.map_or_else(|| own.to_vec(), |size| vec![size]))
}
