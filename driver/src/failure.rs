//! Refusals of commands: code and text of the error event (spec 02 §5.3).

use std::borrow::Cow;

use harrier_protocol::ErrorCode;
use harrier_protocol::uri::UriError;
use harrier_ringbuf::MemoryError;
use harrier_ringbuf::counters::CountersError;
use harrier_ringbuf::logbuffer::LogError;
use harrier_ringbuf::transport::TransportError;
use thiserror::Error;

/// A refused command.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("({}) {}\n{message}", head(*.code, *.system), description(*.code, *.system))]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    /// The system's error number, when the system refused.
    pub(crate) system: Option<i32>,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, system: None, message: message.into() }
    }

    /// Creates a refusal by the system.
    fn of_system(error: &std::io::Error, message: impl Into<String>) -> Self {
        Self { system: error.raw_os_error(), ..Self::generic(message) }
    }

    /// Returns code and description without the message, which may contain values that a peer has chosen.
    pub(crate) fn cause(&self) -> String {
        format!("({}) {}", head(self.code, self.system), description(self.code, self.system))
    }

    /// Adds the channel that the failure concerns, as the client wrote it.
    pub(crate) fn on_channel(mut self, channel: &str) -> Self {
        if !self.message.contains(channel) {
            self.message.push_str(&format!(" channel={channel}"));
        }
        self
    }

    pub(crate) fn generic(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::GenericError, message)
    }

    pub(crate) fn channel(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidChannel, message)
    }
}

/// Returns the number in brackets: the system's error number, or the driver's negated code (spec 02 §5.3).
fn head(code: ErrorCode, system: Option<i32>) -> i32 {
    system.unwrap_or(-code.value())
}

fn description(code: ErrorCode, system: Option<i32>) -> Cow<'static, str> {
    if let Some(number) = system {
        let text = std::io::Error::from_raw_os_error(number).to_string();
        return text.split(" (os error").next().unwrap_or_default().to_owned().into();
    }
    let text = match code {
        ErrorCode::InvalidChannel => "invalid channel",
        ErrorCode::UnknownSubscription => "unknown subscription",
        ErrorCode::UnknownPublication => "unknown publication",
        ErrorCode::ChannelEndpointError => "channel endpoint error",
        ErrorCode::UnknownCounter => "unknown counter",
        ErrorCode::UnknownCommandTypeId => "unknown command type id",
        ErrorCode::MalformedCommand => "malformed command",
        ErrorCode::NotSupported => "not supported",
        ErrorCode::UnknownHost => "unknown host",
        ErrorCode::ResourceTemporarilyUnavailable => "resource temporarily unavailable",
        ErrorCode::StorageSpace => "insufficient storage space",
        ErrorCode::ImageRejected => "image rejected",
        ErrorCode::PublicationRevoked => "publication revoked",
        ErrorCode::GenericError | ErrorCode::Unknown | ErrorCode::Unused => "generic error, see message",
    };
    text.into()
}

impl From<UriError> for Failure {
    fn from(error: UriError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<CountersError> for Failure {
    fn from(error: CountersError) -> Self {
        Self::generic(error.to_string())
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::generic(error.to_string())
    }
}

impl From<MemoryError> for Failure {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Space { directory, required, usable } => Self::new(
                ErrorCode::StorageSpace,
                format!(
                    "insufficient usable storage for new log of length={required} usable={usable} in {}",
                    directory.display()
                ),
            ),
            MemoryError::Io { ref source, .. } => Self::of_system(source, error.to_string()),
            MemoryError::Locked { .. } => Self::generic(error.to_string()),
        }
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        match &error {
            TransportError::UnknownHost { name } => {
                Self::new(ErrorCode::UnknownHost, format!("Unable to resolve host=({name})"))
            }
            TransportError::Forced { name } => {
                Self::new(ErrorCode::UnknownHost, format!("Unable to resolve host=({name}): (forced)"))
            }
            TransportError::Open { source, .. }
            | TransportError::Connect { source, .. }
            | TransportError::Io { source, .. } => Self::of_system(source, error.to_string()),
            TransportError::Unavailable { .. } => Self::generic(error.to_string()),
        }
    }
}
