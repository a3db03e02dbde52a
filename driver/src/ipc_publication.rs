//! Publications through shared memory of one host (spec 02 §7).

use harrier_protocol::uri::InitialPosition;
use harrier_ringbuf::clean::clean_publication;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::position::{compute_position, position_bits_to_shift};
use harrier_ringbuf::unblock::{Unblocked, unblock};

use crate::log_files::LogFile;
use crate::params::PublicationParams;
use crate::subscribers::{Subscribers, TetherChange};
use crate::system_counters::{SystemCounter, SystemCounters};

/// State of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Draining,
    Linger,
    Done,
}

/// Result of a timer run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// No change that concerns others.
    None,
    /// The stream has ended. Its subscribers lose their image, and its session id is free.
    Ended,
    /// The cool-down after a rejection is over, so subscribers may be linked again.
    Rejoin,
    /// The publication can be freed.
    Done,
}

/// Identity of a publication.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) registration_id: i64,
    pub(crate) client_id: i64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    pub(crate) channel: String,
    pub(crate) is_exclusive: bool,
}

/// The driver's side of an IPC publication.
pub(crate) struct IpcPublication {
    pub(crate) identity: Identity,
    pub(crate) params: PublicationParams,
    pub(crate) start: InitialPosition,
    pub(crate) file: LogFile,
    pub(crate) log_file_name: String,
    pub(crate) publisher_position: AtomicCounter,
    pub(crate) publisher_limit: AtomicCounter,
    pub(crate) subscribers: Subscribers,
    pub(crate) references: u32,
    pub(crate) state: State,
    trip_limit: i64,
    consumer_position: i64,
    clean_position: i64,
    checked_position: i64,
    checked_ns: i64,
    cool_down_until_ns: Option<i64>,
}

impl IpcPublication {
    /// Creates a publication on its new log. The counters hold the start position.
    pub(crate) fn new(
        identity: Identity,
        params: PublicationParams,
        start: InitialPosition,
        file: LogFile,
        publisher_position: AtomicCounter,
        publisher_limit: AtomicCounter,
        now_ns: i64,
    ) -> Self {
        let position = start_position(&start, params.term_length);
        Self {
            log_file_name: file.path.to_string_lossy().into_owned(),
            identity,
            params,
            start,
            file,
            publisher_position,
            publisher_limit,
            subscribers: Subscribers::default(),
            references: 0,
            state: State::Active,
            trip_limit: 0,
            consumer_position: position,
            clean_position: position,
            checked_position: position,
            checked_ns: now_ns,
            cool_down_until_ns: None,
        }
    }

    /// True while a subscription may be linked.
    pub(crate) fn accepts_subscribers(&self) -> bool {
        match self.state {
            State::Active => self.cool_down_until_ns.is_none(),
            State::Draining => {
                !self.subscribers.is_empty()
                    && !self.subscribers.have_reached(self.file.log.producer_position())
            }
            State::Linger | State::Done => false,
        }
    }

    /// Returns the position at which a new subscriber joins.
    pub(crate) fn join_position(&self) -> i64 {
        self.subscribers.join_position(self.consumer_position)
    }

    /// Updates the flag that tells publishers whether they are connected.
    pub(crate) fn update_connected(&self) {
        let is_connected = self.state == State::Active && self.subscribers.has_working();
        if self.file.log.is_connected() != is_connected {
            self.file.log.set_connected(is_connected);
        }
    }

    /// Updates publisher position and limit, in every duty cycle (spec 01 §2.13).
    #[inline]
    pub(crate) fn track(&mut self) -> usize {
        if self.state != State::Active {
            return 0;
        }
        self.publisher_position.set_ordered(self.file.log.producer_position());
        let Some((min, max)) = self.subscribers.min_max() else { return self.pull_back() };
        self.consumer_position = self.consumer_position.max(max);
        let limit = min + i64::from(self.params.window_length);
        if limit < self.trip_limit {
            return 0;
        }
        self.clean_to(min);
        self.publisher_limit.set_ordered(limit);
        self.trip_limit = limit + i64::from(self.params.window_length) / 8;
        1
    }

    fn pull_back(&mut self) -> usize {
        if self.publisher_limit.get_plain() <= self.consumer_position {
            return 0;
        }
        self.publisher_limit.set_ordered(self.consumer_position);
        self.trip_limit = self.consumer_position;
        self.clean_to(self.consumer_position);
        1
    }

