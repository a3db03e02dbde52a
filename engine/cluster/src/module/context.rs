//! Settings of a consensus module (spec 04 §9.1).

use std::path::PathBuf;
use thiserror::Error;

use harrier_archive::LogAllocator;
use harrier_archive::client::ArchiveClientContext;
use harrier_protocol::semantic_version;
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::storage::SyncLevel;

use super::StampClock;
use super::security::{AuthenticatorSupplier, Authorisation};
use crate::codec::TimeUnit;
use crate::members::{self, Member, MembersError};

/// Invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidSetting {
    /// Invalid member string.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// Value that breaks a rule.
    #[error("cluster setting {setting} {rule}")]
    Value {
        /// Name and value.
        setting: String,
        /// The rule.
        rule: String,
    },
}

/// Most services of a node.
const MAX_SERVICES: usize = 10;
/// Parameters of a channel that define the initial position of its stream.
const POSITION_PARAMETERS: [&str; 3] = ["init-term-id", "term-id", "term-offset"];

/// All settings of a consensus module. Times are ns. Names and defaults are those of spec 04 §9.1;
/// [`apply`](Self::apply) reads the settings by these names.
#[derive(Debug, Clone)]
pub struct ConsensusModuleContext {
    /// `aeron.dir`: directory of the media driver.
    pub aeron_directory: PathBuf,
    /// `aeron.cluster.dir`: directory of recording.log, node-state.dat and, by default, the mark file.
    pub cluster_directory: PathBuf,
    /// `aeron.cluster.services.dir`: directory of the services' mark files; by default the cluster's directory.
    pub services_directory: Option<PathBuf>,
    /// `aeron.cluster.mark.file.dir`: directory of the mark file; by default the cluster's directory.
    pub mark_file_directory: Option<PathBuf>,
    /// `aeron.cluster.member.id`.
    pub member_id: i32,
    /// `aeron.cluster.members`: all members (spec 04 §2.2).
    pub members: String,
    /// `aeron.cluster.member.endpoints`: expected entry of the member itself; empty for no check.
    pub member_endpoints: String,
    /// `aeron.cluster.appointed.leader.id`: the only member that may lead; -1 for any.
    pub appointed_leader_id: i32,
    /// `aeron.cluster.id`: id of the cluster in counters.
    pub cluster_id: i32,
    /// `aeron.cluster.service.count`.
    pub service_count: usize,
    /// `aeron.cluster.ingress.channel`: template; the member's endpoint is added.
    pub ingress_channel: String,
    /// `aeron.cluster.ingress.stream.id`.
    pub ingress_stream_id: i32,
    /// `aeron.cluster.ingress.fragment.limit`: fragments taken from a stream of clients in one duty cycle.
    pub ingress_fragment_limit: usize,
    /// `aeron.cluster.ingress.ipc.allowed`: clients on the member's own driver may send over `aeron:ipc`.
    pub is_ipc_ingress_allowed: bool,
    /// `aeron.cluster.egress.channel`: parameters that overwrite those of clients' response channels.
    pub egress_channel: Option<String>,
    /// `aeron.cluster.log.channel`: template of the log's publication.
    pub log_channel: String,
    /// `aeron.cluster.log.stream.id`.
    pub log_stream_id: i32,
    /// `aeron.cluster.log.fragment.limit`: fragments read from the log in one duty cycle.
    pub log_fragment_limit: usize,
    /// `aeron.cluster.replay.channel`.
    pub replay_channel: String,
    /// `aeron.cluster.replay.stream.id`.
    pub replay_stream_id: i32,
    /// `aeron.cluster.control.channel`: between consensus module and services.
    pub control_channel: String,
    /// `aeron.cluster.service.stream.id`: from the consensus module to services.
    pub service_stream_id: i32,
    /// `aeron.cluster.consensus.module.stream.id`: from services to the consensus module.
    pub module_stream_id: i32,
    /// `aeron.cluster.snapshot.channel`.
    pub snapshot_channel: String,
    /// `aeron.cluster.snapshot.stream.id`.
    pub snapshot_stream_id: i32,
    /// `aeron.cluster.consensus.channel`: template; the member's endpoint is added.
    pub consensus_channel: String,
    /// `aeron.cluster.consensus.stream.id`: stream of members, backups and standbys.
    pub consensus_stream_id: i32,
    /// `aeron.cluster.replication.channel`: channel on which snapshots of standbys are received; by default a free port of
    /// the archive's host.
    pub replication_channel: Option<String>,
    /// `aeron.cluster.follower.catchup.channel`: template of the channel on which a follower receives the missing part of
    /// the current term; the member's catch-up endpoint is added.
    pub follower_catchup_channel: String,
    /// `aeron.cluster.consensus.control.enable`: the member sends to others from the host of its consensus endpoint.
    pub is_consensus_control_enabled: bool,
    /// `aeron.cluster.log.control.enable`: the member sends the log from the host of its log endpoint.
    pub is_log_control_enabled: bool,
    /// `aeron.cluster.leader.archive.control.channel`: template of the channel to other archives; their endpoint is added.
    pub leader_archive_control_channel: String,
    /// `aeron.cluster.replication.progress.timeout`: time without progress after which a copy fails, ns.
    pub replication_progress_timeout_ns: i64,
    /// `aeron.cluster.accept.standby.snapshots`: standbys may report their snapshots.
    pub accepts_standby_snapshots: bool,
    /// `aeron.cluster.standby.snapshot.notification.processing.delay`: delay before such a report is written, ns.
    pub standby_snapshot_delay_ns: i64,
    /// `aeron.cluster.max.sessions`: limit of the sessions, with connecting ones.
    pub max_sessions: usize,
    /// `aeron.cluster.session.timeout`: time without a sign of life after which a session is closed, ns.
    pub session_timeout_ns: i64,
    /// `aeron.cluster.leader.heartbeat.timeout`, ns; clients learn of it.
    pub leader_heartbeat_timeout_ns: i64,
    /// `aeron.cluster.leader.heartbeat.interval`, ns.
    pub leader_heartbeat_interval_ns: i64,
    /// `aeron.cluster.startup.canvass.timeout`: time for which a member that has just started waits for all others before a
    /// quorum is enough for a candidacy, ns.
    pub startup_canvass_timeout_ns: i64,
    /// `aeron.cluster.election.timeout`: time limit of a ballot, ns.
    pub election_timeout_ns: i64,
    /// `aeron.cluster.election.status.interval`: time between two reports of a member in an election, ns.
    pub election_status_interval_ns: i64,
    /// `aeron.cluster.termination.timeout`: time limit for the end of the services, ns.
    pub termination_timeout_ns: i64,
    /// `aeron.cluster.service.ack.timeout`: time limit of the services' snapshots, ns. Without it a service that never
    /// answers would stop its node for ever (spec 04 §10.3, DECISION).
    pub service_ack_timeout_ns: i64,
    /// `aeron.cluster.error.buffer.length`: bytes of the error log in the mark file.
    pub error_buffer_length: usize,
    /// `aeron.cluster.cycle.threshold`: duty cycles that take longer are counted, ns.
    pub cycle_threshold_ns: i64,
    /// `aeron.cluster.total.snapshot.threshold`: snapshots that take longer are counted, ns.
    pub total_snapshot_threshold_ns: i64,
    /// `aeron.cluster.clock`: unit of cluster time, the same on all members and for the life of the log.
    pub time_unit: TimeUnit,
    /// Stamps messages of sessions at the moment they are taken; without it they get the time of the duty cycle. Leases need
    /// it: a duty cycle that the host has stopped for a while would stamp a claim with a time before the claim was made.
    pub stamp_clock: Option<StampClock>,
    /// Version of the application; snapshots and logs of another major version are refused.
    pub app_version: i32,
    /// `aeron.cluster.file.sync.level`: how far changes of recording.log and node-state.dat are written through.
    pub file_sync_level: Option<SyncLevel>,
    /// `aeron.cluster.consensus.module.agent.role.name`; `consensus-module-<clusterId>-<memberId>` when it is empty.
    pub agent_role_name: String,
    /// The member's own archive.
    pub archive: ArchiveClientContext,
    /// `aeron.cluster.authenticator.supplier`.
    pub authenticator: AuthenticatorSupplier,
    /// `aeron.cluster.authorisation.service.supplier`.
    pub authorisation: Authorisation,
    /// Allocates the log of a client's ingress stream once a session on it is open; for an ingress channel with
    /// `log-allocation=hint`. Clients that are not authenticated are then answered on streams with small logs.
    pub log_allocator: Option<LogAllocator>,
    /// `harrier.cluster.start.anew`: begins an empty log when recording.log is missing, although the member has had one.
    pub start_anew: bool,
    /// How long the driver, the archive and the services may be absent at start, ns.
    pub startup_timeout_ns: i64,
    /// Seed of what is drawn.
    pub seed: u64,
}

