//! Settings of a consensus module (spec 04 §9.1).

use std::path::PathBuf;
use thiserror::Error;

use harrier_archive::client::ArchiveClientContext;
use harrier_protocol::semantic_version;
use harrier_ringbuf::storage::SyncLevel;

use super::authenticator::Authenticator;
use crate::members::{self, Member, MembersError};

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidSetting {
    /// The member string.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// A setting with its rule.
    #[error("cluster setting {setting} {rule}")]
    Value {
        /// Name and value.
        setting: String,
        /// What would be valid.
        rule: String,
    },
}

/// All settings of a consensus module. Times are ns; names and defaults are those of spec 04 §9.1.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the settings of the table in spec 04 §9.1")]
pub struct ConsensusModuleContext {
    pub aeron_directory: PathBuf,
    pub cluster_directory: PathBuf,
    pub member_id: i32,
    pub members: String,
    pub cluster_id: i32,
    pub service_count: usize,
    pub ingress_channel: String,
    pub ingress_stream_id: i32,
    pub ingress_fragment_limit: usize,
    pub is_ipc_ingress_allowed: bool,
    pub log_channel: String,
    pub log_stream_id: i32,
    pub replay_channel: String,
    pub replay_stream_id: i32,
    pub control_channel: String,
    pub service_stream_id: i32,
    pub module_stream_id: i32,
    pub max_sessions: usize,
    pub session_timeout_ns: i64,
    pub leader_heartbeat_timeout_ns: i64,
    pub termination_timeout_ns: i64,
    pub app_version: i32,
    pub file_sync_level: Option<SyncLevel>,
    pub archive: ArchiveClientContext,
    pub authenticator: Authenticator,
    /// How long the driver, the archive and the services may be absent at start, ns.
    pub startup_timeout_ns: i64,
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
            member_id,
            members: members.into(),
            cluster_id: 0,
            service_count: 1,
            ingress_channel: "aeron:udp?term-length=64k".into(),
            ingress_stream_id: 101,
            ingress_fragment_limit: 50,
            is_ipc_ingress_allowed: false,
            log_channel: "aeron:udp?term-length=64m".into(),
            log_stream_id: 100,
            replay_channel: "aeron:ipc".into(),
            replay_stream_id: 103,
            control_channel: "aeron:ipc?term-length=128k".into(),
            service_stream_id: 104,
            module_stream_id: 105,
            max_sessions: 10,
            session_timeout_ns: 10_000_000_000,
            leader_heartbeat_timeout_ns: 10_000_000_000,
            termination_timeout_ns: 10_000_000_000,
            app_version: semantic_version(0, 0, 1),
            file_sync_level: None,
            archive: ArchiveClientContext { control_response_stream_id: 120, ..ArchiveClientContext::ipc() },
            authenticator: Authenticator::AllowAll,
            startup_timeout_ns: 60_000_000_000,
            seed: 0,
        }
    }

    /// Checks the settings; returns the members and this one among them.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn validate(&self) -> Result<(Vec<Member>, Member), InvalidSetting> {
        let members = members::parse(&self.members)?;
        let invalid =
            |setting: String, rule: &str| Err(InvalidSetting::Value { setting, rule: rule.to_owned() });
        let Some(own) = members.iter().find(|member| member.id == self.member_id).cloned() else {
            return invalid(format!("member.id={}", self.member_id), "is not among the members");
        };
        if members.len() > 1 {
            return invalid(
                format!("members={}", self.members),
                "has several members; this version runs single-member clusters",
            );
        }
        if self.service_count > 10 {
            return invalid(format!("service.count={}", self.service_count), "must be at most 10");
        }
        if ["init-term-id", "term-id", "term-offset"].iter().any(|key| self.log_channel.contains(key)) {
            return invalid(format!("log.channel={}", self.log_channel), "must not name a position");
        }
        Ok((members, own))
    }
}
