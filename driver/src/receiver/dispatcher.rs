//! Passes datagrams to their images, and handles datagrams without an image (spec 02 §3.2).

use std::collections::VecDeque;
use std::net::SocketAddr;

use harrier_protocol::udp::{DataFrames, Frame, Rttm, Setup, flag};
use harrier_ringbuf::{IdMap, IdSet, Transport};

use super::endpoint::Outbox;
use super::image::{Arrival, ImageSlab};
use super::transport::MulticastGroup;
use crate::error_notes::{ErrorNote, RepeatedError, kind};
use crate::handover::{ConductorCommand, RefusedUntil};
use crate::sender::Replies;
use crate::system_counters::{SystemCounter, SystemCounters};

/// Most sessions that a stream remembers. Further sessions are ignored.
const MAX_REMEMBERED: usize = 4_096;

/// State of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// A SETUP was requested through the transports whose bits are set. One transport is not enough: its sender may not
    /// hear the request, as where a group is one of its destinations.
    PendingSetup { asked: u64 },
    /// The conductor creates an image.
    InitInProgress { transport: usize },
    /// The session has an image at this index.
    Active(usize),
    /// The image has ended, and the session may not get another one yet.
    CoolDown,
    /// No subscription wants the session.
    NoInterest,
    /// The MTU of the session does not fit the receiver window, so it gets no image.
    Refused,
    /// No image could be created. The session may try again after a while.
    Postponed,
    /// The stream had as many images as it may have. Each further SETUP tries again and is counted while it fails.
    OverLimit,
}

impl Session {
    /// True for sessions that have an image or will soon have one.
    fn has_image(self) -> bool {
        matches!(self, Self::Active(_) | Self::InitInProgress { .. })
    }
}

#[derive(Debug, Default)]
struct Stream {
    wants_all: bool,
    wanted: IdSet<i32>,
    sessions: IdMap<i32, Session>,
    /// Number of sessions that have an image or will soon have one.
    images: usize,
}

impl Stream {
    fn wants(&self, session_id: i32) -> bool {
        self.wants_all || self.wanted.contains(&session_id)
    }

    fn set(&mut self, session_id: i32, session: Session) {
        if self.sessions.len() >= MAX_REMEMBERED && !self.sessions.contains_key(&session_id) {
            self.sessions.retain(|_, session| session.has_image());
            if self.sessions.len() >= MAX_REMEMBERED {
                return;
            }
        }
        let before = self.sessions.insert(session_id, session);
        self.images += usize::from(session.has_image());
        self.images -= usize::from(before.is_some_and(Session::has_image));
    }

    fn remove(&mut self, session_id: i32) -> Option<Session> {
        let removed = self.sessions.remove(&session_id);
        if removed.is_some_and(Session::has_image) {
            self.images -= 1;
            self.sessions.retain(|_, session| *session != Session::OverLimit);
        }
        removed
    }
}

/// The streams of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    streams: IdMap<i32, Stream>,
    /// Requests for a SETUP, oldest first. Some of them may have been answered.
    pending: VecDeque<Request>,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    stream_id: i32,
    session_id: i32,
    since_ns: i64,
}

impl Dispatcher {
    pub(crate) fn has_interest(&self) -> bool {
        !self.streams.is_empty()
    }

    pub(crate) fn add_interest(&mut self, stream_id: i32, session_id: Option<i32>) {
        let stream = self.streams.entry(stream_id).or_default();
        match session_id {
            Some(id) => {
                stream.wanted.insert(id);
                if stream.sessions.get(&id) == Some(&Session::NoInterest) {
                    stream.remove(id);
                }
            }
            None => {
                stream.wants_all = true;
                stream.sessions.retain(|_, session| *session != Session::NoInterest);
            }
        }
    }

    pub(crate) fn wants(&self, stream_id: i32, session_id: i32) -> bool {
        self.streams.get(&stream_id).is_some_and(|stream| stream.wants(session_id))
    }

