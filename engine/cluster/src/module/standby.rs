//! Snapshots that standbys have taken: the notices of them, and their copies (spec 04 §8.2).

use std::collections::VecDeque;

use harrier_archive::client::{ArchiveAnswer, ReplicationParams, find_by_recording};
use harrier_archive::codec::Signal;
use harrier_protocol::uri::{ChannelUri, Endpoint, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::error::ModuleError;
use super::log;
use super::requests::{Kind, sent};
use crate::codec::SnapshotRecording;
use crate::recording_log::{Entry, EntryType, SnapshotPosition, standby_snapshots};

/// Limit of the snapshots in one message.
const MAX_SNAPSHOTS: usize = 128;
/// Longest endpoint, bytes.
const MAX_ENDPOINT_LENGTH: usize = 1_024;
/// Limit of the messages that wait for their log position.
const MAX_NOTICES: usize = 64;

/// A snapshot of a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Noticed {
    position: SnapshotPosition,
    recording_id: i64,
    service_id: i32,
    archive_endpoint: String,
}

/// The snapshots in one message of a standby.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StandbyNotice {
    snapshots: Vec<Noticed>,
    due_ns: i64,
}

impl StandbyNotice {
    /// Checks the snapshots of a message and takes them over.
    pub(super) fn new(
        snapshots: &[SnapshotRecording<'_>],
        service_count: usize,
        due_ns: i64,
    ) -> Result<Self, String> {
        if snapshots.len() > MAX_SNAPSHOTS {
            return Err(format!(
                "StandbySnapshot names {} snapshots, at most {MAX_SNAPSHOTS}",
                snapshots.len()
            ));
        }
        for own in snapshots {
            let is_known = own.service_id >= -1 && own.service_id < service_count as i32;
            let is_position = own.log_position >= 0 && own.log_position % 32 == 0;
            let is_endpoint = own.archive_endpoint.len() <= MAX_ENDPOINT_LENGTH
                && Endpoint::parse(own.archive_endpoint).is_some();
            if !is_known || !is_position || !is_endpoint || own.recording_id < 0 || own.leadership_term_id < 0
            {
                return Err(format!(
                    "StandbySnapshot names an impossible snapshot: recordingId={} leadershipTermId={} \
                     logPosition={} serviceId={}",
                    own.recording_id, own.leadership_term_id, own.log_position, own.service_id
                ));
            }
        }
        let snapshots = snapshots.iter().map(|own| Noticed {
            position: SnapshotPosition {
                leadership_term_id: own.leadership_term_id,
                term_base_log_position: own.term_base_log_position,
                log_position: own.log_position,
                timestamp: own.timestamp,
            },
            recording_id: own.recording_id,
            service_id: own.service_id,
            archive_endpoint: own.archive_endpoint.to_owned(),
        });
        Ok(Self { snapshots: snapshots.collect(), due_ns })
    }

    fn last_position(&self) -> i64 {
        self.snapshots.iter().map(|own| own.position.log_position).max().unwrap_or(0)
    }
}

/// Progress of the copy of one recording.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Copy {
    Ask,
    AwaitId {
        correlation_id: i64,
    },
    Running {
        replication_id: i64,
        is_synced: bool,
        has_ended: bool,
        has_stopped: bool,
    },
    /// The recordings that were copied for a failed set are purged.
    Discard {
        asked: Option<i64>,
    },
}

/// Snapshots of standbys that are copied into this member's archive.
#[derive(Debug)]
pub(super) struct StandbyFetch {
    /// Sets to try, the best first. The first one is being copied.
    sets: VecDeque<Vec<Entry>>,
    copy: Copy,
    /// Recordings in this archive of the set that is copied; the last one may be incomplete.
    targets: Vec<i64>,
    failure: Option<String>,
    deadline_ns: i64,
    last_position: i64,
}

