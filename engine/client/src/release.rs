//! Release of resources that are dropped on any thread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A resource that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Remove a publication; with `revoke` it is not drained.
    Publication { registration_id: i64, revoke: bool },
    /// Remove a subscription.
    Subscription { registration_id: i64 },
    /// Remove a counter.
    Counter { registration_id: i64 },
}

/// List of released resources. Dropping locks it; the conductor's cycle only loads a flag while it is empty.
#[derive(Debug, Default)]
pub(crate) struct ReleaseQueue {
    filled: AtomicBool,
    list: Mutex<Vec<Release>>,
}

impl ReleaseQueue {
    pub(crate) fn push(&self, release: Release) {
        let mut list = self.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        list.push(release);
        self.filled.store(true, Ordering::Release);
    }

    /// Takes all released resources; returns `None` without locking when there are none.
    pub(crate) fn take(&self) -> Option<Vec<Release>> {
        if !self.filled.load(Ordering::Acquire) {
            return None;
        }
        let mut list = self.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.filled.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_come_out_once_and_in_order() {
        let queue = ReleaseQueue::default();
        assert!(queue.take().is_none());
        queue.push(Release::Counter { registration_id: 1 });
        queue.push(Release::Subscription { registration_id: 2 });
        let taken = queue.take().expect("two are waiting");
        assert_eq!(
            taken,
            [Release::Counter { registration_id: 1 }, Release::Subscription { registration_id: 2 }]
        );
        assert!(queue.take().is_none());
    }
}