    /// Removes an interest. `deactivate` gets the images that no subscription wants any more.
    pub(crate) fn remove_interest(
        &mut self,
        stream_id: i32,
        session_id: Option<i32>,
        mut deactivate: impl FnMut(usize),
    ) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        match session_id {
            Some(id) => {
                stream.wanted.remove(&id);
            }
            None => stream.wants_all = false,
        }
        for (id, session) in &stream.sessions {
            if let Session::Active(index) = session
                && !stream.wants(*id)
            {
                deactivate(*index);
            }
        }
        if !stream.wants_all && stream.wanted.is_empty() {
            self.streams.remove(&stream_id);
        }
    }

    /// Transport on which the SETUP of a session came, while its image is created.
    pub(crate) fn transport_of(&self, stream_id: i32, session_id: i32) -> Option<usize> {
        match self.streams.get(&stream_id)?.sessions.get(&session_id)? {
            Session::InitInProgress { transport } => Some(*transport),
            _ => None,
        }
    }

    pub(crate) fn set(&mut self, stream_id: i32, session_id: i32, session: Session) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.set(session_id, session);
        }
    }

    /// Forgets the state of a session without an image, so that its next SETUP is considered again.
    pub(crate) fn forget(&mut self, stream_id: i32, session_id: i32) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        if !matches!(stream.sessions.get(&session_id), Some(Session::Active(_))) {
            stream.remove(session_id);
        }
    }

    /// Notes that no image is created for a session.
    pub(crate) fn refuse(&mut self, stream_id: i32, session_id: i32, until: RefusedUntil, now_ns: i64) {
        match until {
            RefusedUntil::SetupTimeout if self.pending.len() < MAX_REMEMBERED => {
                self.set(stream_id, session_id, Session::Postponed);
                self.pending.push_back(Request { stream_id, session_id, since_ns: now_ns });
            }
            RefusedUntil::NextSetup | RefusedUntil::SetupTimeout => self.forget(stream_id, session_id),
            RefusedUntil::End => self.set(stream_id, session_id, Session::Refused),
        }
    }

    /// Notes that an image has left its place, and the state of its session from now on.
    pub(crate) fn leave(&mut self, stream_id: i32, session_id: i32, index: usize, session: Option<Session>) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        if stream.sessions.get(&session_id) != Some(&Session::Active(index)) {
            return;
        }
        stream.remove(session_id);
        if let Some(session) = session {
            stream.set(session_id, session);
        }
    }

    /// Forgets requests for a SETUP that nobody answered, and sessions whose image could not be created.
    pub(crate) fn expire_setups(&mut self, now_ns: i64, timeout_ns: i64) {
        while let Some(request) = self.pending.front().copied() {
            if now_ns <= request.since_ns + timeout_ns {
                break;
            }
            self.pending.pop_front();
            if let Some(stream) = self.streams.get_mut(&request.stream_id)
                && let Some(Session::PendingSetup { .. } | Session::Postponed) =
                    stream.sessions.get(&request.session_id)
            {
                stream.remove(request.session_id);
            }
        }
    }

    /// Time of the oldest request for a SETUP, ns.
    pub(crate) fn next_expiry_ns(&self) -> Option<i64> {
        self.pending.front().map(|request| request.since_ns)
    }
}

/// Refused SETUPs, counted until the conductor is told.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// True when there may be something to report.
    is_waiting: bool,
    invalid_setup: RepeatedError,
    session_limit: RepeatedError,
}

impl Refusals {
    /// Reports refusals to the conductor when they are due.
    #[inline]
    pub(crate) fn report<T: Transport>(&mut self, replies: &mut Replies<T>, now_ns: i64) {
        if self.is_waiting {
            self.report_waiting(replies, now_ns);
        }
    }

    #[cold]
    fn report_waiting<T: Transport>(&mut self, replies: &mut Replies<T>, now_ns: i64) {
        replies.report(&mut self.invalid_setup, now_ns);
        replies.report(&mut self.session_limit, now_ns);
        self.is_waiting = self.invalid_setup.is_noted() || self.session_limit.is_noted();
    }
}

/// The bit of a transport. Transports beyond the last bit share it.
fn bit_of(transport: usize) -> u64 {
    1 << transport.min(63)
}

/// Passes one endpoint's datagrams to the images.
pub(crate) struct Dispatch<'a, T: Transport> {
    pub(crate) endpoint_id: u64,
    /// Index of the transport that was read; below, its multicast group and the number of transports.
    pub(crate) transport: usize,
    pub(crate) group: Option<MulticastGroup>,
    pub(crate) transports: usize,
    pub(crate) session_limit: usize,
    pub(crate) refusals: &'a mut Refusals,
    pub(crate) dispatcher: &'a mut Dispatcher,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) images: &'a mut ImageSlab,
    pub(crate) replies: &'a mut Replies<T>,
    pub(crate) system: &'a SystemCounters,
    pub(crate) now_ns: i64,
}