impl ConsensusModuleContext {
    /// Default settings of a member.
    pub fn new(
        aeron_directory: impl Into<PathBuf>,
        cluster_directory: impl Into<PathBuf>,
        member_id: i32,
        members: impl Into<String>,
    ) -> Self {
        Self {
            aeron_directory: aeron_directory.into(),
            cluster_directory: cluster_directory.into(),
            services_directory: None,
            mark_file_directory: None,
            member_id,
            members: members.into(),
            member_endpoints: String::new(),
            appointed_leader_id: -1,
            cluster_id: 0,
            service_count: 1,
            ingress_channel: "aeron:udp?term-length=64k".into(),
            ingress_stream_id: 101,
            ingress_fragment_limit: 50,
            is_ipc_ingress_allowed: false,
            egress_channel: None,
            log_channel: "aeron:udp?term-length=64m".into(),
            log_stream_id: 100,
            log_fragment_limit: 50,
            replay_channel: "aeron:ipc".into(),
            replay_stream_id: 103,
            control_channel: "aeron:ipc?term-length=128k".into(),
            service_stream_id: 104,
            module_stream_id: 105,
            snapshot_channel: "aeron:ipc?alias=snapshot".into(),
            snapshot_stream_id: 107,
            consensus_channel: "aeron:udp".into(),
            consensus_stream_id: 108,
            replication_channel: None,
            follower_catchup_channel: "aeron:udp".into(),
            is_consensus_control_enabled: true,
            is_log_control_enabled: true,
            leader_archive_control_channel: "aeron:udp?term-length=64k".into(),
            replication_progress_timeout_ns: 10_000_000_000,
            accepts_standby_snapshots: false,
            standby_snapshot_delay_ns: 0,
            max_sessions: 10,
            session_timeout_ns: 10_000_000_000,
            leader_heartbeat_timeout_ns: 10_000_000_000,
            leader_heartbeat_interval_ns: 200_000_000,
            startup_canvass_timeout_ns: 60_000_000_000,
            election_timeout_ns: 1_000_000_000,
            election_status_interval_ns: 100_000_000,
            termination_timeout_ns: 10_000_000_000,
            service_ack_timeout_ns: 600_000_000_000,
            error_buffer_length: 1 << 20,
            cycle_threshold_ns: 100_000_000,
            total_snapshot_threshold_ns: 1_000_000_000,
            time_unit: TimeUnit::Millis,
            stamp_clock: None,
            app_version: semantic_version(0, 0, 1),
            file_sync_level: None,
            agent_role_name: String::new(),
            archive: ArchiveClientContext { control_response_stream_id: 120, ..ArchiveClientContext::ipc() },
            authenticator: AuthenticatorSupplier::allow_all(),
            authorisation: Authorisation::backups_only(),
            log_allocator: None,
            start_anew: false,
            startup_timeout_ns: 60_000_000_000,
            seed: 0,
        }
    }

