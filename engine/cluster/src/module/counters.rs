//! Counters of a consensus module (spec 04 §2.4).

use harrier_client::{Aeron, ClientError, Counter};
use harrier_protocol::AERON_VERSION;
use harrier_protocol::counter_types::type_id::{CLIENT_HEARTBEAT, CONSENSUS_REFUSED, INGRESS_REFUSED};
use harrier_ringbuf::counters::CountersReader;

use super::context::ConsensusModuleContext;
use crate::recording_log::Entry;

/// Type ids by which others find the counters.
pub(crate) mod type_id {
    pub(crate) const MODULE_STATE: i32 = 200;
    pub(crate) const NODE_ROLE: i32 = 201;
    pub(crate) const CONTROL_TOGGLE: i32 = 202;
    pub(crate) const COMMIT_POSITION: i32 = 203;
    pub(crate) const RECOVERY_STATE: i32 = 204;
    pub(crate) const SNAPSHOT_COUNT: i32 = 205;
    pub(crate) const ELECTION_STATE: i32 = 207;
    pub(crate) const MODULE_ERRORS: i32 = 212;
    pub(crate) const TIMED_OUT_CLIENTS: i32 = 213;
    pub(crate) const MAX_CYCLE_TIME: i32 = 216;
    pub(crate) const CYCLE_TIME_EXCEEDED: i32 = 217;
    pub(crate) const STANDBY_SNAPSHOTS: i32 = 232;
    pub(crate) const NODE_TOGGLE: i32 = 233;
    pub(crate) const MAX_SNAPSHOT_DURATION: i32 = 234;
    pub(crate) const SNAPSHOT_DURATION_EXCEEDED: i32 = 235;
    pub(crate) const ELECTION_COUNT: i32 = 238;
    pub(crate) const LEADERSHIP_TERM_ID: i32 = 239;
    pub(crate) const SESSION: i32 = 241;
}

/// Values of the cluster's control toggle (spec 04 §2.4).
pub(super) mod toggle {
    pub(in crate::module) const INACTIVE: i64 = 0;
    pub(in crate::module) const NEUTRAL: i64 = 1;
    pub(in crate::module) const SUSPEND: i64 = 2;
    pub(in crate::module) const RESUME: i64 = 3;
    pub(in crate::module) const SNAPSHOT: i64 = 4;
    pub(in crate::module) const SHUTDOWN: i64 = 5;
    pub(in crate::module) const ABORT: i64 = 6;
    pub(in crate::module) const STANDBY_SNAPSHOT: i64 = 7;
}

/// Values of the node's control toggle (spec 04 §2.4).
pub(super) mod node_toggle {
    pub(in crate::module) const INACTIVE: i64 = 0;
    pub(in crate::module) const NEUTRAL: i64 = 1;
    pub(in crate::module) const REPLICATE_STANDBY_SNAPSHOT: i64 = 2;
    pub(in crate::module) const VALIDATE_RECORDING_LOG: i64 = 3;
}

/// Longest duration, and the number of durations above a threshold.
pub(super) struct DurationCounters {
    max: Counter,
    exceeded: Counter,
    threshold_ns: i64,
}

impl DurationCounters {
    #[inline]
    pub(super) fn observe(&self, duration_ns: i64) {
        self.max.propose_max(duration_ns);
        if duration_ns > self.threshold_ns {
            self.exceeded.increment();
        }
    }
}

/// The counters of a module.
pub(super) struct ModuleCounters {
    pub(super) errors: Counter,
    pub(super) state: Counter,
    pub(super) election_state: Counter,
    pub(super) election_count: Counter,
    pub(super) leadership_term_id: Counter,
    pub(super) role: Counter,
    pub(super) commit_position: Counter,
    pub(super) control_toggle: Counter,
    pub(super) node_toggle: Counter,
    pub(super) snapshots: Counter,
    pub(super) timed_out_clients: Counter,
    /// Messages of clients that were refused.
    pub(super) refused_ingress: Counter,
    /// Messages on the consensus stream that were refused.
    pub(super) refused_consensus: Counter,
    pub(super) cycle_time: DurationCounters,
    pub(super) snapshot_duration: DurationCounters,
    /// `None` unless the member accepts snapshots of standbys.
    pub(super) standby_snapshots: Option<Counter>,
}

