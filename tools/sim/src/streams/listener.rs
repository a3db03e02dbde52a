//! The subscription of a stream: it is added, polled, closed, and added again.

use std::collections::BTreeMap;

use harrier_client::{Aeron, ClientError, Subscription};
use harrier_ringbuf::Rng;

use super::peer::Place;
use super::plan::{ListenerPlan, Role, Way};
use super::truth::{Phase, Reading};

/// Pause before a subscription is added again, ns.
const AGAIN_NS: u64 = 200_000_000;
/// Least time between two refusals of an image, ns.
const REJECT_NS: u64 = 400_000_000;
/// Pause before a source that was refused is added again, ns.
const SOURCE_NS: i64 = 50_000_000;
/// Fragment limit of a poll when there are no more faults.
const CALM_LIMIT: usize = 32;

/// A source of a subscription.
struct Source {
    channel: String,
    command: Option<i64>,
    next_ns: i64,
    is_there: bool,
}

enum State {
    None,
    Adding(i64),
    Open(Subscription),
}

/// Reader of a stream.
pub(super) struct Listener {
    id: (usize, usize),
    stream_id: i32,
    plan: ListenerPlan,
    state: State,
    commands: Vec<i64>,
    sources: Vec<Source>,
    readings: Vec<Reading>,
    /// Positions at which the images of sessions were left.
    left: BTreeMap<i32, i64>,
    next_ns: i64,
    next_reject_ns: i64,
    dies_ns: i64,
    bytes: Vec<u8>,
}

impl Listener {
    pub(super) fn new(id: (usize, usize), stream_id: i32, plan: ListenerPlan) -> Self {
        Self {
            id,
            stream_id,
            plan,
            state: State::None,
            commands: Vec::new(),
            sources: Vec::new(),
            readings: Vec::new(),
            left: BTreeMap::new(),
            next_ns: 0,
            next_reject_ns: 0,
            dies_ns: i64::MAX,
            bytes: Vec::new(),
        }
    }

    /// Returns the virtual time of its next action, ns.
    pub(super) fn next_ns(&self, phase: Phase) -> i64 {
        match self.state {
            State::None => self.next_ns,
            State::Open(_) if phase == Phase::Storm && self.plan.pause_ns > 0 => self.next_ns,
            _ => i64::MAX,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::None)
    }

    /// The process has died; its subscription stays. Nobody sees what happens to its images: an image that is lost
    /// before the subscription comes again may stay away when streams do not rejoin.
    pub(super) fn on_death(&self, place: &Place) {
        place.truth.borrow_mut().progress.entry(self.id).or_default().has_lost_image = true;
    }

    /// The client is gone, and its subscription with it.
    pub(super) fn on_client_gone(&mut self, place: &Place) {
        self.forget_images(place);
        self.state = State::None;
    }

    fn forget_images(&mut self, place: &Place) {
        self.readings.clear();
        self.left.clear();
        self.commands.clear();
        self.sources.clear();
        let mut truth = place.truth.borrow_mut();
        truth.progress.entry(self.id).or_default().has_image = false;
        // A listener whose subscription comes again may find that the stream has outrun its image and that the image
        // does not come again.
        truth.progress.entry(self.id).or_default().has_lost_image |= self.plan.may_be_outrun;
        truth.known.remove(&self.id.0);
    }

    /// An image of one of the client's subscriptions is gone.
    pub(super) fn on_unavailable(&mut self, registration_id: i64, correlation_id: i64, place: &Place) {
        let State::Open(own) = &self.state else { return };
        if own.registration_id() != registration_id {
            return;
        }
        let is_gone = |reading: &Reading| reading.correlation_id == correlation_id;
        if let Some(index) = self.readings.iter().position(is_gone) {
            let reading = self.readings.remove(index);
            let mut truth = place.truth.borrow_mut();
            let is_present = truth.present.get(&self.id.0) == Some(&reading.session_id);
            if is_present {
                place.hit(match (self.plan.is_spy, self.plan.is_tethered) {
                    (_, false) => "untethered reader was left behind, or lost its image",
                    (true, true) => "spy lost its image",
                    (false, true) => "image lost although its stream goes on",
                });
            }
            let progress = truth.progress.entry(self.id).or_default();
            progress.has_lost_image |= is_present;
            progress.has_image = !self.readings.is_empty();
            if truth.known.get(&self.id.0) == Some(&correlation_id) {
                // It is an earlier image that appeared again for a moment, or one that stayed.
                match self.readings.last() {
                    Some(other) => truth.known.insert(self.id.0, other.correlation_id),
                    None => truth.known.remove(&self.id.0),
                };
            }
        }
    }

