//! Termination of a container, and acks that the consensus module requests (spec 04 §4.11, §7.1).

use harrier_ringbuf::Memory;

use super::ClusteredService;
use super::container::ServiceContainer;
use super::start::Phase;

/// Attempts to send the last ack.
const ACK_ATTEMPTS: usize = 5;

/// Kind of termination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Termination {
    /// At the position set by the consensus module.
    Expected,
    /// Beyond that position.
    Unexpected,
}

impl<T: ClusteredService, M: Memory> ServiceContainer<T, M> {
    /// Acknowledges or terminates at a requested position once the log has reached it.
    pub(super) fn check_termination(&mut self) -> usize {
        if !self.has_joined() {
            return 0;
        }
        let Some(core) = &mut self.core else { return 0 };
        let log_position = core.log_position;
        let mut work_count = 0;
        if self.requested_ack_position.is_some_and(|position| log_position >= position)
            && core.send_ack(log_position, -1)
        {
            self.requested_ack_position = None;
            work_count += 1;
        }
        let Some(position) = self.termination_position.filter(|position| log_position >= *position) else {
            return work_count;
        };
        self.termination_position = None;
        let service = &mut self.service;
        core.call(self.waiter.as_mut(), Some("on_terminate"), |cluster| service.on_terminate(cluster));
        let mut attempts = 1;
        while !core.send_ack(log_position, -1) && attempts < ACK_ATTEMPTS {
            attempts += 1;
        }
        let termination =
            if log_position == position { Termination::Expected } else { Termination::Unexpected };
        self.phase = Phase::Terminated(termination);
        work_count + 1
    }
}
