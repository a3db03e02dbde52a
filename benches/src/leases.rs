//! Leadership leases: claims, renewals and take-overs of a one-member cluster, and the cost of many held leases.
//!
//! The node's files are where the system keeps temporary files, usually on a disk: with sync on, the disk is what is
//! measured.

use harrier::archive::SyncLevel;
use harrier::cluster::client::ClusterClientContext;
use harrier::lease::{LeaseClient, LeaseClientContext, LeaseSettings, PolledClaimer, RequestId};
use harrier::leases::lease_service;
use harrier::platform::{SystemClock, free_ports};
use harrier::ringbuf::Clock;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::{Layout, Node, NodeContext};
use hdrhistogram::Histogram;
use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::measurement::histogram;
use crate::side::{Invoked, PATIENCE_NS, Side, directory, driver_context};
use crate::stopwatch::{Stopwatch, rest};

const SECOND_NS: i64 = 1_000_000_000;
/// Duration of leases that are claimed and released, or renewed.
const LONG_NS: i64 = 60 * SECOND_NS;
/// Duration of a lease whose holder dies; it is etcd's shortest.
const TAKEOVER_NS: i64 = 2 * SECOND_NS;
/// Number of applications whose holders die in one run.
const TAKEOVERS: usize = 64;
/// Number of leases that are held, and the duration of each; they are renewed at half time.
const HELD: usize = 50_000;
const HELD_NS: i64 = 20 * SECOND_NS;
/// Name of the service's thread, as the system truncates it.
const SERVICE_THREAD: &str = "clustered-servi";

/// A node with the lease service, and a client on the measuring thread.
struct Rig {
    node: Node,
    side: Invoked,
    client: LeaseClient,
    _memory: tempfile::TempDir,
    _disk: tempfile::TempDir,
}

impl Rig {
    fn new(sync_level: SyncLevel, layout: Layout, idle: IdleStrategy) -> Result<Self, BenchError> {
        let (memory, disk) = (directory()?, tempfile::Builder::new().prefix("harrier-bench-").tempdir()?);
        let ports = free_ports(5)?;
        let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let members = format!("0,{}", endpoints.join(","));
        let mut context =
            NodeContext::new(disk.path().join("node"), memory.path().join("node-aeron"), 0, members);
        (context.layout, context.idle, context.sync_level) = (layout, idle, sync_level);
        context.fresh_timestamps = true;
        let service = lease_service(LeaseSettings::default()).map_err(BenchError::engine)?;
        let node = Node::launch(context, vec![service]).map_err(BenchError::engine)?;
        let side = Invoked::new(driver_context(memory.path(), "client")?)?;
        let mut cluster =
            ClusterClientContext::new(format!("0=127.0.0.1:{}", ports[0]), "aeron:udp?endpoint=127.0.0.1:0");
        cluster.ingress_channel = "aeron:udp?term-length=1m".into();
        cluster.message_timeout_ns = PATIENCE_NS as i64;
        let client = LeaseClient::new(LeaseClientContext::new(cluster)).map_err(BenchError::engine)?;
        let mut rig = Self { node, side, client, _memory: memory, _disk: disk };
        let stopwatch = Stopwatch::start();
        while !rig.client.is_connected() {
            if stopwatch.ns() > 2 * PATIENCE_NS {
                return Err(BenchError::Timeout("the cluster session"));
            }
            rig.step()?;
            std::thread::yield_now();
        }
        Ok(rig)
    }

    /// A fused node that spins.
    fn fused(sync_level: SyncLevel) -> Result<Self, BenchError> {
        Self::new(sync_level, Layout::Fused, IdleStrategy::Spin)
    }

    #[inline]
    fn step(&mut self) -> Result<(), BenchError> {
        self.side.step()?;
        self.client.do_work(self.side.aeron(), &SystemClock.now());
        Ok(())
    }

    fn stop(self) -> Result<(), BenchError> {
        let failures = self.node.failures();
        let stopped = self.node.stop();
        failures.into_iter().next().map_or(Ok(()), |failure| Err(BenchError::Engine(failure)))?;
        stopped.map_err(BenchError::Engine)
    }
}

fn now_ns() -> i64 {
    SystemClock.now().ns
}

/// A request in flight.
struct Worker {
    application: String,
    unit: String,
    token: u64,
    step: Step,
}

enum Step {
    Idle,
    Claiming(RequestId, i64),
    Releasing(RequestId),
}

impl Worker {
    fn new(index: usize) -> Self {
        let application = format!("application-{index:04}");
        Self { unit: format!("{application}/0"), application, token: 0, step: Step::Idle }
    }

    fn claim(&mut self, client: &mut LeaseClient, duration_ns: i64) -> Result<(), BenchError> {
        let now_ns = now_ns();
        let id = client
            .start_claim(&self.application, &self.unit, duration_ns, now_ns)
            .map_err(BenchError::engine)?;
        self.step = Step::Claiming(id, now_ns);
        Ok(())
    }

