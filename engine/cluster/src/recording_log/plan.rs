//! Recovery plan of a member after a restart (spec 04 §6.2).

use harrier_archive::RecordingDescriptor;
use thiserror::Error;

use super::entry::{Entry, EntryType, compare};

/// Errors of making a plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A snapshot of the node has no entry for a service.
    #[error("snapshot missing for service {service_id} at position {log_position}")]
    MissingService {
        /// The service.
        service_id: i32,
        /// Position of the snapshot.
        log_position: i64,
    },
    /// recording.log has terms, but the archive's recording is not given.
    #[error("archive has no recording {0} of the log; was its directory removed?")]
    UnknownRecording(i64),
}

/// Extent of the log's recording in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogExtent {
    /// Recording of the log.
    pub recording_id: i64,
    /// Log position of the first recorded byte.
    pub start_position: i64,
    /// Stop position; -1 while the recording is active.
    pub stop_position: i64,
    /// Id of the first term.
    pub initial_term_id: i32,
    /// Length of a term, bytes.
    pub term_buffer_length: i32,
    /// MTU, bytes.
    pub mtu_length: i32,
    /// Session id of the recorded stream.
    pub session_id: i32,
}

impl From<&RecordingDescriptor> for LogExtent {
    fn from(descriptor: &RecordingDescriptor) -> Self {
        Self {
            recording_id: descriptor.recording_id,
            start_position: descriptor.start_position,
            stop_position: descriptor.stop_position,
            initial_term_id: descriptor.initial_term_id,
            term_buffer_length: descriptor.term_buffer_length,
            mtu_length: descriptor.mtu_length,
            session_id: descriptor.session_id,
        }
    }
}

/// The log to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLog {
    /// Last leadership term id of the log.
    pub leadership_term_id: i64,
    /// Log position at which that term begins.
    pub term_base_log_position: i64,
    /// Log position at which that term ends; -1 while unknown.
    pub log_position: i64,
    /// Position at which replay starts: the snapshot's, or the recording's start.
    pub start_position: i64,
    /// Extent of the recording.
    pub extent: LogExtent,
}

/// Recovery plan: the snapshots to load and the log to replay after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Snapshot of the consensus module, then those of services 0, 1, …; empty without a snapshot.
    pub snapshots: Vec<Entry>,
    /// The log; `None` when there is none.
    pub log: Option<PlannedLog>,
    /// Last leadership term id; -1 for none.
    pub last_leadership_term_id: i64,
    /// Log position at which the last term begins.
    pub last_term_base_log_position: i64,
    /// End of the recorded log.
    pub appended_log_position: i64,
    /// End of the log that is known to be committed.
    pub committed_log_position: i64,
}

impl RecoveryPlan {
    /// Plan of a new member.
    pub fn empty() -> Self {
        Self {
            snapshots: Vec::new(),
            log: None,
            last_leadership_term_id: -1,
            last_term_base_log_position: 0,
            appended_log_position: 0,
            committed_log_position: 0,
        }
    }

    /// Builds the plan from the entries of recording.log; `extent` describes the recording of the last term
    /// ([`last_term`]).
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn of(entries: &[Entry], service_count: usize, extent: Option<LogExtent>) -> Result<Self, PlanError> {
        let snapshots = latest_snapshot(entries, service_count)?;
        let module = snapshots.first();
        let log = match last_term(entries) {
            None => None,
            Some(term) => {
                let known = extent.filter(|extent| extent.recording_id == term.recording_id);
                let extent = known.ok_or(PlanError::UnknownRecording(term.recording_id))?;
                Some(PlannedLog {
                    leadership_term_id: term.leadership_term_id,
                    term_base_log_position: term.term_base_log_position,
                    log_position: term.log_position,
                    start_position: module.map_or(extent.start_position, |entry| entry.log_position),
                    extent,
                })
            }
        };
        let from_snapshot = |value: fn(&Entry) -> i64, otherwise: i64| module.map_or(otherwise, value);
        let position = from_snapshot(|entry| entry.log_position, 0);
        Ok(Self {
            last_leadership_term_id: log.as_ref().map_or_else(
                || from_snapshot(|entry| entry.leadership_term_id, -1),
                |log| log.leadership_term_id,
            ),
            last_term_base_log_position: log.as_ref().map_or_else(
                || from_snapshot(|entry| entry.term_base_log_position, 0),
                |log| log.term_base_log_position,
            ),
            appended_log_position: log.as_ref().map_or(position, |log| log.extent.stop_position),
            committed_log_position: match &log {
                Some(log) if log.log_position != -1 => log.log_position,
                _ => position,
            },
            snapshots,
            log,
        })
    }

