//! Messages of services that are to be appended to the log (spec 04 §4.6).

use std::collections::VecDeque;

use harrier_ringbuf::planted::{Bug, is_planted};

/// Limit of the payloads of one service that wait, bytes.
const MAX_BYTES: usize = 1 << 30;

#[derive(Debug)]
struct Pending {
    session_id: i64,
    payload: Vec<u8>,
    /// Position after the message in the log; only messages that are appended have one.
    position: i64,
}

/// The messages of one service.
#[derive(Debug)]
pub(in crate::module) struct PendingMessages {
    service_id: usize,
    next_session_id: i64,
    log_session_id: i64,
    queue: VecDeque<Pending>,
    /// Number of messages at the front of the queue that are appended and not committed.
    appended: usize,
    bytes: usize,
}

/// Ids of a service's messages, as a snapshot holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::module) struct Tracker {
    pub(in crate::module) next_session_id: i64,
    pub(in crate::module) log_session_id: i64,
}

impl PendingMessages {
    pub(in crate::module) fn new(service_id: usize) -> Self {
        let log_session_id = i64::MIN | ((service_id as i64) << 56);
        Self {
            service_id,
            next_session_id: log_session_id + 1,
            log_session_id,
            queue: VecDeque::new(),
            appended: 0,
            bytes: 0,
        }
    }

    /// Returns the id of the next message and that of the last one in the log.
    pub(in crate::module) fn tracker(&self) -> Tracker {
        Tracker { next_session_id: self.next_session_id, log_session_id: self.log_session_id }
    }

    /// Takes the ids over from a snapshot.
    pub(super) fn restore(&mut self, tracker: Tracker) {
        if is_planted(Bug::TrackerNotRestored) {
            return;
        }
        self.next_session_id = tracker.next_session_id;
        self.log_session_id = tracker.log_session_id;
    }

    /// Takes a message over from a snapshot.
    pub(super) fn restore_message(&mut self, session_id: i64, payload: &[u8]) {
        self.push(session_id, payload);
    }

    fn push(&mut self, session_id: i64, payload: &[u8]) {
        self.bytes += payload.len();
        self.queue.push_back(Pending { session_id, payload: payload.to_vec(), position: i64::MAX });
    }

    /// Returns a contradiction in what a snapshot holds, as an error (spec 04 §4.6).
    pub(super) fn check(&self) -> Result<(), String> {
        let mut expected = self.log_session_id;
        for pending in &self.queue {
            expected += 1;
            if pending.session_id != expected {
                let (service_id, found) = (self.service_id, pending.session_id);
                return Err(format!(
                    "message of service {service_id} has session id {found} instead of {expected}"
                ));
            }
        }
        if self.next_session_id != expected + 1 {
            return Err(format!(
                "next message of service {} has session id {} instead of {}",
                self.service_id,
                self.next_session_id,
                expected + 1
            ));
        }
        Ok(())
    }

    /// Skips the ids that the log already has when the service has sent fewer messages than the log has of it; returns
    /// true when that was so. The service's next messages would otherwise count as those in the log.
    pub(in crate::module) fn catch_up_with_log(&mut self) -> bool {
        let is_behind = self.next_session_id <= self.log_session_id;
        if is_behind {
            self.next_session_id = self.log_session_id + 1;
        }
        is_behind
    }

    /// Returns a waiting message by its index, as a snapshot holds it.
    pub(super) fn waiting(&self, index: usize) -> Option<(i64, &[u8])> {
        self.queue.get(index).map(|pending| (pending.session_id, pending.payload.as_slice()))
    }

    /// Returns the service that sent the message with this session id.
    pub(super) fn service_of(session_id: i64) -> usize {
        ((session_id as u64 >> 56) & 0x7F) as usize
    }

    /// Takes a message of the service, unless the log already has it; returns false when there is no room.
    pub(super) fn enqueue(&mut self, payload: &[u8]) -> bool {
        if self.bytes + payload.len() > MAX_BYTES {
            return false;
        }
        let session_id = self.next_session_id;
        self.next_session_id += 1;
        if session_id > self.log_session_id {
            self.push(session_id, payload);
        }
        true
    }

