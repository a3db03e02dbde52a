//! Counters of a consensus module (spec 04 §2.4).

use harrier_client::{Aeron, ClientError, Counter};
use harrier_protocol::AERON_VERSION;

/// Type ids that others look for.
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
    pub(crate) const NODE_TOGGLE: i32 = 233;
    pub(crate) const ELECTION_COUNT: i32 = 238;
    pub(crate) const LEADERSHIP_TERM_ID: i32 = 239;
    pub(crate) const SESSION: i32 = 241;
}

/// Value of the control toggle (spec 04 §2.4).
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

/// The counters, once the driver has given them.
pub(super) struct ModuleCounters {
    pub(super) state: Counter,
    pub(super) role: Counter,
    pub(super) control_toggle: Counter,
    pub(super) commit_position: Counter,
    pub(super) _snapshots: Counter,
    pub(super) election_state: Counter,
    pub(super) errors: Counter,
    pub(super) timed_out_clients: Counter,
    pub(super) node_toggle: Counter,
    pub(super) election_count: Counter,
    pub(super) leadership_term_id: Counter,
}

/// The counters on their way.
#[derive(Debug)]
pub(super) struct PendingCounters {
    ids: Vec<i64>,
    ready: Vec<Counter>,
}

impl PendingCounters {
    /// Asks the driver for all counters.
    pub(super) fn add(aeron: &mut Aeron, cluster_id: i32) -> Result<Self, ClientError> {
        let key = cluster_id.to_le_bytes();
        let suffix = format!(" - clusterId={cluster_id}");
        let version = format!(" version={AERON_VERSION} commit=harrier");
        let mut ids = Vec::new();
        for (type_id, text, is_versioned) in [
            (type_id::MODULE_STATE, "Consensus Module state", false),
            (type_id::NODE_ROLE, "Cluster node role", false),
            (type_id::CONTROL_TOGGLE, "Cluster control toggle", false),
            (type_id::COMMIT_POSITION, "Cluster commit-pos:", false),
            (type_id::SNAPSHOT_COUNT, "Cluster snapshot count", false),
            (type_id::ELECTION_STATE, "Cluster election state", false),
            (type_id::MODULE_ERRORS, "Cluster Errors", true),
            (type_id::TIMED_OUT_CLIENTS, "Cluster timed out client count", false),
            (type_id::NODE_TOGGLE, "Node control toggle", false),
            (type_id::ELECTION_COUNT, "Cluster election count", false),
            (type_id::LEADERSHIP_TERM_ID, "Cluster leadership term id", false),
        ] {
            let end = if is_versioned { version.as_str() } else { "" };
            ids.push(aeron.add_counter(type_id, &key, &format!("{text}{suffix}{end}"))?);
        }
        Ok(Self { ids, ready: Vec::new() })
    }

    /// Collects what has come; all of them once they are there.
    pub(super) fn poll(&mut self, aeron: &mut Aeron) -> Result<Option<ModuleCounters>, ClientError> {
        while let Some(id) = self.ids.get(self.ready.len()).copied() {
            let Some(counter) = aeron.counter(id)? else { return Ok(None) };
            self.ready.push(counter);
        }
        let mut ready = std::mem::take(&mut self.ready).into_iter();
        self.ids.clear();
        let mut next = || ready.next().expect("as many counters as were asked for");
        Ok(Some(ModuleCounters {
            state: next(),
            role: next(),
            control_toggle: next(),
            commit_position: next(),
            _snapshots: next(),
            election_state: next(),
            errors: next(),
            timed_out_clients: next(),
            node_toggle: next(),
            election_count: next(),
            leadership_term_id: next(),
        }))
    }
}

/// Key of the recovery counter: no snapshot.
pub(super) fn recovery_key(cluster_id: i32) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.extend_from_slice(&(-1_i64).to_le_bytes());
    key.extend_from_slice(&0_i64.to_le_bytes());
    key.extend_from_slice(&0_i64.to_le_bytes());
    key.extend_from_slice(&cluster_id.to_le_bytes());
    key.extend_from_slice(&0_i32.to_le_bytes());
    key
}
