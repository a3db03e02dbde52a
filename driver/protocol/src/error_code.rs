//! Error codes of the driver's replies and of network error frames.

/// Why a command failed or an image was rejected (spec 01 §4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// A value that this version does not know.
    Unknown,
    /// Never sent.
    Unused,
    /// The channel URI is malformed or not allowed here.
    InvalidChannel,
    /// No such subscription.
    UnknownSubscription,
    /// No such publication.
    UnknownPublication,
    /// A channel endpoint failed; the correlation id is a channel status counter id.
    ChannelEndpointError,
    /// No such counter.
    UnknownCounter,
    /// No such command.
    UnknownCommandTypeId,
    /// A command too short or with fields outside its body.
    MalformedCommand,
    /// Known, but not supported by this driver.
    NotSupported,
    /// A name could not be resolved.
    UnknownHost,
    /// A resource is in use for the moment; try again.
    ResourceTemporarilyUnavailable,
    /// Everything else.
    GenericError,
    /// The file system is full.
    StorageSpace,
    /// A receiver rejected the image.
    ImageRejected,
    /// The publication was revoked.
    PublicationRevoked,
}

/// Codes in the order of their values 0 to 14.
const BY_VALUE: [ErrorCode; 15] = [
    ErrorCode::Unused,
    ErrorCode::InvalidChannel,
    ErrorCode::UnknownSubscription,
    ErrorCode::UnknownPublication,
    ErrorCode::ChannelEndpointError,
    ErrorCode::UnknownCounter,
    ErrorCode::UnknownCommandTypeId,
    ErrorCode::MalformedCommand,
    ErrorCode::NotSupported,
    ErrorCode::UnknownHost,
    ErrorCode::ResourceTemporarilyUnavailable,
    ErrorCode::GenericError,
    ErrorCode::StorageSpace,
    ErrorCode::ImageRejected,
    ErrorCode::PublicationRevoked,
];

impl ErrorCode {
    /// The code of a value; [`ErrorCode::Unknown`] for values of newer peers.
    pub fn from_value(value: i32) -> Self {
        usize::try_from(value).ok().and_then(|index| BY_VALUE.get(index)).copied().unwrap_or(Self::Unknown)
    }

    /// The value on the wire.
    pub fn value(self) -> i32 {
        BY_VALUE.iter().position(|code| *code == self).map_or(-1, |index| index as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn values_are_those_of_the_protocol() {
        assert_eq!(ErrorCode::InvalidChannel.value(), 1);
        assert_eq!(ErrorCode::GenericError.value(), 11);
        assert_eq!(ErrorCode::PublicationRevoked.value(), 14);
        assert_eq!(ErrorCode::Unknown.value(), -1);
        for value in -3..20 {
            let expected = if (0..15).contains(&value) { value } else { -1 };
            assert_eq!(ErrorCode::from_value(value).value(), expected);
        }
    }
}