    /// Position at which replay starts.
    pub fn start_position(&self) -> i64 {
        self.snapshots.first().map_or(0, |entry| entry.log_position)
    }
}

/// The last valid term.
pub fn last_term(entries: &[Entry]) -> Option<&Entry> {
    entries.iter().filter(|entry| entry.is_term()).max_by(|a, b| compare(a, b))
}

/// Latest snapshot of the whole node: the consensus module's entry, then those of services 0, 1, …; empty without a
/// snapshot.
///
/// # Errors
/// [`PlanError::MissingService`].
pub fn latest_snapshot(entries: &[Entry], service_count: usize) -> Result<Vec<Entry>, PlanError> {
    let found = entries.iter().filter(|entry| entry.is_module_snapshot()).max_by(|a, b| compare(a, b));
    let Some(module) = found else { return Ok(Vec::new()) };
    let mut set = vec![module.clone()];
    for service_id in 0..service_count as i32 {
        let found = entries
            .iter()
            .rev()
            .find(|entry| entry.is_snapshot() && entry.is_same_set(module) && entry.service_id == service_id);
        let found =
            found.ok_or(PlanError::MissingService { service_id, log_position: module.log_position })?;
        set.push(found.clone());
    }
    Ok(set)
}

/// Indices of valid snapshots, of this node or of standbys, at the highest position of a consensus module's.
/// Invalidating the latest snapshot applies to these. Empty when there is none, or when their term is missing.
pub(super) fn latest_set(entries: &[Entry]) -> Vec<usize> {
    let is_snapshot = |entry: &Entry| entry.is_valid && entry.entry_type != EntryType::Term;
    let modules = entries.iter().filter(|entry| is_snapshot(entry) && entry.service_id == -1);
    let Some(latest) = modules.max_by_key(|entry| entry.log_position) else { return Vec::new() };
    let has_term =
        entries.iter().any(|entry| entry.is_term() && entry.leadership_term_id == latest.leadership_term_id);
    if !has_term {
        return Vec::new();
    }
    let indices = entries.iter().enumerate();
    indices
        .filter(|(_, entry)| is_snapshot(entry) && entry.log_position == latest.log_position)
        .map(|(index, _)| index)
        .collect()
}

/// Newest complete standby set per endpoint, newest first: the consensus module's entry, then those of services 0, 1, …
/// (spec 04 §6.1, §8.2).
pub fn standby_snapshots(entries: &[Entry], service_count: usize) -> Vec<Vec<Entry>> {
    let standbys: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.is_valid && entry.entry_type == EntryType::StandbySnapshot)
        .collect();
    let mut sets: Vec<Vec<Entry>> = Vec::new();
    let mut modules: Vec<&Entry> = standbys.iter().copied().filter(|entry| entry.service_id == -1).collect();
    modules.sort_by_key(|entry| std::cmp::Reverse(entry.log_position));
    for module in modules {
        if sets.iter().any(|set| set[0].archive_endpoint == module.archive_endpoint) {
            continue;
        }
        let of_service = |service_id: i32| {
            standbys.iter().rev().find(|entry| {
                entry.is_same_set(module)
                    && entry.service_id == service_id
                    && entry.archive_endpoint == module.archive_endpoint
            })
        };
        let services: Option<Vec<Entry>> =
            (0..service_count as i32).map(|id| of_service(id).map(|entry| (*entry).clone())).collect();
        if let Some(services) = services {
            sets.push([vec![module.clone()], services].concat());
        }
    }
    sets
}

