//! State of a driver at one moment, and rates between two moments.

use std::path::PathBuf;

use harrier::ringbuf::Now;
use harrier_protocol::counter_types::type_id;

use crate::aeron_directory::{AeronDirectory, CounterRecord};
use crate::stream_table::{Backlog, Stream, backlog, streams};

const MODULE_STATE: i32 = 200;
const NODE_ROLE: i32 = 201;
const COMMIT_POSITION: i32 = 203;
const ELECTION_STATE: i32 = 207;
const LEADERSHIP_TERM_ID: i32 = 239;
const CLUSTER_SESSION: i32 = 241;
/// Counters of duty cycles: type, and the beginning of the label. System counters have type 0.
const CYCLE_TYPES: [i32; 3] = [type_id::ARCHIVE_MAX_CYCLE_TIME, 216, 218];

/// A driver's counters, errors and losses at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Monotonic, ns.
    pub ns: i64,
    /// Epoch ms.
    pub epoch_ms: i64,
    /// Process id of the driver.
    pub pid: i64,
    /// Time of the driver's last heartbeat, epoch ms.
    pub heartbeat_ms: i64,
    /// Counters in use.
    pub counters: Vec<CounterRecord>,
    /// Streams.
    pub streams: Vec<Stream>,
    /// Number of distinct errors, and the time of the last one, epoch ms.
    pub errors: (usize, i64),
    /// First line of the last error.
    pub last_error: String,
    /// Bytes lost by the loss report.
    pub lost_bytes: i64,
}

impl Sample {
    /// Reads a directory.
    pub fn take(directory: &AeronDirectory, now: &Now) -> Self {
        let counters = directory.counters();
        let errors = directory.errors(0);
        let last = errors.iter().max_by_key(|error| error.last_ms);
        Self {
            ns: now.ns,
            epoch_ms: now.epoch_ms,
            pid: directory.header.pid,
            heartbeat_ms: directory.heartbeat_ms(),
            streams: streams(&counters),
            errors: (errors.len(), last.map_or(-1, |error| error.last_ms)),
            last_error: last.and_then(|error| error.text.lines().next()).unwrap_or_default().to_owned(),
            // A loss report that cannot be read counts as empty: the counters show the rest.
            lost_bytes: directory
                .losses()
                .map_or(0, |losses| losses.iter().map(|loss| loss.total_bytes_lost).sum()),
            counters,
        }
    }

    /// Value of the driver's own counter with an id.
    pub fn system(&self, id: i32) -> i64 {
        self.counters
            .iter()
            .find(|counter| counter.id == id && counter.type_id == 0)
            .map_or(0, |counter| counter.value)
    }

    fn of_cluster(&self, type_id: i32, cluster_id: i32) -> Option<i64> {
        self.counters
            .iter()
            .find(|counter| counter.type_id == type_id && counter.key_i32(0) == cluster_id)
            .map(|counter| counter.value)
    }
}

/// Longest duty cycle of an agent since it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DutyCycle {
    /// Name of the agent.
    pub name: String,
    /// Longest cycle, ns.
    pub max_ns: i64,
    /// Number of cycles over the threshold.
    pub exceeded: i64,
}

/// A member of a cluster on this driver.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterFacts {
    /// Id of the cluster.
    pub cluster_id: i32,
    /// State of the consensus module.
    pub state: &'static str,
    /// Role of the member.
    pub role: &'static str,
    /// The election is over.
    pub is_settled: bool,
    /// Leadership term; -1 before the first.
    pub leadership_term_id: i64,
    /// Commit position.
    pub commit_position: i64,
    /// Bytes that are recorded and not committed.
    pub commit_lag: i64,
    /// Bytes committed per second.
    pub commit_rate: f64,
    /// Number of client sessions.
    pub sessions: usize,
    /// Number of errors of module and services.
    pub errors: i64,
}

/// One line of the stream table.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRow {
    /// `pub`, `img` (over the network) or `sub` (local).
    pub kind: &'static str,
    /// Stream id.
    pub stream_id: i32,
    /// Session.
    pub session_id: i32,
    /// Channel.
    pub channel: String,
    /// Position of the stream.
    pub position: i64,
    /// Bytes per second.
    pub rate: f64,
    /// Backlog of its slowest end, bytes.
    pub backlog: i64,
    /// Bytes before back pressure, for publications.
    pub room: Option<i64>,
    /// Number of its ends: receivers or subscribers.
    pub ends: usize,
}