    pub(super) fn work(&mut self, aeron: &mut Aeron, place: &Place, rng: &mut Rng) -> usize {
        match &mut self.state {
            State::None if place.phase >= Phase::Ending || place.now_ns < self.next_ns => 0,
            State::None => {
                self.next_ns = place.now_ns + 10_000_000;
                if let Some(id) = place.accepted(aeron.add_subscription(&self.plan.channel, self.stream_id)) {
                    self.state = State::Adding(id);
                }
                1
            }
            State::Adding(id) => {
                let got = aeron.subscription(*id);
                self.on_added(got, place, rng)
            }
            State::Open(_) => self.run(aeron, place, rng),
        }
    }

    fn on_added(
        &mut self,
        got: Result<Option<Subscription>, ClientError>,
        place: &Place,
        rng: &mut Rng,
    ) -> usize {
        let own = match got {
            Ok(None) => return 0,
            Ok(Some(own)) => own,
            Err(error) => {
                place.on_refused(&error);
                self.state = State::None;
                self.next_ns = place.now_ns + 50_000_000;
                return 1;
            }
        };
        place.hit(if self.plan.is_spy { "spy added" } else { "subscription added" });
        if matches!(place.truth.borrow().flows[self.id.0].role, Role::Response { .. }) {
            place.truth.borrow_mut().known.insert(self.id.0, own.registration_id());
        }
        self.sources.clear();
        for source in &self.plan.sources {
            self.sources.push(Source { channel: source.clone(), command: None, next_ns: 0, is_there: false });
        }
        self.dies_ns = match self.plan.life_ns {
            0 => i64::MAX,
            life_ns => place.now_ns + (life_ns / 2 + rng.below(life_ns)) as i64,
        };
        self.next_reject_ns = place.now_ns + (REJECT_NS + rng.below(4 * REJECT_NS)) as i64;
        self.state = State::Open(own);
        1
    }

    fn run(&mut self, aeron: &mut Aeron, place: &Place, rng: &mut Rng) -> usize {
        let mut work_count = self.add_sources(aeron, place);
        self.commands.retain(|command| match aeron.command_done(*command) {
            Ok(is_done) => !is_done,
            Err(error) => {
                place.on_refused(&error);
                false
            }
        });
        let is_dying = place.phase == Phase::Storm && place.now_ns >= self.dies_ns;
        if is_dying || place.phase == Phase::Closed {
            place.hit("subscription closed");
            self.forget_images(place);
            self.state = State::None;
            self.next_ns = place.now_ns + rng.below(AGAIN_NS) as i64;
            return 1;
        }
        if self.plan.rejects && place.phase == Phase::Storm && place.now_ns >= self.next_reject_ns {
            self.next_reject_ns = place.now_ns + (REJECT_NS + rng.below(8 * REJECT_NS)) as i64;
            if let Some(reading) = self.readings.first().filter(|_| !self.plan.is_spy) {
                let rejected = aeron.reject_image(reading.correlation_id, reading.joined, "not wanted");
                self.commands.extend(place.accepted(rejected));
                place.hit("image rejected");
            }
        }
        let is_paused = place.phase == Phase::Storm && place.now_ns < self.next_ns;
        work_count += self.read(is_paused, place);
        if self.plan.pause_ns > 0 && !is_paused {
            self.next_ns = place.now_ns + 1 + rng.below(2 * self.plan.pause_ns) as i64;
        }
        work_count
    }

    /// Adds the sources that are missing. While the sockets of a closed subscription are not closed yet, the system
    /// refuses other sockets on their addresses.
    fn add_sources(&mut self, aeron: &mut Aeron, place: &Place) -> usize {
        let State::Open(own) = &self.state else { return 0 };
        let mut work_count = 0;
        for source in self.sources.iter_mut().filter(|source| !source.is_there) {
            let Some(command) = source.command else {
                if place.now_ns >= source.next_ns {
                    let added = aeron.add_rcv_destination(own.registration_id(), &source.channel);
                    source.command = place.accepted(added);
                    source.next_ns = place.now_ns + SOURCE_NS;
                    work_count += 1;
                }
                continue;
            };
            match aeron.command_done(command) {
                Ok(false) => continue,
                Ok(true) => {
                    source.is_there = true;
                    place.hit("source of a subscription added");
                }
                Err(ClientError::Registration { message, .. }) if message.contains("address in use") => {
                    place.hit("source refused: its address is in use");
                }
                Err(error) => place.on_refused(&error),
            }
            source.command = None;
            work_count += 1;
        }
        work_count
    }

