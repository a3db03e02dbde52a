//! Commands that conductor, sender and receiver exchange through queues, and the state that they share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, Ordering, fence};

use harrier_protocol::udp::Setup;
use harrier_ringbuf::Transport;

use crate::error_notes::ErrorNote;
use crate::receiver::endpoint::ReceiveEndpoint;
use crate::receiver::image::ReceiveImage;
use crate::receiver::transport::ReceiveTransport;
use crate::sender::destinations::Destination;
use crate::sender::endpoint::SendEndpoint;
use crate::sender::publication::SendPublication;

/// Commands of the conductor to the sender.
pub(crate) enum SenderCommand<T: Transport> {
    AddEndpoint(Box<SendEndpoint<T::Socket>>),
    RemoveEndpoint {
        endpoint_id: u64,
    },
    AddPublication(Box<SendPublication>),
    RemovePublication {
        registration_id: i64,
    },
    AddDestination {
        endpoint_id: u64,
        destination: Destination,
    },
    RemoveDestination {
        endpoint_id: u64,
        address: SocketAddr,
    },
    RemoveDestinationById {
        endpoint_id: u64,
        registration_id: i64,
    },
    /// The name of a destination has a new address.
    SetDestination {
        endpoint_id: u64,
        registration_id: i64,
        address: SocketAddr,
    },
    /// A name has a new address.
    SetRemote {
        endpoint_id: u64,
        address: SocketAddr,
    },
}

/// Time from which a refused session may get an image again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedUntil {
    /// With its next SETUP.
    NextSetup,
    /// After the time-out of an unanswered SETUP, because a retry at once would most likely fail, too.
    SetupTimeout,
    /// Never, because the driver cannot serve the SETUP of the session.
    End,
}

/// Commands of the conductor to the receiver.
pub(crate) enum ReceiverCommand<T: Transport> {
    AddEndpoint(Box<ReceiveEndpoint<T::Socket>>),
    RemoveEndpoint {
        endpoint_id: u64,
    },
    /// A subscription wants all sessions of a stream, or one of them.
    AddInterest {
        endpoint_id: u64,
        stream_id: i32,
        session_id: Option<i32>,
    },
    RemoveInterest {
        endpoint_id: u64,
        stream_id: i32,
        session_id: Option<i32>,
    },
    AddImage(Box<ReceiveImage>),
    /// The conductor creates no image for this session.
    RefuseImage {
        endpoint_id: u64,
        stream_id: i32,
        session_id: i32,
        until: RefusedUntil,
    },
    /// The session of an image that has ended may get an image again.
    RemoveCoolDown {
        endpoint_id: u64,
        stream_id: i32,
        session_id: i32,
    },
    /// The receiver answers packets of this image with error frames from now on.
    RejectImage {
        correlation_id: i64,
        reason: String,
    },
    RemoveImage {
        correlation_id: i64,
    },
    /// A multi-destination subscription has another destination, whose socket is open (spec 02 §3.12).
    AddDestination {
        endpoint_id: u64,
        transport: Box<ReceiveTransport<T::Socket>>,
    },
    /// A destination is removed, and its socket is closed.
    RemoveDestination {
        endpoint_id: u64,
        registration_id: i64,
    },
    /// A session answers the image's request stream. Status messages report it to the sender until the sender has heard
    /// it (spec 02 §2.12).
    SetResponseSession {
        correlation_id: i64,
        session_id: Option<i32>,
    },
    /// The responder is asked for the SETUP of its session once more.
    RequestSetup {
        endpoint_id: u64,
        stream_id: i32,
        session_id: i32,
    },
    /// The control name of a destination has a new address; -1 stands for the endpoint's own socket.
    SetControl {
        endpoint_id: u64,
        registration_id: i64,
        address: SocketAddr,
    },
}

