//! Results of runs.

use std::fmt::Write;

use crate::history::Violation;
use crate::trace::Coverage;

/// Result of one seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Hash of all events.
    pub trace_hash: u64,
    /// Virtual time that passed, ns.
    pub virtual_ns: i64,
    /// Number of acknowledged messages.
    pub messages: u64,
    /// Broken rules; none in a good run.
    pub violations: Vec<Violation>,
    /// Counts of faults and branches.
    pub coverage: Coverage,
    /// Events as text, when they were kept.
    pub lines: Vec<String>,
}

/// Results of many seeds.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Number of seeds that were run.
    pub seeds: u64,
    /// Virtual time that passed, ns.
    pub virtual_ns: i64,
    /// Number of acknowledged messages.
    pub messages: u64,
    /// Seeds that broke a rule, with the first broken rule of each.
    pub failures: Vec<(u64, Violation)>,
    /// Counts of faults and branches.
    pub coverage: Coverage,
    /// Real time, s.
    pub seconds: f64,
    /// Seeds whose second run had another trace than the first.
    pub divergent: Vec<u64>,
    /// Names that the seeds had to hit and did not.
    pub missing: Vec<&'static str>,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.virtual_ns += outcome.virtual_ns;
        self.messages += outcome.messages;
        self.coverage.merge(&outcome.coverage);
        if let Some(first) = outcome.violations.first() {
            self.failures.push((outcome.seed, first.clone()));
        }
    }

    /// Adds the runs of another thread.
    pub fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.virtual_ns += other.virtual_ns;
        self.messages += other.messages;
        self.coverage.merge(&other.coverage);
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|(seed, _)| *seed);
        self.divergent.extend(other.divergent);
        self.divergent.sort_unstable();
    }

    /// Records which of these names were never hit.
    pub fn expect(&mut self, names: &[&'static str]) {
        self.missing = names.iter().copied().filter(|name| self.coverage.get(name) == 0).collect();
    }

    /// True when nothing went wrong.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.divergent.is_empty() && self.missing.is_empty()
    }

    /// Returns a table for people.
    pub fn table(&self, area: &str, sync_level: u32) -> String {
        let mut text = String::new();
        let mean_ms = self.seconds * 1e3 / self.seeds.max(1) as f64;
        let _ = writeln!(
            text,
            "{area}, sync level {sync_level}: {} seeds in {:.1} s ({mean_ms:.1} ms each), {:.0} s of virtual time, {} messages acknowledged",
            self.seeds,
            self.seconds,
            self.virtual_ns as f64 / 1e9,
            self.messages
        );
        for (name, count) in self.coverage.iter() {
            let _ = writeln!(text, "  {count:>12}  {name}");
        }
        for (seed, violation) in &self.failures {
            let _ = writeln!(text, "FAILED seed {seed}: [{}] {}", violation.checker, violation.text);
        }
        for seed in &self.divergent {
            let _ = writeln!(text, "FAILED seed {seed}: two runs have different traces");
        }
        for name in &self.missing {
            let _ = writeln!(text, "FAILED never hit: {name}");
        }
        text
    }

    /// Returns one line of JSON.
    pub fn json(&self, area: &str, sync_level: u32) -> String {
        let mut text = format!(
            "{{\"area\":{area:?},\"sync_level\":{sync_level},\"seeds\":{},\"failed\":{},\"divergent\":{},\"missing\":{},\"seconds\":{:.3},\"virtual_seconds\":{:.3},\"messages\":{}",
            self.seeds,
            self.failures.len(),
            self.divergent.len(),
            self.missing.len(),
            self.seconds,
            self.virtual_ns as f64 / 1e9,
            self.messages
        );
        if let Some((seed, violation)) = self.failures.first() {
            let _ = write!(text, ",\"first_failed\":{seed},\"checker\":{:?}", violation.checker);
        }
        text.push_str(",\"hits\":{");
        for (index, (name, count)) in self.coverage.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(text, "{comma}{name:?}:{count}");
        }
        text.push_str("}}");
        text
    }
}
