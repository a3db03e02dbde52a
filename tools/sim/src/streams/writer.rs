//! The publication of a stream: it is added, written to, closed, and added again.

use harrier_client::{Aeron, ClientError, ExclusivePublication, Publication};
use harrier_ringbuf::Rng;
use harrier_ringbuf::append::{Claim, OfferError};
use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH, align};

use super::peer::Place;
use super::plan::{Flow, Role, Way};
use super::truth::{Phase, fill};

/// Pause after an offer that was refused, ns.
const RETRY_NS: i64 = 500_000;
/// Pause while there is no subscriber, ns.
const UNCONNECTED_NS: i64 = 5_000_000;
/// Length of the longest message of a slow sender, bytes, and its mean pause, ns.
const GENTLE_LENGTH: u64 = 200;
const GENTLE_PACE_NS: u64 = 50_000_000;
/// Least time between two changes of the destinations, ns.
const MOVE_NS: u64 = 150_000_000;

/// A publication of either kind.
pub(super) enum Open {
    Exclusive(ExclusivePublication),
    Shared(Publication),
}

impl Open {
    fn session_id(&self) -> i32 {
        match self {
            Self::Exclusive(own) => own.session_id(),
            Self::Shared(own) => own.session_id(),
        }
    }

    /// Returns the id by which the driver knows it, whichever client added it first.
    fn registration_id(&self) -> i64 {
        match self {
            Self::Exclusive(own) => own.original_registration_id(),
            Self::Shared(own) => own.original_registration_id(),
        }
    }

    fn max_payload_length(&self) -> usize {
        match self {
            Self::Exclusive(own) => own.max_payload_length(),
            Self::Shared(own) => own.max_payload_length(),
        }
    }

    fn offer(&mut self, message: &[u8]) -> Result<i64, OfferError> {
        match self {
            Self::Exclusive(own) => own.offer(message),
            Self::Shared(own) => own.offer(message),
        }
    }

    fn claim(&mut self, length: usize) -> Result<Claim, OfferError> {
        match self {
            Self::Exclusive(own) => own.try_claim(length),
            Self::Shared(own) => own.try_claim(length),
        }
    }
}

/// Most claims of one publication that are never committed. Each delays the stream for the unblock timeout, one after
/// the other.
const MAX_LOST_CLAIMS: usize = 2;

enum State {
    None,
    Adding(i64),
    Open(Box<Open>),
}

/// A destination of a publication.
struct Destination {
    channel: String,
    command: Option<i64>,
    is_there: bool,
}

/// Writer of a stream.
pub(super) struct Writer {
    flow: usize,
    plan: Flow,
    state: State,
    /// Id that its channel names.
    named: Option<i64>,
    destinations: Vec<Destination>,
    next_ns: i64,
    next_move_ns: i64,
    dies_ns: i64,
    bytes: Vec<u8>,
    /// Claims that are neither committed nor aborted.
    pub(super) lost_claims: Vec<Claim>,
}

/// Returns the length of a message in a log.
fn framed_length(length: usize, max_payload: usize) -> i64 {
    let frame = |length: usize| align(length + HEADER_LENGTH, FRAME_ALIGNMENT) as i64;
    if length <= max_payload {
        return frame(length);
    }
    let (whole, rest) = (length / max_payload, length % max_payload);
    let last = if rest > 0 { frame(rest) } else { 0 };
    whole as i64 * frame(max_payload) + last
}

impl Writer {
    pub(super) fn new(flow: usize, plan: Flow) -> Self {
        Self {
            flow,
            plan,
            state: State::None,
            named: None,
            destinations: Vec::new(),
            next_ns: 0,
            next_move_ns: 0,
            dies_ns: i64::MAX,
            bytes: Vec::new(),
            lost_claims: Vec::new(),
        }
    }

    /// Returns the virtual time of its next action, ns.
    pub(super) fn next_ns(&self) -> i64 {
        self.next_ns
    }

    /// The client is gone, and its publication with it.
    pub(super) fn on_client_gone(&mut self, place: &Place) {
        if let State::Open(open) = &self.state {
            place.truth.borrow_mut().end(self.flow, open.session_id(), false);
        }
        self.state = State::None;
    }

    /// The process has died; its publication stays.
    pub(super) fn on_death(&self, place: &Place) {
        if let State::Open(open) = &self.state {
            place.truth.borrow_mut().end(self.flow, open.session_id(), false);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::None)
    }

