//! Work of a cluster member on its state: snapshots, restarts from them, timers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harrier::client::{Aeron, Context};
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};
use harrier::cluster::tool::{ModuleCounters, ToggleCommand};
use harrier::platform::{MappedMemory, SystemClock, free_ports};
use harrier::ringbuf::Clock;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::{Layout, Node, NodeContext, ServiceFactory};
use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::cluster::Client;
use crate::measurement::histogram;
use crate::side::{PATIENCE_NS, directory};
use crate::stopwatch::{Stopwatch, rest};

/// Number of snapshots, or restarts, of one run.
const ROUNDS: usize = 3;
/// Bytes of a message of a snapshot.
const CHUNK_LENGTH: usize = 1_344;
/// Number of timers that are set at any time.
const TIMERS: i64 = 1_000;

/// Launches a node below `directory` whose client port is `ports[0]`.
fn launch(directory: &Path, ports: &[u16], service: ServiceFactory) -> Result<Node, BenchError> {
    let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let members = format!("0,{}", endpoints.join(","));
    let mut context = NodeContext::new(directory.join("node"), directory.join("node-aeron"), 0, members);
    context.layout = Layout::Fused;
    context.idle = IdleStrategy::Spin;
    Node::launch(context, vec![service]).map_err(BenchError::engine)
}

fn wait(what: &'static str, mut is_done: impl FnMut() -> bool) -> Result<(), BenchError> {
    let stopwatch = Stopwatch::start();
    while !is_done() {
        if stopwatch.ns() > 2 * PATIENCE_NS {
            return Err(BenchError::Timeout(what));
        }
        rest(0.000_1);
    }
    Ok(())
}

fn stop(node: Node) -> Result<(), BenchError> {
    let failures = node.failures();
    let stopped = node.stop();
    failures.into_iter().next().map_or(Ok(()), |failure| Err(BenchError::Engine(failure)))?;
    stopped.map_err(BenchError::Engine)
}

/// A service whose state is `length` bytes.
struct StateService {
    length: usize,
    state: Vec<u8>,
}

impl ClusteredService for StateService {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else {
            self.state.resize(self.length, 7);
            return Ok(());
        };
        self.state.reserve_exact(self.length);
        snapshot.read_to_end(cluster, &mut |message| self.state.extend_from_slice(message))?;
        if self.state.len() != self.length {
            return Err(format!("{} bytes of {} came back", self.state.len(), self.length).into());
        }
        Ok(())
    }

    fn on_session_message(
        &mut self,
        _: &mut Cluster<'_>,
        _: Option<&ClientSession>,
        _: i64,
        _: &[u8],
        _: &Header<'_>,
    ) {
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        for chunk in self.state.chunks(CHUNK_LENGTH) {
            cluster.retry(|_| Ok(snapshot.offer(chunk)?))?;
        }
        Ok(())
    }
}

fn state_service(length: usize) -> ServiceFactory {
    Box::new(move || Box::new(StateService { length, state: Vec::new() }))
}

/// Makes the node take a snapshot; returns its duration, ns.
fn take_snapshot(directory: &Path) -> Result<u64, BenchError> {
    let context = Context::new(directory.join("node-aeron"));
    let aeron = Aeron::connect(context, MappedMemory, &SystemClock.now()).map_err(BenchError::engine)?;
    let counters = ModuleCounters::find(aeron.counters(), 0).map_err(BenchError::engine)?;
    let stopwatch = Stopwatch::start();
    counters.give(ToggleCommand::Snapshot).map_err(BenchError::engine)?;
    wait("the snapshot", || counters.is_carried_out(ToggleCommand::Snapshot))?;
    Ok(stopwatch.ns())
}

fn outcome(times: hdrhistogram::Histogram<u64>) -> Outcome {
    let parameters = vec![("rounds", json!(ROUNDS)), ("node", json!("fused, spin"))];
    Outcome { parameters, msgs_per_s: 1e9 / times.mean(), latency: Some(times) }
}

/// Snapshots of a state of `parameters.size` bytes.
pub(crate) fn snapshot(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let node = launch(directory.path(), &free_ports(5)?, state_service(parameters.size))?;
    wait("the node", || node.is_ready())?;
    let mut times = histogram();
    for _ in 0..ROUNDS {
        times.saturating_record(take_snapshot(directory.path())?);
    }
    stop(node)?;
    Ok(outcome(times))
}

/// Starts of a node from a snapshot of `parameters.size` bytes, until it serves clients.
pub(crate) fn restart(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let mut times = histogram();
    for round in 0..=ROUNDS {
        let stopwatch = Stopwatch::start();
        let node = launch(directory.path(), &free_ports(5)?, state_service(parameters.size))?;
        wait("the node", || node.is_ready())?;
        if round == 0 {
            take_snapshot(directory.path())?;
        } else {
            times.saturating_record(stopwatch.ns());
        }
        stop(node)?;
    }
    Ok(outcome(times))
}

/// A service that sets a timer again whenever it fires.
struct TimerService {
    fired: Arc<AtomicU64>,
}

impl ClusteredService for TimerService {
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        _: Option<&ClientSession>,
        timestamp: i64,
        _: &[u8],
        _: &Header<'_>,
    ) {
        for id in 0..TIMERS {
            // A timer that is lost lowers the measured rate.
            let _counted = cluster.retry(|cluster| cluster.schedule_timer(id, timestamp));
        }
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        self.fired.fetch_add(1, Ordering::Relaxed);
        let _counted = cluster.retry(|cluster| cluster.schedule_timer(correlation_id, timestamp));
    }

    fn on_take_snapshot(
        &mut self,
        _: &mut Cluster<'_>,
        _: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        Ok(())
    }
}

/// Measures timers: 1,000 are set at any time, and each is set again when it has fired.
pub(crate) fn timers(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let ports = free_ports(5)?;
    let fired = Arc::new(AtomicU64::new(0));
    let service = fired.clone();
    let node = launch(directory.path(), &ports, Box::new(move || Box::new(TimerService { fired: service })))?;
    let client = Client::connect(directory.path(), ports[0], parameters);
    let rate = client.and_then(|mut client| {
        let mut is_sent = false;
        while fired.load(Ordering::Relaxed) == 0 {
            is_sent = is_sent || client.offer(0)?;
            client.step(&mut |_| ())?;
        }
        // There is no client: its session and its driver would take some of the node's time.
        rest(parameters.warmup_s);
        let (stopwatch, before) = (Stopwatch::start(), fired.load(Ordering::Relaxed));
        rest(parameters.seconds);
        Ok((fired.load(Ordering::Relaxed) - before) as f64 * 1e9 / stopwatch.ns() as f64)
    });
    stop(node)?;
    let parameters = vec![("timers", json!(TIMERS)), ("node", json!("fused, spin"))];
    Ok(Outcome { parameters, latency: None, msgs_per_s: rate? })
}
