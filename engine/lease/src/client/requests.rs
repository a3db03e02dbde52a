//! Requests under way, with their messages and answers. This module knows neither streams nor clocks.

use std::collections::VecDeque;

use crate::claimer::{ProcessIdentity, RequestId};
use crate::client::listing::Listing;
use crate::codec::{Answer, AnswerCode, Event, MAX_MESSAGE_LENGTH, Request};
use crate::errors::Unanswered;

/// Bits of a correlation id that name the request's place.
const PLACE_BITS: u32 = 20;
/// Requests at most.
pub(crate) const MAX_REQUESTS: usize = 1 << PLACE_BITS;
/// Time between looks at deadlines, ns.
const TICK_NS: i64 = 5_000_000;

/// Outcome of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Sent,
    /// The session takes no more messages now.
    Later,
}

/// Treatment of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Each attempt has its own correlation id. Only a refusal of the last attempt proves that the unit does not lead,
    /// because an earlier attempt may still be on its way (spec 05 L2).
    Claim,
    /// The answer to any attempt ends the request.
    Once,
    /// A wait for release. It is registered again with every leader and after [`Pace::rewait_ns`].
    Wait,
    /// A request without an answer.
    CancelWait,
    /// Leases are requested page after page.
    List,
    /// Pins are requested page after page.
    Pinned,
}

/// Outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    Answer {
        code: AnswerCode,
        token: u64,
        limit: i64,
    },
    /// Another process holds the unit.
    UnitHeld {
        holder: ProcessIdentity,
        claimed: i64,
    },
    Over,
    Listed,
    Unanswered(Unanswered),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Free,
    ToSend,
    Sent,
    /// The service has the wait.
    Waiting,
    Done(Done),
}

struct Pending {
    id: i64,
    correlation_id: i64,
    kind: Kind,
    state: State,
    is_queued: bool,
    started_ns: i64,
    /// Longest time without an answer. For a wait, longest time without a sign of the service.
    timeout_ns: i64,
    deadline_ns: i64,
    /// Time of the last attempt.
    sent_ns: i64,
    was_sent: bool,
    listing: Option<Box<Listing>>,
    length: usize,
    message: [u8; MAX_MESSAGE_LENGTH],
}

impl Pending {
    fn is_open(&self) -> bool {
        matches!(self.state, State::ToSend | State::Sent | State::Waiting)
    }
}

/// Times of requests, ns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Time after which an unanswered request is sent again.
    pub(crate) resend_ns: i64,
    /// Time after which a wait is registered again, in case its wake-up was lost.
    pub(crate) rewait_ns: i64,
}

/// All requests of a client.
pub(crate) struct Requests {
    pending: Box<[Pending]>,
    free: Vec<u32>,
    queue: VecDeque<u32>,
    next_attempt: i64,
    pace: Pace,
    next_tick_ns: i64,
    open_count: usize,
}

impl Requests {
    pub(crate) fn new(limit: usize, pace: Pace) -> Self {
        let none = || Pending {
            id: -1,
            correlation_id: -1,
            kind: Kind::Once,
            state: State::Free,
            is_queued: false,
            started_ns: 0,
            timeout_ns: 0,
            deadline_ns: 0,
            sent_ns: 0,
            was_sent: false,
            listing: None,
            length: 0,
            message: [0; MAX_MESSAGE_LENGTH],
        };
        Self {
            pending: (0..limit).map(|_| none()).collect(),
            free: (0..limit as u32).rev().collect(),
            queue: VecDeque::with_capacity(limit),
            next_attempt: 1,
            pace,
            next_tick_ns: i64::MIN,
            open_count: 0,
        }
    }

    /// True while an answer is awaited.
    pub(crate) fn is_busy(&self) -> bool {
        self.open_count > 0
    }

    fn next_correlation_id(&mut self, place: usize) -> i64 {
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        attempt << PLACE_BITS | place as i64
    }

