//! Events that a client reports to its owner.

use std::net::SocketAddr;

/// Something that happened to a resource of the client; drained with [`crate::Aeron::poll_event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// A subscription can read a stream; its image is in the subscription.
    AvailableImage {
        /// The subscription.
        subscription_registration_id: i64,
        /// The image.
        correlation_id: i64,
        /// Session of the stream.
        session_id: i32,
        /// Source of the stream: `address:port`, or `aeron:ipc`.
        source_identity: String,
    },
    /// A stream has ended or become silent; its image is closed.
    UnavailableImage {
        /// The subscription.
        subscription_registration_id: i64,
        /// The image.
        correlation_id: i64,
        /// Session of the stream.
        session_id: i32,
    },
    /// A counter was added by any client of the driver.
    AvailableCounter {
        /// Registration id of the counter.
        registration_id: i64,
        /// Its id.
        counter_id: i32,
    },
    /// A counter was removed.
    UnavailableCounter {
        /// Registration id of the counter.
        registration_id: i64,
        /// Its id.
        counter_id: i32,
    },
    /// A receiver has rejected the stream of a publication.
    PublicationError(Box<PublicationErrorFrame>),
    /// The socket of a channel has failed; `counter_id` is the channel status counter.
    ChannelError {
        /// The channel status counter.
        counter_id: i32,
        /// Text of the driver.
        message: String,
    },
}

/// Content of a receiver's error frame (spec 01 §4.4 ON_PUBLICATION_ERROR).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationErrorFrame {
    /// The publication.
    pub registration_id: i64,
    /// Destination of the publication that leads to the receiver; -1 for none.
    pub destination_registration_id: i64,
    /// Session of the publication.
    pub session_id: i32,
    /// Stream of the publication.
    pub stream_id: i32,
    /// Receiver that sent the frame.
    pub receiver_id: i64,
    /// Group tag of the receiver; -1 for none.
    pub group_tag: i64,
    /// Address of the receiver.
    pub source: SocketAddr,
    /// Error code of spec 01 §4.7.
    pub error_code: i32,
    /// Text of the receiver.
    pub message: String,
}