/// Counters that the driver has not made yet.
#[derive(Debug)]
pub(super) struct PendingCounters {
    ids: Vec<i64>,
    ready: Vec<Counter>,
    cycle_threshold_ns: i64,
    snapshot_threshold_ns: i64,
}

impl PendingCounters {
    /// Requests all counters from the driver.
    pub(super) fn add(aeron: &mut Aeron, context: &ConsensusModuleContext) -> Result<Self, ClientError> {
        let cluster_id = context.cluster_id;
        let key = cluster_id.to_le_bytes();
        let (cycle, snapshot) = (context.cycle_threshold_ns, context.total_snapshot_threshold_ns);
        let exceeded = |text: &str, threshold_ns: i64| {
            format!("{text} exceeded count: threshold={}", duration_text(threshold_ns))
        };
        let mut ids = Vec::new();
        for (type_id, text) in [
            (type_id::MODULE_ERRORS, "Cluster Errors".to_owned()),
            (type_id::MODULE_STATE, "Consensus Module state".into()),
            (type_id::ELECTION_STATE, "Cluster election state".into()),
            (type_id::ELECTION_COUNT, "Cluster election count".into()),
            (type_id::LEADERSHIP_TERM_ID, "Cluster leadership term id".into()),
            (type_id::NODE_ROLE, "Cluster node role".into()),
            (type_id::COMMIT_POSITION, "Cluster commit-pos:".into()),
            (type_id::CONTROL_TOGGLE, "Cluster control toggle".into()),
            (type_id::NODE_TOGGLE, "Node control toggle".into()),
            (type_id::SNAPSHOT_COUNT, "Cluster snapshot count".into()),
            (type_id::TIMED_OUT_CLIENTS, "Cluster timed out client count".into()),
            (INGRESS_REFUSED, "Cluster refused ingress messages".into()),
            (CONSENSUS_REFUSED, "Cluster refused consensus messages".into()),
            (type_id::MAX_CYCLE_TIME, "Cluster max cycle time in ns".into()),
            (type_id::CYCLE_TIME_EXCEEDED, exceeded("Cluster work cycle time", cycle)),
            (type_id::MAX_SNAPSHOT_DURATION, "Total max snapshot duration in ns".into()),
            (type_id::SNAPSHOT_DURATION_EXCEEDED, exceeded("Total max snapshot duration", snapshot)),
        ] {
            let version = if type_id == type_id::MODULE_ERRORS {
                format!(" version={AERON_VERSION} commit=harrier")
            } else {
                String::new()
            };
            let label = format!("{text} - clusterId={cluster_id}{version}");
            ids.push(aeron.add_counter(type_id, &key, &label)?);
        }
        if context.accepts_standby_snapshots {
            let label = format!("Cluster standby snapshots received - clusterId={cluster_id}");
            ids.push(aeron.add_counter(type_id::STANDBY_SNAPSHOTS, &key, &label)?);
        }
        Ok(Self { ids, ready: Vec::new(), cycle_threshold_ns: cycle, snapshot_threshold_ns: snapshot })
    }

    /// Collects the counters that the driver has made; returns all of them once they are complete.
    pub(super) fn poll(&mut self, aeron: &mut Aeron) -> Result<Option<ModuleCounters>, ClientError> {
        while let Some(id) = self.ids.get(self.ready.len()).copied() {
            let Some(counter) = aeron.counter(id)? else { return Ok(None) };
            self.ready.push(counter);
        }
        let mut ready = std::mem::take(&mut self.ready).into_iter();
        self.ids.clear();
        let mut next = || ready.next().expect("as many counters as were asked for");
        Ok(Some(ModuleCounters {
            errors: next(),
            state: next(),
            election_state: next(),
            election_count: next(),
            leadership_term_id: next(),
            role: next(),
            commit_position: next(),
            control_toggle: next(),
            node_toggle: next(),
            snapshots: next(),
            timed_out_clients: next(),
            refused_ingress: next(),
            refused_consensus: next(),
            cycle_time: DurationCounters {
                max: next(),
                exceeded: next(),
                threshold_ns: self.cycle_threshold_ns,
            },
            snapshot_duration: DurationCounters {
                max: next(),
                exceeded: next(),
                threshold_ns: self.snapshot_threshold_ns,
            },
            standby_snapshots: ready.next(),
        }))
    }
}