    /// Begins a request.
    pub(crate) fn begin(
        &mut self,
        kind: Kind,
        request: &Request<'_>,
        now_ns: i64,
        timeout_ns: i64,
    ) -> Result<RequestId, Unanswered> {
        let limit = self.pending.len();
        let Some(place) = self.free.pop() else { return Err(Unanswered::TooManyRequests { limit }) };
        let place = place as usize;
        let correlation_id = self.next_correlation_id(place);
        let entry = &mut self.pending[place];
        let length = match request.encode(&mut entry.message) {
            Ok(length) => length,
            Err(error) => {
                self.free.push(place as u32);
                return Err(Unanswered::Refused(error.to_string()));
            }
        };
        Request::set_correlation_id(&mut entry.message, correlation_id);
        (entry.id, entry.correlation_id, entry.kind, entry.length) =
            (correlation_id, correlation_id, kind, length);
        (entry.started_ns, entry.timeout_ns) = (now_ns, timeout_ns);
        entry.deadline_ns = now_ns.saturating_add(timeout_ns);
        (entry.state, entry.was_sent) = (State::ToSend, false);
        entry.listing = matches!(kind, Kind::List | Kind::Pinned).then(Box::default);
        self.open_count += 1;
        self.enqueue(place);
        Ok(RequestId(correlation_id))
    }

    fn enqueue(&mut self, place: usize) {
        let entry = &mut self.pending[place];
        if !entry.is_queued {
            entry.is_queued = true;
            self.queue.push_back(place as u32);
        }
    }

    /// Resends an unanswered request.
    fn requeue(&mut self, place: usize) {
        if self.pending[place].kind == Kind::Claim {
            let correlation_id = self.next_correlation_id(place);
            let entry = &mut self.pending[place];
            entry.correlation_id = correlation_id;
            Request::set_correlation_id(&mut entry.message, correlation_id);
        }
        self.pending[place].state = State::ToSend;
        self.enqueue(place);
    }

    /// Handles a new leader or a new session: the old leader's answers may be lost.
    pub(crate) fn on_new_leader(&mut self) {
        for place in 0..self.pending.len() {
            if matches!(self.pending[place].state, State::Sent | State::Waiting) {
                self.requeue(place);
            }
        }
    }

    /// Sends queued requests. Returns the work done.
    pub(crate) fn send(&mut self, now_ns: i64, offer: &mut impl FnMut(&[u8]) -> Offered) -> usize {
        let mut work_count = 0;
        while let Some(place) = self.queue.front().copied() {
            let entry = &mut self.pending[place as usize];
            if entry.state == State::ToSend {
                if offer(&entry.message[..entry.length]) == Offered::Later {
                    break;
                }
                work_count += 1;
                entry.state = State::Sent;
                (entry.sent_ns, entry.was_sent) = (now_ns, true);
                if entry.kind == Kind::CancelWait {
                    self.release(place as usize);
                }
            }
            self.queue.pop_front();
            self.pending[place as usize].is_queued = false;
        }
        work_count
    }

    fn release(&mut self, place: usize) {
        let entry = &mut self.pending[place];
        self.open_count -= usize::from(entry.is_open());
        entry.state = State::Free;
        (entry.id, entry.correlation_id, entry.listing) = (-1, -1, None);
        self.free.push(place as u32);
    }

    fn finish(&mut self, place: usize, done: Done) {
        self.open_count -= usize::from(self.pending[place].is_open());
        self.pending[place].state = State::Done(done);
    }

    /// Takes an event of the service.
    pub(crate) fn on_event(&mut self, event: &Event<'_>, now_ns: i64) {
        let correlation_id = event.correlation_id();
        let place = (correlation_id & (MAX_REQUESTS as i64 - 1)) as usize;
        let Some(entry) = self.pending.get_mut(place) else { return };
        if entry.correlation_id != correlation_id || !entry.is_open() {
            return;
        }
        match (event, entry.kind) {
            (Event::Answer(answer), Kind::Wait) if answer.code == AnswerCode::Waiting => {
                // The next registration names the same tenure, so it does not miss a release in between (spec 05 L7).
                Request::set_token(&mut entry.message, answer.token);
                entry.state = State::Waiting;
                // The service is there. It must answer the next registration within the time-out.
                let next_ns = entry.sent_ns.saturating_add(self.pace.rewait_ns).max(now_ns);
                entry.deadline_ns = next_ns.saturating_add(entry.timeout_ns);
            }
            (Event::Answer(answer), _) => {
                let done = done_of(answer);
                self.finish(place, done);
            }
            (Event::Released { .. }, Kind::Wait) => self.finish(place, Done::Over),
            (Event::Leases { time, time_unit, entries, next_cursor, .. }, Kind::List) => {
                if let Some(listing) = &mut entry.listing {
                    listing.add_leases(*time, *time_unit, entries.clone());
                }
                self.next_page(place, *next_cursor);
            }
            (Event::Pins { entries, next_cursor, .. }, Kind::Pinned) => {
                if let Some(listing) = &mut entry.listing {
                    listing.add_pins(entries.clone());
                }
                self.next_page(place, *next_cursor);
            }
            _ => {}
        }
    }

