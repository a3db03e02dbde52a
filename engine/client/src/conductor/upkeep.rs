//! Removal of dropped resources, and liveness of driver and client (spec 01 §5).

use harrier_protocol::command::{REMOVE_FLAG_REVOKE, Request};
use harrier_protocol::counter_types::type_id::CLIENT_HEARTBEAT;
use std::sync::atomic::Ordering;

use super::{Core, PendingKind, Ready, SubscriptionEntry};
use crate::ClientError;
use crate::release::Release;

impl Core {
    pub(super) fn remove_released(&mut self) -> usize {
        let mut work_count = 0;
        if let Some(list) = self.releases.take() {
            self.unsent.extend(list);
        }
        while let Some(release) = self.unsent.front().copied() {
            if self.remove(release).is_err() {
                break;
            }
            self.unsent.pop_front();
            work_count += 1;
        }
        if self.held_back > 0 {
            self.held_back = self.subscriptions.values_mut().map(SubscriptionEntry::flush).sum();
        }
        work_count
    }

    pub(super) fn remove(&mut self, release: Release) -> Result<(), ClientError> {
        let correlation_id = self.to_driver.next_correlation_id();
        let request = match release {
            Release::Publication { registration_id, revoke } => Request::RemovePublication {
                registration_id,
                flags: if revoke { REMOVE_FLAG_REVOKE } else { 0 },
            },
            Release::Subscription { registration_id } => Request::RemoveSubscription { registration_id },
            Release::Counter { registration_id } => Request::RemoveCounter { registration_id },
        };
        self.send(correlation_id, request)?;
        self.await_answer(correlation_id, PendingKind::Removal, "remove a resource".to_owned());
        match release {
            Release::Publication { registration_id, .. } => {
                if let Some(entry) = self.publications.remove(&registration_id) {
                    entry.closed.store(true, Ordering::Release);
                }
            }
            Release::Subscription { registration_id } => {
                if let Some(entry) = self.subscriptions.remove(&registration_id) {
                    entry.close();
                }
            }
            Release::Counter { registration_id } => {
                if let Some(closed) = self.owned_counters.remove(&registration_id) {
                    closed.store(true, Ordering::Release);
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_timeouts(&mut self) -> Result<(), ClientError> {
        let now_ns = self.now.ns;
        let expired: Vec<i64> = self
            .pending
            .iter()
            .filter(|(_, pending)| now_ns > pending.deadline_ns)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            let timeout_ms = self.context.driver_timeout_ms;
            self.resolve(id, |_, _, request| {
                Some(Ready::Failed(ClientError::RequestTimeout { request, timeout_ms }))
            });
        }
        if now_ns > self.next_keepalive_ns {
            self.next_keepalive_ns = now_ns + self.context.keepalive_interval_ns;
            self.check_driver()?;
            self.keep_alive()?;
        }
        Ok(())
    }

    pub(super) fn check_driver(&self) -> Result<(), ClientError> {
        let heartbeat_ms = self.to_driver.consumer_heartbeat_ms();
        let timeout_ms = self.context.driver_timeout_ms;
        let age_ms = self.now.epoch_ms - heartbeat_ms;
        if heartbeat_ms == -1 || age_ms > timeout_ms {
            return Err(ClientError::DriverTimeout { age_ms, timeout_ms });
        }
        Ok(())
    }

    /// Stores the time in the heartbeat counter, which the driver allocates with the client's first resource (spec 01
    /// §4.8).
    pub(super) fn keep_alive(&mut self) -> Result<(), ClientError> {
        if let Some((counter, id)) = &self.heartbeat {
            if self.counters.find_by_registration(CLIENT_HEARTBEAT, self.client_id) != Some(*id) {
                return Err(ClientError::ClientTimeout { timeout_ns: self.inter_service_timeout_ns });
            }
            counter.set_ordered(self.now.epoch_ms);
            return Ok(());
        }
        let Some(id) = self.counters.find_by_registration(CLIENT_HEARTBEAT, self.client_id) else {
            return Ok(());
        };
        let Ok(counter) = self.counters.counter(id) else { return Ok(()) };
        counter.set_ordered(self.now.epoch_ms);
        let name = &self.context.client_name;
        self.counters.append_to_label(
            id,
            &format!(" name={name} version={} commit=harrier", harrier_protocol::AERON_VERSION),
        );
        self.heartbeat = Some((counter, id));
        Ok(())
    }

    pub(super) fn terminate(&mut self) {
        self.closed = true;
        for (_, entry) in self.publications.drain() {
            entry.closed.store(true, Ordering::Release);
        }
        for (_, entry) in self.subscriptions.drain() {
            entry.close();
        }
        for (_, closed) in self.owned_counters.drain() {
            closed.store(true, Ordering::Release);
        }
        self.pending.clear();
        self.ready.clear();
    }
}