/// Newest complete snapshot at or before a position, otherwise the oldest: services in descending order, then the
/// consensus module (spec 04 §6.1). `entries` are in logical order, see [`compare`].
pub fn backup_snapshots(entries: &[Entry], service_count: usize, position: i64) -> Vec<Entry> {
    let complete = |module: &Entry| -> Option<Vec<Entry>> {
        let of_service = |service_id: i32| {
            entries.iter().rev().find(|entry| {
                entry.is_snapshot() && entry.is_same_set(module) && entry.service_id == service_id
            })
        };
        (-1..service_count as i32).rev().map(|id| of_service(id).cloned()).collect()
    };
    let mut sets: Vec<Vec<Entry>> =
        entries.iter().filter(|entry| entry.is_module_snapshot()).filter_map(complete).collect();
    sets.sort_by_key(|set| set[0].log_position);
    let newest = sets.iter().rposition(|set| set[0].log_position <= position);
    if sets.is_empty() { Vec::new() } else { sets.swap_remove(newest.unwrap_or(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(recording_id: i64, log_position: i64, service_id: i32, entry_type: EntryType) -> Entry {
        Entry {
            recording_id,
            leadership_term_id: 0,
            term_base_log_position: 0,
            log_position,
            timestamp: 1,
            service_id,
            entry_type,
            is_valid: true,
            archive_endpoint: String::new(),
            entry_index: recording_id as usize,
            offset: recording_id as usize * 64,
        }
    }

    fn extent(recording_id: i64, stop_position: i64) -> LogExtent {
        LogExtent {
            recording_id,
            start_position: 0,
            stop_position,
            initial_term_id: 0,
            term_buffer_length: 65_536,
            mtu_length: 1_408,
            session_id: 3,
        }
    }

    #[test]
    fn an_empty_file_is_a_fresh_member() {
        let plan = RecoveryPlan::of(&[], 1, None).unwrap();
        assert_eq!((plan.last_leadership_term_id, plan.appended_log_position), (-1, 0));
        assert_eq!((plan.committed_log_position, plan.snapshots.len()), (0, 0));
    }

    #[test]
    fn a_member_begins_at_its_latest_valid_snapshot() {
        let mut all = vec![
            entry(0, -1, -1, EntryType::Term),
            entry(1, 320, 1, EntryType::Snapshot),
            entry(2, 320, 0, EntryType::Snapshot),
            entry(3, 320, -1, EntryType::Snapshot),
            entry(4, 640, 1, EntryType::Snapshot),
            entry(5, 640, 0, EntryType::Snapshot),
            entry(6, 640, -1, EntryType::Snapshot),
        ];
        let plan = RecoveryPlan::of(&all, 2, Some(extent(0, 960))).unwrap();
        let ids: Vec<i64> = plan.snapshots.iter().map(|entry| entry.recording_id).collect();
        assert_eq!(ids, [6, 5, 4]);
        assert_eq!((plan.start_position(), plan.appended_log_position), (640, 960));
        assert_eq!((plan.committed_log_position, plan.last_leadership_term_id), (640, 0));
        assert_eq!(latest_set(&all), [4, 5, 6]);
        for index in latest_set(&all) {
            all[index].is_valid = false;
        }
        assert_eq!(RecoveryPlan::of(&all, 2, Some(extent(0, 960))).unwrap().start_position(), 320);
        all[0].log_position = 960;
        assert_eq!(RecoveryPlan::of(&all, 2, Some(extent(0, 960))).unwrap().committed_log_position, 960);
        assert_eq!(
            RecoveryPlan::of(&all, 3, Some(extent(0, 960))),
            Err(PlanError::MissingService { service_id: 2, log_position: 320 })
        );
        assert_eq!(RecoveryPlan::of(&all, 2, None), Err(PlanError::UnknownRecording(0)));
    }

    #[test]
    fn a_snapshot_of_an_unknown_term_is_not_invalidated() {
        assert!(latest_set(&[entry(1, 64, -1, EntryType::Snapshot)]).is_empty());
    }

    #[test]
    fn backups_get_a_complete_snapshot_at_or_before_their_position() {
        let mut all = vec![
            entry(1, 320, 1, EntryType::Snapshot),
            entry(2, 320, 0, EntryType::Snapshot),
            entry(3, 320, -1, EntryType::Snapshot),
            entry(4, 640, 1, EntryType::Snapshot),
            entry(5, 640, 0, EntryType::Snapshot),
            entry(6, 640, -1, EntryType::Snapshot),
            entry(7, 960, -1, EntryType::Snapshot),
        ];
        all.sort_by(compare);
        let ids = |position| -> Vec<i64> {
            backup_snapshots(&all, 2, position).iter().map(|entry| entry.recording_id).collect()
        };
        assert_eq!([ids(i64::MAX), ids(640), ids(639), ids(0)], [[4, 5, 6], [4, 5, 6], [1, 2, 3], [1, 2, 3]]);
        assert!(backup_snapshots(&all, 3, i64::MAX).is_empty());
    }

    #[test]
    fn standby_sets_are_the_newest_complete_ones_of_each_endpoint() {
        let mut all = Vec::new();
        for (id, position, service, endpoint) in [
            (1, 64, 0, "a:1"),
            (2, 64, -1, "a:1"),
            (3, 128, -1, "a:1"),
            (4, 96, 0, "b:1"),
            (5, 96, -1, "b:1"),
        ] {
            let mut snapshot = entry(id, position, service, EntryType::StandbySnapshot);
            snapshot.archive_endpoint = endpoint.into();
            all.push(snapshot);
        }
        let sets = standby_snapshots(&all, 1);
        let ids: Vec<Vec<i64>> =
            sets.iter().map(|set| set.iter().map(|entry| entry.recording_id).collect()).collect();
        assert_eq!(ids, [vec![5, 4], vec![2, 1]]);
    }
}