    fn clean_to(&mut self, position: i64) {
        self.clean_position = clean_publication(&self.file.log, self.clean_position, position);
    }

    /// Releases one publisher; returns true after the last one, when the publication is drained. A revoked one is not
    /// drained.
    pub(crate) fn release(&mut self) -> bool {
        self.references = self.references.saturating_sub(1);
        if self.references > 0 || self.state != State::Active || self.file.log.is_publication_revoked() {
            return false;
        }
        let position = self.file.log.producer_position();
        self.publisher_limit.set_ordered(position);
        self.publisher_position.set_ordered(position);
        self.file.log.set_end_of_stream_position(position);
        self.state = State::Draining;
        true
    }

    /// Handles the rejection by a subscriber. No subscription is linked until the cool-down is over.
    pub(crate) fn reject(&mut self, until_ns: i64) {
        self.file.log.set_connected(false);
        self.cool_down_until_ns = Some(until_ns);
    }

    /// Handles one timer run (spec 02 §5.2, §7).
    pub(crate) fn on_timer(
        &mut self,
        now_ns: i64,
        unblock_timeout_ns: i64,
        system: &SystemCounters,
        changes: &mut Vec<TetherChange>,
    ) -> Step {
        match self.state {
            State::Active if self.file.log.is_publication_revoked() => self.revoke(system),
            State::Active => self.check_active(now_ns, unblock_timeout_ns, system, changes),
            State::Draining => {
                let position = self.file.log.producer_position();
                self.publisher_position.set_ordered(position);
                if self.subscribers.have_reached(position) {
                    self.state = State::Linger;
                    return Step::Ended;
                }
                if let Some((_, max)) = self.subscribers.min_max() {
                    self.consumer_position = self.consumer_position.max(max);
                }
                self.unblock(system);
                Step::None
            }
            State::Linger if self.references == 0 => {
                self.state = State::Done;
                Step::Done
            }
            State::Linger | State::Done => Step::None,
        }
    }

    fn revoke(&mut self, system: &SystemCounters) -> Step {
        let position = self.file.log.producer_position();
        self.publisher_limit.set_ordered(position);
        self.publisher_position.set_ordered(position);
        self.file.log.set_end_of_stream_position(position);
        self.file.log.set_connected(false);
        self.state = State::Linger;
        system.get(SystemCounter::PublicationsRevoked).increment();
        Step::Ended
    }

    fn check_active(
        &mut self,
        now_ns: i64,
        unblock_timeout_ns: i64,
        system: &SystemCounters,
        changes: &mut Vec<TetherChange>,
    ) -> Step {
        let window = i64::from(self.params.window_length);
        let window_limit = self.consumer_position - window + window / 4;
        let join_position = self.consumer_position;
        self.subscribers.check_untethered(
            window_limit,
            join_position,
            &self.params.untethered,
            now_ns,
            changes,
        );
        self.update_connected();
        if !self.identity.is_exclusive {
            self.check_blocked(now_ns, unblock_timeout_ns, system);
        }
        if self.cool_down_until_ns.is_some_and(|until_ns| now_ns > until_ns) {
            self.cool_down_until_ns = None;
            return Step::Rejoin;
        }
        Step::None
    }

    fn check_blocked(&mut self, now_ns: i64, timeout_ns: i64, system: &SystemCounters) {
        let log = &self.file.log;
        let position = self.consumer_position;
        let bits = position_bits_to_shift(log.term_length());
        let is_behind =
            log.producer_position() > position || i64::from(log.active_term_count()) != position >> bits;
        if position != self.checked_position || !is_behind {
            self.checked_position = position;
            self.checked_ns = now_ns;
        } else if now_ns > self.checked_ns + timeout_ns && self.unblock(system) {
            self.checked_ns = now_ns;
        }
    }

    fn unblock(&self, system: &SystemCounters) -> bool {
        let is_done = unblock(&self.file.log, self.consumer_position) != Unblocked::NoAction;
        if is_done {
            system.get(SystemCounter::UnblockedPublications).increment();
        }
        is_done
    }
}

/// Position of a publication's start.
pub(crate) fn start_position(start: &InitialPosition, term_length: i32) -> i64 {
    compute_position(start.term_id, start.term_offset, term_length.trailing_zeros(), start.initial_term_id)
}
