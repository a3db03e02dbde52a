//! Messages of services on their way into the log (spec 04 §4.6).

use std::collections::VecDeque;

use harrier_ringbuf::planted::{Bug, is_planted};

/// Bytes that one service may have waiting.
const MAX_BYTES: usize = 1 << 30;

#[derive(Debug)]
struct Pending {
    session_id: i64,
    payload: Vec<u8>,
    appended_position: Option<i64>,
}

/// The messages of one service.
#[derive(Debug)]
pub(super) struct PendingMessages {
    service_id: usize,
    next_session_id: i64,
    log_session_id: i64,
    queue: VecDeque<Pending>,
    bytes: usize,
}

/// What a snapshot says of the messages of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tracker {
    pub(super) next_session_id: i64,
    pub(super) log_session_id: i64,
}

impl PendingMessages {
    pub(super) fn new(service_id: usize) -> Self {
        let log_session_id = i64::MIN | ((service_id as i64) << 56);
        let next_session_id = log_session_id + 1;
        Self { service_id, next_session_id, log_session_id, queue: VecDeque::new(), bytes: 0 }
    }

    /// Where the service's messages stand.
    pub(super) fn tracker(&self) -> Tracker {
        Tracker { next_session_id: self.next_session_id, log_session_id: self.log_session_id }
    }

    /// Takes over where a snapshot says that the messages stand.
    pub(super) fn restore(&mut self, tracker: Tracker) {
        if is_planted(Bug::TrackerNotRestored) {
            return;
        }
        self.next_session_id = tracker.next_session_id;
        self.log_session_id = tracker.log_session_id;
    }

    /// Takes a message from a snapshot.
    pub(super) fn restore_message(&mut self, session_id: i64, payload: &[u8]) {
        self.bytes += payload.len();
        self.queue.push_back(Pending { session_id, payload: payload.to_vec(), appended_position: None });
    }

    /// What contradicts itself in what a snapshot said (spec 04 §4.6).
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

    /// Goes on behind the log when the service has sent fewer messages than the log has of it; true when that was so. Its
    /// own further messages would otherwise be taken for those that the log has.
    pub(super) fn catch_up_with_log(&mut self) -> bool {
        let is_behind = self.next_session_id <= self.log_session_id;
        if is_behind {
            self.next_session_id = self.log_session_id + 1;
        }
        is_behind
    }

    /// The waiting message with this index, as a snapshot holds it.
    pub(super) fn waiting(&self, index: usize) -> Option<(i64, &[u8])> {
        self.queue.get(index).map(|pending| (pending.session_id, pending.payload.as_slice()))
    }

    /// The service whose message has this session id.
    pub(super) fn service_of(session_id: i64) -> usize {
        ((session_id as u64 >> 56) & 0x7F) as usize
    }

    /// Takes a message of the service, unless the log has it already; false when there is no room.
    pub(super) fn enqueue(&mut self, payload: &[u8]) -> bool {
        if self.bytes + payload.len() > MAX_BYTES {
            return false;
        }
        let session_id = self.next_session_id;
        self.next_session_id += 1;
        if session_id > self.log_session_id {
            self.bytes += payload.len();
            self.queue.push_back(Pending { session_id, payload: payload.to_vec(), appended_position: None });
        }
        true
    }

    /// Appends what waits, at most `limit` messages; `append` returns the position after a message, or `None` when the
    /// log takes none now.
    pub(super) fn append(
        &mut self,
        limit: usize,
        mut append: impl FnMut(i64, &[u8]) -> Option<i64>,
    ) -> usize {
        let mut count = 0;
        for pending in self.queue.iter_mut().filter(|pending| pending.appended_position.is_none()).take(limit)
        {
            let Some(position) = append(pending.session_id, &pending.payload) else { break };
            pending.appended_position = Some(position);
            count += 1;
        }
        count
    }

    /// Messages up to a position are safe.
    #[inline]
    pub(super) fn on_committed(&mut self, position: i64) {
        while let Some(pending) = self.queue.front() {
            if pending.appended_position.is_none_or(|appended| appended > position) {
                break;
            }
            self.log_session_id = pending.session_id;
            self.bytes -= pending.payload.len();
            self.queue.pop_front();
        }
    }

    /// A message was read from the log.
    pub(super) fn on_replayed(&mut self, session_id: i64) {
        self.log_session_id = session_id;
        while self.queue.front().is_some_and(|pending| pending.session_id <= session_id) {
            if let Some(pending) = self.queue.pop_front() {
                self.bytes -= pending.payload.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_says_must_be_consecutive() {
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
    fn a_service_that_sent_nothing_in_replay_goes_on_behind_the_log() {
        let mut messages = PendingMessages::new(0);
        assert!(!messages.catch_up_with_log());
        messages.on_replayed(i64::MIN + 9);
        assert!(messages.catch_up_with_log() && !messages.catch_up_with_log());
        assert!(messages.enqueue(b"next"));
        assert_eq!(messages.waiting(0), Some((i64::MIN + 10, &b"next"[..])));
    }

    #[test]
    fn messages_that_the_log_has_are_not_appended_again() {
        let mut messages = PendingMessages::new(1);
        messages.on_replayed(i64::MIN + (1 << 56) + 1);
        assert!(messages.enqueue(b"one") && messages.enqueue(b"two"));
        let mut appended = Vec::new();
        messages.append(20, |id, payload| {
            appended.push((PendingMessages::service_of(id), payload.to_vec()));
            Some(64)
        });
        assert_eq!(appended, [(1, b"two".to_vec())]);
        messages.on_committed(63);
        assert_eq!(messages.queue.len(), 1);
        messages.on_committed(64);
        assert!(messages.queue.is_empty());
    }
}
