//! How far a sender may go by what its receivers have told it: spec 02 §4 once more, written for its rules alone.

use std::collections::BTreeMap;

use harrier_protocol::udp::{StatusMessage, flag};

use crate::trace::Coverage;

/// Whose windows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The furthest receiver's.
    Max,
    /// The slowest receiver's; with a tag only of those that carry it.
    Min {
        /// The tag of the group.
        tag: Option<i64>,
        /// Receivers without which nothing is granted.
        least: usize,
        /// A receiver that is silent for longer has gone, ns.
        timeout_ns: i64,
    },
}

/// How much earlier than this a driver may have read its clock when it takes a status message, or later when it looks for
/// silent receivers, ns: what lies between is granted.
const TURN_NS: i64 = 100_000;

#[derive(Debug, Clone, Copy)]
struct Receiver {
    limit: i64,
    heard_ns: i64,
}

/// The furthest position that was ever granted to a session.
#[derive(Debug)]
pub(super) struct Granted {
    strategy: Strategy,
    receivers: BTreeMap<i64, Receiver>,
    /// When each receiver spoke last, those that are too far behind to join included.
    heard_ns: BTreeMap<i64, i64>,
    limit: i64,
    spied: Option<Spied>,
}

/// A sender that its spies carry on while no receiver lives: nobody sees on the wire how far it is, and so whether it
/// believes a status message that speaks of an earlier position (spec 02 §2.4, §2.6).
#[derive(Debug, Default)]
struct Spied {
    alive_ns: BTreeMap<i64, i64>,
    /// It has sent data after a receiver spoke that is alive: spies do not move it.
    is_listened_to: bool,
}

impl Spied {
    /// A receiver speaks; true when the sender may not believe it.
    fn on_status(&mut self, status: &StatusMessage, now_ns: i64) -> bool {
        self.alive_ns.retain(|_, heard_ns| now_ns - *heard_ns <= ALIVE_NS);
        self.is_listened_to &= !self.alive_ns.is_empty();
        match status.flags & flag::SM_EOS {
            0 => self.alive_ns.insert(status.receiver_id, now_ns),
            _ => self.alive_ns.remove(&status.receiver_id),
        };
        !self.is_listened_to
    }
}

/// A receiver that was heard within this time lives for every sender, ns.
const ALIVE_NS: i64 = 600_000_000;

impl Granted {
    /// Nothing is granted yet. Spies of the stream may count as receivers.
    pub(super) fn new(strategy: Strategy, has_spies: bool) -> Self {
        let (receivers, heard_ns) = (BTreeMap::new(), BTreeMap::new());
        Self { strategy, receivers, heard_ns, limit: 0, spied: has_spies.then(Spied::default) }
    }

    /// The sender has sent what it had not sent before.
    pub(super) fn on_new_data(&mut self) {
        if let Some(spied) = &mut self.spied {
            spied.is_listened_to = true;
        }
    }

    /// What is granted by now: when the slowest has gone the others decide.
    pub(super) fn limit(&mut self, now_ns: i64, coverage: &mut Coverage) -> i64 {
        if let Strategy::Min { least, timeout_ns, .. } = self.strategy {
            self.go_on_without_silent(least, timeout_ns, now_ns, coverage);
        }
        self.limit
    }

    /// What the others grant when the silent have gone stays granted, whoever comes back.
    fn go_on_without_silent(&mut self, least: usize, timeout_ns: i64, now_ns: i64, coverage: &mut Coverage) {
        self.forget_silent(timeout_ns, now_ns, coverage);
        if self.heard_ns.len() >= least {
            self.limit = self.limit.max(self.slowest().unwrap_or(self.limit));
        }
    }

    fn slowest(&self) -> Option<i64> {
        self.receivers.values().map(|receiver| receiver.limit).min()
    }

    fn forget_silent(&mut self, timeout_ns: i64, now_ns: i64, coverage: &mut Coverage) {
        self.heard_ns.retain(|_, heard_ns| now_ns - *heard_ns <= timeout_ns + TURN_NS);
        let before = self.receivers.len();
        self.receivers.retain(|_, receiver| now_ns - receiver.heard_ns <= timeout_ns - TURN_NS);
        if self.receivers.len() < before {
            coverage.hit("receiver of a group timed out");
        }
    }

