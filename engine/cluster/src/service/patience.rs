//! Limit on the time that a service waits for clients that do not read their egress.

/// Ratio of the time in which a wait is forgiven to the wait itself: waits take at most 1/64 of the time in the long
/// run.
const FORGIVENESS: i64 = 64;
/// Limit of waits for all sessions together, in units of the limit for one session.
const SESSIONS_AT_ONCE: i64 = 2;

/// Time that was spent on waiting and is not forgiven yet, ns. It shrinks by 1/64 of the time that passes.
///
/// No part of the replicated state: only the leader waits for clients.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waited {
    ns: i64,
    at_ns: i64,
}

impl Waited {
    fn at(self, now_ns: i64) -> i64 {
        let forgiven_ns = now_ns.saturating_sub(self.at_ns).max(0) / FORGIVENESS;
        (self.ns - forgiven_ns).max(0)
    }

    /// Adds a wait that ends at `now_ns`.
    pub(super) fn add(&mut self, waited_ns: i64, now_ns: i64) {
        *self = Self { ns: self.at(now_ns).saturating_add(waited_ns.max(0)), at_ns: now_ns };
    }
}

/// Longest wait that a session may cause now, ns.
pub(super) fn allowed_ns(patience_ns: i64, of_session: Waited, of_all: Waited, now_ns: i64) -> i64 {
    let for_session = patience_ns - of_session.at(now_ns);
    let for_all = patience_ns.saturating_mul(SESSIONS_AT_ONCE) - of_all.at(now_ns);
    for_session.min(for_all).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_session_uses_up_its_patience_and_gets_it_back_slowly() {
        let mut waited = Waited::default();
        let allowed = |waited, now_ns| allowed_ns(SECOND, waited, Waited::default(), now_ns);
        assert_eq!(allowed(waited, SECOND), SECOND);
        waited.add(SECOND / 4, 2 * SECOND);
        assert_eq!(allowed(waited, 2 * SECOND), SECOND * 3 / 4);
        waited.add(SECOND, 3 * SECOND);
        assert_eq!(allowed(waited, 3 * SECOND), 0);
        let later = 3 * SECOND + 64 * SECOND;
        assert_eq!(allowed(waited, later), SECOND - (SECOND / 4 - SECOND / 64));
        assert_eq!(allowed(waited, i64::MAX), SECOND);
    }

    #[test]
    fn many_sessions_share_a_limit() {
        let mut all = Waited::default();
        for _ in 0..SESSIONS_AT_ONCE {
            assert_eq!(allowed_ns(SECOND, Waited::default(), all, 5), SECOND);
            all.add(SECOND, 5);
        }
        assert_eq!(allowed_ns(SECOND, Waited::default(), all, 5), 0);
    }
}
