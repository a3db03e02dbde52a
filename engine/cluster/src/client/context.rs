//! Settings of a cluster client (spec 04 §9.3).

use std::fmt;
use std::sync::Arc;

use harrier_protocol::uri::{ChannelUri, parse_duration_ns};

use super::ClusterClientError;
use super::connect::parse_endpoints;

/// Maximum length of a client name, characters.
const MAX_NAME_LENGTH: usize = 100;
/// Heartbeat timeout assumed for leaders that do not report theirs, ns.
const DEFAULT_HEARTBEAT_TIMEOUT_NS: i64 = 10_000_000_000;

type Answer = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// Computes the answer to a cluster's challenge.
#[derive(Clone)]
pub struct ChallengeResponder(Arc<Answer>);

impl ChallengeResponder {
    /// Creates a responder that computes its answer from the challenge.
    pub fn new(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    pub(super) fn answer(&self, challenge: &[u8]) -> Vec<u8> {
        (self.0)(challenge)
    }
}

impl fmt::Debug for ChallengeResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChallengeResponder")
    }
}

/// Settings of a cluster client (spec 04 §9.3). Times are ns.
#[derive(Debug, Clone)]
pub struct ClusterClientContext {
    /// `aeron.cluster.ingress.endpoints`: `0=host:port,1=…`; empty sends to the ingress channel as it is.
    pub ingress_endpoints: String,
    /// `aeron.cluster.ingress.channel`: channel of the ingress, completed with each endpoint.
    pub ingress_channel: String,
    /// `aeron.cluster.ingress.stream.id`.
    pub ingress_stream_id: i32,
    /// True when the client is the only writer of its ingress publication.
    pub is_ingress_exclusive: bool,
    /// `aeron.cluster.egress.channel`: channel on which the client receives egress.
    pub egress_channel: String,
    /// `aeron.cluster.egress.stream.id`.
    pub egress_stream_id: i32,
    /// `aeron.cluster.message.timeout`: timeout of connecting to the cluster or to a new leader.
    pub message_timeout_ns: i64,
    /// Time to wait for a new leader; -1 for twice the leader's heartbeat timeout.
    pub new_leader_timeout_ns: i64,
    /// Time without a message after which a keep-alive is sent; 0 leaves them to the application.
    pub keepalive_interval_ns: i64,
    /// Credentials for the cluster's authenticator.
    pub credentials: Vec<u8>,
    /// Fixed answer to any challenge; a responder takes precedence.
    pub challenge_answer: Vec<u8>,
    /// Computes the answer to a challenge.
    pub challenge_responder: Option<ChallengeResponder>,
    /// `aeron.cluster.client.name`: name in the cluster's counters; at most 100 characters.
    pub client_name: String,
}

impl ClusterClientContext {
    /// Settings for the members with these ingress endpoints and an egress on `egress_channel`.
    pub fn new(ingress_endpoints: impl Into<String>, egress_channel: impl Into<String>) -> Self {
        Self {
            ingress_endpoints: ingress_endpoints.into(),
            ingress_channel: "aeron:udp?term-length=64k".into(),
            ingress_stream_id: 101,
            is_ingress_exclusive: true,
            egress_channel: egress_channel.into(),
            egress_stream_id: 102,
            message_timeout_ns: 5_000_000_000,
            new_leader_timeout_ns: -1,
            keepalive_interval_ns: 1_000_000_000,
            credentials: Vec::new(),
            challenge_answer: Vec::new(),
            challenge_responder: None,
            client_name: String::new(),
        }
    }