    pub(super) fn on_error(&mut self, receiver_id: i64) {
        self.receivers.remove(&receiver_id);
        if let Some(spied) = &mut self.spied {
            spied.alive_ns.remove(&receiver_id);
        }
    }

    pub(super) fn on_status(
        &mut self,
        status: &StatusMessage,
        position: i64,
        now_ns: i64,
        coverage: &mut Coverage,
    ) {
        let window = i64::from(status.receiver_window);
        let own = position + window;
        let is_doubtful = self.spied.as_mut().is_some_and(|spied| spied.on_status(status, now_ns));
        let Strategy::Min { tag, least, timeout_ns } = self.strategy else {
            self.limit = self.limit.max(own);
            return;
        };
        self.go_on_without_silent(least, timeout_ns, now_ns, coverage);
        let matches = tag.is_none() || tag == status.group_tag;
        let slowest = self.slowest();
        // Whom a sender with spies has believed is not known for certain: only who is near to all that was granted joins it.
        let reference = if self.spied.is_some() { Some(self.limit) } else { slowest };
        let is_near = reference.is_none_or(|reference| own >= reference - window);
        let is_known = self.receivers.contains_key(&status.receiver_id);
        if matches && status.flags & flag::SM_EOS != 0 {
            self.receivers.remove(&status.receiver_id);
        } else if is_doubtful {
            // What it grants is granted, but it need not hold anybody back.
            self.receivers.remove(&status.receiver_id);
        } else if matches && (is_known || is_near) {
            if !is_known {
                coverage.hit("receiver joined a group");
            }
            self.receivers.insert(status.receiver_id, Receiver { limit: own, heard_ns: now_ns });
        }
        if matches {
            self.heard_ns.insert(status.receiver_id, now_ns);
        }
        if self.heard_ns.len() < least {
            return coverage.hit("group too small");
        }
        self.limit = self.limit.max(self.slowest().unwrap_or(own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(receiver_id: i64, group_tag: Option<i64>) -> StatusMessage {
        StatusMessage {
            flags: 0,
            session_id: 1,
            stream_id: 1,
            consumption_term_id: 0,
            consumption_term_offset: 0,
            receiver_window: 1_000,
            receiver_id,
            group_tag,
        }
    }

    #[test]
    fn the_slowest_of_those_that_speak_grants() {
        let strategy = Strategy::Min { tag: Some(7), least: 1, timeout_ns: TURN_NS + 100 };
        let (mut granted, mut coverage) = (Granted::new(strategy, false), Coverage::default());
        granted.on_status(&status(1, None), 5_000, 0, &mut coverage);
        assert_eq!(granted.limit(0, &mut coverage), 0);
        granted.on_status(&status(1, Some(7)), 500, 0, &mut coverage);
        granted.on_status(&status(2, Some(7)), 900, 50, &mut coverage);
        granted.on_status(&status(2, Some(7)), 1_400, 60, &mut coverage);
        assert_eq!(granted.limit(100, &mut coverage), 1_500);
        assert_eq!(granted.limit(101, &mut coverage), 2_400);
        granted.on_status(&status(2, Some(7)), 1_450, 101, &mut coverage);
        assert_eq!(granted.limit(101, &mut coverage), 2_450);
    }

    #[test]
    fn who_is_perhaps_not_believed_holds_nobody_back() {
        let strategy = Strategy::Min { tag: None, least: 0, timeout_ns: i64::MAX / 2 };
        let (mut granted, mut coverage) = (Granted::new(strategy, true), Coverage::default());
        granted.on_status(&status(1, None), 500, 0, &mut coverage);
        granted.on_status(&status(2, None), 900, 0, &mut coverage);
        assert_eq!(granted.limit(0, &mut coverage), 1_900);
        granted.on_new_data();
        granted.on_status(&status(1, None), 1_000, 1, &mut coverage);
        granted.on_status(&status(2, None), 1_500, 2, &mut coverage);
        assert_eq!(granted.limit(2, &mut coverage), 2_000);
        granted.on_status(&status(1, None), 1_900, ALIVE_NS + 3, &mut coverage);
        assert_eq!(granted.limit(ALIVE_NS + 3, &mut coverage), 2_500);
    }
}