    /// Reads the answer to a claim; returns the time that it took.
    fn poll_claim(&mut self, client: &mut LeaseClient) -> Result<Option<u64>, BenchError> {
        let Step::Claiming(id, begun_ns) = self.step else { return Ok(None) };
        let Some(answer) = client.poll_claim(id) else { return Ok(None) };
        self.token = answer.map_err(BenchError::engine)?.token;
        self.step = Step::Idle;
        Ok(Some((now_ns() - begun_ns) as u64))
    }

    fn release(&mut self, client: &mut LeaseClient) -> Result<(), BenchError> {
        let id = client
            .start_release(&self.application, &self.unit, self.token, now_ns())
            .map_err(BenchError::engine)?;
        self.step = Step::Releasing(id);
        Ok(())
    }

    fn poll_release(&mut self, client: &mut LeaseClient) -> Result<bool, BenchError> {
        let Step::Releasing(id) = self.step else { return Ok(false) };
        let Some(answer) = client.poll_release(id) else { return Ok(false) };
        answer.map_err(BenchError::engine)?;
        self.step = Step::Idle;
        Ok(true)
    }
}

/// Measures claims, each of which is released again, for `parameters.window` applications at once.
pub(crate) fn claims(parameters: &Parameters) -> Result<Outcome, BenchError> {
    measure(parameters, SyncLevel::None, true)
}

/// Measures claims with every write synced.
pub(crate) fn claims_sync(parameters: &Parameters) -> Result<Outcome, BenchError> {
    measure(parameters, SyncLevel::Data, true)
}

/// Measures renewals of held leases, `parameters.window` at once.
pub(crate) fn renewals(parameters: &Parameters) -> Result<Outcome, BenchError> {
    measure(parameters, SyncLevel::None, false)
}

/// Measures renewals with every write synced.
pub(crate) fn renewals_sync(parameters: &Parameters) -> Result<Outcome, BenchError> {
    measure(parameters, SyncLevel::Data, false)
}

fn measure(parameters: &Parameters, sync_level: SyncLevel, releases: bool) -> Result<Outcome, BenchError> {
    let mut rig = Rig::fused(sync_level)?;
    let mut times = histogram();
    let measured = (|| {
        exchange(&mut rig, parameters.window, parameters.warmup_s, releases, &mut times)?;
        times.reset();
        let stopwatch = Stopwatch::start();
        exchange(&mut rig, parameters.window, parameters.seconds, releases, &mut times)?;
        Ok::<_, BenchError>(times.len() as f64 * 1e9 / stopwatch.ns() as f64)
    })();
    rig.stop()?;
    let parameters = vec![
        ("outstanding", json!(parameters.window)),
        ("sync", json!(sync_level != SyncLevel::None)),
        ("node", json!("fused, spin")),
    ];
    Ok(Outcome { parameters, latency: Some(times), msgs_per_s: measured? })
}

/// Keeps `window` applications busy for a while, then waits for the last answers.
fn exchange(
    rig: &mut Rig,
    window: usize,
    seconds: f64,
    releases: bool,
    times: &mut Histogram<u64>,
) -> Result<(), BenchError> {
    let mut workers: Vec<Worker> = (0..window).map(Worker::new).collect();
    let (stopwatch, end_ns) = (Stopwatch::start(), (seconds * 1e9) as u64);
    loop {
        rig.step()?;
        let is_over = stopwatch.ns() >= end_ns;
        let mut idle = 0;
        for worker in &mut workers {
            if let Some(ns) = worker.poll_claim(&mut rig.client)? {
                times.saturating_record(ns);
                if releases {
                    worker.release(&mut rig.client)?;
                }
            }
            worker.poll_release(&mut rig.client)?;
            match worker.step {
                Step::Idle if is_over => idle += 1,
                Step::Idle => worker.claim(&mut rig.client, LONG_NS)?,
                _ => {}
            }
        }
        if idle == window {
            return Ok(());
        }
        if stopwatch.ns() > end_ns + PATIENCE_NS {
            return Err(BenchError::Timeout("the last answer"));
        }
    }
}

/// A holder that dies, and the unit that waits to follow it.
struct Takeover {
    first: Worker,
    second: Worker,
    begun_ns: i64,
    wait: Option<RequestId>,
    late_ns: Option<i64>,
}

impl Takeover {
    /// Goes on; true once the second leads.
    fn go_on(&mut self, client: &mut LeaseClient) -> Result<bool, BenchError> {
        if self.late_ns.is_some() {
            return Ok(true);
        }
        if self.first.poll_claim(client)?.is_some() {
            let wait = client.start_block(&self.second.application, now_ns()).map_err(BenchError::engine)?;
            self.wait = Some(wait);
        }
        if let Some(answer) = self.wait.and_then(|id| client.poll_block(id)) {
            answer.map_err(BenchError::engine)?;
            self.wait = None;
            self.second.claim(client, LONG_NS)?;
        }
        if self.second.poll_claim(client)?.is_some() {
            let late_ns = now_ns() - self.begun_ns - TAKEOVER_NS;
            if late_ns <= 0 {
                return Err(BenchError::Engine(format!("the second leads {late_ns} ns too early")));
            }
            self.late_ns = Some(late_ns);
        }
        Ok(self.late_ns.is_some())
    }
}

