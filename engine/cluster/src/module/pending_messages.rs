//! Messages of services on their way into the log (spec 04 §4.6).

use std::collections::VecDeque;

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
    next_session_id: i64,
    log_session_id: i64,
    queue: VecDeque<Pending>,
    bytes: usize,
}

impl PendingMessages {
    pub(super) fn new(service_id: usize) -> Self {
        let log_session_id = i64::MIN | ((service_id as i64) << 56);
        Self { next_session_id: log_session_id + 1, log_session_id, queue: VecDeque::new(), bytes: 0 }
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
