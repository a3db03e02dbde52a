//! The driver's own counters, allocated first so that their ids are fixed (spec 02 §5.8).

use harrier_protocol::AERON_VERSION;
use harrier_protocol::counter_types::{Key, type_id};
use harrier_protocol::semantic_version;
use harrier_ringbuf::counters::{AtomicCounter, CountersError, CountersManager};

use crate::context::DriverContext;

/// Build that the labels of the version counters name. The version beside it is that of the protocol.
const COMMIT: &str = "harrier";

/// A system counter; its value is its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemCounter {
    /// Bytes of sends that have succeeded.
    BytesSent = 0,
    /// Bytes of received datagrams.
    BytesReceived,
    /// Commands that the receiver's queue had no room for.
    FailedReceiverOffers,
    /// Commands that the sender's queue had no room for.
    FailedSenderOffers,
    /// Commands that the conductor's queue had no room for.
    FailedConductorOffers,
    /// NAKs sent.
    NaksSent,
    /// NAKs received.
    NaksReceived,
    /// Status messages sent.
    StatusMessagesSent,
    /// Status messages received.
    StatusMessagesReceived,
    /// Heartbeats sent.
    HeartbeatsSent,
    /// Heartbeats received.
    HeartbeatsReceived,
    /// Retransmissions.
    RetransmitsSent,
    /// Datagrams before the window.
    FlowControlUnderRuns,
    /// Datagrams beyond the window.
    FlowControlOverRuns,
    /// Malformed datagrams.
    InvalidPackets,
    /// Errors in the error log, repeated ones counted.
    Errors,
    /// Sends that took less than the whole datagram.
    ShortSends,
    /// Log files that could not be freed.
    FreeFails,
    /// Number of times that a sender reached its limit.
    SenderFlowControlLimits,
    /// Publications that were unblocked.
    UnblockedPublications,
    /// Commands of dead clients that were skipped.
    UnblockedCommands,
    /// SETUPs of multicast senders with a greater TTL than the receiver's.
    PossibleTtlAsymmetry,
    /// Status of the controllable idle strategy.
    ControllableIdleStrategy,
    /// Gaps of unreliable streams that were filled.
    LossGapFills,
    /// Clients that were given up.
    ClientTimeouts,
    /// Names whose address has changed.
    ResolutionChanges,
    /// Longest duty cycle of the conductor, ns.
    ConductorMaxCycleTime,
    /// Slow duty cycles of the conductor.
    ConductorCycleTimeThresholdExceeded,
    /// Longest duty cycle of the sender, ns.
    SenderMaxCycleTime,
    /// Slow duty cycles of the sender.
    SenderCycleTimeThresholdExceeded,
    /// Longest duty cycle of the receiver, ns.
    ReceiverMaxCycleTime,
    /// Slow duty cycles of the receiver.
    ReceiverCycleTimeThresholdExceeded,
    /// Longest resolution of a name, ns.
    NameResolverMaxTime,
    /// Slow resolutions of names.
    NameResolverTimeThresholdExceeded,
    /// Version of Aeron whose protocol is spoken, packed.
    AeronVersion,
    /// Bytes of mapped files.
    BytesCurrentlyMapped,
    /// Bytes of retransmissions.
    RetransmittedBytes,
    /// NAKs dropped because all slots for retransmissions were taken.
    RetransmitOverflow,
    /// Error frames received.
    ErrorFramesReceived,
    /// Error frames sent.
    ErrorFramesSent,
    /// Publications that were revoked.
    PublicationsRevoked,
    /// Images whose publication was revoked.
    PublicationImagesRevoked,
    /// Images that clients have rejected.
    ImagesRejected,
    /// Version of the control protocol, packed.
    ControlProtocolVersion,
    /// Status messages whose position is far from the sender's.
    StatusMessagesRejected,
    /// Jobs that the executor's queue had no room for.
    FailedExecutorOffers,
}

const COUNT: usize = SystemCounter::FailedExecutorOffers as usize + 1;

/// Handles of all system counters.
#[derive(Debug, Clone)]
pub struct SystemCounters {
    counters: Vec<AtomicCounter>,
}

impl SystemCounters {
    /// Allocates all system counters of a fresh counters file.
    ///
    /// # Errors
    /// A counters file that is too small.
    pub fn allocate(
        manager: &mut CountersManager,
        context: &DriverContext,
        now_ms: i64,
    ) -> Result<Self, CountersError> {
        let mut counters = Vec::with_capacity(COUNT);
        for (id, label) in labels(context).iter().enumerate() {
            let counter_id =
                manager.allocate(type_id::SYSTEM, Key::of_i32(id as i32).as_bytes(), label, now_ms)?;
            manager.set_registration_id(counter_id, id as i64);
            manager.set_owner_id(counter_id, -1);
            counters.push(manager.counter(counter_id)?);
        }
        let all = Self { counters };
        all.get(SystemCounter::AeronVersion).set_ordered(i64::from(semantic_version(1, 51, 0)));
        all.get(SystemCounter::ControlProtocolVersion).set_ordered(i64::from(semantic_version(1, 0, 0)));
        Ok(all)
    }

