//! What can go wrong between a client and its cluster.

use harrier_client::ClientError;
use harrier_protocol::uri::UriError;
use harrier_ringbuf::append::OfferError;
use thiserror::Error;

use crate::codec::EventCode;

/// What can go wrong between a client and its cluster.
#[derive(Debug, Error)]
pub enum ClusterClientError {
    /// Invalid setting.
    #[error("cluster client setting {setting} {rule}")]
    Setting {
        /// Name and value.
        setting: String,
        /// What would be valid.
        rule: &'static str,
    },
    /// The driver refused a stream, or is gone.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A channel of the settings.
    #[error(transparent)]
    Channel(#[from] UriError),
    /// Endpoints that are not `id=host:port,…`.
    #[error("ingress endpoints '{0}' must be id=host:port joined by commas")]
    Endpoints(String),
    /// The cluster did not answer in time.
    #[error("no session with the cluster within {timeout_ns} ns: {stage}; {streams}; is a leader running?")]
    Timeout {
        /// The timeout.
        timeout_ns: i64,
        /// What was waited for.
        stage: &'static str,
        /// The client's streams, and which of them are connected.
        streams: String,
    },
    /// The cluster turned the client away.
    #[error("cluster refused the session: {code:?}: {detail}")]
    Refused {
        /// Why.
        code: EventCode,
        /// The cluster's words.
        detail: String,
    },
    /// The cluster ended the session.
    #[error("cluster closed the session: {0}")]
    Closed(String),
    /// The client has no session now.
    #[error("the client has no session; poll it")]
    NotConnected,
    /// The ingress takes nothing, for now or for good.
    #[error(transparent)]
    Offer(#[from] OfferError),
}

impl ClusterClientError {
    /// True when the same call may succeed after polling the client: the ingress is back-pressured, or the leader is
    /// changing.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Offer(error) => error.is_retryable() || *error == OfferError::NotConnected,
            Self::NotConnected => true,
            _ => false,
        }
    }
}