/// Holders die; the times are from the end of each guarantee to the moment that the next unit knows that it leads.
pub(crate) fn takeovers(_: &Parameters) -> Result<Outcome, BenchError> {
    let mut rig = Rig::fused(SyncLevel::None)?;
    let mut times = histogram();
    let taken: Result<(), BenchError> = (|| {
        let mut takeovers = Vec::with_capacity(TAKEOVERS);
        let stopwatch = Stopwatch::start();
        loop {
            rig.step()?;
            // Deaths spread over a second, as the peer's.
            let due = stopwatch.ns() as usize / (SECOND_NS as usize / TAKEOVERS);
            if takeovers.len() < TAKEOVERS.min(due) {
                let (mut first, mut second) = (Worker::new(takeovers.len()), Worker::new(takeovers.len()));
                second.unit = format!("{}/1", second.application);
                let begun_ns = now_ns();
                first.claim(&mut rig.client, TAKEOVER_NS)?;
                takeovers.push(Takeover { first, second, begun_ns, wait: None, late_ns: None });
            }
            let mut done = 0;
            for takeover in &mut takeovers {
                done += usize::from(takeover.go_on(&mut rig.client)?);
            }
            if done == TAKEOVERS {
                let late = takeovers.iter().filter_map(|takeover| takeover.late_ns);
                late.for_each(|ns| times.saturating_record(ns as u64));
                return Ok(());
            }
            if stopwatch.ns() > 2 * PATIENCE_NS {
                return Err(BenchError::Timeout("the last take-over"));
            }
        }
    })();
    rig.stop()?;
    taken?;
    let parameters = vec![("lease_s", json!(TAKEOVER_NS / SECOND_NS)), ("applications", json!(TAKEOVERS))];
    Ok(Outcome { parameters, latency: Some(times), msgs_per_s: 0.0 })
}

/// Many leases that are held and renewed at half time; the share of a core that the service's thread takes.
pub(crate) fn held(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let mut rig = Rig::new(SyncLevel::None, Layout::Threads, IdleStrategy::Sleep { period_ns: 1_000_000 })?;
    let mut times = histogram();
    let held: Result<(f64, f64), BenchError> = (|| {
        let mut workers: Vec<Worker> = (0..HELD).map(Worker::new).collect();
        let (mut under_way, mut next) = (Vec::new(), 0_usize);
        let stopwatch = Stopwatch::start();
        let (warm_ns, end_ns) = (HELD_NS as u64 / 2, HELD_NS as u64 / 2 + (parameters.seconds * 1e9) as u64);
        let mut begun = None;
        loop {
            rig.step()?;
            let now = stopwatch.ns();
            // Evenly over half a lease, round and round.
            let due = (now as u128 * HELD as u128 / (HELD_NS as u128 / 2)) as usize;
            while next < due && under_way.len() < 512 {
                let worker = next % HELD;
                workers[worker].claim(&mut rig.client, HELD_NS)?;
                under_way.push(worker);
                next += 1;
            }
            let mut index = 0;
            while index < under_way.len() {
                match workers[under_way[index]].poll_claim(&mut rig.client)? {
                    Some(ns) => {
                        under_way.swap_remove(index);
                        times.saturating_record(ns);
                    }
                    None => index += 1,
                }
            }
            if now >= warm_ns && begun.is_none() {
                times.reset();
                begun = Some((now, service_thread_ns()?));
            }
            if now >= end_ns {
                let (from, before) = begun.unwrap_or((0, 0));
                let share = (service_thread_ns()? - before) as f64 / (now - from) as f64;
                return Ok((share, times.len() as f64 * 1e9 / (now - from) as f64));
            }
            rest(0.000_2);
        }
    })();
    rig.stop()?;
    let (share, msgs_per_s) = held?;
    let parameters = vec![
        ("leases", json!(HELD)),
        ("renewed_every_s", json!(HELD_NS / 2 / SECOND_NS)),
        ("service_core_share", json!((share * 1e4).round() / 1e4)),
        ("node", json!("threads, sleep 1 ms")),
    ];
    Ok(Outcome { parameters, latency: Some(times), msgs_per_s })
}

/// Time on a processor of the service's thread, ns.
fn service_thread_ns() -> Result<u64, BenchError> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.starts_with(SERVICE_THREAD) {
            let times = std::fs::read_to_string(task.join("schedstat"))?;
            let first = times.split_whitespace().next().and_then(|ns| ns.parse().ok());
            return first
                .ok_or_else(|| BenchError::Engine("schedstat of the service's thread is empty".into()));
        }
    }
    Err(BenchError::Engine(format!("no thread of this process is called {SERVICE_THREAD}")))
}
