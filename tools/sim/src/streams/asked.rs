//! Retransmissions: how often receivers send NAKs, what the sender owes them, and which receivers an answer serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::plan::GROUP_BACKOFF_NS;
use crate::kernel::HostId;

/// Number of NAKs for one gap that are judged together.
const ASKINGS: usize = 9;
/// Least time between the first and the last of them, ns. It is an eighth of the longest back-off for each: a
/// receiver draws a shorter one in one of fifty cases (spec 02 §3.5), and eight in a row that are this short on
/// average do not happen.
const LEAST_TIME_NS: i64 = GROUP_BACKOFF_NS;

/// A gap of a session in the form of a NAK.
pub(super) type Gap = (i32, i32, i32);

/// Gap for which a receiver sends NAKs to a sender, and their times.
#[derive(Debug, Default)]
pub(super) struct Asking {
    gap: Option<Gap>,
    times_ns: Vec<i64>,
}

impl Asking {
    /// A receiver of a group sends a NAK. Returns how long its latest NAKs for this gap took, when that is too short.
    pub(super) fn on_nak(&mut self, gap: Gap, now_ns: i64) -> Option<i64> {
        if self.gap != Some(gap) {
            self.gap = Some(gap);
            self.times_ns.clear();
        }
        // A sender with several connections receives the NAK over each of them at once.
        if self.times_ns.last() == Some(&now_ns) {
            return None;
        }
        if self.times_ns.len() == ASKINGS {
            self.times_ns.remove(0);
        }
        self.times_ns.push(now_ns);
        let took_ns = now_ns - self.times_ns[0];
        (self.times_ns.len() == ASKINGS && took_ns < LEAST_TIME_NS).then_some(took_ns)
    }

    /// True when it has asked for this gap before.
    pub(super) fn is_repeated(&self) -> bool {
        self.times_ns.len() > 1
    }
}

/// A NAK that is being answered.
#[derive(Debug, Clone, Copy)]
struct Answer {
    begin: i64,
    end: i64,
    /// Time until which NAKs for the same bytes are not answered, ns.
    until_ns: i64,
    /// Time until which it may occupy one of the sender's actions, ns.
    held_until_ns: i64,
}

/// Settings with which a driver answers NAKs (spec 02 §2.7).
#[derive(Debug, Clone, Copy, Default)]
pub struct AnswerSettings {
    /// Time before the retransmission, ns.
    pub delay_ns: i64,
    /// Time in which the range is not retransmitted again, ns.
    pub linger_ns: i64,
    /// Most retransmissions at a time to a group.
    pub max_resend: usize,
}

/// Bytes that a sender owes to its receivers.
#[derive(Debug, Default)]
pub(super) struct Owed {
    answers: Vec<Answer>,
    /// Number of bytes that may be retransmitted.
    bytes: i64,
}

impl Owed {
    /// The sender has read a NAK; returns false when it has been answered already.
    ///
    /// The sender may judge differently (its clock is read earlier than this one, and its actions may all be in use);
    /// then this owes more.
    pub(super) fn on_nak(
        &mut self,
        (begin, end): (i64, i64),
        is_group: bool,
        settings: &AnswerSettings,
        now_ns: i64,
    ) -> bool {
        self.answers.retain(|answer| now_ns < answer.held_until_ns);
        let suppresses =
            |answer: &&mut Answer| now_ns < answer.until_ns && (answer.begin..answer.end).contains(&begin);
        if let Some(answer) = self.answers.iter_mut().find(suppresses) {
            self.bytes += (end - answer.end).max(0);
            answer.end = answer.end.max(end);
            return false;
        }
        self.bytes += end - begin;
        if !is_group {
            self.answers.clear();
        } else if self.answers.len() >= settings.max_resend {
            return true;
        }
        self.answers.push(Answer {
            begin,
            end,
            until_ns: now_ns + settings.linger_ns / 2,
            held_until_ns: now_ns + 2 * (settings.delay_ns + settings.linger_ns),
        });
        true
    }

