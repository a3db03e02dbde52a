//! Limits of a sender by the status messages of its receivers: a second implementation of spec 02 §4 that follows its
//! rules alone.

use std::collections::BTreeMap;

use harrier_protocol::udp::{StatusMessage, flag};

use crate::trace::Coverage;

/// Receivers whose windows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The window of the furthest receiver counts.
    Max,
    /// The window of the slowest receiver counts; with a tag only receivers with that tag count.
    Min {
        /// Tag of the group.
        tag: Option<i64>,
        /// Number of receivers without which nothing is granted.
        least: usize,
        /// Time after which a silent receiver is gone, ns.
        timeout_ns: i64,
    },
}

/// Time by which a driver may have read its clock earlier than this when it takes a status message, or later when it
/// looks for silent receivers, ns. Everything in between is granted.
const TURN_NS: i64 = 100_000;

#[derive(Debug, Clone, Copy)]
struct Receiver {
    limit: i64,
    heard_ns: i64,
}

/// Furthest position that was ever granted to a session.
#[derive(Debug)]
pub(super) struct Granted {
    strategy: Strategy,
    receivers: BTreeMap<i64, Receiver>,
    /// Time of each receiver's last status message, also of receivers that are too far behind to join.
    heard_ns: BTreeMap<i64, i64>,
    limit: i64,
    spied: Option<Spied>,
}

/// A sender that its spies carry on while no receiver is alive. The wire does not show how far it is, and so not
/// whether it accepts a status message with an earlier position (spec 02 §2.4, §2.6).
#[derive(Debug, Default)]
struct Spied {
    alive_ns: BTreeMap<i64, i64>,
    /// It has sent data after the status message of a receiver that is alive, so spies do not move it.
    is_listened_to: bool,
}

impl Spied {
    /// A receiver sends a status message; returns true when the sender may reject it.
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

/// Time for which a receiver counts as alive for every sender after a status message, ns.
const ALIVE_NS: i64 = 600_000_000;

impl Granted {
    /// Creates limits that grant nothing yet. Spies of the stream may count as receivers.
    pub(super) fn new(strategy: Strategy, has_spies: bool) -> Self {
        let (receivers, heard_ns) = (BTreeMap::new(), BTreeMap::new());
        Self { strategy, receivers, heard_ns, limit: 0, spied: has_spies.then(Spied::default) }
    }

    /// The sender has sent new data.
    pub(super) fn on_new_data(&mut self) {
        if let Some(spied) = &mut self.spied {
            spied.is_listened_to = true;
        }
    }

    /// Returns the granted position: when the slowest receiver is gone, the others decide.
    pub(super) fn limit(&mut self, now_ns: i64, coverage: &mut Coverage) -> i64 {
        if let Strategy::Min { least, timeout_ns, .. } = self.strategy {
            self.go_on_without_silent(least, timeout_ns, now_ns, coverage);
        }
        self.limit
    }

    /// Keeps what the other receivers grant when silent ones are gone, whichever come back.
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
        // It is uncertain which receivers a sender with spies has accepted: only one near the granted position joins
        // it.
        let reference = if self.spied.is_some() { Some(self.limit) } else { slowest };
        let is_near = reference.is_none_or(|reference| own >= reference - window);
        let is_known = self.receivers.contains_key(&status.receiver_id);
        if matches && status.flags & flag::SM_EOS != 0 {
            self.receivers.remove(&status.receiver_id);
        } else if is_doubtful {
            // Its grant counts, but it need not hold the sender back.
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