impl StandbyFetch {
    fn new(sets: Vec<Vec<Entry>>) -> Self {
        Self {
            sets: sets.into(),
            copy: Copy::Ask,
            targets: Vec::new(),
            failure: None,
            deadline_ns: i64::MAX,
            last_position: -1,
        }
    }

    /// Hands over an answer of the archive; returns true when this copy waits for it.
    pub(super) fn on_answer(&mut self, answer: &ArchiveAnswer) -> bool {
        let wanted = answer.correlation_id();
        match (&mut self.copy, answer) {
            (Copy::Discard { asked }, _) if *asked == Some(wanted) => {
                let is_signal = matches!(answer, ArchiveAnswer::Signal { .. });
                if !is_signal {
                    *asked = None;
                    self.targets.pop();
                }
                true
            }
            (Copy::Running { replication_id, .. }, _) if *replication_id == wanted => {
                self.on_news(answer);
                true
            }
            _ => false,
        }
    }

    fn on_news(&mut self, answer: &ArchiveAnswer) {
        match answer {
            ArchiveAnswer::Error { message, .. } => self.failure = Some(message.clone()),
            ArchiveAnswer::Signal { signal, recording_id, .. } => self.on_signal(*signal, *recording_id),
            _ => {}
        }
    }

    fn on_signal(&mut self, signal: Signal, recording_id: i64) {
        let Copy::Running { is_synced, has_ended, has_stopped, .. } = &mut self.copy else { return };
        match signal {
            Signal::Replicate => self.targets.push(recording_id),
            Signal::Sync => *is_synced = true,
            Signal::ReplicateEnd => *has_ended = true,
            Signal::Stop => *has_stopped = true,
            _ => {}
        }
    }
}

impl<M: Memory, S: Storage> Core<M, S> {
    pub(super) fn on_standby_notice(&mut self, notice: StandbyNotice) {
        if self.standby_notices.len() >= MAX_NOTICES {
            return self.record_error(&format!("too many StandbySnapshots wait: at most {MAX_NOTICES}"));
        }
        self.standby_notices.push(notice);
    }

    /// Writes snapshots of standbys into recording.log once the log has reached their position.
    pub(super) fn take_standby_notices(&mut self) -> usize {
        let (commit_position, now_ns) = (self.commit_position, self.now.ns);
        let is_due = |own: &StandbyNotice| own.last_position() <= commit_position && now_ns >= own.due_ns;
        let Some(index) = self.standby_notices.iter().position(is_due) else { return 0 };
        let notice = self.standby_notices.remove(index);
        for own in &notice.snapshots {
            let is_known = self.recording_log.entries().iter().any(|entry| {
                entry.is_valid
                    && entry.entry_type == EntryType::StandbySnapshot
                    && (entry.recording_id, entry.service_id) == (own.recording_id, own.service_id)
                    && entry.log_position == own.position.log_position
                    && entry.archive_endpoint == own.archive_endpoint
            });
            if !is_known {
                let operations = self.recording_log.append_standby_snapshot(
                    &own.position,
                    own.recording_id,
                    own.service_id,
                    &own.archive_endpoint,
                );
                self.files.submit(operations);
            }
        }
        if let Some(received) = &self.counters.standby_snapshots {
            received.increment();
        }
        1
    }

    /// Starts to copy sets that are newer than the member's own snapshot, up to a position of its log, bytes. Returns false
    /// when there are none.
    pub(super) fn begin_standby_fetch(&mut self, up_to_position: i64) -> bool {
        if self.standby_fetch.is_some() {
            return true;
        }
        let entries = self.recording_log.entries();
        let own = entries.iter().filter(|entry| entry.is_module_snapshot());
        let newest = own.map(|entry| entry.log_position).max().unwrap_or(-1);
        let mut sets = standby_snapshots(entries, self.context.service_count);
        sets.retain(|set| (newest + 1..=up_to_position).contains(&set[0].log_position));
        if sets.is_empty() {
            return false;
        }
        self.standby_fetch = Some(Box::new(StandbyFetch::new(sets)));
        true
    }