    fn next_page(&mut self, place: usize, cursor: i32) {
        if cursor < 0 {
            return self.finish(place, Done::Listed);
        }
        let correlation_id = self.next_correlation_id(place);
        let entry = &mut self.pending[place];
        let request = if entry.kind == Kind::List {
            Request::List { correlation_id, cursor }
        } else {
            Request::Pinned { correlation_id, cursor }
        };
        entry.correlation_id = correlation_id;
        entry.length = request.encode(&mut entry.message).unwrap_or(entry.length);
        entry.state = State::ToSend;
        self.enqueue(place);
    }

    /// Ends requests that are out of time and sends unanswered ones again. `reason` says why there is no session.
    pub(crate) fn tick(&mut self, now_ns: i64, reason: &str) {
        if now_ns < self.next_tick_ns || self.open_count == 0 {
            return;
        }
        self.next_tick_ns = now_ns + TICK_NS;
        for place in 0..self.pending.len() {
            let entry = &self.pending[place];
            let is_silent_for = |time_ns: i64| now_ns >= entry.sent_ns.saturating_add(time_ns);
            let is_resend_due = match entry.state {
                State::ToSend => false,
                State::Sent => is_silent_for(self.pace.resend_ns),
                State::Waiting => is_silent_for(self.pace.rewait_ns),
                State::Free | State::Done(_) => continue,
            };
            if now_ns > entry.deadline_ns {
                self.time_out(place, reason);
            } else if is_resend_due {
                self.requeue(place);
            }
        }
    }

    fn time_out(&mut self, place: usize, reason: &str) {
        let entry = &self.pending[place];
        let timeout_ns = entry.timeout_ns;
        if entry.kind == Kind::CancelWait {
            return self.release(place);
        }
        let unanswered = if entry.state == State::ToSend {
            Unanswered::NotConnected { timeout_ns, reason: reason.to_owned() }
        } else {
            Unanswered::TimedOut { timeout_ns }
        };
        self.finish(place, Done::Unanswered(unanswered));
    }

    /// Fails all requests, because none will be answered.
    pub(crate) fn close(&mut self) {
        for place in 0..self.pending.len() {
            if self.pending[place].is_open() {
                self.finish(place, Done::Unanswered(Unanswered::Closed));
            }
        }
    }

    fn place_of(&self, id: RequestId) -> Option<usize> {
        let place = (id.0 & (MAX_REQUESTS as i64 - 1)) as usize;
        (id.0 >= 0 && self.pending.get(place)?.id == id.0).then_some(place)
    }

    /// Message, moment of the call and how the request ended, once it has; it is gone then.
    pub(crate) fn take<V>(
        &mut self,
        id: RequestId,
        read: impl FnOnce(&[u8], i64, Done, Option<Box<Listing>>) -> V,
    ) -> Option<V> {
        let place = self.place_of(id)?;
        let entry = &mut self.pending[place];
        let State::Done(done) = &entry.state else { return None };
        let (done, listing) = (done.clone(), entry.listing.take());
        let value = read(&entry.message[..entry.length], entry.started_ns, done, listing);
        self.release(place);
        Some(value)
    }

    /// Forgets a request. A wait that the service may have is cancelled there too.
    pub(crate) fn cancel(&mut self, id: RequestId, now_ns: i64, timeout_ns: i64) {
        let Some(place) = self.place_of(id) else { return };
        let entry = &mut self.pending[place];
        // A wait that was sent once may be registered, also while it is to be sent again.
        let may_be_registered = entry.kind == Kind::Wait && entry.is_open() && entry.was_sent;
        if !may_be_registered {
            return self.release(place);
        }
        let request = Request::CancelWait { correlation_id: entry.correlation_id };
        entry.length = request.encode(&mut entry.message).unwrap_or(entry.length);
        entry.kind = Kind::CancelWait;
        entry.id = -1;
        entry.deadline_ns = now_ns.saturating_add(timeout_ns);
        entry.state = State::ToSend;
        self.enqueue(place);
    }
}

fn done_of(answer: &Answer<'_>) -> Done {
    match answer.code {
        AnswerCode::Invalid => Done::Unanswered(Unanswered::Refused(answer.detail.to_owned())),
        AnswerCode::UnitHeld => Done::UnitHeld { holder: answer.holder.into(), claimed: answer.claimed },
        code => Done::Answer { code, token: answer.token, limit: answer.limit },
    }
}
