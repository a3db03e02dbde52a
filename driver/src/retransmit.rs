//! Retransmission of lost ranges at the sender (spec 02 §2.7).

use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH};

/// A range of a term to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resend {
    pub(crate) term_id: i32,
    pub(crate) term_offset: i32,
    pub(crate) length: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Delayed,
    Lingering,
}

#[derive(Debug, Clone, Copy)]
struct Action {
    state: State,
    range: Resend,
    expires_ns: i64,
}

/// Outcome of a NAK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NakOutcome {
    /// The range is to be sent now.
    Resend(Resend),
    /// The NAK waits for its delay, or its range is being answered already.
    Noted,
    /// The NAK names a range that cannot exist.
    Invalid,
    /// All slots for retransmits are taken.
    Overflow,
}

/// Parameters of a publication's retransmits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetransmitSettings {
    pub(crate) delay_ns: i64,
    pub(crate) linger_ns: i64,
    /// Most retransmits at a time; 1 when there is one receiver.
    pub(crate) max_resend: usize,
    /// True with several receivers: each range has its own slot. With one receiver a new range replaces the last one.
    pub(crate) has_group_semantics: bool,
    /// Most bytes of one resend.
    pub(crate) max_length: i32,
}

/// The retransmits of one publication.
#[derive(Debug)]
pub(crate) struct RetransmitHandler {
    settings: RetransmitSettings,
    actions: Vec<Action>,
    active: usize,
}

impl RetransmitHandler {
    pub(crate) fn new(settings: RetransmitSettings) -> Self {
        let range = Resend { term_id: 0, term_offset: 0, length: 0 };
        let count = if settings.has_group_semantics { settings.max_resend } else { 1 };
        let actions = vec![Action { state: State::Free, range, expires_ns: 0 }; count];
        Self { settings, actions, active: 0 }
    }

    /// Handles a NAK.
    pub(crate) fn on_nak(&mut self, nak: Resend, term_length: i32, now_ns: i64) -> NakOutcome {
        let Resend { term_id, term_offset, length } = nak;
        let last_offset = term_length - HEADER_LENGTH as i32;
        // The sender reads a frame length at this offset, so the offset must be aligned like a frame (spec 02 §8).
        let is_frame_offset = term_offset % FRAME_ALIGNMENT as i32 == 0;
        if !(0..=last_offset).contains(&term_offset) || !is_frame_offset || length < 0 {
            return NakOutcome::Invalid;
        }
        let is_answered = self.is_answered(term_id, term_offset) && !is_planted(Bug::EveryNakAnswered);
        if length == 0 || is_answered {
            return NakOutcome::Noted;
        }
        let length = length.min(term_length - term_offset).min(self.settings.max_length);
        let range = Resend { term_id, term_offset, length };
        let is_unicast = !self.settings.has_group_semantics;
        let found = self.actions.iter_mut().find(|action| is_unicast || action.state == State::Free);
        let Some(action) = found else { return NakOutcome::Overflow };
        if action.state == State::Free {
            self.active += 1;
        }
        action.range = range;
        if self.settings.delay_ns == 0 {
            action.state = State::Lingering;
            action.expires_ns = now_ns.saturating_add(self.settings.linger_ns);
            return NakOutcome::Resend(range);
        }
        action.state = State::Delayed;
        action.expires_ns = now_ns.saturating_add(self.settings.delay_ns);
        NakOutcome::Noted
    }

    fn is_answered(&self, term_id: i32, term_offset: i32) -> bool {
        self.active > 0
            && self.actions.iter().any(|action| {
                let Resend { term_id: answered_term, term_offset: begin, length } = action.range;
                action.state != State::Free
                    && answered_term == term_id
                    && begin <= term_offset
                    && term_offset < begin + length
            })
    }

    /// Ends expired delays and lingers; returns the next range whose delay is over, or `None` when there is none left.
    #[inline]
    pub(crate) fn next_due(&mut self, now_ns: i64) -> Option<Resend> {
        if self.active == 0 {
            return None;
        }
        for action in &mut self.actions {
            if action.state == State::Free || now_ns <= action.expires_ns {
                continue;
            }
            if action.state == State::Delayed {
                action.state = State::Lingering;
                action.expires_ns = now_ns.saturating_add(self.settings.linger_ns);
                return Some(action.range);
            }
            if is_planted(Bug::ResentOnlyOnce) {
                continue;
            }
            action.state = State::Free;
            self.active -= 1;
        }
        None
    }