impl<T: Transport> Dispatch<'_, T> {
    #[inline]
    pub(crate) fn on_frame(&mut self, frame: &Frame<'_>, source: SocketAddr) {
        self.outbox.has_heard = true;
        match frame {
            Frame::Data(data) => self.on_data(data, source),
            Frame::Setup(setup) => self.on_setup(setup, source),
            Frame::Rttm(rttm) => self.on_round_trip(rttm, source),
            _ => {}
        }
    }

    /// Control frames go to the multicast group, else to the source of the stream (spec 02 §3.1).
    #[inline]
    fn arrival(&self, source: SocketAddr) -> Arrival {
        let address = self.group.map_or(source, |group| group.control);
        Arrival { transport: self.transport, address, transports: self.transports }
    }

    #[inline]
    fn on_data(&mut self, data: &DataFrames<'_>, source: SocketAddr) {
        let header = &data.first;
        let arrival = self.arrival(source);
        let Some(stream) = self.dispatcher.streams.get_mut(&header.stream_id) else { return };
        match stream.sessions.get_mut(&header.session_id) {
            Some(Session::Active(index)) => {
                if let Some(image) = self.images.get_mut(*index) {
                    image.on_data(data, arrival, self.system, self.now_ns);
                }
            }
            Some(Session::PendingSetup { asked })
                if header.flags & flag::EOS == 0 && *asked & bit_of(self.transport) == 0 =>
            {
                *asked |= bit_of(self.transport);
                self.outbox.ask_for_setup(header.session_id, header.stream_id, arrival.address);
            }
            None if header.flags & flag::EOS == 0 => {
                let (stream_id, session_id) = (header.stream_id, header.session_id);
                if !stream.wants(session_id) {
                    return stream.set(session_id, Session::NoInterest);
                }
                // While this many requests wait, no other session is asked. The next datagram of the session tries
                // again.
                if self.dispatcher.pending.len() < MAX_REMEMBERED {
                    stream.set(session_id, Session::PendingSetup { asked: bit_of(self.transport) });
                    let since_ns = self.now_ns;
                    self.dispatcher.pending.push_back(Request { stream_id, session_id, since_ns });
                    self.outbox.ask_for_setup(session_id, stream_id, arrival.address);
                }
            }
            _ => {}
        }
    }

    fn on_setup(&mut self, setup: &Setup, source: SocketAddr) {
        let arrival = self.arrival(source);
        let Some(stream) = self.dispatcher.streams.get_mut(&setup.stream_id) else { return };
        match stream.sessions.get(&setup.session_id) {
            Some(Session::Active(index)) => {
                if let Some(image) = self.images.get_mut(*index) {
                    image.on_setup(arrival, self.now_ns);
                }
                return;
            }
            Some(Session::PendingSetup { .. } | Session::OverLimit) => {}
            Some(_) => return,
            None if stream.wants(setup.session_id) => {}
            None => return stream.set(setup.session_id, Session::NoInterest),
        }
        if let Err(error) = setup.validate() {
            // The session is not remembered as refused: its real SETUP may follow a forged one.
            self.refusals.is_waiting = true;
            return self.refusals.invalid_setup.note(|| {
                let text = format!(
                    "invalid SETUP from {source}: {error}, session={} stream={}",
                    setup.session_id, setup.stream_id
                );
                ErrorNote::new(kind::INVALID_SETUP, text)
            });
        }
        if stream.images >= self.session_limit.min(MAX_REMEMBERED) {
            stream.set(setup.session_id, Session::OverLimit);
            let limit = self.session_limit;
            self.refusals.is_waiting = true;
            return self.refusals.session_limit.note(|| {
                let text = format!(
                    "exceeded session limit, stream-id={} session-id={} from {source}: \
                     raise aeron.driver.stream.session.limit={limit}",
                    setup.stream_id, setup.session_id
                );
                ErrorNote::new(kind::SESSION_LIMIT, text)
            });
        }
        let command = ConductorCommand::CreateImage {
            endpoint_id: self.endpoint_id,
            setup: *setup,
            source,
            control: arrival.address,
        };
        if self.replies.try_send(command) {
            if self.group.is_some_and(|group| group.ttl < setup.ttl) {
                self.system.get(SystemCounter::PossibleTtlAsymmetry).increment();
            }
            stream.set(setup.session_id, Session::InitInProgress { transport: self.transport });
        }
    }

    fn on_round_trip(&mut self, rttm: &Rttm, source: SocketAddr) {
        let Some(stream) = self.dispatcher.streams.get(&rttm.stream_id) else { return };
        let Some(Session::Active(index)) = stream.sessions.get(&rttm.session_id) else { return };
        let is_ours = rttm.receiver_id == 0 || rttm.receiver_id == self.outbox.receiver_id;
        let Some(image) = self.images.get_mut(*index) else { return };
        if !is_ours {
            return;
        }
        if rttm.flags & flag::RTTM_REPLY != 0 {
            self.outbox.reply_round_trip(*rttm, source);
        } else {
            image.on_round_trip(rttm, self.now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interest_comes_and_goes_by_session() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_interest(7, Some(1));
        dispatcher.set(7, 2, Session::NoInterest);
        dispatcher.add_interest(7, None);
        assert_eq!(dispatcher.streams[&7].sessions.get(&2), None);
        dispatcher.set(7, 1, Session::Active(0));
        dispatcher.set(7, 2, Session::Active(1));
        let mut gone = Vec::new();
        dispatcher.remove_interest(7, None, |index| gone.push(index));
        assert_eq!(gone, [1]);
        dispatcher.remove_interest(7, Some(1), |index| gone.push(index));
        assert!(gone.contains(&0));
        assert!(!dispatcher.has_interest());
    }

    #[test]
    fn an_unanswered_request_expires() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_interest(7, None);
        dispatcher.set(7, 1, Session::PendingSetup { asked: 1 });
        dispatcher.pending.push_back(Request { stream_id: 7, session_id: 1, since_ns: 5 });
        dispatcher.expire_setups(15, 10);
        assert_eq!(dispatcher.next_expiry_ns(), Some(5));
        dispatcher.expire_setups(16, 10);
        assert_eq!(dispatcher.next_expiry_ns(), None);
        assert!(dispatcher.streams[&7].sessions.is_empty());
    }

    #[test]
    fn a_refused_session_comes_again_as_the_refusal_says() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_interest(7, None);
        let session = |dispatcher: &Dispatcher, id| dispatcher.streams[&7].sessions.get(&id).copied();
        for (id, until, expected) in [
            (1, RefusedUntil::NextSetup, None),
            (2, RefusedUntil::SetupTimeout, Some(Session::Postponed)),
            (3, RefusedUntil::End, Some(Session::Refused)),
        ] {
            dispatcher.set(7, id, Session::InitInProgress { transport: 0 });
            dispatcher.refuse(7, id, until, 5);
            assert_eq!((session(&dispatcher, id), dispatcher.streams[&7].images), (expected, 0));
        }
        dispatcher.expire_setups(15, 10);
        assert_eq!(session(&dispatcher, 2), Some(Session::Postponed));
        dispatcher.expire_setups(16, 10);
        assert_eq!((session(&dispatcher, 2), session(&dispatcher, 3)), (None, Some(Session::Refused)));
    }

    #[test]
    fn a_session_over_the_limit_may_come_when_another_has_gone() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_interest(7, None);
        dispatcher.set(7, 1, Session::Active(0));
        dispatcher.set(7, 2, Session::OverLimit);
        dispatcher.leave(7, 1, 0, Some(Session::CoolDown));
        assert_eq!(dispatcher.streams[&7].sessions.get(&2), None);
        assert_eq!(dispatcher.streams[&7].sessions.get(&1), Some(&Session::CoolDown));
    }

    #[test]
    fn a_cool_down_is_lifted_but_no_image() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_interest(7, None);
        dispatcher.set(7, 1, Session::Active(3));
        dispatcher.forget(7, 1);
        assert_eq!(dispatcher.streams[&7].images, 1);
        dispatcher.leave(7, 1, 3, Some(Session::CoolDown));
        assert_eq!(dispatcher.streams[&7].images, 0);
        dispatcher.forget(7, 1);
        assert!(dispatcher.streams[&7].sessions.is_empty());
    }
}
