//! Counters of a container (spec 04 §2.4).

use harrier_client::{Aeron, ClientError, Counter};
use harrier_protocol::AERON_VERSION;

use super::ServiceContainerContext;

mod type_id {
    pub(super) const ERRORS: i32 = 215;
    pub(super) const MAX_CYCLE_TIME: i32 = 218;
    pub(super) const CYCLE_TIME_EXCEEDED: i32 = 219;
    pub(super) const MAX_SNAPSHOT_DURATION: i32 = 236;
    pub(super) const SNAPSHOT_DURATION_EXCEEDED: i32 = 237;
}

pub(super) struct ContainerCounters {
    pub(super) errors: Counter,
    pub(super) cycle: DurationTracker,
    pub(super) snapshot: DurationTracker,
}

/// Longest duration, and the number of durations over a threshold.
pub(super) struct DurationTracker {
    max: Counter,
    exceeded: Counter,
    threshold_ns: i64,
}

impl DurationTracker {
    #[inline]
    pub(super) fn measure(&self, duration_ns: i64) {
        self.max.propose_max(duration_ns);
        if duration_ns > self.threshold_ns {
            self.exceeded.increment();
        }
    }
}

/// Counters that the driver is allocating.
pub(super) struct PendingCounters {
    ids: Vec<i64>,
    ready: Vec<Counter>,
    cycle_threshold_ns: i64,
    snapshot_threshold_ns: i64,
}

impl PendingCounters {
    /// Requests all counters from the driver.
    pub(super) fn add(aeron: &mut Aeron, context: &ServiceContainerContext) -> Result<Self, ClientError> {
        let (cluster_id, service_id) = (context.cluster_id, context.service_id);
        let key = [cluster_id.to_le_bytes(), service_id.to_le_bytes()];
        let suffix = format!(" - clusterId={cluster_id} serviceId={service_id}");
        let (cycle, snapshot) =
            (duration_text(context.cycle_threshold_ns), duration_text(context.snapshot_threshold_ns));
        let labels = [
            (
                type_id::ERRORS,
                format!("Cluster Container Errors{suffix} version={AERON_VERSION} commit=harrier"),
            ),
            (type_id::MAX_CYCLE_TIME, format!("Cluster container max cycle time in ns{suffix}")),
            (
                type_id::CYCLE_TIME_EXCEEDED,
                format!("Cluster container work cycle time exceeded count: threshold={cycle}{suffix}"),
            ),
            (
                type_id::MAX_SNAPSHOT_DURATION,
                format!("Clustered service max snapshot duration in ns{suffix}"),
            ),
            (
                type_id::SNAPSHOT_DURATION_EXCEEDED,
                format!(
                    "Clustered service max snapshot duration exceeded count: threshold={snapshot}{suffix}"
                ),
            ),
        ];
        let ids = labels
            .iter()
            .map(|(type_id, label)| aeron.add_counter(*type_id, key.as_flattened(), label))
            .collect::<Result<_, _>>()?;
        let (cycle_threshold_ns, snapshot_threshold_ns) =
            (context.cycle_threshold_ns, context.snapshot_threshold_ns);
        Ok(Self { ids, ready: Vec::new(), cycle_threshold_ns, snapshot_threshold_ns })
    }

    /// Collects allocated counters; returns all of them once complete.
    pub(super) fn poll(&mut self, aeron: &mut Aeron) -> Result<Option<ContainerCounters>, ClientError> {
        while let Some(id) = self.ids.get(self.ready.len()).copied() {
            let Some(counter) = aeron.counter(id)? else { return Ok(None) };
            self.ready.push(counter);
        }
        let mut ready = std::mem::take(&mut self.ready).into_iter();
        let mut next = || ready.next().expect("as many counters as were asked for");
        Ok(Some(ContainerCounters {
            errors: next(),
            cycle: DurationTracker { max: next(), exceeded: next(), threshold_ns: self.cycle_threshold_ns },
            snapshot: DurationTracker {
                max: next(),
                exceeded: next(),
                threshold_ns: self.snapshot_threshold_ns,
            },
        }))
    }
}

/// Formats a duration in the largest unit that divides it.
fn duration_text(ns: i64) -> String {
    for (unit_ns, unit) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")] {
        if ns >= unit_ns && ns % unit_ns == 0 {
            return format!("{}{unit}", ns / unit_ns);
        }
    }
    format!("{ns}ns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_peer_writes_them() {
        let texts = [100_000_000, 1_000_000_000, 1_500_000_000, 7_000, 7].map(duration_text);
        assert_eq!(texts, ["100ms", "1s", "1500ms", "7us", "7ns"]);
    }
}