    /// Takes one step; returns false once nothing is left to copy.
    pub(super) fn advance_standby_fetch(&mut self) -> Result<bool, ModuleError> {
        let Some(mut own) = self.standby_fetch.take() else { return Ok(false) };
        let is_going_on = self.fetch_step(&mut own)?;
        if is_going_on {
            self.standby_fetch = Some(own);
        }
        Ok(is_going_on)
    }

    fn fetch_step(&mut self, own: &mut StandbyFetch) -> Result<bool, ModuleError> {
        let Some(set) = own.sets.front().cloned() else {
            self.record_error("WARN: no snapshot of a standby could be fetched; the member goes on without");
            return Ok(false);
        };
        if own.failure.is_some() && !matches!(own.copy, Copy::Discard { .. }) {
            let reason = own.failure.take().unwrap_or_default();
            let (position, endpoint) = (set[0].log_position, &set[0].archive_endpoint);
            let text =
                format!("snapshot at {position} of the standby at {endpoint} is not fetched: {reason}");
            self.record_error(&text);
            own.copy = Copy::Discard { asked: None };
        }
        match own.copy.clone() {
            Copy::Ask => self.ask_for_copy(own, &set)?,
            Copy::AwaitId { correlation_id } => self.await_replication(own, correlation_id),
            Copy::Running { replication_id, is_synced, has_ended, has_stopped } => {
                if has_ended && !is_synced {
                    own.failure = Some("the copy ended before its source did".to_owned());
                } else if has_ended && has_stopped {
                    if own.targets.len() == set.len() {
                        self.on_fetched(&set, &own.targets);
                        return Ok(false);
                    }
                    own.copy = Copy::Ask;
                } else {
                    self.check_progress(own);
                    if own.failure.is_some() {
                        sent(self.archive.stop_replication(&self.aeron, replication_id))?;
                    }
                }
            }
            Copy::Discard { asked: Some(_) } => {}
            Copy::Discard { asked: None } => {
                let Some(recording_id) = own.targets.last().copied() else {
                    own.sets.pop_front();
                    own.copy = Copy::Ask;
                    return Ok(true);
                };
                let asked = sent(self.archive.purge_recording(&self.aeron, recording_id))?;
                own.copy = Copy::Discard { asked };
            }
        }
        Ok(true)
    }

    fn ask_for_copy(&mut self, own: &mut StandbyFetch, set: &[Entry]) -> Result<(), ModuleError> {
        let entry = &set[own.targets.len()];
        let mut source = ChannelUri::parse(&self.context.leader_archive_control_channel)?;
        source.put(key::ENDPOINT, &entry.archive_endpoint);
        let host = log::host_of(&self.member.archive);
        let default = format!("aeron:udp?endpoint={host}:0");
        let params = ReplicationParams::default()
            .source_response_channel(default.clone())
            .replication_channel(self.context.replication_channel.clone().unwrap_or(default));
        let stream_id = self.context.archive.control_request_stream_id;
        let (id, source) = (entry.recording_id, source.to_string());
        let outcome = self.archive.replicate(&self.aeron, id, stream_id, &source, &params);
        if let Some(correlation_id) = self.begin_archive_request(Kind::Replication, outcome)? {
            own.copy = Copy::AwaitId { correlation_id };
            own.deadline_ns = self.now.ns + self.context.replication_progress_timeout_ns;
            own.last_position = -1;
        }
        Ok(())
    }