    /// The sender retransmits bytes; returns how many of them nobody asked for.
    pub(super) fn on_resent(&mut self, length: usize) -> Option<i64> {
        self.bytes -= length as i64;
        (self.bytes < 0).then_some(-self.bytes)
    }
}

/// Data of a session that has arrived at a host.
#[derive(Debug, Default)]
pub(super) struct Holes {
    high: Option<i64>,
    /// End of each missing range, and whether the host has asked for it, by begin.
    missing: BTreeMap<i64, (i64, bool)>,
}

impl Holes {
    /// The host sends a NAK for these bytes.
    pub(super) fn on_nak(&mut self, begin: i64, end: i64) {
        for (from, (to, is_asked)) in &mut self.missing {
            *is_asked |= *from < end && begin < *to;
        }
    }

    /// A datagram has arrived; returns true when it brings bytes that the host lacks and has not asked for.
    pub(super) fn on_data(&mut self, begin: i64, end: i64) -> bool {
        let high = self.high.unwrap_or(begin);
        self.high = Some(high.max(end));
        if begin > high {
            self.missing.insert(high, (begin, false));
        }
        let hit: Vec<_> = self
            .missing
            .iter()
            .filter(|(from, (to, _))| **from < end && begin < *to)
            .map(|(from, _)| *from)
            .collect();
        let mut is_gift = false;
        for from in hit {
            let Some((to, is_asked)) = self.missing.remove(&from) else { continue };
            is_gift |= !is_asked;
            if from < begin {
                self.missing.insert(from, (begin, is_asked));
            }
            if end < to {
                self.missing.insert(end, (to, is_asked));
            }
        }
        is_gift
    }
}

/// Receivers of a session: the gaps for which they send NAKs, by host and address, and the data that has arrived.
#[derive(Debug, Default)]
pub(super) struct Receivers {
    pub(super) askings: BTreeMap<(HostId, SocketAddr), Asking>,
    pub(super) holes: BTreeMap<HostId, Holes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: AnswerSettings = AnswerSettings { delay_ns: 0, linger_ns: 100, max_resend: 2 };

    #[test]
    fn one_answer_is_owed_to_all_that_ask_for_the_same() {
        let mut owed = Owed::default();
        assert!(owed.on_nak((0, 128), true, &SETTINGS, 0));
        assert!(!owed.on_nak((64, 128), true, &SETTINGS, 49));
        assert_eq!((owed.on_resent(128), owed.on_resent(32)), (None, Some(32)));
        let mut later = Owed::default();
        assert!(later.on_nak((0, 128), true, &SETTINGS, 0));
        assert!(later.on_nak((64, 128), true, &SETTINGS, 50));
        assert_eq!((later.on_resent(192), later.on_resent(1)), (None, Some(1)));
    }

    #[test]
    fn asking_without_a_pause_is_seen() {
        let mut asking = Asking::default();
        let too_short = |step_ns: i64, asking: &mut Asking| {
            (0..10).filter_map(|step| asking.on_nak((1, 64, 32), step * step_ns)).count()
        };
        assert_eq!(too_short(LEAST_TIME_NS / 8, &mut asking), 0);
        asking.on_nak((1, 0, 32), 0);
        assert_eq!(too_short(LEAST_TIME_NS / 8 - 1, &mut asking), 2);
    }

    #[test]
    fn what_another_asked_for_is_a_gift() {
        let mut holes = Holes::default();
        assert!(!holes.on_data(0, 64));
        assert!(!holes.on_data(192, 256));
        holes.on_nak(64, 96);
        assert!(!holes.on_data(64, 96));
        holes.missing.clear();
        assert!(!holes.on_data(512, 576));
        assert!(holes.on_data(256, 288));
        assert!(!holes.on_data(256, 288));
    }
}