/// Commands of sender and receiver to the conductor.
pub(crate) enum ConductorCommand<T: Transport> {
    /// A sender announces a stream that a subscription wants.
    CreateImage {
        endpoint_id: u64,
        setup: Setup,
        source: SocketAddr,
        control: SocketAddr,
    },
    /// The receiver no longer uses the image.
    ImageReleased {
        correlation_id: i64,
    },
    /// The sender no longer uses the publication.
    PublicationReleased {
        registration_id: i64,
    },
    /// An endpoint was removed, and its socket can be closed.
    SendEndpointReleased {
        endpoint: Box<SendEndpoint<T::Socket>>,
    },
    ReceiveEndpointReleased {
        endpoint: Box<ReceiveEndpoint<T::Socket>>,
    },
    /// A receiver refuses a publication.
    PublicationError {
        registration_id: i64,
        destination_id: i64,
        receiver_id: i64,
        group_tag: i64,
        source: SocketAddr,
        code: i32,
        message: String,
    },
    /// An address has been silent for a long time, so its name may have another address now: the name of a sender's
    /// destination, or the names of an endpoint.
    ReResolve {
        endpoint_id: u64,
        destination_id: Option<i64>,
    },
    /// The receiver of a request stream reports the session that answers it (spec 02 §2.12).
    ResponseSetup {
        subscription_id: i64,
        session_id: i32,
    },
    /// The requester has heard a response publication.
    ResponseConnected {
        registration_id: i64,
    },
    /// An error for the error log.
    Error(ErrorNote),
}

/// State of a publication that conductor and sender share.
#[derive(Debug, Default)]
pub(crate) struct PublicationShared {
    /// Written by the sender: at least one receiver is alive.
    pub(crate) has_receivers: AtomicBool,
    /// Written by the sender: flow control has the receivers it asks for.
    pub(crate) has_required_receivers: AtomicBool,
    /// Written by the sender: the receiver of a unicast stream has seen its end.
    pub(crate) is_eos_acknowledged: AtomicBool,
    /// Written by the conductor: everything was published.
    pub(crate) is_end_of_stream: AtomicBool,
    /// Written by the conductor: spies that count as receivers.
    pub(crate) has_connecting_spies: AtomicBool,
    /// Written by the conductor: the furthest spy.
    pub(crate) spy_position: AtomicI64,
}

/// States of an image (spec 02 §3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ImageState {
    Init = 0,
    Active = 1,
    Draining = 2,
    Linger = 3,
    Done = 4,
}

/// State of an image that conductor and receiver share.
#[derive(Debug)]
pub(crate) struct ImageShared {
    state: AtomicU8,
    /// Monotonic ns at which the state was entered.
    pub(crate) state_since_ns: AtomicI64,
    /// Written by the receiver: all sources have ended.
    pub(crate) is_end_of_stream: AtomicBool,
    /// Written by the receiver: the last round trip measured, ns; 0 before the first.
    pub(crate) rtt_ns: AtomicI64,
    /// Written by the conductor: no frame may reach beyond this position, because further pages are not allocated.
    pub(crate) usable_position: AtomicI64,
    /// Written by the conductor: the status message that the receiver should send.
    pub(crate) status: StatusSlot,
    /// Written by the conductor: the gap that the receiver should ask for or fill.
    pub(crate) loss: LossSlot,
}