    /// Reads the settings that `lookup` returns for their dotted names, e.g. `aeron.cluster.message.timeout`.
    ///
    /// # Errors
    /// [`ClusterClientError::Setting`] for the first value that cannot be read.
    pub fn apply(&mut self, lookup: &impl Fn(&str) -> Option<String>) -> Result<(), ClusterClientError> {
        let find = |name: &str| {
            let name = format!("aeron.cluster.{name}");
            lookup(&name).map(|text| (name, text))
        };
        for (name, target) in [
            ("ingress.endpoints", &mut self.ingress_endpoints),
            ("ingress.channel", &mut self.ingress_channel),
            ("egress.channel", &mut self.egress_channel),
            ("client.name", &mut self.client_name),
        ] {
            if let Some((_, text)) = find(name) {
                *target = text;
            }
        }
        for (name, target) in [
            ("ingress.stream.id", &mut self.ingress_stream_id),
            ("egress.stream.id", &mut self.egress_stream_id),
        ] {
            if let Some((name, text)) = find(name) {
                *target =
                    text.trim().parse().map_err(|_| invalid(format!("{name}={text}"), "must be a number"))?;
            }
        }
        if let Some((name, text)) = find("message.timeout") {
            self.message_timeout_ns = parse_duration_ns(text.trim())
                .ok_or_else(|| invalid(format!("{name}={text}"), "must be a time such as 5s or 200ms"))?;
        }
        Ok(())
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ClusterClientError::Setting`], [`ClusterClientError::Channel`] or [`ClusterClientError::Endpoints`].
    pub fn validate(&self) -> Result<(), ClusterClientError> {
        if self.egress_channel.is_empty() {
            return Err(invalid("egress.channel=".into(), "must be set: the cluster answers there"));
        }
        ChannelUri::parse(&self.egress_channel)?;
        let ingress = ChannelUri::parse(&self.ingress_channel)?;
        if ingress.is_ipc() && !self.ingress_endpoints.is_empty() {
            let setting = format!("ingress.endpoints={}", self.ingress_endpoints);
            return Err(invalid(setting, "must be empty with an IPC ingress channel"));
        }
        if self.client_name.chars().count() > MAX_NAME_LENGTH {
            return Err(invalid(
                format!("client.name={}", self.client_name),
                "is longer than 100 characters",
            ));
        }
        parse_endpoints(&self.ingress_endpoints).map(drop)
    }

    /// Time to wait for a new leader, ns.
    pub(super) fn new_leader_timeout_ns(&self, heartbeat_timeout_ns: Option<i64>) -> i64 {
        if self.new_leader_timeout_ns >= 0 {
            self.new_leader_timeout_ns
        } else {
            heartbeat_timeout_ns.unwrap_or(DEFAULT_HEARTBEAT_TIMEOUT_NS).saturating_mul(2)
        }
    }
}

fn invalid(setting: String, rule: &'static str) -> ClusterClientError {
    ClusterClientError::Setting { setting, rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_read() {
        let mut context = ClusterClientContext::new("", "");
        let settings = [
            ("ingress.endpoints", "0=a:1,1=b:2"),
            ("ingress.channel", "aeron:udp?mtu=8k"),
            ("ingress.stream.id", "201"),
            ("egress.channel", "aeron:udp?endpoint=c:0"),
            ("egress.stream.id", "202"),
            ("message.timeout", "7s"),
            ("client.name", "trader"),
        ];
        let lookup = |name: &str| {
            let found = settings.iter().find(|(known, _)| name == format!("aeron.cluster.{known}"));
            found.map(|(_, value)| (*value).to_owned())
        };
        context.apply(&lookup).unwrap();
        context.validate().unwrap();
        assert_eq!((context.ingress_stream_id, context.egress_stream_id), (201, 202));
        assert_eq!(context.message_timeout_ns, 7_000_000_000);
        assert_eq!(context.ingress_endpoints, "0=a:1,1=b:2");
        assert_eq!(context.ingress_channel, "aeron:udp?mtu=8k");
        assert_eq!(
            (context.egress_channel.as_str(), context.client_name.as_str()),
            ("aeron:udp?endpoint=c:0", "trader")
        );
    }

    #[test]
    fn what_cannot_be_is_named() {
        let good = ClusterClientContext::new("0=a:1", "aeron:udp?endpoint=c:0");
        good.validate().unwrap();
        let no_egress = ClusterClientContext { egress_channel: String::new(), ..good.clone() };
        let ipc = ClusterClientContext { ingress_channel: "aeron:ipc".into(), ..good.clone() };
        let name = ClusterClientContext { client_name: "x".repeat(101), ..good.clone() };
        let endpoints = ClusterClientContext { ingress_endpoints: "a:1".into(), ..good.clone() };
        let channel = ClusterClientContext { ingress_channel: "udp".into(), ..good };
        for (context, text) in [
            (no_egress, "egress.channel"),
            (ipc, "must be empty with an IPC ingress"),
            (name, "longer than 100"),
            (endpoints, "id=host:port"),
            (channel, "udp"),
        ] {
            let error = context.validate().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_new_leader_is_waited_for_twice_the_heartbeat_timeout() {
        let mut context = ClusterClientContext::new("", "aeron:ipc");
        assert_eq!(context.new_leader_timeout_ns(Some(5)), 10);
        assert_eq!(context.new_leader_timeout_ns(None), 20_000_000_000);
        context.new_leader_timeout_ns = 7;
        assert_eq!(context.new_leader_timeout_ns(Some(5)), 7);
    }
}