    /// Returns the end of the earliest delay, ns. Lingers need no deadline, because nothing is sent at their end.
    pub(crate) fn next_deadline_ns(&self) -> Option<i64> {
        let delayed = self.actions.iter().filter(|action| action.state == State::Delayed);
        delayed.map(|action| action.expires_ns.saturating_add(1)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(delay_ns: i64, max_resend: usize, has_group_semantics: bool) -> RetransmitHandler {
        RetransmitHandler::new(RetransmitSettings {
            delay_ns,
            linger_ns: 10,
            max_resend,
            has_group_semantics,
            max_length: 4_096,
        })
    }

    fn nak(term_offset: i32, length: i32) -> Resend {
        Resend { term_id: 3, term_offset, length }
    }

    #[test]
    fn a_nak_is_answered_once_while_it_lingers() {
        let mut handler = handler(0, 1, false);
        assert_eq!(handler.on_nak(nak(64, 128), 65_536, 0), NakOutcome::Resend(nak(64, 128)));
        assert_eq!(handler.on_nak(nak(96, 32), 65_536, 5), NakOutcome::Noted);
        assert_eq!(handler.on_nak(nak(512, 32), 65_536, 5), NakOutcome::Resend(nak(512, 32)));
        assert_eq!((handler.next_due(16), handler.next_deadline_ns()), (None, None));
        assert_eq!(handler.on_nak(nak(512, 32), 65_536, 17), NakOutcome::Resend(nak(512, 32)));
    }

    #[test]
    fn a_group_has_a_pool() {
        let mut handler = handler(0, 2, true);
        assert!(matches!(handler.on_nak(nak(0, 32), 65_536, 0), NakOutcome::Resend(_)));
        assert!(matches!(handler.on_nak(nak(64, 32), 65_536, 0), NakOutcome::Resend(_)));
        assert_eq!(handler.on_nak(nak(128, 32), 65_536, 0), NakOutcome::Overflow);
    }

    #[test]
    fn a_delayed_resend_comes_later() {
        let mut handler = handler(20, 1, false);
        assert_eq!(handler.on_nak(nak(0, 32), 65_536, 0), NakOutcome::Noted);
        assert_eq!((handler.next_due(20), handler.next_deadline_ns()), (None, Some(21)));
        assert_eq!(handler.next_due(21), Some(nak(0, 32)));
        assert_eq!(handler.next_due(21), None);
    }

    #[test]
    fn all_delayed_resends_of_a_pool_come() {
        let mut handler = handler(20, 16, true);
        for step in 0..16 {
            assert_eq!(handler.on_nak(nak(step * 64, 32), 65_536, 0), NakOutcome::Noted);
        }
        let due: Vec<Resend> = std::iter::from_fn(|| handler.next_due(21)).collect();
        assert_eq!(due, (0..16).map(|step| nak(step * 64, 32)).collect::<Vec<_>>());
    }

    #[test]
    fn a_group_suppresses_overlaps_and_frees_its_actions() {
        let mut handler = handler(0, 2, true);
        assert_eq!(handler.on_nak(nak(0, 128), 65_536, 0), NakOutcome::Resend(nak(0, 128)));
        assert_eq!(handler.on_nak(nak(96, 512), 65_536, 1), NakOutcome::Noted);
        let other_term = Resend { term_id: 4, ..nak(96, 32) };
        assert_eq!(handler.on_nak(other_term, 65_536, 1), NakOutcome::Resend(other_term));
        assert_eq!(handler.next_due(12), None);
        assert_eq!(handler.on_nak(nak(96, 32), 65_536, 12), NakOutcome::Resend(nak(96, 32)));
    }

    #[test]
    fn ranges_outside_the_term_are_invalid_and_long_ones_cut() {
        let mut handler = handler(0, 1, false);
        for bad in [nak(-32, 32), nak(65_536, 32), nak(0, -1), nak(1, 32), nak(48, 32), nak(i32::MIN, 32)] {
            assert_eq!(handler.on_nak(bad, 65_536, 0), NakOutcome::Invalid);
        }
        assert_eq!(handler.on_nak(nak(0, i32::MAX), 65_536, 0), NakOutcome::Resend(nak(0, 4_096)));
    }
}