    pub(super) fn work(&mut self, aeron: &mut Aeron, place: &Place, rng: &mut Rng) -> usize {
        match &mut self.state {
            State::None if place.phase > Phase::Calm || place.now_ns < self.next_ns => 0,
            State::None => self.add(aeron, place),
            State::Adding(id) => {
                let id = *id;
                let got = match self.plan.is_exclusive {
                    true => {
                        aeron.exclusive_publication(id).map(|publication| publication.map(Open::Exclusive))
                    }
                    false => aeron.publication(id).map(|publication| publication.map(Open::Shared)),
                };
                self.on_added(got, aeron, place, rng)
            }
            State::Open(_) => self.run(aeron, place, rng),
        }
    }

    fn add(&mut self, aeron: &mut Aeron, place: &Place) -> usize {
        self.next_ns = place.now_ns + UNCONNECTED_NS;
        let (mut channel, stream_id) = (self.plan.channel.clone(), self.plan.stream_id);
        self.named = place.truth.borrow().named(self.plan.role);
        if self.plan.role != Role::Alone {
            let Some(named) = self.named else { return 0 };
            channel += &format!("|response-correlation-id={named}");
        }
        let added = match self.plan.is_exclusive {
            true => aeron.add_exclusive_publication(&channel, stream_id),
            false => aeron.add_publication(&channel, stream_id),
        };
        if let Some(id) = place.accepted(added) {
            place.truth.borrow_mut().additions[place.host].push(place.now_ns);
            self.state = State::Adding(id);
        }
        1
    }

    fn on_added(
        &mut self,
        got: Result<Option<Open>, ClientError>,
        aeron: &mut Aeron,
        place: &Place,
        rng: &mut Rng,
    ) -> usize {
        let open = match got {
            Ok(None) => return 0,
            Ok(Some(open)) => open,
            Err(error) => {
                let has_gone = self.plan.role != Role::Alone && error.to_string().contains("orrelation");
                match has_gone {
                    true => place.hit("publication refused: what it names has gone"),
                    false => place.on_refused(&error),
                }
                self.state = State::None;
                self.next_ns = place.now_ns + 10 * UNCONNECTED_NS;
                return 1;
            }
        };
        place.truth.borrow_mut().begin(self.flow, open.session_id());
        place.hit(match self.plan.role {
            Role::Alone => "publication added",
            Role::Request { .. } => "publication of requests added",
            Role::Response { .. } => "publication of answers added",
        });
        self.destinations.clear();
        for channel in &self.plan.destinations {
            let command = place.accepted(aeron.add_destination(open.registration_id(), channel));
            self.destinations.push(Destination { channel: channel.clone(), command, is_there: true });
        }
        self.dies_ns = match self.plan.life_ns {
            0 => i64::MAX,
            life_ns => place.now_ns + (life_ns / 2 + rng.below(life_ns)) as i64,
        };
        self.next_move_ns = place.now_ns + rng.below(4 * MOVE_NS) as i64;
        self.state = State::Open(Box::new(open));
        1
    }

    fn run(&mut self, aeron: &mut Aeron, place: &Place, rng: &mut Rng) -> usize {
        let mut work_count = self.move_destinations(aeron, place, rng);
        if place.phase <= Phase::Calm && place.truth.borrow().named(self.plan.role) != self.named {
            place.hit("publication closed: what it names has gone");
            self.close(false, place, rng);
            return work_count + 1;
        }
        let is_dying = place.phase == Phase::Storm && place.now_ns >= self.dies_ns;
        if is_dying || place.phase >= Phase::Ending {
            self.close(is_dying, place, rng);
            return work_count + 1;
        }
        if place.phase <= Phase::Calm && place.now_ns >= self.next_ns {
            work_count += self.write(place, rng);
        } else if place.phase == Phase::Draining {
            self.next_ns = i64::MAX;
        }
        work_count
    }

    fn close(&mut self, is_dying: bool, place: &Place, rng: &mut Rng) {
        let State::Open(open) = std::mem::replace(&mut self.state, State::None) else { return };
        let is_revoked = is_dying && self.plan.revokes;
        place.truth.borrow_mut().end(self.flow, open.session_id(), is_revoked);
        place.hit(if is_revoked { "publication revoked" } else { "publication closed" });
        match *open {
            Open::Exclusive(own) if is_revoked => own.revoke(),
            other => drop(other),
        }
        self.next_ns = place.now_ns + rng.below(300_000_000) as i64;
    }

