//! An exhaustive walk: three members, two terms, two entries, timers that may fire at any time.
//!
//! Requests of an election end at once; everything else is a choice: which message arrives, which timer fires, who crashes,
//! when an entry is replicated. Of the messages of one kind between two members only the latest is under way: it may
//! arrive any number of times, and one that is replaced before was lost. The walk deepens step by step and remembers hashes of the states that it has seen.

mod step;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{Hash, Hasher};

use harrier_ringbuf::idmap::IdMap;

use step::{Choice, Walker};

/// Number of roots that a random way has reached from the steady one.
const WANDERED: u64 = 8;

/// Limits of a walk.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most distinct states.
    pub states: usize,
    /// Most steps from a root.
    pub depth: u8,
}

/// Result of a walk.
#[derive(Debug, Clone, Default)]
pub struct Walked {
    /// Number of distinct states.
    pub states: usize,
    /// Number of steps that were tried.
    pub steps: u64,
    /// Every state within this many steps of a root was seen.
    pub depth: u8,
    /// States of elections that were seen, by code.
    pub election_states: BTreeMap<u8, u64>,
    /// The first broken rule, and the choices that lead to it.
    pub failure: Option<String>,
}

impl Walked {
    /// Returns a line for people.
    pub fn line(&self) -> String {
        let mut text = format!(
            "walk: {} distinct states, complete to depth {}, {} steps, {} of 18 election states",
            self.states,
            self.depth,
            self.steps,
            self.election_states.len()
        );
        if let Some(failure) = &self.failure {
            let _ = write!(text, "\nFAILED {failure}");
        }
        text
    }
}

/// Mixes words; the states are not chosen by an adversary.
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_i32(&mut self, value: i32) {
        self.write_u64(value as u64);
    }

    fn write_i64(&mut self, value: i64) {
        self.write_u64(value as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
    }
}

struct Search {
    bounds: Bounds,
    /// Remaining depth with which a state was expanded.
    seen: IdMap<u64, u8>,
    path: Vec<Choice>,
    walked: Walked,
    is_full: bool,
}

/// Walks from each root until a bound is reached.
pub fn walk(bounds: &Bounds) -> Walked {
    let mut search = Search {
        bounds: *bounds,
        seen: IdMap::default(),
        path: Vec::new(),
        walked: Walked::default(),
        is_full: false,
    };
    let mut roots = vec![Walker::fresh(), Walker::steady()];
    roots.extend((1..=WANDERED).map(Walker::wandered));
    for depth in 1..=bounds.depth {
        search.seen = IdMap::default();
        search.walked.election_states.clear();
        for root in &roots {
            search.expand(root, depth);
        }
        if search.walked.failure.is_some() || search.is_full {
            break;
        }
        search.walked.depth = depth;
    }
    search.walked
}

impl Search {
    fn expand(&mut self, walker: &Walker, remaining: u8) {
        if self.is_full || self.walked.failure.is_some() {
            return;
        }
        let mut hasher = Mixer(0x51ED_270B);
        walker.hash(&mut hasher);
        let key = hasher.finish();
        match self.seen.get(&key) {
            Some(known) if *known >= remaining => return,
            Some(_) => {}
            None => {
                for state in walker.election_states() {
                    *self.walked.election_states.entry(state).or_default() += 1;
                }
            }
        }
        self.seen.insert(key, remaining);
        self.walked.states = self.walked.states.max(self.seen.len());
        if self.seen.len() >= self.bounds.states {
            self.is_full = true;
        }
        if remaining == 0 {
            return;
        }
        for choice in walker.choices() {
            let mut next = walker.clone();
            self.walked.steps += 1;
            next.take(choice);
            self.path.push(choice);
            if let Some(text) = next.broken() {
                self.walked.failure = Some(format!("{text} after {:?}", self.path));
                return;
            }
            if next.is_within_bounds() {
                self.expand(&next, remaining - 1);
            }
            self.path.pop();
            if self.walked.failure.is_some() {
                return;
            }
        }
    }
}
