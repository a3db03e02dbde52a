//! How answers and timers leave a callback.

use harrier_cluster::service::Cluster;

use crate::codec::Event;
use crate::table::TimerRequest;

/// Sessions that are remembered for not listening.
const MAX_SLOW: usize = 64;

/// Sessions that did not take an answer within the patience. Each gets one attempt at a time until it takes one: a client
/// that asks and does not listen must not hold up the cluster again and again. No part of the replicated state.
pub(crate) struct SlowSessions {
    ids: [i64; MAX_SLOW],
    next: usize,
}

impl SlowSessions {
    pub(crate) fn new() -> Self {
        // No session has this id.
        Self { ids: [i64::MIN; MAX_SLOW], next: 0 }
    }

    fn has(&self, session_id: i64) -> bool {
        self.ids.contains(&session_id)
    }

    fn add(&mut self, session_id: i64) {
        if !self.has(session_id) {
            self.ids[self.next] = session_id;
            self.next = (self.next + 1) % MAX_SLOW;
        }
    }

    fn remove(&mut self, session_id: i64) {
        self.ids.iter_mut().filter(|own| **own == session_id).for_each(|own| *own = i64::MIN);
    }
}

/// Sends what one callback has to say. Clients that do not take it are waited for together at most the patience; what they
/// miss they ask for again.
pub(crate) struct Teller<'a, 'c> {
    cluster: &'a mut Cluster<'c>,
    slow: &'a mut SlowSessions,
    patience_ns: i64,
    deadline_ns: Option<i64>,
}

impl<'a, 'c> Teller<'a, 'c> {
    pub(crate) fn new(cluster: &'a mut Cluster<'c>, slow: &'a mut SlowSessions, patience_ns: i64) -> Self {
        Self { cluster, slow, patience_ns, deadline_ns: None }
    }

    /// The cluster that is spoken through.
    pub(crate) fn cluster(&mut self) -> &mut Cluster<'c> {
        self.cluster
    }

    pub(crate) fn tell(&mut self, session_id: i64, message: &[u8]) {
        let is_slow = self.slow.has(session_id);
        while let Err(error) = self.cluster.send_to_session(session_id, message) {
            if is_slow || !error.is_retryable() {
                return;
            }
            let now_ns = self.cluster.now().ns;
            if now_ns > *self.deadline_ns.get_or_insert(now_ns.saturating_add(self.patience_ns)) {
                return self.slow.add(session_id);
            }
            self.cluster.idle(0);
        }
        if is_slow {
            self.slow.remove(session_id);
        }
    }

    pub(crate) fn tell_event(&mut self, session_id: i64, event: &Event<'_>, buffer: &mut [u8]) {
        if let Ok(length) = event.encode(buffer) {
            self.tell(session_id, &buffer[..length]);
        }
    }

    /// Sets a timer, however long that takes (spec 05 L21). Without a consensus module the container ends by itself.
    pub(crate) fn set_timer(&mut self, timer: TimerRequest) {
        let _module_gone =
            self.cluster.retry(|cluster| cluster.schedule_timer(timer.correlation_id, timer.deadline));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_sessions_are_remembered_until_they_listen() {
        let mut slow = SlowSessions::new();
        (0..70).for_each(|id| slow.add(id));
        slow.add(69);
        assert_eq!((0..70).filter(|id| slow.has(*id)).count(), MAX_SLOW);
        assert!(slow.has(69) && !slow.has(0));
        slow.remove(69);
        assert!(!slow.has(69) && slow.has(68));
    }
}