    /// Name of the agent.
    pub fn role_name(&self) -> String {
        if self.agent_role_name.is_empty() {
            format!("consensus-module-{}-{}", self.cluster_id, self.member_id)
        } else {
            self.agent_role_name.clone()
        }
    }

    /// Checks the settings; returns the members and this one among them.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn validate(&self) -> Result<(Vec<Member>, Member), InvalidSetting> {
        let members = members::parse(&self.members)?;
        let Some(own) = members.iter().find(|member| member.id == self.member_id).cloned() else {
            return invalid(format!("member.id={}", self.member_id), "is not among the members");
        };
        if members.len() > 1 {
            return invalid(
                format!("members={}", self.members),
                "has several members; this version runs single-member clusters",
            );
        }
        if !self.member_endpoints.is_empty() && self.member_endpoints != own.endpoints() {
            let rule = format!("is not what members says of member {}: {}", own.id, own.endpoints());
            return invalid(format!("member.endpoints={}", self.member_endpoints), &rule);
        }
        let appointed = self.appointed_leader_id;
        if appointed != -1 && !members.iter().any(|member| member.id == appointed) {
            return invalid(format!("appointed.leader.id={appointed}"), "is not among the members");
        }
        self.validate_numbers()?;
        self.validate_channels()?;
        Ok((members, own))
    }

    fn validate_numbers(&self) -> Result<(), InvalidSetting> {
        let services = self.service_count;
        if services == 0 || services > MAX_SERVICES {
            return invalid(format!("service.count={services}"), "must be 1 to 10");
        }
        for (name, value) in
            [("max.sessions", self.max_sessions), ("ingress.fragment.limit", self.ingress_fragment_limit)]
        {
            if value == 0 {
                return invalid(format!("{name}=0"), "must be at least 1");
            }
        }
        if self.log_fragment_limit == 0 {
            return invalid("log.fragment.limit=0".into(), "must be at least 1");
        }
        for (name, value) in [
            ("session.timeout", self.session_timeout_ns),
            ("leader.heartbeat.timeout", self.leader_heartbeat_timeout_ns),
            ("leader.heartbeat.interval", self.leader_heartbeat_interval_ns),
            ("termination.timeout", self.termination_timeout_ns),
            ("startup.canvass.timeout", self.startup_canvass_timeout_ns),
            ("election.timeout", self.election_timeout_ns),
            ("election.status.interval", self.election_status_interval_ns),
            ("service.ack.timeout", self.service_ack_timeout_ns),
            ("replication.progress.timeout", self.replication_progress_timeout_ns),
        ] {
            if value <= 0 {
                return invalid(format!("{name}={value}ns"), "must be more than nothing");
            }
        }
        if self.leader_heartbeat_interval_ns >= self.leader_heartbeat_timeout_ns {
            let interval = self.leader_heartbeat_interval_ns;
            let rule = format!("must be less than the timeout of {} ns", self.leader_heartbeat_timeout_ns);
            return invalid(format!("leader.heartbeat.interval={interval}ns"), &rule);
        }
        if self.startup_canvass_timeout_ns / self.leader_heartbeat_timeout_ns < 2 {
            let timeout = self.leader_heartbeat_timeout_ns;
            let rule = format!("must be at least twice leader.heartbeat.timeout, which is {timeout} ns");
            return invalid(format!("startup.canvass.timeout={}ns", self.startup_canvass_timeout_ns), &rule);
        }
        if self.election_status_interval_ns >= self.election_timeout_ns {
            let rule =
                format!("must be less than election.timeout, which is {} ns", self.election_timeout_ns);
            return invalid(
                format!("election.status.interval={}ns", self.election_status_interval_ns),
                &rule,
            );
        }
        if !(1 << 12..=1 << 30).contains(&self.error_buffer_length) {
            let length = self.error_buffer_length;
            return invalid(format!("error.buffer.length={length}"), "must be 4k to 1g");
        }
        Ok(())
    }

    fn validate_channels(&self) -> Result<(), InvalidSetting> {
        let egress = self.egress_channel.as_deref().unwrap_or("aeron:udp");
        for (name, channel) in [
            ("ingress.channel", self.ingress_channel.as_str()),
            ("egress.channel", egress),
            ("log.channel", &self.log_channel),
            ("replay.channel", &self.replay_channel),
            ("control.channel", &self.control_channel),
            ("snapshot.channel", &self.snapshot_channel),
            ("consensus.channel", &self.consensus_channel),
            ("follower.catchup.channel", &self.follower_catchup_channel),
            ("replication.channel", self.replication_channel.as_deref().unwrap_or("aeron:udp")),
            ("leader.archive.control.channel", &self.leader_archive_control_channel),
        ] {
            if let Err(error) = ChannelUri::parse(channel) {
                return invalid(format!("{name}={channel}"), &format!("is no channel: {error}"));
            }
        }
        let log = &self.log_channel;
        if ChannelUri::parse(log).is_ok_and(|uri| POSITION_PARAMETERS.iter().any(|key| uri.contains(key))) {
            return invalid(format!("log.channel={log}"), "must not name a position");
        }
        for (name, channel) in [
            ("archive control request channel", &self.archive.control_request_channel),
            ("archive control response channel", &self.archive.control_response_channel),
        ] {
            if !channel.starts_with("aeron:ipc") {
                return invalid(format!("{name}={channel}"), "must be IPC: the archive is the member's own");
            }
        }
        Ok(())
    }
}