    /// Removes a destination for a while.
    fn move_destinations(&mut self, aeron: &mut Aeron, place: &Place, rng: &mut Rng) -> usize {
        let State::Open(open) = &self.state else { return 0 };
        let id = open.registration_id();
        let mut work_count = 0;
        for destination in &mut self.destinations {
            let Some(command) = destination.command else { continue };
            match aeron.command_done(command) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => place.on_refused(&error),
            }
            destination.command = None;
            work_count += 1;
        }
        let may_move = self.plan.way == Way::Manual && place.phase <= Phase::Calm;
        let is_due = may_move && place.now_ns >= self.next_move_ns;
        let missing = self.destinations.iter_mut().find(|one| !one.is_there && one.command.is_none());
        if let Some(destination) = missing.filter(|_| is_due || place.phase > Phase::Storm) {
            destination.is_there = true;
            destination.command = place.accepted(aeron.add_destination(id, &destination.channel));
            place.hit("destination added again");
            work_count += 1;
        } else if is_due && place.phase == Phase::Storm && !self.destinations.is_empty() {
            let index = rng.below(self.destinations.len() as u64) as usize;
            let destination = &mut self.destinations[index];
            if destination.is_there && destination.command.is_none() {
                destination.is_there = false;
                destination.command = place.accepted(aeron.remove_destination(id, &destination.channel));
                place.hit("destination removed");
                work_count += 1;
            }
        }
        if is_due {
            self.next_move_ns = place.now_ns + (MOVE_NS + rng.below(4 * MOVE_NS)) as i64;
        }
        work_count
    }

    /// Offers a few messages.
    fn write(&mut self, place: &Place, rng: &mut Rng) -> usize {
        let mut sent = 0;
        let is_gentle = place.truth.borrow().is_gentle;
        let (burst, longest, pace_ns) = match is_gentle {
            true => (1, GENTLE_LENGTH, GENTLE_PACE_NS),
            false => (self.plan.burst, self.plan.longest, self.plan.pace_ns),
        };
        for _ in 0..1 + rng.below(burst) {
            let length = rng.below(longest + 1) as usize;
            match self.put(length, place, rng) {
                Ok(()) => sent += 1,
                Err(OfferError::AdminAction) => place.hit("offer: administrative action"),
                Err(OfferError::BackPressured) => {
                    place.hit("offer: back pressure");
                    self.next_ns = place.now_ns + RETRY_NS;
                    return sent;
                }
                Err(OfferError::NotConnected) => {
                    place.hit("offer: not connected");
                    self.next_ns = place.now_ns + UNCONNECTED_NS;
                    return sent;
                }
                Err(error) => {
                    place.truth.borrow_mut().violate("offer", error.to_string());
                    self.next_ns = i64::MAX;
                    return sent;
                }
            }
        }
        self.next_ns = place.now_ns + 1 + rng.below(2 * pace_ns) as i64;
        sent
    }

    fn put(&mut self, length: usize, place: &Place, rng: &mut Rng) -> Result<(), OfferError> {
        let State::Open(open) = &mut self.state else { return Ok(()) };
        let (session_id, max_payload) = (open.session_id(), open.max_payload_length());
        let number = place.truth.borrow().next_number(session_id);
        if length <= max_payload && rng.chance(1, 10) {
            let mut claim = open.claim(length)?;
            let may_lose = self.plan.loses_claims && self.lost_claims.len() < MAX_LOST_CLAIMS;
            if may_lose && place.phase == Phase::Storm && rng.chance(1, 20) {
                place.hit("claim never committed");
                self.lost_claims.push(claim);
                return Ok(());
            }
            if rng.chance(1, 10) {
                place.hit("claim aborted");
                claim.abort();
                return Ok(());
            }
            fill(&mut self.bytes, session_id, number, length);
            claim.put(0, &self.bytes);
            let position = claim.position();
            claim.commit();
            place.truth.borrow_mut().sent(session_id, position, framed_length(length, max_payload), length);
            return Ok(());
        }
        fill(&mut self.bytes, session_id, number, length);
        let position = open.offer(&self.bytes)?;
        place.truth.borrow_mut().sent(session_id, position, framed_length(length, max_payload), length);
        Ok(())
    }
}
