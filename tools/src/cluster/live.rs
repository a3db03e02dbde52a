//! Requests and commands to a running member.

use std::fmt::Write as _;
use std::path::Path;

use harrier::client::{Aeron, Context};
use harrier::cluster::codec::SnapshotMessage;
use harrier::cluster::recording_log::{RecoveryPlan, latest_snapshot};
use harrier::cluster::tool::{
    ArchiveLink, ClusterMark, ClusterMembers, MembersQuery, ModuleCounters, PlanQuery, SnapshotQuery,
    ToggleCommand, backup_query_deadline, module_mark, recording_log_entries,
};
use harrier::platform::{FileStorage, MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use serde_json::{Value, json};

use super::LiveArguments;
use super::files::{all_marks, entry_to_json, entry_to_text};
use crate::{CommandError, print};

/// A client of the member's driver.
struct Session {
    aeron: Aeron,
    mark: ClusterMark,
}

impl Session {
    fn open(directory: &Path) -> Result<Self, CommandError> {
        let mark = module_mark(&MappedMemory, directory)?;
        let context = Context::new(&mark.header.aeron_directory).client_name("harrier-tool");
        let aeron = Aeron::connect(context, MappedMemory, &SystemClock.now())
            .map_err(|error| CommandError::Failed(format!("{error}; is the member running?")))?;
        Ok(Self { aeron, mark })
    }

    fn counters(&self) -> Result<ModuleCounters, CommandError> {
        ModuleCounters::find(self.aeron.counters(), self.mark.header.cluster_id).map_err(CommandError::failed)
    }

    /// Works until there is a value.
    fn until<V>(
        &mut self,
        what: &str,
        timeout_ns: i64,
        mut look: impl FnMut(&mut Aeron) -> Result<Option<V>, CommandError>,
    ) -> Result<V, CommandError> {
        let deadline_ns = SystemClock.now().ns + timeout_ns;
        loop {
            let now = SystemClock.now();
            self.aeron.do_work(&now).map_err(CommandError::failed)?;
            if let Some(value) = look(&mut self.aeron)? {
                return Ok(value);
            }
            if now.ns > deadline_ns {
                let seconds = timeout_ns as f64 / 1e9;
                return Err(CommandError::Failed(format!("{what} did not come within {seconds} s")));
            }
            crate::node::rest();
        }
    }

    fn members(&mut self, timeout_ns: i64) -> Result<ClusterMembers, CommandError> {
        let mut query =
            MembersQuery::new(&mut self.aeron, &self.mark.header).map_err(CommandError::failed)?;
        self.until("the consensus module's answer", timeout_ns, |aeron| {
            query.poll(aeron).map_err(CommandError::failed)
        })
    }

    fn archive(&mut self, timeout_ns: i64) -> Result<ArchiveLink, CommandError> {
        let seed = SystemClock.now().ns as u64 ^ (u64::from(std::process::id()) << 32);
        let mut link = ArchiveLink::new(self.mark.header.archive_stream_id, seed);
        self.until("the archive's answer", timeout_ns, |aeron| {
            let is_connected = link.poll(aeron, &SystemClock.now()).map_err(CommandError::failed)?;
            Ok(is_connected.then_some(()))
        })?;
        Ok(link)
    }
}

fn ns(live: &LiveArguments) -> i64 {
    live.timeout_ms as i64 * 1_000_000
}

pub(super) fn is_leader(directory: &Path) -> Result<(), CommandError> {
    let session = Session::open(directory)?;
    let is_leader = session.counters().is_ok_and(|counters| counters.is_leader());
    print::text(if is_leader { "leader\n" } else { "no leader\n" })?;
    if is_leader { Ok(()) } else { Err(CommandError::Answer(1)) }
}

pub(super) fn list_members(
    directory: &Path,
    as_json: bool,
    live: &LiveArguments,
) -> Result<(), CommandError> {
    let mut session = Session::open(directory)?;
    let found = session.members(ns(live))?;
    if as_json {
        return print::json(&members_to_json(&found));
    }
    let mut text = format!(
        "memberId={} leaderMemberId={} currentTimeNs={}\n",
        found.member_id, found.leader_member_id, found.current_time_ns
    );
    for member in &found.members {
        let _infallible = writeln!(
            text,
            "  member {}: leadershipTermId={} logPosition={} timeOfLastAppendNs={} ingress={} consensus={} log={} \
             catchup={} archive={}",
            member.member_id,
            member.leadership_term_id,
            member.log_position,
            member.time_of_last_append_ns,
            member.ingress_endpoint,
            member.consensus_endpoint,
            member.log_endpoint,
            member.catchup_endpoint,
            member.archive_endpoint
        );
    }
    print::text(&text)
}

fn members_to_json(found: &ClusterMembers) -> Value {
    let members: Value = found
        .members
        .iter()
        .map(|member| {
            json!({
                "member_id": member.member_id,
                "leadership_term_id": member.leadership_term_id,
                "log_position": member.log_position,
                "time_of_last_append_ns": member.time_of_last_append_ns,
                "ingress_endpoint": member.ingress_endpoint,
                "consensus_endpoint": member.consensus_endpoint,
                "log_endpoint": member.log_endpoint,
                "catchup_endpoint": member.catchup_endpoint,
                "archive_endpoint": member.archive_endpoint,
            })
        })
        .collect();
    json!({
        "member_id": found.member_id,
        "leader_member_id": found.leader_member_id,
        "current_time_ns": found.current_time_ns,
        "members": members,
    })
}

/// Sends a command to the leader, after the member has said which member leads.
pub(super) fn toggle(
    directory: &Path,
    command: ToggleCommand,
    live: &LiveArguments,
) -> Result<(), CommandError> {
    let mut session = Session::open(directory)?;
    let counters = session.counters()?;
    if !command.is_of_node() {
        let members = session.members(ns(live))?;
        if members.leader_member_id != members.member_id {
            return Err(CommandError::Failed(format!(
                "this member ({}) is no leader: run the command in the directory of member {}",
                members.member_id, members.leader_member_id
            )));
        }
    }
    counters.give(command).map_err(CommandError::failed)?;
    let name = command.name();
    let Some(patience_ns) = command.patience_ns() else {
        return print::text(&format!("{name} was asked for\n"));
    };
    session.until(&format!("the end of {name}"), patience_ns, |_| {
        Ok(counters.is_carried_out(command).then_some(()))
    })?;
    print::text(&format!("{name} is done\n"))
}

pub(super) fn backup_query(directory: &Path, delay_ms: Option<i64>) -> Result<(), CommandError> {
    let mark = all_marks(directory)?.swap_remove(0);
    let no_backup = || {
        CommandError::Failed(format!(
            "{} is no directory of a cluster backup: its component is {}",
            directory.display(),
            mark.component()
        ))
    };
    if mark.component() != "BACKUP" {
        return Err(no_backup());
    }
    let session = Session::open(directory)?;
    let deadline = backup_query_deadline(session.aeron.counters(), mark.header.cluster_id);
    let deadline = deadline.ok_or_else(no_backup)?;
    if let Some(delay_ms) = delay_ms {
        deadline.set_ordered(SystemClock.now().epoch_ms + delay_ms);
    }
    print::text(&format!("next query at {}\n", print::timestamp(deadline.get())))
}

pub(super) fn recovery_plan(
    directory: &Path,
    service_count: Option<usize>,
    as_json: bool,
    live: &LiveArguments,
) -> Result<(), CommandError> {
    let entries = recording_log_entries(&mut FileStorage::inline(), directory)?;
    let services = all_marks(directory)?.iter().filter(|mark| mark.component() == "CONTAINER").count();
    let mut session = Session::open(directory)?;
    let mut link = session.archive(ns(live))?;
    let mut query = PlanQuery::new(entries, service_count.unwrap_or(services));
    let plan = session.until("the archive's answer", ns(live), |aeron| {
        link.poll(aeron, &SystemClock.now()).map_err(CommandError::failed)?;
        query.poll(aeron, &mut link).map_err(CommandError::failed)
    });
    link.close();
    let plan = plan?;
    if as_json { print::json(&plan_to_json(&plan)) } else { print::text(&plan_to_text(&plan)) }
}

fn plan_to_text(plan: &RecoveryPlan) -> String {
    let mut text = format!(
        "lastLeadershipTermId={} lastTermBaseLogPosition={} appendedLogPosition={} committedLogPosition={}\n",
        plan.last_leadership_term_id,
        plan.last_term_base_log_position,
        plan.appended_log_position,
        plan.committed_log_position
    );
    text.push_str("snapshots:\n");
    text.extend(plan.snapshots.iter().map(|entry| format!("  {}", entry_to_text(entry))));
    let _infallible = match &plan.log {
        None => writeln!(text, "log: none"),
        Some(log) => writeln!(
            text,
            "log: recordingId={} leadershipTermId={} termBaseLogPosition={} logPosition={} startPosition={} \
             stopPosition={} initialTermId={} termBufferLength={} mtuLength={} sessionId={}",
            log.extent.recording_id,
            log.leadership_term_id,
            log.term_base_log_position,
            log.log_position,
            log.start_position,
            log.extent.stop_position,
            log.extent.initial_term_id,
            log.extent.term_buffer_length,
            log.extent.mtu_length,
            log.extent.session_id
        ),
    };
    text
}

fn plan_to_json(plan: &RecoveryPlan) -> Value {
    let log = plan.log.as_ref().map(|log| {
        json!({
            "recording_id": log.extent.recording_id,
            "leadership_term_id": log.leadership_term_id,
            "term_base_log_position": log.term_base_log_position,
            "log_position": log.log_position,
            "start_position": log.start_position,
            "stop_position": log.extent.stop_position,
            "initial_term_id": log.extent.initial_term_id,
            "term_buffer_length": log.extent.term_buffer_length,
            "mtu_length": log.extent.mtu_length,
            "session_id": log.extent.session_id,
        })
    });
    json!({
        "last_leadership_term_id": plan.last_leadership_term_id,
        "last_term_base_log_position": plan.last_term_base_log_position,
        "appended_log_position": plan.appended_log_position,
        "committed_log_position": plan.committed_log_position,
        "snapshots": plan.snapshots.iter().map(entry_to_json).collect::<Value>(),
        "log": log,
    })
}

pub(super) fn describe_snapshot(
    directory: &Path,
    as_json: bool,
    replay_channel: &str,
    replay_stream_id: i32,
    live: &LiveArguments,
) -> Result<(), CommandError> {
    let entries = recording_log_entries(&mut FileStorage::inline(), directory)?;
    let latest = latest_snapshot(&entries, 0).map_err(CommandError::failed)?;
    let Some(entry) = latest.first() else {
        return Err(CommandError::Failed(format!("there is no valid snapshot in {}", directory.display())));
    };
    let mut session = Session::open(directory)?;
    let mut link = session.archive(ns(live))?;
    let mut query = SnapshotQuery::new(entry.recording_id, replay_channel, replay_stream_id, ns(live));
    let mut lines = Vec::new();
    let marker = session.until("the end of the snapshot", ns(live), |aeron| {
        let now = SystemClock.now();
        link.poll(aeron, &now).map_err(CommandError::failed)?;
        let mut on_message = |message: &SnapshotMessage<'_>| lines.push(message_to_json(message));
        query.poll(aeron, &mut link, &now, &mut on_message).map_err(CommandError::failed)
    });
    link.close();
    let marker = marker?;
    let head = json!({
        "message": "snapshot",
        "recording_id": entry.recording_id,
        "log_position": marker.log_position,
        "leadership_term_id": marker.leadership_term_id,
        "time_unit": format!("{:?}", marker.time_unit).to_lowercase(),
        "app_version": harrier::cluster::snapshot::version_text(marker.app_version),
    });
    for line in [head].iter().chain(&lines) {
        if as_json { print::json(line)? } else { print::text(&flat(line))? }
    }
    Ok(())
}

/// Formats an object as `message name=value …`.
fn flat(object: &Value) -> String {
    let mut text = object["message"].as_str().unwrap_or_default().to_owned();
    for (name, value) in object.as_object().into_iter().flatten().filter(|(name, _)| *name != "message") {
        let _infallible = match value.as_str() {
            Some(value) => write!(text, " {name}={value}"),
            None => write!(text, " {name}={value}"),
        };
    }
    text.push('\n');
    text
}

fn message_to_json(message: &SnapshotMessage<'_>) -> Value {
    match *message {
        SnapshotMessage::Pending { header, payload } => json!({
            "message": "pending-message",
            "cluster_session_id": header.session_id,
            "timestamp": header.timestamp,
            "payload_length": payload.len(),
        }),
        SnapshotMessage::Marker(marker) => json!({ "message": "marker", "index": marker.index }),
        SnapshotMessage::ClientSession { session_id, response_stream_id, response_channel, principal } => {
            json!({
                "message": "client-session",
                "session_id": session_id,
                "response_stream_id": response_stream_id,
                "response_channel": response_channel,
                "principal_length": principal.len(),
            })
        }
        SnapshotMessage::ClusterSession {
            session_id,
            correlation_id,
            opened_log_position,
            time_of_last_activity,
            close_reason,
            response_stream_id,
            response_channel,
        } => json!({
            "message": "cluster-session",
            "session_id": session_id,
            "correlation_id": correlation_id,
            "opened_log_position": opened_log_position,
            "time_of_last_activity": time_of_last_activity,
            "close_reason": close_reason.map(|reason| reason.name()),
            "response_stream_id": response_stream_id,
            "response_channel": response_channel,
        }),
        SnapshotMessage::Timer { correlation_id, deadline } => {
            json!({ "message": "timer", "correlation_id": correlation_id, "deadline": deadline })
        }
        SnapshotMessage::ConsensusModule {
            next_session_id,
            next_service_session_id,
            log_service_session_id,
            pending_message_capacity,
        } => json!({
            "message": "consensus-module",
            "next_session_id": next_session_id,
            "next_service_session_id": next_service_session_id,
            "log_service_session_id": log_service_session_id,
            "pending_message_capacity": pending_message_capacity,
        }),
        SnapshotMessage::ClusterMembers { member_id, high_member_id, cluster_members } => json!({
            "message": "cluster-members",
            "member_id": member_id,
            "high_member_id": high_member_id,
            "members": cluster_members,
        }),
        SnapshotMessage::PendingMessageTracker {
            next_service_session_id,
            log_service_session_id,
            pending_message_capacity,
            service_id,
        } => json!({
            "message": "pending-message-tracker",
            "service_id": service_id,
            "next_service_session_id": next_service_session_id,
            "log_service_session_id": log_service_session_id,
            "pending_message_capacity": pending_message_capacity,
        }),
    }
}
