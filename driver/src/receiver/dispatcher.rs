//! Which datagram is for which image, and what happens to those that are for none (spec 02 §3.2).

use std::net::SocketAddr;

use harrier_protocol::udp::{DataFrames, Frame, Rttm, Setup, flag};
use harrier_ringbuf::{IdMap, IdSet, Transport};

use super::endpoint::Outbox;
use super::image::ImageSlab;
use crate::handover::ConductorCommand;
use crate::sender::Replies;
use crate::system_counters::SystemCounters;

/// Sessions that a stream remembers without an image; more are not looked at.
const MAX_REMEMBERED: usize = 4_096;

/// What is known of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// A SETUP was asked for.
    PendingSetup { since_ns: i64 },
    /// The conductor makes an image.
    InitInProgress,
    /// Its image.
    Active(usize),
    /// Its image has gone; it may not come again yet.
    CoolDown,
    /// Nobody wants it.
    NoInterest,
    /// Its SETUP was refused once; the error is recorded.
    Refused,
}

#[derive(Debug, Default)]
struct Stream {
    wants_all: bool,
    wanted: IdSet<i32>,
    sessions: IdMap<i32, Session>,
    active: usize,
}

impl Stream {
    fn wants(&self, session_id: i32) -> bool {
        self.wants_all || self.wanted.contains(&session_id)
    }

    fn set(&mut self, session_id: i32, session: Session) {
        if self.sessions.len() >= MAX_REMEMBERED && !self.sessions.contains_key(&session_id) {
            self.sessions
                .retain(|_, session| matches!(session, Session::Active(_) | Session::InitInProgress));
            if self.sessions.len() >= MAX_REMEMBERED {
                return;
            }
        }
        let before = self.sessions.insert(session_id, session);
        let is_active = |session: &Session| matches!(session, Session::Active(_));
        self.active += usize::from(is_active(&session));
        self.active -= usize::from(before.as_ref().is_some_and(is_active));
    }

    fn remove(&mut self, session_id: i32) -> Option<Session> {
        let removed = self.sessions.remove(&session_id);
        self.active -= usize::from(matches!(removed, Some(Session::Active(_))));
        removed
    }
}

/// The streams of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    streams: IdMap<i32, Stream>,
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

    /// Drops the interest; `deactivate` gets the images that nobody wants any more.
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

    pub(crate) fn set(&mut self, stream_id: i32, session_id: i32, session: Session) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.set(session_id, session);
        }
    }

    /// Forgets what kept a session from coming; its image stays.
    pub(crate) fn forget(&mut self, stream_id: i32, session_id: i32) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        if !matches!(stream.sessions.get(&session_id), Some(Session::Active(_))) {
            stream.remove(session_id);
        }
    }

    /// An image has left its place; what its session is from now on.
    pub(crate) fn leave(&mut self, stream_id: i32, session_id: i32, index: usize, session: Option<Session>) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        if stream.sessions.get(&session_id) != Some(&Session::Active(index)) {
            return;
        }
        match session {
            Some(session) => stream.set(session_id, session),
            None => {
                stream.remove(session_id);
            }
        }
    }

    /// Lets requests for a SETUP go that nobody answered.
    pub(crate) fn expire_setups(&mut self, now_ns: i64, timeout_ns: i64) {
        for stream in self.streams.values_mut() {
            stream.sessions.retain(|_, session| {
                !matches!(session, Session::PendingSetup { since_ns } if now_ns > *since_ns + timeout_ns)
            });
        }
    }

    /// When the earliest request for a SETUP ends, ns.
    pub(crate) fn next_expiry_ns(&self) -> Option<i64> {
        self.streams
            .values()
            .flat_map(|stream| stream.sessions.values())
            .filter_map(|session| match session {
                Session::PendingSetup { since_ns } => Some(*since_ns),
                _ => None,
            })
            .min()
    }
}

/// One endpoint's datagrams on their way to the images.
pub(crate) struct Dispatch<'a, T: Transport> {
    pub(crate) endpoint_id: u64,
    pub(crate) explicit_control: Option<SocketAddr>,
    pub(crate) session_limit: usize,
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

    #[inline]
    fn on_data(&mut self, data: &DataFrames<'_>, source: SocketAddr) {
        let header = &data.first;
        let Some(stream) = self.dispatcher.streams.get_mut(&header.stream_id) else { return };
        match stream.sessions.get(&header.session_id) {
            Some(Session::Active(index)) => {
                if let Some(image) = self.images.get_mut(*index) {
                    image.on_data(data, self.system, self.now_ns);
                }
            }
            None if header.flags & flag::EOS == 0 || !data.is_heartbeat() => {
                if stream.wants(header.session_id) {
                    stream.set(header.session_id, Session::PendingSetup { since_ns: self.now_ns });
                    self.outbox.ask_for_setup(header.session_id, header.stream_id, source);
                } else {
                    stream.set(header.session_id, Session::NoInterest);
                }
            }
            _ => {}
        }
    }

    fn on_setup(&mut self, setup: &Setup, source: SocketAddr) {
        let Some(stream) = self.dispatcher.streams.get_mut(&setup.stream_id) else { return };
        match stream.sessions.get(&setup.session_id) {
            Some(Session::Active(index)) => {
                if let Some(image) = self.images.get_mut(*index) {
                    image.on_setup(self.now_ns);
                }
                return;
            }
            Some(Session::PendingSetup { .. }) => {}
            Some(_) => return,
            None if stream.wants(setup.session_id) => {}
            None => return stream.set(setup.session_id, Session::NoInterest),
        }
        if let Err(error) = setup.validate() {
            stream.set(setup.session_id, Session::Refused);
            let text = format!(
                "invalid SETUP from {source}: {error}, session={} stream={}",
                setup.session_id, setup.stream_id
            );
            self.replies.try_send(ConductorCommand::Error { text });
            return;
        }
        if stream.active >= self.session_limit {
            stream.set(setup.session_id, Session::Refused);
            let text = format!("exceeded session limit, stream-id={}", setup.stream_id);
            self.replies.try_send(ConductorCommand::Error { text });
            return;
        }
        let command = ConductorCommand::CreateImage {
            endpoint_id: self.endpoint_id,
            setup: *setup,
            source,
            control: self.explicit_control.unwrap_or(source),
        };
        if self.replies.try_send(command) {
            stream.set(setup.session_id, Session::InitInProgress);
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
            image.on_round_trip(self.now_ns - rttm.echo_timestamp_ns - rttm.reception_delta_ns);
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
        dispatcher.set(7, 1, Session::PendingSetup { since_ns: 5 });
        dispatcher.expire_setups(15, 10);
        assert_eq!(dispatcher.next_expiry_ns(), Some(5));
        dispatcher.expire_setups(16, 10);
        assert_eq!(dispatcher.next_expiry_ns(), None);
    }

    #[test]
    fn a_cool_down_is_lifted_but_no_image() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_interest(7, None);
        dispatcher.set(7, 1, Session::Active(3));
        dispatcher.forget(7, 1);
        assert_eq!(dispatcher.streams[&7].active, 1);
        dispatcher.leave(7, 1, 3, Some(Session::CoolDown));
        assert_eq!(dispatcher.streams[&7].active, 0);
        dispatcher.forget(7, 1);
        assert!(dispatcher.streams[&7].sessions.is_empty());
    }
}