impl ImageShared {
    pub(crate) fn new() -> Self {
        Self {
            usable_position: AtomicI64::new(i64::MAX),
            state: AtomicU8::new(ImageState::Init as u8),
            state_since_ns: AtomicI64::new(0),
            is_end_of_stream: AtomicBool::new(false),
            rtt_ns: AtomicI64::new(0),
            status: StatusSlot::default(),
            loss: LossSlot::default(),
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> ImageState {
        match self.state.load(Ordering::Acquire) {
            0 => ImageState::Init,
            1 => ImageState::Active,
            2 => ImageState::Draining,
            3 => ImageState::Linger,
            _ => ImageState::Done,
        }
    }

    /// Enters a later state; an earlier one is ignored, so that both agents may drive it.
    pub(crate) fn advance(&self, state: ImageState, now_ns: i64) -> bool {
        if self.state.fetch_max(state as u8, Ordering::AcqRel) >= state as u8 {
            return false;
        }
        self.state_since_ns.store(now_ns, Ordering::Release);
        true
    }
}

/// The latest status message that the receiver should send (spec 02 §3.5). A newer one replaces one that is not read
/// yet.
#[derive(Debug, Default)]
pub(crate) struct StatusSlot {
    begin: AtomicI64,
    end: AtomicI64,
    position: AtomicI64,
    window: AtomicI32,
}

impl StatusSlot {
    pub(crate) fn offer(&self, position: i64, window: i32) {
        let change = self.begin.load(Ordering::Relaxed) + 1;
        self.begin.store(change, Ordering::Relaxed);
        fence(Ordering::Release);
        self.position.store(position, Ordering::Relaxed);
        self.window.store(window, Ordering::Relaxed);
        self.end.store(change, Ordering::Release);
    }

    /// Returns an offer that came after change `seen`: its change number, position and window.
    #[inline]
    pub(crate) fn take(&self, seen: i64) -> Option<(i64, i64, i32)> {
        let change = self.end.load(Ordering::Acquire);
        if change == seen {
            return None;
        }
        let position = self.position.load(Ordering::Relaxed);
        let window = self.window.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        (self.begin.load(Ordering::Relaxed) == change).then_some((change, position, window))
    }
}

/// A range of bytes that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MissingRange {
    pub(crate) term_id: i32,
    pub(crate) term_offset: i32,
    pub(crate) length: i32,
}

/// The latest gap that the receiver should ask for or fill; it works as [`StatusSlot`].
#[derive(Debug, Default)]
pub(crate) struct LossSlot {
    begin: AtomicI64,
    end: AtomicI64,
    term_id: AtomicI32,
    term_offset: AtomicI32,
    length: AtomicI32,
}

impl LossSlot {
    pub(crate) fn offer(&self, gap: MissingRange) {
        let change = self.begin.load(Ordering::Relaxed) + 1;
        self.begin.store(change, Ordering::Relaxed);
        fence(Ordering::Release);
        self.term_id.store(gap.term_id, Ordering::Relaxed);
        self.term_offset.store(gap.term_offset, Ordering::Relaxed);
        self.length.store(gap.length, Ordering::Relaxed);
        self.end.store(change, Ordering::Release);
    }

    /// Returns an offer that came after change `seen`, with its change number.
    #[inline]
    pub(crate) fn take(&self, seen: i64) -> Option<(i64, MissingRange)> {
        let change = self.end.load(Ordering::Acquire);
        if change == seen {
            return None;
        }
        let gap = MissingRange {
            term_id: self.term_id.load(Ordering::Relaxed),
            term_offset: self.term_offset.load(Ordering::Relaxed),
            length: self.length.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        (self.begin.load(Ordering::Relaxed) == change).then_some((change, gap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_each_offer_once_and_the_latest() {
        let slot = StatusSlot::default();
        assert_eq!(slot.take(0), None);
        slot.offer(64, 1_000);
        slot.offer(128, 2_000);
        assert_eq!(slot.take(0), Some((2, 128, 2_000)));
        assert_eq!(slot.take(2), None);
    }

    #[test]
    fn a_slot_is_never_read_torn() {
        let (status, loss) = (StatusSlot::default(), LossSlot::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 1..=50_000 {
                    status.offer(i64::from(value), value);
                    loss.offer(MissingRange { term_id: value, term_offset: value, length: value });
                }
            });
            let (mut status_seen, mut loss_seen) = (0, 0);
            while status_seen < 50_000 || loss_seen < 50_000 {
                if let Some((change, position, window)) = status.take(status_seen) {
                    assert!(change > status_seen && position == change && i64::from(window) == change);
                    status_seen = change;
                }
                if let Some((change, gap)) = loss.take(loss_seen) {
                    let value = change as i32;
                    assert_eq!(gap, MissingRange { term_id: value, term_offset: value, length: value });
                    loss_seen = change;
                }
            }
        });
    }

    #[test]
    fn an_image_never_goes_back() {
        let shared = ImageShared::new();
        assert!(shared.advance(ImageState::Draining, 5));
        assert!(!shared.advance(ImageState::Active, 6));
        assert_eq!(shared.state(), ImageState::Draining);
        assert_eq!(shared.state_since_ns.load(Ordering::Relaxed), 5);
    }
}