    /// Returns the next message to append, with its session id.
    #[inline]
    pub(in crate::module) fn next_to_append(&self) -> Option<(i64, &[u8])> {
        self.waiting(self.appended)
    }

    /// Takes note that the next message was appended.
    pub(super) fn on_appended(&mut self, session_id: i64, position: i64) {
        let pending = self.queue.get_mut(self.appended).filter(|pending| pending.session_id == session_id);
        pending.expect("messages of a service are appended in their order").position = position;
        self.appended += 1;
    }

    /// Removes the messages that are committed.
    #[inline]
    pub(super) fn on_committed(&mut self, position: i64) {
        while self.appended > 0 && self.queue.front().is_some_and(|pending| pending.position <= position) {
            self.appended -= 1;
            self.pop();
        }
    }

    /// Removes a message that was read from the log, and all before it (spec 07 §35).
    pub(super) fn on_read(&mut self, session_id: i64) {
        while self.queue.front().is_some_and(|pending| pending.session_id <= session_id) {
            self.appended = self.appended.saturating_sub(1);
            self.pop();
        }
        self.log_session_id = session_id;
    }

    fn pop(&mut self) {
        if let Some(pending) = self.queue.pop_front() {
            self.log_session_id = pending.session_id;
            self.bytes -= pending.payload.len();
        }
    }

    /// Makes all messages wait again that were appended and not committed (spec 04 §4.6).
    pub(super) fn roll_back(&mut self) {
        for pending in self.queue.iter_mut().take(self.appended) {
            pending.position = i64::MAX;
        }
        self.appended = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_snapshot_must_be_consecutive() {
        let log_session_id = i64::MIN + 5;
        let mut messages = PendingMessages::new(0);
        messages.restore(Tracker { next_session_id: log_session_id + 3, log_session_id });
        assert!(messages.check().unwrap_err().contains("next message of service 0"));
        messages.restore_message(log_session_id + 1, b"a");
        messages.restore_message(log_session_id + 2, b"b");
        assert_eq!(messages.check(), Ok(()));
        assert_eq!(messages.waiting(1), Some((log_session_id + 2, &b"b"[..])));
        assert_eq!(messages.tracker().next_session_id, log_session_id + 3);
        messages.restore_message(log_session_id + 4, b"c");
        assert!(messages.check().unwrap_err().contains("instead of"));
    }

    #[test]
    fn a_service_that_sent_nothing_in_replay_continues_behind_the_log() {
        let mut messages = PendingMessages::new(0);
        assert!(!messages.catch_up_with_log());
        messages.on_read(i64::MIN + 9);
        assert!(messages.catch_up_with_log() && !messages.catch_up_with_log());
        assert!(messages.enqueue(b"next"));
        assert_eq!(messages.waiting(0), Some((i64::MIN + 10, &b"next"[..])));
    }

    #[test]
    fn messages_that_the_log_has_are_not_appended_again() {
        let first = i64::MIN + (1 << 56) + 1;
        let mut messages = PendingMessages::new(1);
        messages.on_read(first);
        assert!(messages.enqueue(b"one") && messages.enqueue(b"two"));
        assert_eq!(messages.next_to_append(), Some((first + 1, &b"two"[..])));
        assert_eq!(PendingMessages::service_of(first + 1), 1);
        messages.on_appended(first + 1, 64);
        assert_eq!(messages.next_to_append(), None);
        messages.on_committed(63);
        assert_eq!(messages.queue.len(), 1);
        messages.on_committed(64);
        assert!(messages.queue.is_empty());
        assert_eq!(messages.tracker().log_session_id, first + 1);
    }

    #[test]
    fn rolled_back_messages_wait_in_their_order() {
        let mut messages = PendingMessages::new(0);
        for payload in [b"a", b"b", b"c"] {
            assert!(messages.enqueue(payload));
        }
        messages.on_appended(i64::MIN + 1, 64);
        messages.on_appended(i64::MIN + 2, 128);
        messages.on_committed(64);
        messages.roll_back();
        assert_eq!(messages.next_to_append(), Some((i64::MIN + 2, &b"b"[..])));
        messages.on_committed(1_024);
        assert_eq!(messages.queue.len(), 2);
    }
}