fn invalid<V>(setting: String, rule: &str) -> Result<V, InvalidSetting> {
    Err(InvalidSetting::Value { setting, rule: rule.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: &str = "0,h:1,h:2,h:3,h:4,h:5";

    fn refusal(change: impl FnOnce(&mut ConsensusModuleContext)) -> String {
        let mut context = ConsensusModuleContext::new("/a", "/c", 0, MEMBERS);
        context.validate().unwrap();
        change(&mut context);
        context.validate().unwrap_err().to_string()
    }

    #[test]
    fn each_setting_that_cannot_be_is_named() {
        assert!(refusal(|entry| entry.member_id = 1).contains("member.id=1 is not among"));
        assert!(refusal(|entry| entry.member_endpoints = "h:1".into()).contains("h:1,h:2,h:3,h:4,h:5"));
        assert!(refusal(|entry| entry.appointed_leader_id = 3).contains("appointed.leader.id=3"));
        assert!(refusal(|entry| entry.service_count = 0).contains("service.count=0 must be 1 to 10"));
        assert!(refusal(|entry| entry.service_count = 11).contains("service.count=11"));
        assert!(refusal(|entry| entry.max_sessions = 0).contains("max.sessions=0"));
        assert!(refusal(|entry| entry.ingress_fragment_limit = 0).contains("ingress.fragment.limit=0"));
        assert!(refusal(|entry| entry.log_fragment_limit = 0).contains("log.fragment.limit=0"));
        assert!(refusal(|entry| entry.session_timeout_ns = 0).contains("session.timeout=0ns"));
        assert!(refusal(|entry| entry.termination_timeout_ns = -1).contains("termination.timeout=-1ns"));
        let text = refusal(|entry| entry.leader_heartbeat_interval_ns = entry.leader_heartbeat_timeout_ns);
        assert!(text.contains("must be less than the timeout"), "{text}");
        let text = refusal(|entry| entry.startup_canvass_timeout_ns = 19_999_999_999);
        assert!(text.contains("must be at least twice leader.heartbeat.timeout"), "{text}");
        let text = refusal(|entry| entry.election_status_interval_ns = entry.election_timeout_ns);
        assert!(text.contains("must be less than election.timeout"), "{text}");
        assert!(refusal(|entry| entry.error_buffer_length = 1).contains("error.buffer.length=1 must be 4k"));
        assert!(
            refusal(|entry| entry.ingress_channel = "udp".into())
                .contains("ingress.channel=udp is no channel")
        );
        let text = refusal(|entry| entry.log_channel = "aeron:udp?term-id=4".into());
        assert!(text.contains("must not name a position"), "{text}");
        let remote = "aeron:udp?endpoint=h:1";
        let text = refusal(|entry| entry.archive.control_request_channel = remote.into());
        assert!(text.contains("must be IPC"), "{text}");
    }

    #[test]
    fn the_own_endpoints_may_be_given_twice() {
        let mut context = ConsensusModuleContext::new("/a", "/c", 0, MEMBERS);
        context.member_endpoints = "h:1,h:2,h:3,h:4,h:5".into();
        (context.appointed_leader_id, context.cluster_id) = (0, 2);
        context.validate().unwrap();
        assert_eq!(context.role_name(), "consensus-module-2-0");
        context.agent_role_name = "cm".into();
        assert_eq!(context.role_name(), "cm");
    }
}
