//! Attempts of a client to connect: a member that does not answer must not take the whole time of the connect.

use std::collections::BTreeMap;

/// Longest attempt to reach a member, ns.
const MAX_CONNECT_NS: i64 = 1_000_000_000;
/// Shortest attempt to reach a member, ns.
const MIN_CONNECT_NS: i64 = 100_000_000;

/// The member that the client tries now, and the one that failed before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attempt {
    deadline_ns: Option<i64>,
    failed_member_id: Option<i32>,
}

impl Attempt {
    /// Begins to wait for the ingress of a member. With `message_timeout_ns` for the whole connect, one attempt gets a tenth
    /// of it.
    pub(super) fn begin_connecting(&mut self, now_ns: i64, message_timeout_ns: i64) {
        let timeout_ns = (message_timeout_ns / 10).clamp(MIN_CONNECT_NS, MAX_CONNECT_NS);
        self.deadline_ns = Some(now_ns.saturating_add(timeout_ns));
    }

    /// Begins to wait for the answer of a member. It gets half of the whole time, for a request that is sent again to a
    /// busy leader would open a second session.
    pub(super) fn begin_waiting(&mut self, now_ns: i64, message_timeout_ns: i64) {
        self.deadline_ns = Some(now_ns.saturating_add(message_timeout_ns / 2));
    }

    /// True when the member has had its time.
    pub(super) fn is_over(&self, now_ns: i64) -> bool {
        self.deadline_ns.is_some_and(|deadline_ns| now_ns > deadline_ns)
    }

    /// Notes that a member has not answered: the others are tried first.
    pub(super) fn fail(&mut self, member_id: Option<i32>) {
        self.failed_member_id = member_id;
        self.deadline_ns = None;
    }

    /// Chooses a stream among those that are connected. The member that failed last is chosen only when `is_over`, that is
    /// when no other member has connected in time.
    pub(super) fn choose(
        &self,
        now_ns: i64,
        connected: impl Iterator<Item = (usize, i32)> + Clone,
    ) -> Option<usize> {
        let other = connected.clone().find(|(_, member_id)| Some(*member_id) != self.failed_member_id);
        let fallback = connected.into_iter().next().filter(|_| self.is_over(now_ns));
        other.or(fallback).map(|(index, _)| index)
    }
}

/// True when there is somebody else to try.
pub(super) fn has_alternatives(endpoints: &BTreeMap<i32, String>) -> bool {
    endpoints.len() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_member_is_the_last_to_be_chosen() {
        let mut attempt = Attempt::default();
        let both = [(0, 7), (1, 8)];
        assert_eq!(attempt.choose(0, both.into_iter()), Some(0));
        attempt.fail(Some(7));
        attempt.begin_connecting(0, 5_000_000_000);
        assert_eq!(attempt.choose(1, both.into_iter()), Some(1));
        assert_eq!(attempt.choose(1, [(0, 7)].into_iter()), None);
        assert_eq!(attempt.choose(500_000_001, [(0, 7)].into_iter()), Some(0));
        assert_eq!(attempt.choose(1, std::iter::empty()), None);
    }

    #[test]
    fn an_attempt_is_short() {
        let mut attempt = Attempt::default();
        assert!(!attempt.is_over(i64::MAX));
        for (timeout_ns, attempt_ns) in
            [(5_000_000_000, 500_000_000), (60_000_000_000, MAX_CONNECT_NS), (200_000_000, MIN_CONNECT_NS)]
        {
            attempt.begin_connecting(10, timeout_ns);
            assert!(!attempt.is_over(10 + attempt_ns) && attempt.is_over(11 + attempt_ns));
        }
        attempt.begin_waiting(0, 5_000_000_000);
        assert!(!attempt.is_over(2_500_000_000) && attempt.is_over(2_500_000_001));
    }
}