    /// Takes the id of a replication that was requested. An election makes the request stale, and it is sent again.
    fn await_replication(&mut self, own: &mut StandbyFetch, correlation_id: i64) {
        match self.requests.take_answer(correlation_id) {
            Some(ArchiveAnswer::Ok { relevant_id, .. }) => {
                own.copy = Copy::Running {
                    replication_id: relevant_id,
                    is_synced: false,
                    has_ended: false,
                    has_stopped: false,
                };
                while let Some(notice) = self.requests.take_notice(relevant_id) {
                    own.on_signal(notice.signal, notice.recording_id);
                }
            }
            Some(ArchiveAnswer::Error { message, .. }) => own.failure = Some(message),
            Some(_) => own.failure = Some("the archive gave an unexpected answer".to_owned()),
            None if !self.requests.is_waiting(correlation_id) => own.copy = Copy::Ask,
            None => self.check_progress(own),
        }
    }

    /// Makes a copy fail that receives nothing for too long.
    fn check_progress(&self, own: &mut StandbyFetch) {
        let counters = self.aeron.counters();
        let archive_id = Some(self.archive.archive_id());
        let counter = own
            .targets
            .last()
            .and_then(|recording_id| find_by_recording(counters, *recording_id, archive_id));
        let position = counter.map_or(-1, |id| counters.value(id));
        if position > own.last_position {
            own.last_position = position;
            own.deadline_ns = self.now.ns + self.context.replication_progress_timeout_ns;
        }
        if self.now.ns >= own.deadline_ns {
            own.failure = Some("it makes no progress".to_owned());
        }
    }

    /// Writes a set that is copied completely into recording.log as a snapshot of this member.
    fn on_fetched(&mut self, set: &[Entry], targets: &[i64]) {
        let module = &set[0];
        let position = SnapshotPosition {
            leadership_term_id: module.leadership_term_id,
            term_base_log_position: module.term_base_log_position,
            log_position: module.log_position,
            timestamp: module.timestamp,
        };
        let operations = self.recording_log.append_snapshot(&position, &targets[1..], targets[0]);
        self.files.submit(operations);
        self.counters.snapshots.increment();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(service_id: i32, log_position: i64, archive_endpoint: &str) -> SnapshotRecording<'_> {
        SnapshotRecording {
            recording_id: 3,
            leadership_term_id: 0,
            term_base_log_position: 0,
            log_position,
            timestamp: 1,
            service_id,
            archive_endpoint,
        }
    }

    #[test]
    fn snapshots_that_cannot_be_are_refused() {
        let notice = StandbyNotice::new(&[recording(0, 64, "h:1"), recording(-1, 96, "h:1")], 1, 7).unwrap();
        assert_eq!((notice.last_position(), notice.due_ns), (96, 7));
        for bad in [
            recording(1, 64, "h:1"),
            recording(-2, 64, "h:1"),
            recording(0, 65, "h:1"),
            recording(0, 64, "h"),
        ] {
            assert!(StandbyNotice::new(&[bad], 1, 0).unwrap_err().contains("impossible"), "{bad:?}");
        }
        let many = vec![recording(0, 64, "h:1"); MAX_SNAPSHOTS + 1];
        assert!(StandbyNotice::new(&many, 1, 0).unwrap_err().contains("at most 128"));
    }

    #[test]
    fn only_what_concerns_the_copy_is_taken() {
        let mut fetch = StandbyFetch::new(Vec::new());
        assert!(!fetch.on_answer(&ArchiveAnswer::Ok { correlation_id: 4, relevant_id: 1 }));
        fetch.copy =
            Copy::Running { replication_id: 70, is_synced: false, has_ended: false, has_stopped: false };
        let signal = |correlation_id, signal| ArchiveAnswer::Signal {
            correlation_id,
            recording_id: 9,
            subscription_id: -1,
            position: 0,
            signal,
        };
        assert!(!fetch.on_answer(&signal(71, Signal::Replicate)));
        for news in [Signal::Replicate, Signal::Extend, Signal::Sync, Signal::ReplicateEnd, Signal::Stop] {
            assert!(fetch.on_answer(&signal(70, news)));
        }
        let done = Copy::Running { replication_id: 70, is_synced: true, has_ended: true, has_stopped: true };
        assert_eq!((fetch.copy, fetch.targets), (done, vec![9]));
    }
}
