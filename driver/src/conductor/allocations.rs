//! Logs whose pages are allocated as their streams need them.

use std::sync::atomic::Ordering;

use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use crate::allocation::Allocation;
use crate::error_notes::kind;
use crate::executor::Job;
use crate::failure::Failure;
use crate::log_files::LogFile;
use crate::system_counters::SystemCounter;

/// Time after which a failed allocation is tried again, ns.
const RETRY_INTERVAL_NS: i64 = 1_000_000_000;

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Finds the log of an image or publication, with its allocation.
    fn allocation(&mut self, id: i64) -> Option<(&mut Allocation, &LogFile)> {
        let image = self.images.iter_mut().find(|entry| entry.image.identity.correlation_id == id);
        if let Some(entry) = image {
            return Some((&mut entry.image.allocation, &entry.image.file));
        }
        let entry =
            self.publications.iter_mut().find(|entry| entry.publication.identity.registration_id == id)?;
        Some((&mut entry.publication.allocation, &entry.publication.file))
    }

    /// Takes the requests of `DriverHandle::allocate_log`; returns the work done.
    pub(super) fn take_allocation_hints(&mut self) -> usize {
        let Some(ids) = self.handle.allocations.take() else { return 0 };
        for id in &ids {
            if let Some((allocation, _)) = self.allocation(*id) {
                allocation.ask_for_rest();
                self.allocate(*id);
            }
        }
        ids.len()
    }

    /// Lets the executor allocate more of a log when that is due.
    pub(super) fn allocate(&mut self, id: i64) {
        let Some((allocation, file)) = self.allocation(id) else { return };
        let Some(positions) = allocation.next() else { return };
        let job = Job::Allocate { id, path: file.path.clone(), log: file.log.clone(), positions };
        if self.submit_unmarked(job).is_err() {
            self.system.get(SystemCounter::FailedExecutorOffers).increment();
            self.note_allocated(id, None);
        }
    }

    /// Notes the position up to which a log is allocated; returns false when the log has gone.
    fn note_allocated(&mut self, id: i64, allocated_to: Option<i64>) -> bool {
        let Some((allocation, _)) = self.allocation(id) else { return false };
        allocation.on_done(allocated_to);
        let usable = allocation.usable_position();
        if let Some(entry) = self.images.iter().find(|entry| entry.image.identity.correlation_id == id) {
            entry.image.shared.usable_position.store(usable, Ordering::Release);
        }
        true
    }

    /// Handles the result of an allocation.
    pub(super) fn on_allocated(&mut self, id: i64, outcome: Result<i64, Failure>) {
        match outcome {
            Ok(position) => {
                if self.note_allocated(id, Some(position)) {
                    self.allocate(id);
                }
            }
            Err(failure) => {
                // A log that has gone took its file with it.
                if self.note_allocated(id, None) {
                    let text = format!("WARN: {failure}: the stream stands still until there is memory");
                    self.events.record_kind(kind::LOG_NOT_ALLOCATED, &text);
                }
            }
        }
    }

    /// Makes failed allocations due again. The timer calls it.
    pub(super) fn retry_allocations(&mut self) {
        if self.now.ns < self.next_allocation_ns {
            return;
        }
        self.next_allocation_ns = self.now.ns + RETRY_INTERVAL_NS;
        for entry in &mut self.images {
            entry.image.allocation.retry();
        }
        for entry in &mut self.publications {
            entry.publication.allocation.retry();
        }
    }
}
