//! What a client tells its owner.

use std::net::SocketAddr;

/// Something that happened to a resource of the client; drained with [`crate::Aeron::poll_event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// A stream can be read by a subscription; its image is found there.
    AvailableImage {
        /// The subscription.
        subscription_registration_id: i64,
        /// The image.
        correlation_id: i64,
        /// Session of the stream.
        session_id: i32,
        /// Where it comes from: `address:port`, or `aeron:ipc`.
        source_identity: String,
    },
    /// A stream ended or went silent; its image is closed.
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
    /// A receiver refused the stream of a publication.
    PublicationError(Box<PublicationErrorFrame>),
    /// A channel's socket failed; `counter_id` is the channel status counter.
    ChannelError {
        /// The channel status counter.
        counter_id: i32,
        /// The driver's words.
        message: String,
    },
}

/// Content of a receiver's error frame (spec 01 §4.4 ON_PUBLICATION_ERROR).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationErrorFrame {
    /// The publication.
    pub registration_id: i64,
    /// Destination of the publication that the receiver is, -1 when it is none.
    pub destination_registration_id: i64,
    /// Its session.
    pub session_id: i32,
    /// Its stream.
    pub stream_id: i32,
    /// Receiver that sent the frame.
    pub receiver_id: i64,
    /// Group tag of the receiver, -1 when it has none.
    pub group_tag: i64,
    /// Where the frame came from.
    pub source: SocketAddr,
    /// Error code of spec 01 §4.7.
    pub error_code: i32,
    /// The receiver's words.
    pub message: String,
}
