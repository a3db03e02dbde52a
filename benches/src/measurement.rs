//! Result of a benchmark.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Longest round trip that is measured, ns.
const MAX_NS: u64 = 60_000_000_000;

/// An empty histogram of times in ns, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NS, 3).expect("bounds are in order")
}

/// One result: quantiles of round trips, or a rate, or both.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Name of the benchmark.
    pub name: &'static str,
    /// Parameters of the measurement, for readers of the result.
    pub parameters: Vec<(&'static str, Value)>,
    /// Round trips, ns.
    pub latency: Option<Histogram<u64>>,
    /// Messages per second.
    pub msgs_per_s: f64,
    /// Length of the payload of one message, bytes.
    pub size: usize,
    /// Round trip of a cache line between the cores just before the measurement, ns.
    pub cross_core_ns: u64,
}

impl Measurement {
    /// The result as one object; quantiles are null where nothing was timed.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(self.name));
        object.insert("size".into(), json!(self.size));
        for (name, value) in &self.parameters {
            object.insert((*name).into(), value.clone());
        }
        let quantile = |q: f64| self.latency.as_ref().map(|times| times.value_at_quantile(q));
        object.insert("p50_ns".into(), json!(quantile(0.5)));
        object.insert("p90_ns".into(), json!(quantile(0.9)));
        object.insert("p99_ns".into(), json!(quantile(0.99)));
        object.insert("p999_ns".into(), json!(quantile(0.999)));
        object.insert("max_ns".into(), json!(self.latency.as_ref().map(Histogram::max)));
        object.insert("msgs_per_s".into(), json!(self.msgs_per_s.round()));
        object.insert("bytes_per_s".into(), json!((self.msgs_per_s * self.size as f64).round()));
        object.insert("cross_core_ns".into(), json!(self.cross_core_ns));
        Value::Object(object)
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} B: {:.0} messages/s", self.name, self.size, self.msgs_per_s)?;
        if let Some(times) = &self.latency {
            let us = |q: f64| times.value_at_quantile(q) as f64 / 1e3;
            write!(f, "; p50 {:.2} µs, p99 {:.2} µs, p99.9 {:.2} µs", us(0.5), us(0.99), us(0.999))?;
        }
        write!(f, " (cache line there and back: {} ns)", self.cross_core_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_the_fields_that_scripts_read() {
        let mut times = histogram();
        for ns in 1..=1_000 {
            times.record(ns).unwrap();
        }
        let mut result = Measurement {
            name: "ipc-rtt",
            parameters: vec![("mode", json!("closed"))],
            latency: Some(times),
            msgs_per_s: 1_234.4,
            size: 32,
            cross_core_ns: 117,
        };
        let object = result.to_json();
        assert_eq!((object["p50_ns"].as_u64(), object["p99_ns"].as_u64()), (Some(500), Some(990)));
        assert_eq!(object["msgs_per_s"].as_f64(), Some(1_234.0));
        assert_eq!((object["cross_core_ns"].as_u64(), object["mode"].as_str()), (Some(117), Some("closed")));
        result.latency = None;
        assert!(result.to_json()["p50_ns"].is_null());
    }
}
