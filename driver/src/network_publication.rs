//! The conductor's half of a network publication: limits and life (spec 02 §2.3, §2.8).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use harrier_ringbuf::clean::clean_publication;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::position::term_count;
use harrier_ringbuf::unblock::{Unblocked, unblock};

use crate::allocation::Allocation;
use crate::handover::PublicationShared;
use crate::ipc_publication::{Identity, State, Step};
use crate::log_files::LogFile;
use crate::params::PublicationParams;
use crate::subscribers::{Subscribers, TetherChange};
use crate::system_counters::{SystemCounter, SystemCounters};

/// Counters that the conductor writes, and counters that it only frees.
pub(crate) struct PublicationCounters {
    pub(crate) publisher_position: AtomicCounter,
    pub(crate) publisher_limit: AtomicCounter,
    pub(crate) sender_position: AtomicCounter,
    pub(crate) sender_limit: AtomicCounter,
    pub(crate) back_pressure_events: AtomicCounter,
    pub(crate) naks_received: AtomicCounter,
    pub(crate) receivers: Option<AtomicCounter>,
}

impl PublicationCounters {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AtomicCounter> {
        [
            &self.publisher_position,
            &self.publisher_limit,
            &self.sender_position,
            &self.sender_limit,
            &self.back_pressure_events,
            &self.naks_received,
        ]
        .into_iter()
        .chain(&self.receivers)
    }
}

/// The conductor's half of a network publication.
pub(crate) struct NetworkPublication {
    pub(crate) identity: Identity,
    pub(crate) params: PublicationParams,
    pub(crate) file: LogFile,
    pub(crate) allocation: Allocation,
    pub(crate) counters: PublicationCounters,
    pub(crate) shared: Arc<PublicationShared>,
    pub(crate) spies: Subscribers,
    pub(crate) references: u32,
    pub(crate) state: State,
    clean_position: i64,
    checked_position: i64,
    checked_ns: i64,
    linger_since_ns: i64,
}

impl NetworkPublication {
    pub(crate) fn new(
        identity: Identity,
        params: PublicationParams,
        file: LogFile,
        counters: PublicationCounters,
        shared: Arc<PublicationShared>,
        now_ns: i64,
    ) -> Self {
        let position = counters.sender_position.get();
        Self {
            identity,
            params,
            file,
            allocation: Allocation::whole(),
            counters,
            shared,
            spies: Subscribers::default(),
            references: 1,
            state: State::Active,
            clean_position: position,
            checked_position: position,
            checked_ns: now_ns,
            linger_since_ns: now_ns,
        }
    }

    /// Sets the allocation of the log.
    pub(crate) fn with_allocation(self, allocation: Allocation) -> Self {
        Self { allocation, ..self }
    }

    fn has_subscribers(&self) -> bool {
        let has_receivers = self.shared.has_receivers.load(Ordering::Acquire)
            && self.shared.has_required_receivers.load(Ordering::Acquire);
        has_receivers || (self.params.spies_simulate_connection && self.spies.has_working())
    }

    /// True while a spy may be linked (spec 02 §2.13).
    pub(crate) fn accepts_spies(&self) -> bool {
        match self.state {
            State::Active => true,
            State::Draining => {
                !self.spies.is_empty()
                    && self.file.log.producer_position() > self.counters.sender_position.get()
            }
            State::Linger | State::Done => false,
        }
    }

    /// Position at which a new spy joins.
    pub(crate) fn spy_join_position(&self) -> i64 {
        self.spies.join_position(self.counters.sender_position.get())
    }

    /// Tells the sender of a change of spies, and publishers of the connection.
    pub(crate) fn on_spies_changed(&self) {
        self.share_spies();
        if self.params.spies_simulate_connection {
            self.update_connected();
        }
    }

    fn share_spies(&self) {
        if !self.params.spies_simulate_connection {
            return;
        }
        let bounds = self.spies.min_max();
        if let Some((_, max)) = bounds {
            self.shared.spy_position.store(max, Ordering::Release);
        }
        self.shared.has_connecting_spies.store(bounds.is_some(), Ordering::Release);
    }

    /// Updates the flag that tells publishers whether they are connected.
    pub(crate) fn update_connected(&self) {
        let is_connected = self.state == State::Active && self.has_subscribers();
        if self.file.log.is_connected() != is_connected {
            self.file.log.set_connected(is_connected);
        }
    }