    /// Returns the handle of a counter.
    #[inline]
    pub fn get(&self, counter: SystemCounter) -> &AtomicCounter {
        &self.counters[counter as usize]
    }
}

fn labels(context: &DriverContext) -> [String; COUNT] {
    let mode = context.threading_mode.name();
    let cycle = |agent: &str| format!("{agent} max cycle time doing its work in ns: {mode}");
    let exceeded = |agent: &str, threshold_ns: i64| {
        let threshold = duration_text(threshold_ns);
        format!("{agent} work cycle exceeded threshold count: threshold={threshold} {mode}")
    };
    let plain = |text: &str| text.to_owned();
    [
        plain("Bytes sent"),
        plain("Bytes received"),
        plain("Failed offers to ReceiverProxy"),
        plain("Failed offers to SenderProxy"),
        plain("Failed offers to DriverConductorProxy"),
        plain("NAKs sent"),
        plain("NAKs received"),
        plain("Status Messages sent"),
        plain("Status Messages received"),
        plain("Heartbeats sent"),
        plain("Heartbeats received"),
        plain("Retransmits sent"),
        plain("Flow control under runs"),
        plain("Flow control over runs"),
        plain("Invalid packets"),
        format!("Errors: version={AERON_VERSION} commit={COMMIT}"),
        plain("Short sends"),
        plain("Failed attempts to free log buffers"),
        plain("Sender flow control limits, i.e. back-pressure events"),
        plain("Unblocked Publications"),
        plain("Unblocked Control Commands"),
        plain("Possible TTL Asymmetry"),
        plain("ControllableIdleStrategy status"),
        plain("Loss gap fills"),
        plain("Client liveness timeouts"),
        format!("Resolution changes: driverName={}", context.resolver_name),
        cycle("Conductor"),
        exceeded("Conductor", context.conductor_cycle_threshold_ns),
        cycle("Sender"),
        exceeded("Sender", context.sender_cycle_threshold_ns),
        cycle("Receiver"),
        exceeded("Receiver", context.receiver_cycle_threshold_ns),
        plain("NameResolver max time in ns"),
        format!(
            "NameResolver exceeded threshold count: threshold={}",
            duration_text(context.name_resolver_threshold_ns)
        ),
        format!("Aeron software: version={AERON_VERSION} commit={COMMIT}"),
        plain("Bytes currently mapped"),
        plain("Retransmitted bytes"),
        plain("Retransmit Pool Overflow count"),
        plain("Error Frames received"),
        plain("Error Frames sent"),
        plain("Publications Revoked"),
        plain("Publication Images Revoked"),
        plain("Images rejected"),
        plain("Control protocol version"),
        plain("Status Messages rejected"),
        plain("Failed offers to AsyncExecutorProxy"),
    ]
}

/// Formats a duration for a label, in the largest unit that divides it.
fn duration_text(ns: i64) -> String {
    for (unit, name) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")] {
        if ns >= unit && ns % unit == 0 {
            return format!("{}{name}", ns / unit);
        }
    }
    format!("{ns}ns")
}

/// Longest time between the starts of an agent's duty cycles, and number of times above the threshold (spec 02 §5.11).
#[derive(Debug)]
pub(crate) struct CycleTracker {
    max: AtomicCounter,
    exceeded: AtomicCounter,
    threshold_ns: i64,
    last_ns: Option<i64>,
}

impl CycleTracker {
    pub(crate) fn new(max: AtomicCounter, exceeded: AtomicCounter, threshold_ns: i64) -> Self {
        Self { max, exceeded, threshold_ns, last_ns: None }
    }

    /// Notes the start of a duty cycle.
    #[inline]
    pub(crate) fn observe(&mut self, now_ns: i64) {
        let Some(last_ns) = self.last_ns.replace(now_ns) else { return };
        let cycle_ns = now_ns - last_ns;
        self.max.propose_max(cycle_ns);
        if cycle_ns > self.threshold_ns {
            self.exceeded.increment();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_their_largest_unit() {
        let texts = [100_000_000, 5_000_000_000, 1_500, 0].map(duration_text);
        assert_eq!(texts, ["100ms", "5s", "1500ns", "0ns"]);
    }
}
