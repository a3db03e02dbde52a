//! Logs whose pages are allocated as their streams need them.

use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use crate::error_notes::kind;
use crate::executor::Job;
use crate::failure::Failure;
use crate::system_counters::SystemCounter;

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Takes what the owner of the driver asks for (see `DriverHandle::allocate_log`); returns the work done.
    pub(super) fn take_allocation_hints(&mut self) -> usize {
        let Some(ids) = self.handle.allocations.take() else { return 0 };
        for id in &ids {
            let found = self.images.iter_mut().find(|entry| entry.image.identity.correlation_id == *id);
            if let Some(entry) = found {
                entry.image.allocation.ask_for_rest();
                self.allocate(*id);
            }
        }
        ids.len()
    }

    /// Has the executor allocate more of an image's log, when that is due. A full executor is asked again by the timer.
    pub(super) fn allocate(&mut self, id: i64) {
        let Some(entry) = self.images.iter_mut().find(|entry| entry.image.identity.correlation_id == id)
        else {
            return;
        };
        let file = &entry.image.file;
        let (path, log) = (file.path.clone(), file.log.clone());
        let Some(positions) = entry.image.allocation.next() else { return };
        if self.submit_unmarked(Job::Allocate { id, path, log, positions }).is_err() {
            self.system.get(SystemCounter::FailedExecutorOffers).increment();
            self.note_allocated(id, None);
        }
    }

    fn note_allocated(&mut self, id: i64, allocated_to: Option<i64>) {
        let found = self.images.iter_mut().find(|entry| entry.image.identity.correlation_id == id);
        if let Some(entry) = found {
            entry.image.on_allocated(allocated_to);
        }
    }

    /// A part of an image's log has been allocated, or could not be. The image may have gone meanwhile.
    pub(super) fn on_allocated(&mut self, id: i64, outcome: Result<i64, Failure>) {
        match outcome {
            Ok(position) => {
                self.note_allocated(id, Some(position));
                self.allocate(id);
            }
            Err(failure) if self.images.iter().any(|entry| entry.image.identity.correlation_id == id) => {
                self.note_allocated(id, None);
                let text = format!("WARN: {failure}: the stream stands still until there is memory");
                self.events.record_kind(kind::LOG_NOT_ALLOCATED, &text);
            }
            // Its file has gone with it.
            Err(_) => {}
        }
    }
}