    /// Updates publisher position and limit, in every duty cycle (spec 02 §2.3).
    #[inline]
    pub(crate) fn track(&mut self) -> usize {
        if self.state != State::Active {
            return 0;
        }
        let log = &self.file.log;
        self.counters.publisher_position.set_ordered(log.producer_position());
        let sender_position = self.counters.sender_position.get();
        if !self.has_subscribers() {
            return self.pull_back(sender_position);
        }
        self.share_spies();
        let min = self.spies.min_max().map_or(sender_position, |(min, _)| min.min(sender_position));
        self.allocation.note_traffic(sender_position);
        let limit = min + i64::from(self.params.window_length);
        let limit = limit.min(self.allocation.usable_position().max(min));
        assert!(limit >= min, "a publisher limit behind its consumers");
        if limit <= self.counters.publisher_limit.get_plain() {
            return 0;
        }
        let term_length = log.term_length() as i64;
        self.clean_position = clean_publication(log, self.clean_position, min - term_length);
        let bits = log.position_bits_to_shift();
        let gap = term_count((limit >> bits) as i32, (self.clean_position >> bits) as i32);
        if gap < 2 || (gap == 2 && self.clean_position & (term_length - 1) != 0) {
            self.counters.publisher_limit.set_ordered(limit);
            return 1;
        }
        0
    }

    fn pull_back(&mut self, sender_position: i64) -> usize {
        if self.counters.publisher_limit.get_plain() <= sender_position {
            return 0;
        }
        let log = &self.file.log;
        log.set_connected(false);
        self.counters.publisher_limit.set_ordered(sender_position);
        let floor = sender_position - log.term_length() as i64;
        self.clean_position = clean_publication(log, self.clean_position, floor);
        1
    }

    /// Releases one publisher. After the last one the publication is drained, unless it was revoked.
    pub(crate) fn release(&mut self) {
        self.references = self.references.saturating_sub(1);
        if self.references > 0 || self.state != State::Active || self.file.log.is_publication_revoked() {
            return;
        }
        let position = self.end_at_producer();
        self.state = State::Draining;
        if self.counters.sender_position.get() >= position {
            self.shared.is_end_of_stream.store(true, Ordering::Release);
        }
    }

    fn end_at_producer(&self) -> i64 {
        let position = self.file.log.producer_position();
        self.counters.publisher_limit.set_ordered(position);
        self.counters.publisher_position.set_ordered(position);
        self.file.log.set_end_of_stream_position(position);
        position
    }

    /// Handles one timer run (spec 02 §2.8).
    pub(crate) fn on_timer(
        &mut self,
        now_ns: i64,
        unblock_timeout_ns: i64,
        system: &SystemCounters,
        changes: &mut Vec<TetherChange>,
    ) -> Step {
        match self.state {
            State::Active if self.file.log.is_publication_revoked() => {
                self.end_at_producer();
                self.file.log.set_connected(false);
                self.shared.is_end_of_stream.store(true, Ordering::Release);
                system.get(SystemCounter::PublicationsRevoked).increment();
                self.linger(now_ns)
            }
            State::Active => {
                self.check_active(now_ns, unblock_timeout_ns, system, changes);
                Step::None
            }
            State::Draining => self.drain(now_ns, system),
            State::Linger => {
                let is_over = self.shared.is_eos_acknowledged.load(Ordering::Acquire)
                    || now_ns - self.linger_since_ns > self.params.linger_ns;
                if self.references > 0 || !is_over {
                    return Step::None;
                }
                self.state = State::Done;
                Step::Done
            }
            State::Done => Step::None,
        }
    }

    fn linger(&mut self, now_ns: i64) -> Step {
        self.state = State::Linger;
        self.linger_since_ns = now_ns;
        Step::Ended
    }

    fn check_active(
        &mut self,
        now_ns: i64,
        unblock_timeout_ns: i64,
        system: &SystemCounters,
        changes: &mut Vec<TetherChange>,
    ) {
        let sender_position = self.counters.sender_position.get();
        let window = i64::from(self.params.window_length);
        let limit = sender_position - window + window / 4;
        self.spies.check_untethered(limit, sender_position, &self.params.untethered, now_ns, changes);
        self.share_spies();
        self.update_connected();
        if self.identity.is_exclusive {
            return;
        }
        let log = &self.file.log;
        let is_behind = log.producer_position() > sender_position
            || i64::from(log.active_term_count()) != sender_position >> log.position_bits_to_shift();
        if sender_position != self.checked_position || !is_behind {
            self.checked_position = sender_position;
            self.checked_ns = now_ns;
        } else if now_ns - self.checked_ns > unblock_timeout_ns && self.unblock(system) {
            self.checked_ns = now_ns;
        }
    }

    fn drain(&mut self, now_ns: i64, system: &SystemCounters) -> Step {
        let producer = self.file.log.producer_position();
        self.counters.publisher_position.set_ordered(producer);
        if producer > self.counters.sender_position.get() {
            if self.unblock(system) || self.shared.has_receivers.load(Ordering::Acquire) {
                return Step::None;
            }
        } else {
            self.shared.is_end_of_stream.store(true, Ordering::Release);
        }
        if self.spies.have_reached(producer) { self.linger(now_ns) } else { Step::None }
    }

    fn unblock(&self, system: &SystemCounters) -> bool {
        let is_done = unblock(&self.file.log, self.counters.sender_position.get()) != Unblocked::NoAction;
        if is_done {
            system.get(SystemCounter::UnblockedPublications).increment();
        }
        is_done
    }
}
