//! Requests of backups and standbys, and their answers (spec 04 §8.1, §8.2).

use harrier_protocol::semantic_version_major;
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::{Core, ModuleState};
use super::pending::{PendingSession, PendingState, decide};
use super::standby::StandbyNotice;
use crate::codec::{BackupAnswer, BackupRequest, EventCode, PROTOCOL_VERSION, SnapshotRecording};
use crate::recording_log::{Entry, backup_snapshots};
use crate::snapshot::version_text;

/// Limit of the requests that wait; further ones are not answered.
const MAX_WAITING: usize = 64;
/// The request type of requests that have none.
const NO_REQUEST_TYPE: i32 = -1;

/// Content of a request.
pub(super) enum Asked {
    Backup { log_position: i64 },
    Heartbeat,
    StandbySnapshot(StandbyNotice),
}

impl Asked {
    /// Template of the request, its name in refusals, and its name in labels of counters.
    fn names(&self) -> (i32, &'static str, &'static str) {
        match self {
            Self::Backup { .. } => (77, "BackupQuery", "BACKUP"),
            Self::Heartbeat => (79, "Heartbeat", "HEARTBEAT"),
            Self::StandbySnapshot(_) => (81, "StandbySnapshot", "STANDBY_SNAPSHOT"),
        }
    }
}

/// A backup or standby that waits for its answer.
pub(super) struct BackupSession {
    session: PendingSession,
    asked: Asked,
}