/// The last samples.
#[derive(Debug, Clone)]
pub struct Model {
    /// The directory.
    pub path: PathBuf,
    /// The last sample.
    pub last: Sample,
    /// The sample from which rates are counted.
    pub base: Sample,
    /// Reason why the directory cannot be read now.
    pub trouble: Option<String>,
    /// Bytes sent and received per second, for the chart; the newest come last.
    pub history: Vec<(f64, f64)>,
    count: usize,
}

/// Number of rates that the chart keeps.
const HISTORY: usize = 400;

impl Model {
    /// Creates a model without samples.
    pub fn new(path: PathBuf) -> Self {
        let (last, base) = (Sample::default(), Sample::default());
        Self { path, last, base, trouble: None, history: Vec::new(), count: 0 }
    }

    /// Adds a sample; rates are between it and the sample before.
    pub fn add(&mut self, sample: Sample) {
        self.trouble = None;
        let previous = std::mem::replace(&mut self.last, sample);
        self.count += 1;
        // Counters of another driver are no base for rates.
        self.base =
            if self.count == 1 || previous.pid != self.last.pid { self.last.clone() } else { previous };
        if self.count > 1 {
            self.history.push((self.system_rate(0), self.system_rate(1)));
            if self.history.len() > HISTORY {
                self.history.remove(0);
            }
        }
    }

    /// Forgets the rates that were seen.
    pub fn forget(&mut self) {
        self.history.clear();
        self.base = self.last.clone();
    }

    fn rate(&self, now: i64, before: i64) -> f64 {
        let seconds = (self.last.ns - self.base.ns) as f64 / 1e9;
        if seconds <= 0.0 { 0.0 } else { (now - before) as f64 / seconds }
    }

    /// Returns the growth of one of the driver's own counters per second.
    pub fn system_rate(&self, id: i32) -> f64 {
        self.rate(self.last.system(id), self.base.system(id))
    }

    /// The streams.
    pub fn streams(&self) -> Vec<StreamRow> {
        self.last
            .streams
            .iter()
            .map(|stream| {
                let before = self.base.streams.iter().find(|candidate| {
                    (candidate.session_id, candidate.stream_id, &candidate.channel)
                        == (stream.session_id, stream.stream_id, &stream.channel)
                });
                let position = stream.position();
                let rate = self.rate(position, before.map_or(position, Stream::position));
                row(stream, &self.last.streams, position, rate)
            })
            .collect()
    }

    /// Duty cycles of driver, archive, consensus module and services.
    pub fn duty_cycles(&self) -> Vec<DutyCycle> {
        let is_max = |candidate: &&CounterRecord| {
            (candidate.type_id == 0 && candidate.label.contains("max cycle time"))
                || CYCLE_TYPES.contains(&candidate.type_id)
        };
        self.last
            .counters
            .iter()
            .filter(is_max)
            .map(|candidate| {
                // Each maximum is followed by its count of cycles over the threshold.
                let follows = |next: &&CounterRecord| {
                    let is_next = if candidate.type_id == 0 {
                        next.id == candidate.id + 1
                    } else {
                        next.id > candidate.id
                    };
                    is_next && next.label.contains("exceeded")
                };
                let exceeded = self.last.counters.iter().find(follows).map_or(0, |next| next.value);
                DutyCycle { name: cycle_name(candidate), max_ns: candidate.value, exceeded }
            })
            .collect()
    }

    /// Members of clusters on this driver.
    pub fn clusters(&self) -> Vec<ClusterFacts> {
        let members = self.last.counters.iter().filter(|counter| counter.type_id == MODULE_STATE);
        members.map(|member| self.cluster(member.key_i32(0), member.value)).collect()
    }

