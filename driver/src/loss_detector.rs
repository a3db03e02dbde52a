//! Detection of gaps in an image, and the times at which NAKs for them are due (spec 02 §3.5).

use harrier_ringbuf::Rng;
use harrier_ringbuf::planted::{Bug, is_planted};

use crate::handover::MissingRange;

/// Delays before the first NAK for a gap and before repeated NAKs.
#[derive(Debug, Clone)]
pub(crate) enum NakDelay {
    /// Fixed delays, ns: unicast, or none for unreliable streams.
    Static { first_ns: i64, retry_ns: i64 },
    /// A random delay, so that the NAK of one receiver serves the whole group.
    Group { max_backoff_ns: i64, group_size: i32, rng: Rng },
}

impl NakDelay {
    fn first_ns(&mut self) -> i64 {
        match self {
            Self::Static { first_ns, .. } => *first_ns,
            Self::Group { .. } => self.back_off_ns(),
        }
    }

    fn retry_ns(&mut self) -> i64 {
        match self {
            Self::Static { retry_ns, .. } => *retry_ns,
            Self::Group { .. } => self.back_off_ns(),
        }
    }

    fn back_off_ns(&mut self) -> i64 {
        let Self::Group { max_backoff_ns, group_size, rng } = self else { return 0 };
        if is_planted(Bug::BackOffIgnored) {
            return 0;
        }
        let t = *max_backoff_ns as f64;
        let lambda = f64::from(*group_size).ln() + 1.0;
        let unit = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let scale = lambda.exp() - 1.0;
        let x = unit * (lambda / t) + lambda / (t * scale);
        ((t / lambda) * (x * scale * t / lambda).ln()).max(0.0) as i64
    }
}

/// Watches the gap nearest to the rebuild position.
#[derive(Debug)]
pub(crate) struct LossDetector {
    delay: NakDelay,
    active: Option<MissingRange>,
    deadline_ns: i64,
}

/// Result of a scan for gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LossFound {
    /// True for a gap that the previous scan did not find.
    pub(crate) is_new: bool,
    /// Gap for which a NAK is due.
    pub(crate) ask_for: Option<MissingRange>,
}

impl LossDetector {
    pub(crate) fn new(delay: NakDelay) -> Self {
        Self { delay, active: None, deadline_ns: 0 }
    }

    /// Handles the result of a scan: the first gap, or `None`.
    pub(crate) fn on_gap(&mut self, gap: Option<MissingRange>, now_ns: i64) -> LossFound {
        let Some(gap) = gap else {
            self.active = None;
            return LossFound::default();
        };
        let is_new = self.active != Some(gap);
        if is_new {
            self.active = Some(gap);
            self.deadline_ns = now_ns + self.delay.first_ns();
        }
        if now_ns < self.deadline_ns {
            return LossFound { is_new, ask_for: None };
        }
        let retry_ns = if is_planted(Bug::NakNotRepeated) { i64::MAX / 2 } else { self.delay.retry_ns() };
        self.deadline_ns = now_ns + retry_ns;
        LossFound { is_new, ask_for: Some(gap) }
    }

    /// Time at which the next NAK for the active gap is due, ns.
    pub(crate) fn deadline_ns(&self) -> Option<i64> {
        self.active.map(|_| self.deadline_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(length: i32) -> Option<MissingRange> {
        Some(MissingRange { term_id: 1, term_offset: 64, length })
    }

    #[test]
    fn a_gap_is_asked_for_after_its_delay_and_again() {
        let mut detector = LossDetector::new(NakDelay::Static { first_ns: 10, retry_ns: 100 });
        assert_eq!(detector.on_gap(gap(32), 0), LossFound { is_new: true, ask_for: None });
        assert_eq!(detector.on_gap(gap(32), 9), LossFound::default());
        assert_eq!(detector.on_gap(gap(32), 10).ask_for, gap(32));
        assert_eq!(detector.on_gap(gap(32), 109).ask_for, None);
        assert_eq!(detector.on_gap(gap(32), 110).ask_for, gap(32));
    }

    #[test]
    fn a_changed_gap_starts_anew() {
        let mut detector = LossDetector::new(NakDelay::Static { first_ns: 10, retry_ns: 100 });
        detector.on_gap(gap(32), 0);
        assert_eq!(detector.on_gap(gap(96), 9), LossFound { is_new: true, ask_for: None });
        assert_eq!(detector.deadline_ns(), Some(19));
        assert_eq!(detector.on_gap(None, 20), LossFound::default());
        assert_eq!(detector.deadline_ns(), None);
    }

    #[test]
    fn an_unreliable_gap_is_reported_at_once() {
        let mut detector = LossDetector::new(NakDelay::Static { first_ns: 0, retry_ns: 0 });
        assert_eq!(detector.on_gap(gap(32), 5), LossFound { is_new: true, ask_for: gap(32) });
    }

    #[test]
    fn a_groups_delay_stays_below_its_maximum() {
        let mut delay = NakDelay::Group { max_backoff_ns: 10_000_000, group_size: 10, rng: Rng::new(3) };
        let delays: Vec<i64> = (0..1_000).map(|_| delay.first_ns()).collect();
        assert!(delays.iter().all(|ns| (0..=10_000_000).contains(ns)));
        assert!(delays.iter().any(|ns| *ns > 5_000_000));
    }
}