/// Fields that all requests have.
struct Origin<'a> {
    correlation_id: i64,
    response_stream_id: i32,
    response_channel: &'a str,
    credentials: &'a [u8],
    version: Option<i32>,
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Answers the requests that can be answered now.
    pub(super) fn serve_backups(&mut self) -> usize {
        self.check_consensus_stream();
        let mut work_count = 0;
        if self.module_state() == ModuleState::Active {
            let mut index = 0;
            while index < self.backup_sessions.len() {
                let before = self.backup_sessions.len();
                work_count += usize::from(self.check_backup_session(index));
                index += usize::from(self.backup_sessions.len() == before);
            }
        }
        work_count
    }

    pub(super) fn on_backup_request(&mut self, request: BackupRequest<'_>) {
        match request {
            BackupRequest::Query {
                correlation_id,
                response_stream_id,
                version,
                log_position,
                response_channel,
                credentials,
            } => {
                let version = Some(version);
                let origin =
                    Origin { correlation_id, response_stream_id, response_channel, credentials, version };
                self.begin_backup_session(&origin, Asked::Backup { log_position }, None);
            }
            BackupRequest::Heartbeat {
                correlation_id,
                response_stream_id,
                response_channel,
                credentials,
            } => {
                let version = None;
                let origin =
                    Origin { correlation_id, response_stream_id, response_channel, credentials, version };
                self.begin_backup_session(&origin, Asked::Heartbeat, None);
            }
            BackupRequest::StandbySnapshot {
                correlation_id,
                version,
                response_stream_id,
                snapshots,
                response_channel,
                credentials,
            } => {
                let version = Some(version);
                let origin =
                    Origin { correlation_id, response_stream_id, response_channel, credentials, version };
                let due_ns = self.now.ns.saturating_add(self.context.standby_snapshot_delay_ns);
                let (notice, refusal) =
                    match StandbyNotice::new(&snapshots, self.context.service_count, due_ns) {
                        Ok(notice) => (notice, None),
                        Err(reason) => (StandbyNotice::default(), Some(reason)),
                    };
                let refusal = match self.context.accepts_standby_snapshots {
                    true => refusal,
                    false => Some("Not configured to accept StandbySnapshot".to_owned()),
                };
                self.begin_backup_session(&origin, Asked::StandbySnapshot(notice), refusal);
            }
            BackupRequest::ChallengeResponse { correlation_id, session_id, credentials } => {
                let found = self.backup_sessions.iter_mut().find(|entry| entry.session.id == session_id);
                if let Some(BackupSession { session, .. }) = found
                    && session.state == PendingState::Challenged
                {
                    session.correlation_id = correlation_id;
                    session.last_activity_ns = self.now.ns;
                    self.authenticator.on_challenge_response(session_id, credentials, self.now.epoch_ms);
                }
            }
        }
    }

    fn begin_backup_session(&mut self, origin: &Origin<'_>, asked: Asked, refusal: Option<String>) {
        let (_, name, label) = asked.names();
        if self.backup_sessions.len() >= MAX_WAITING {
            self.refuse_consensus();
            return self.record_error(&format!("too many requests of backups wait: at most {MAX_WAITING}"));
        }
        if let Err(error) = ChannelUri::parse(origin.response_channel) {
            self.refuse_consensus();
            let kind = "response channel of a backup or standby";
            return self.record_peer_error(kind, &format!("response channel of a {name}: {error}"));
        }
        // All of them have id -1 for peers, but the authenticator must tell those that wait apart.
        let is_free = |id: &i64| self.backup_sessions.iter().all(|entry| entry.session.id != *id);
        let id = (1..).map(|number: i64| -number).find(is_free).unwrap_or(-1);
        let channel = origin.response_channel.to_owned();
        let (correlation_id, stream_id) = (origin.correlation_id, origin.response_stream_id);
        let mut session = PendingSession::new(id, correlation_id, stream_id, channel, self.now.ns);
        let own_major = semantic_version_major(PROTOCOL_VERSION);
        let refusal = match origin.version.filter(|version| semantic_version_major(*version) != own_major) {
            Some(version) => {
                let (backup, own) = (version_text(version), version_text(PROTOCOL_VERSION));
                Some(format!("invalid client version {backup}, cluster is {own}"))
            }
            None => refusal,
        };
        session.rejection = refusal.map(|reason| (EventCode::Error, reason));
        let cluster_id = self.context.cluster_id;
        // Answers to backups are short, so their streams keep the small log.
        let is_preliminary = self.context.log_allocator.is_some();
        let connected = session.connect(&mut self.aeron, cluster_id, label, is_preliminary);
        if let Err(error) = connected {
            self.refuse_consensus();
            let kind = "response channel of a backup or standby";
            return self.record_peer_error(kind, &format!("response channel of a {name}: {error}"));
        }
        if session.rejection.is_none() {
            self.authenticator.on_connect_request(id, origin.credentials, self.now.epoch_ms);
        }
        self.backup_sessions.push(BackupSession { session, asked });
    }

    fn check_backup_session(&mut self, index: usize) -> bool {
        let leader = self.leader_facts();
        let timeout_ns = self.context.session_timeout_ns;
        let BackupSession { session, asked } = &mut self.backup_sessions[index];
        let is_connected = session.is_connected(&mut self.aeron);
        if session.state == PendingState::Init {
            session.state = PendingState::Connected;
        }
        let is_late = self.now.ns > session.last_activity_ns.saturating_add(timeout_ns);
        if session.state == PendingState::Invalid || is_late {
            if is_late {
                self.counters.timed_out_clients.increment();
            }
            return self.end_backup_session(index);
        }
        if !is_connected {
            return false;
        }
        if session.rejection.is_none() {
            decide(self.authenticator.as_mut(), session, self.now.epoch_ms);
        }
        if session.state == PendingState::Authenticated && session.rejection.is_none() {
            let (template_id, name, _) = asked.names();
            let principal = &session.principal;
            if !self.context.authorisation.is_authorised(template_id, NO_REQUEST_TYPE, principal) {
                let text = format!("Not authorised for {name}");
                session.rejection = Some((EventCode::AuthenticationRejected, text));
            }
        }
        if let Some((code, detail)) = session.rejection.take() {
            if session.send_event(leader, code, &detail) {
                return self.end_backup_session(index);
            }
            session.rejection = Some((code, detail));
            return false;
        }
        session.state == PendingState::Authenticated && self.answer_backup(index)
    }

    fn end_backup_session(&mut self, index: usize) -> bool {
        self.backup_sessions.remove(index).session.response.disconnect();
        true
    }

    fn answer_backup(&mut self, index: usize) -> bool {
        let BackupSession { session, asked } = &mut self.backup_sessions[index];
        let correlation_id = session.correlation_id;
        let is_answered = match asked {
            Asked::Heartbeat => session.response.send_answer(&BackupAnswer::Heartbeat { correlation_id }),
            Asked::StandbySnapshot(notice) => {
                let notice = std::mem::take(notice);
                self.on_standby_notice(notice);
                return self.end_backup_session(index);
            }
            Asked::Backup { log_position } => {
                let entries = self.recording_log.sorted_entries();
                let snapshots = backup_snapshots(&entries, self.context.service_count, *log_position);
                let term = self.recording_log.last_term();
                let (recording_id, term_id, base) = term.map_or((-1, -1, 0), |term| {
                    (term.recording_id, term.leadership_term_id, term.term_base_log_position)
                });
                let answer = BackupAnswer::Query {
                    correlation_id,
                    log_recording_id: recording_id,
                    log_leadership_term_id: term_id,
                    log_term_base_log_position: base,
                    last_leadership_term_id: term_id,
                    last_term_base_log_position: base,
                    commit_position_counter_id: self.counters.commit_position.counter_id(),
                    leader_member_id: self.context.member_id,
                    member_id: self.context.member_id,
                    snapshots: snapshots.iter().map(named).collect(),
                    cluster_members: &self.context.members,
                };
                session.response.send_answer(&answer)
            }
        };
        is_answered && self.end_backup_session(index)
    }
}

/// Returns a snapshot as answers hold it.
fn named(entry: &Entry) -> SnapshotRecording<'_> {
    SnapshotRecording {
        recording_id: entry.recording_id,
        leadership_term_id: entry.leadership_term_id,
        term_base_log_position: entry.term_base_log_position,
        log_position: entry.log_position,
        timestamp: entry.timestamp,
        service_id: entry.service_id,
        archive_endpoint: "",
    }
}
