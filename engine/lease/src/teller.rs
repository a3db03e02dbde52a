//! How answers and timers leave a callback.

use harrier_cluster::service::Cluster;

use crate::codec::Event;
use crate::table::TimerRequest;

/// Sends what one callback has to say. Clients that do not take it are waited for together at most the patience: one
/// that does not listen must not hold up the cluster, and what it misses it asks for again.
pub(crate) struct Teller<'a, 'c> {
    cluster: &'a mut Cluster<'c>,
    patience_ns: i64,
    deadline_ns: Option<i64>,
}

impl<'a, 'c> Teller<'a, 'c> {
    pub(crate) fn new(cluster: &'a mut Cluster<'c>, patience_ns: i64) -> Self {
        Self { cluster, patience_ns, deadline_ns: None }
    }

    pub(crate) fn tell(&mut self, session_id: i64, message: &[u8]) {
        while let Err(error) = self.cluster.send_to_session(session_id, message) {
            if !error.is_retryable() {
                return;
            }
            let now_ns = self.cluster.now().ns;
            if now_ns > *self.deadline_ns.get_or_insert(now_ns.saturating_add(self.patience_ns)) {
                return;
            }
            self.cluster.idle(0);
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