    fn cluster(&self, id: i32, state: i64) -> ClusterFacts {
        let last = &self.last;
        let commit_position = last.of_cluster(COMMIT_POSITION, id).unwrap_or(0);
        let before = self.base.of_cluster(COMMIT_POSITION, id).unwrap_or(commit_position);
        // The log is recorded on stream 100; its counter does not name the cluster.
        let recorded = last
            .counters
            .iter()
            .filter(|counter| {
                counter.type_id == type_id::RECORDING_POSITION && stream_of_recording(counter) == Some(100)
            })
            .map(|counter| counter.value)
            .max();
        let of_kind = |wanted: i32| {
            last.counters.iter().filter(move |counter| counter.type_id == wanted && counter.key_i32(0) == id)
        };
        ClusterFacts {
            cluster_id: id,
            state: state_name(state),
            role: role_name(last.of_cluster(NODE_ROLE, id).unwrap_or(-1)),
            is_settled: last.of_cluster(ELECTION_STATE, id) == Some(17),
            leadership_term_id: last.of_cluster(LEADERSHIP_TERM_ID, id).unwrap_or(-1),
            commit_position,
            commit_lag: recorded.map_or(0, |recorded| (recorded - commit_position).max(0)),
            commit_rate: self.rate(commit_position, before),
            sessions: of_kind(CLUSTER_SESSION).count(),
            errors: of_kind(212).chain(of_kind(215)).map(|counter| counter.value).sum(),
        }
    }

    /// Returns recordings and replays of archives on this driver, and their errors.
    pub fn archive(&self) -> Option<(i64, i64, i64)> {
        let value = |wanted: i32| {
            self.last.counters.iter().find(|counter| counter.type_id == wanted).map(|counter| counter.value)
        };
        Some((
            value(type_id::ARCHIVE_RECORDING_SESSIONS)?,
            value(type_id::ARCHIVE_REPLAY_SESSIONS).unwrap_or(0),
            value(type_id::ARCHIVE_ERROR_COUNT).unwrap_or(0),
        ))
    }

    /// Clients of the driver.
    pub fn client_count(&self) -> usize {
        self.last.counters.iter().filter(|counter| counter.type_id == type_id::CLIENT_HEARTBEAT).count()
    }
}

/// Stream id in `rec-pos: <recordingId> <sessionId> <streamId> <channel>`.
fn stream_of_recording(record: &CounterRecord) -> Option<i32> {
    record.label.strip_prefix("rec-pos: ")?.split(' ').nth(2)?.parse().ok()
}

fn state_name(value: i64) -> &'static str {
    const NAMES: [&str; 7] = ["INIT", "ACTIVE", "SUSPENDED", "SNAPSHOT", "QUITTING", "TERMINATING", "CLOSED"];
    usize::try_from(value).ok().and_then(|at| NAMES.get(at).copied()).unwrap_or("UNKNOWN")
}

fn role_name(value: i64) -> &'static str {
    match value {
        0 => "FOLLOWER",
        1 => "CANDIDATE",
        2 => "LEADER",
        _ => "NONE",
    }
}

fn cycle_name(record: &CounterRecord) -> String {
    let head = record.label.split(" max cycle time").next().unwrap_or(&record.label);
    match record.label.split_once("serviceId=") {
        Some((_, service)) => format!("{head} {service}"),
        None => head.to_owned(),
    }
}

fn row(stream: &Stream, all: &[Stream], position: i64, rate: f64) -> StreamRow {
    let ends = backlog(stream, all);
    let behind = ends.iter().map(|end| match end {
        Backlog::Publisher { .. } => 0,
        Backlog::Sender { backlog, .. } | Backlog::Subscriber { backlog, .. } => *backlog,
        Backlog::Receiver { gap, .. } => *gap,
    });
    let room = ends.iter().find_map(|end| match end {
        Backlog::Publisher { remaining, .. } => Some(*remaining),
        _ => None,
    });
    let kind = match (stream.is_publication(), stream.is_network_image()) {
        (true, _) => "pub",
        (_, true) => "img",
        _ => "sub",
    };
    StreamRow {
        kind,
        stream_id: stream.stream_id,
        session_id: stream.session_id,
        channel: stream.channel.clone(),
        position,
        rate,
        backlog: behind.max().unwrap_or(0),
        room,
        ends: stream
            .of_type(type_id::SUBSCRIBER_POSITION)
            .count()
            .max(stream.value(type_id::FLOW_CONTROL_RECEIVERS).unwrap_or(0).max(0) as usize),
    }
}