    /// Checks all images, and reads them unless it pauses.
    fn read(&mut self, is_paused: bool, place: &Place) -> usize {
        let Self { state, readings, left, bytes, plan, id, .. } = self;
        let State::Open(own) = state else { return 0 };
        let limit = if place.phase == Phase::Storm { plan.limit } else { CALM_LIMIT };
        let mut fragments = 0;
        for image in own.images() {
            let correlation_id = image.correlation_id();
            if image.is_closed() {
                continue;
            }
            let known = readings.iter().position(|reading| reading.correlation_id == correlation_id);
            let index = known.unwrap_or_else(|| {
                let (session_id, joined) = (image.session_id(), image.join_position());
                readings.push(Reading::new(session_id, correlation_id, joined));
                note_image(*id, plan, left, (session_id, correlation_id, joined), place);
                readings.len() - 1
            });
            let is_stuck = plan.is_stuck && image.end_of_stream_position() == i64::MAX;
            if is_paused || is_stuck {
                continue;
            }
            let reading = &mut readings[index];
            let mut truth = place.truth.borrow_mut();
            let mut assembler = std::mem::take(&mut reading.assembler);
            fragments += image.poll(limit, &mut |payload, header| {
                assembler.on_fragment(payload, header, &mut |message, header| {
                    if truth.check(*id, reading, message, header.position(), bytes) {
                        place.hit("unreliable reader did without a message");
                    }
                });
            });
            reading.assembler = assembler;
            left.insert(reading.session_id, image.position());
            if image.is_end_of_stream() && !reading.has_ended {
                reading.has_ended = true;
                place.hit(match image.is_publication_revoked() {
                    true => "reader came to the end of a revoked stream",
                    false => "reader came to the end of a stream",
                });
                truth.check_end(*id, reading);
            }
        }
        fragments
    }

    /// Returns the number of messages that it has not read although it must get all.
    pub(super) fn unread(&self, place: &Place) -> usize {
        let truth = place.truth.borrow();
        let is_exempt = !self.plan.is_tethered || !self.plan.is_reliable;
        // Where readers do not rejoin, a reader that is stuck may be left alone.
        if is_exempt || !truth.flows[self.id.0].rejoins {
            return 0;
        }
        self.readings.iter().map(|reading| truth.unread(reading)).sum()
    }
}

/// A reader has a new image.
fn note_image(
    id: (usize, usize),
    plan: &ListenerPlan,
    left: &BTreeMap<i32, i64>,
    (session_id, correlation_id, joined): (i32, i64, i64),
    place: &Place,
) {
    {
        let mut truth = place.truth.borrow_mut();
        truth.progress.entry(id).or_default().has_image = true;
        if matches!(truth.flows[id.0].role, Role::Request { .. }) {
            truth.known.insert(id.0, correlation_id);
        }
        if plan.is_out_of_reach {
            truth.violate("hops", format!("listener {id:?} hears {session_id} although it is too far away"));
        }
    }
    if plan.is_unheard {
        place.hit("image of a receiver that no sender hears");
    }
    if joined > 0 {
        place.hit(if plan.is_spy { "spy joined late" } else { "reader joined late" });
    }
    let Some(before) = left.get(&session_id).copied() else { return };
    place.hit(match plan.is_tethered {
        true => "session came back",
        false => "untethered reader came back",
    });
    let is_ipc = place.truth.borrow().flows[id.0].way == Way::Ipc;
    // Within a host a rejected stream continues where its driver saw the reader last, and the reader may have read on
    // since then. A reader that rested continues with the slowest of the others.
    if joined < before && !is_ipc && plan.is_tethered {
        let text = format!("listener {id:?} joined {session_id} at {joined}, it had read up to {before}");
        place.truth.borrow_mut().violate("join position", text);
    }
}