/// Returns a duration as labels hold it: in the largest unit that divides it.
fn duration_text(ns: i64) -> String {
    for (unit, name) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")] {
        if ns >= unit && ns % unit == 0 {
            return format!("{}{name}", ns / unit);
        }
    }
    format!("{ns}ns")
}

/// Returns true when another consensus module of the cluster runs on the driver.
pub(super) fn has_other_module(counters: &CountersReader, cluster_id: i32) -> bool {
    counters.find(&mut |_, type_id, key| is_module_state(type_id, key, cluster_id)).is_some()
}

fn is_module_state(type_id: i32, key: &[u8], cluster_id: i32) -> bool {
    type_id == type_id::MODULE_STATE && key.first_chunk() == Some(&cluster_id.to_le_bytes())
}

/// Returns the key of the recovery counter; `snapshots` are the consensus module's and those of services 0, 1, …, or none.
pub(super) fn recovery_key(snapshots: &[Entry], cluster_id: i32) -> Vec<u8> {
    let module = snapshots.first();
    let mut key = Vec::with_capacity(32 + snapshots.len() * 8);
    for value in [
        module.map_or(-1, |entry| entry.leadership_term_id),
        module.map_or(0, |entry| entry.log_position),
        module.map_or(0, |entry| entry.timestamp),
    ] {
        key.extend_from_slice(&value.to_le_bytes());
    }
    key.extend_from_slice(&cluster_id.to_le_bytes());
    let services = snapshots.get(1..).unwrap_or_default();
    key.extend_from_slice(&(services.len() as i32).to_le_bytes());
    for entry in services {
        key.extend_from_slice(&entry.recording_id.to_le_bytes());
    }
    key
}

/// Returns the label of the recovery counter.
pub(super) fn recovery_label(snapshots: &[Entry], cluster_id: i32) -> String {
    let term_id = snapshots.first().map_or(-1, |entry| entry.leadership_term_id);
    let log_position = snapshots.first().map_or(0, |entry| entry.log_position);
    format!("Cluster recovery: leadershipTermId={term_id} logPosition={log_position} clusterId={cluster_id}")
}

/// Counter that a client of the driver has while it lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heartbeat {
    client_id: i64,
    counter_id: i32,
}

impl Heartbeat {
    /// Returns the heartbeat of a client, once the driver has a counter for it.
    pub(super) fn find(counters: &CountersReader, client_id: i64) -> Option<Self> {
        let counter_id = counters.find_by_registration(CLIENT_HEARTBEAT, client_id)?;
        Some(Self { client_id, counter_id })
    }

    /// Returns false once the driver has given up the client, or the client has closed.
    pub(super) fn is_alive(&self, counters: &CountersReader) -> bool {
        counters.is_allocated(self.counter_id)
            && counters.type_id(self.counter_id) == CLIENT_HEARTBEAT
            && counters.registration_id(self.counter_id) == self.client_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording_log::EntryType;

    #[test]
    fn the_recovery_counter_names_the_snapshots_of_all_services() {
        assert_eq!(recovery_key(&[], 7).len(), 32);
        assert_eq!(recovery_key(&[], 7)[24..28], [7, 0, 0, 0]);
        let entry = |recording_id, service_id| Entry {
            recording_id,
            leadership_term_id: 0,
            term_base_log_position: 0,
            log_position: 5_504,
            timestamp: 0x01a2_0123_da26,
            service_id,
            entry_type: EntryType::Snapshot,
            is_valid: true,
            archive_endpoint: String::new(),
            entry_index: 0,
            offset: 0,
        };
        let set = [entry(4, -1), entry(3, 0)];
        let expected: Vec<u8> = [
            [0; 8],
            5_504_i64.to_le_bytes(),
            0x01a2_0123_da26_i64.to_le_bytes(),
            [0, 0, 0, 0, 1, 0, 0, 0],
            3_i64.to_le_bytes(),
        ]
        .concat();
        assert_eq!(recovery_key(&set, 0), expected);
        let label = "Cluster recovery: leadershipTermId=0 logPosition=5504 clusterId=0";
        assert_eq!(recovery_label(&set, 0), label);
    }

    #[test]
    fn thresholds_are_written_in_their_largest_unit() {
        assert_eq!(["100ms", "1s", "7us", "1ns"], [100_000_000, 1_000_000_000, 7_000, 1].map(duration_text));
    }
}
