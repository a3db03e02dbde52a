//! Errors of a cluster client.

use harrier_client::ClientError;
use harrier_protocol::uri::UriError;
use harrier_ringbuf::append::OfferError;
use thiserror::Error;

use crate::codec::EventCode;

/// Errors of a cluster client.
#[derive(Debug, Error)]
pub enum ClusterClientError {
    /// Invalid setting.
    #[error("cluster client setting {setting} {rule}")]
    Setting {
        /// Name and value.
        setting: String,
        /// Description of valid values.
        rule: &'static str,
    },
    /// The driver refused a stream, or is gone.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Invalid channel in the settings.
    #[error(transparent)]
    Channel(#[from] UriError),
    /// Endpoints that do not have the form `id=host:port,…`.
    #[error("ingress endpoints '{0}' must be id=host:port joined by commas")]
    Endpoints(String),
    /// The cluster did not answer in time.
    #[error("no session with the cluster within {timeout_ns} ns: {stage}; {streams}; is a leader running?")]
    Timeout {
        /// The timeout.
        timeout_ns: i64,
        /// Step that timed out.
        stage: &'static str,
        /// The client's streams and their connection states.
        streams: String,
    },
    /// The cluster refused the client.
    #[error("cluster refused the session: {code:?}: {detail}")]
    Refused {
        /// Reason.
        code: EventCode,
        /// Error text of the cluster.
        detail: String,
    },
    /// The cluster ended the session.
    #[error("cluster closed the session: {0}")]
    Closed(String),
    /// The client has no open session.
    #[error("the client has no session; poll it")]
    NotConnected,
    /// The ingress does not accept the message, temporarily or permanently.
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
