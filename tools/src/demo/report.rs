//! Results of the demonstration.

use std::fmt;

use harrier::services::book::Outcome;
use harrier::services::orders::{Order, Status};
use hdrhistogram::Histogram;
use serde_json::json;

use crate::CommandError;

/// Longest time for a session to continue after the node was killed, ns.
const OUTAGE_BAR_NS: i64 = 5_000_000_000;

/// Number of answers of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    accepted: u64,
    unknown: u64,
    otherwise_refused: u64,
    repeated: u64,
    traded: u64,
    executions: u64,
    exact: u64,
    first_pass_executions: u64,
    first_pass_exact: u64,
    first_pass: usize,
}

impl Tally {
    /// Creates a count of a flow whose first pass over its source has this many orders.
    pub(super) fn new(first_pass: usize) -> Self {
        Self { first_pass, ..Self::default() }
    }

    /// True when an order of this index in the flow belongs to the first pass.
    pub(super) fn is_first_pass(&self, index: usize) -> bool {
        index < self.first_pass
    }

    pub(super) fn add(
        &mut self,
        order: &Order,
        named: Option<u64>,
        outcome: &Outcome,
        is_repeated: bool,
        is_first_pass: bool,
    ) {
        match outcome.status {
            Status::Accepted => self.accepted += 1,
            Status::UnknownOrder => self.unknown += 1,
            _ => self.otherwise_refused += 1,
        }
        self.repeated += u64::from(is_repeated);
        self.traded += u64::from(outcome.filled > 0);
        let (Some(named), Order::ImmediateOrCancel { quantity, .. }) = (named, order) else { return };
        let is_exact = outcome.first_match == named && outcome.filled == *quantity;
        self.executions += 1;
        self.exact += u64::from(is_exact);
        if is_first_pass {
            self.first_pass_executions += 1;
            self.first_pass_exact += u64::from(is_exact);
        }
    }
}

/// Round trips, ns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Percentiles {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    p9999: u64,
    max: u64,
    count: u64,
}

impl Percentiles {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
            count: histogram.len(),
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "p50_ns": self.p50, "p90_ns": self.p90, "p99_ns": self.p99, "p99_9_ns": self.p999,
            "p99_99_ns": self.p9999, "max_ns": self.max, "count": self.count,
        })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            f,
            "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1} µs",
            us(self.p50),
            us(self.p90),
            us(self.p99),
            us(self.p999),
            us(self.p9999),
            us(self.max)
        )
    }
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) messages: usize,
    pub(super) skipped: usize,
    pub(super) tally: Tally,
    pub(super) one_at_a_time: Percentiles,
    pub(super) windowed: Percentiles,
    pub(super) window: usize,
    pub(super) messages_per_second: f64,
    pub(super) outage_ns: Option<i64>,
    pub(super) digest: u64,
    pub(super) expected: u64,
}

impl Report {
    pub(super) fn json(&self) -> serde_json::Value {
        let tally = &self.tally;
        json!({
            "messages": self.messages,
            "skipped_rows": self.skipped,
            "accepted": tally.accepted,
            "unknown_order": tally.unknown,
            "refused": tally.otherwise_refused,
            "traded": tally.traded,
            "repeated": tally.repeated,
            "executions": tally.executions,
            "executions_exact": tally.exact,
            "first_pass": tally.first_pass,
            "first_pass_executions": tally.first_pass_executions,
            "first_pass_executions_exact": tally.first_pass_exact,
            "round_trip": self.one_at_a_time.json(),
            "windowed": self.windowed.json(),
            "window": self.window,
            "msgs_per_s": self.messages_per_second,
            "outage_ms": self.outage_ns.map(|ns| ns as f64 / 1e6),
            "digest": format!("{:016x}", self.digest),
            "expected_digest": format!("{:016x}", self.expected),
        })
    }

    /// Checks that the demonstration has shown what it must show.
    pub(super) fn verdict(&self) -> Result<(), CommandError> {
        if self.digest != self.expected {
            return Err(CommandError::Failed(format!(
                "the node's book has digest {:016x}, the acknowledged orders give {:016x}",
                self.digest, self.expected
            )));
        }
        match self.outage_ns {
            Some(ns) if ns > OUTAGE_BAR_NS => Err(CommandError::Failed(format!(
                "the session went on only {:.1} s after the node was killed",
                ns as f64 / 1e9
            ))),
            _ => Ok(()),
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        writeln!(f, "orders          {} sent, each acknowledged once and in order", self.messages)?;
        writeln!(
            f,
            "answers         {} accepted ({} traded at once), {} unknown ids, {} otherwise refused",
            tally.accepted, tally.traded, tally.unknown, tally.otherwise_refused
        )?;
        if tally.executions > 0 {
            writeln!(
                f,
                "executions      {:.1} % fill exactly the named order ({:.1} % in the first pass of {} orders); {} rows skipped",
                share(tally.exact, tally.executions),
                share(tally.first_pass_exact, tally.first_pass_executions),
                tally.first_pass,
                self.skipped
            )?;
        }
        writeln!(f, "round trip      {}", self.one_at_a_time)?;
        writeln!(f, "{:>3} outstanding {}", self.window, self.windowed)?;
        writeln!(
            f,
            "throughput      {:.0} orders/s with {} outstanding",
            self.messages_per_second, self.window
        )?;
        if let Some(ns) = self.outage_ns {
            writeln!(
                f,
                "crash           killed and started again; the session went on after {:.0} ms, {} orders were repeated",
                ns as f64 / 1e6,
                tally.repeated
            )?;
        }
        let relation = if self.digest == self.expected { "equals" } else { "DIFFERS from" };
        write!(
            f,
            "digest          {:016x} {relation} that of the acknowledged orders ({:016x})",
            self.digest, self.expected
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier::services::orders::Side;

    #[test]
    fn exact_executions_are_counted() {
        let mut tally = Tally::default();
        let order = Order::ImmediateOrCancel { id: 1, side: Side::Sell, price: 5, quantity: 3 };
        let outcome = |filled, first_match| Outcome { status: Status::Accepted, filled, first_match };
        tally.add(&order, Some(9), &outcome(3, 9), false, true);
        tally.add(&order, Some(9), &outcome(2, 9), false, true);
        tally.add(&order, Some(9), &outcome(3, 8), false, false);
        tally.add(&order, None, &outcome(3, 8), true, false);
        assert_eq!((tally.executions, tally.exact), (3, 1));
        assert_eq!((tally.first_pass_executions, tally.first_pass_exact), (2, 1));
        assert_eq!((tally.traded, tally.repeated), (4, 1));
    }
}
