//! Checks of the drivers' counters and files: positions do not decrease, memory is bounded, nothing is left at the
//! end.

use std::collections::BTreeMap;
use std::path::Path;

use harrier_driver::system_counters::SystemCounter as C;
use harrier_protocol::cnc::{CNC_FILE, CNC_HEADER_LENGTH, CncHeader};
use harrier_protocol::counter_types::type_id;
use harrier_ringbuf::counters::CountersReader;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{Memory, Region, error_log};

use super::run::directory_of;
use super::truth::Truth;
use super::wire::Tally;
use crate::kernel::{HostId, State};
use crate::memory::SimMemory;
use crate::trace::Coverage;

/// Time between two checks, ns.
const LOOK_NS: i64 = 10_000_000;
/// Time after which a publication that was closed, or whose client died, is gone, ns: its client is given up, it
/// drains while its receivers are waited for, and it lingers.
const GONE_NS: i64 = 10_000_000_000;
/// Most images of one session on a host: the one that ends and the one that follows.
const IMAGES_OF_SESSION: usize = 3;
/// Number of a driver's own counters.
const SYSTEM_COUNTERS: i32 = C::FailedExecutorOffers as i32 + 1;
/// Length of the longest padding that is received as a header alone, bytes.
const LONGEST_PADDING: i64 = 16 << 10;

/// Counters that show rare branches.
const BRANCHES: [(C, &str); 23] = [
    (C::NaksSent, "driver: NAKs sent"),
    (C::NaksReceived, "driver: NAKs received"),
    (C::StatusMessagesReceived, "driver: status messages received"),
    (C::HeartbeatsSent, "driver: heartbeats sent"),
    (C::HeartbeatsReceived, "driver: heartbeats received"),
    (C::RetransmitsSent, "driver: retransmits"),
    (C::RetransmittedBytes, "driver: retransmitted bytes"),
    (C::RetransmitOverflow, "driver: retransmit overflow"),
    (C::FlowControlUnderRuns, "driver: under runs"),
    (C::FlowControlOverRuns, "driver: over runs"),
    (C::InvalidPackets, "driver: invalid packets"),
    (C::ShortSends, "driver: short sends"),
    (C::SenderFlowControlLimits, "driver: flow control limits"),
    (C::UnblockedPublications, "driver: unblocked publications"),
    (C::LossGapFills, "driver: loss gap fills"),
    (C::ClientTimeouts, "driver: client timeouts"),
    (C::ErrorFramesReceived, "driver: error frames received"),
    (C::ErrorFramesSent, "driver: error frames sent"),
    (C::PublicationsRevoked, "driver: publications revoked"),
    (C::PublicationImagesRevoked, "driver: images revoked"),
    (C::ImagesRejected, "driver: images rejected"),
    (C::StatusMessagesRejected, "driver: status messages rejected"),
    (C::PossibleTtlAsymmetry, "driver: images with fewer hops than their senders"),
];

/// Knowledge about the driver of a host.
#[derive(Debug, Default)]
struct Account {
    /// Bytes that it maps without streams.
    base_bytes: i64,
    /// Positions, by counter and its owner.
    positions: BTreeMap<(i32, i64), i64>,
    receivers: BTreeMap<(i32, i64), i64>,
}

/// Knowledge about all drivers.
#[derive(Debug)]
pub(super) struct Books {
    accounts: Vec<Account>,
    next_look_ns: i64,
}

fn logs(state: &State, host: HostId, kind: &str) -> usize {
    state.hosts[host].disk.list(&Path::new(&directory_of(host)).join(kind)).len()
}

/// Returns the ids of a driver's counters besides its own.
fn allocated(counters: &CountersReader) -> impl Iterator<Item = i32> {
    let end = (0..).find(|id| counters.state(*id) == 0).unwrap_or_default();
    (SYSTEM_COUNTERS..end).filter(|id| counters.is_allocated(*id))
}

/// Returns the errors that a host's driver has recorded.
pub(super) fn recorded_errors(host: HostId, memory: &SimMemory) -> Vec<String> {
    let mut texts = Vec::new();
    let Ok(cnc) = memory.map(&Path::new(&directory_of(host)).join(CNC_FILE), MapMode::ReadOnly) else {
        return texts;
    };
    let mut bytes = [0; CNC_HEADER_LENGTH];
    cnc.copy_out(0, &mut bytes);
    let layout = CncHeader::decode(&bytes).and_then(|header| header.layout());
    if let Ok(layout) = layout {
        let log = cnc.slice(layout.error_log.start, layout.error_log.len());
        error_log::read(&log, 0, &mut |_, _, _, text: &str| texts.push(text.to_owned()));
    }
    texts
}

impl Books {
    pub(super) fn new(hosts: usize) -> Self {
        Self { accounts: (0..hosts).map(|_| Account::default()).collect(), next_look_ns: 0 }
    }

    /// A driver has started.
    pub(super) fn open(&mut self, host: HostId, counters: &CountersReader) {
        self.accounts[host] =
            Account { base_bytes: counters.value(C::BytesCurrentlyMapped as i32), ..Account::default() };
    }

    pub(super) fn is_due(&mut self, now_ns: i64) -> bool {
        let is_due = now_ns >= self.next_look_ns;
        if is_due {
            self.next_look_ns = now_ns + LOOK_NS;
        }
        is_due
    }

    /// Checks a live driver.
    pub(super) fn check(
        &mut self,
        host: HostId,
        counters: &CountersReader,
        truth: &mut Truth,
        state: &mut State,
    ) {
        let account = &mut self.accounts[host];
        let mut received = BTreeMap::new();
        for id in allocated(counters) {
            let (kind, value) = (counters.type_id(id), counters.value(id));
            let owner = counters.registration_id(id);
            match kind {
                type_id::SENDER_POSITION
                | type_id::RECEIVER_HWM
                | type_id::RECEIVER_POSITION
                | type_id::PUBLISHER_POSITION => {
                    let before = account.positions.insert((id, owner), value).unwrap_or(0);
                    if value < before {
                        let text =
                            format!("host {host}: counter {id} of type {kind} from {before} to {value}");
                        truth.violate("positions", text);
                    }
                    if matches!(kind, type_id::RECEIVER_HWM | type_id::RECEIVER_POSITION) {
                        received.insert((owner, kind), value);
                    }
                }
                type_id::FLOW_CONTROL_RECEIVERS => {
                    let before = account.receivers.insert((id, owner), value).unwrap_or(0);
                    if value < before {
                        state.coverage.hit("flow control lost a receiver");
                    }
                }
                _ => {}
            }
        }
        for ((owner, kind), position) in &received {
            let high_water_mark = received.get(&(*owner, type_id::RECEIVER_HWM)).copied().unwrap_or(i64::MAX);
            if *kind == type_id::RECEIVER_POSITION && *position > high_water_mark + LONGEST_PADDING {
                let text = format!("host {host}: rebuilt up to {position}, received up to {high_water_mark}");
                truth.violate("positions", text);
            }
        }
        self.check_memory(host, truth, state);
    }

    /// Checks that there are as many logs as publications and images of them.
    fn check_memory(&self, host: HostId, truth: &mut Truth, state: &State) {
        let since_ns = state.now_ns - GONE_NS;
        let recent = |from: HostId| truth.additions[from].iter().filter(|at| **at > since_ns).count();
        let open = truth.flows.iter().filter(|flow| flow.from == host).count();
        let most = open + recent(host);
        let publications = logs(state, host, "publications");
        if publications > most {
            let text = format!("host {host}: {publications} logs of publications, at most {most} are in use");
            return truth.violate("memory", text);
        }
        let heard: usize = truth
            .flows
            .iter()
            .filter(|flow| flow.listeners.iter().any(|listener| listener.host == host))
            .map(|flow| 1 + recent(flow.from))
            .sum();
        let images = logs(state, host, "images");
        if images > IMAGES_OF_SESSION * heard {
            let text = format!("host {host}: {images} logs of images of {heard} sessions");
            truth.violate("memory", text);
        }
    }

    /// Adds a driver's counters to the coverage.
    pub(super) fn gather(&self, _host: HostId, counters: &CountersReader, coverage: &mut Coverage) {
        for (counter, name) in BRANCHES {
            let value = counters.value(counter as i32);
            if value > 0 {
                coverage.add(name, value as u64);
            }
        }
    }

    /// True when a driver has no resources left.
    pub(super) fn is_empty(&self, host: HostId, counters: &CountersReader, state: &State) -> bool {
        self.left(host, counters, state).is_none()
    }

    /// Returns the resources that a driver still has.
    pub(super) fn left(&self, host: HostId, counters: &CountersReader, state: &State) -> Option<String> {
        let (publications, images) = (logs(state, host, "publications"), logs(state, host, "images"));
        let mapped = counters.value(C::BytesCurrentlyMapped as i32) - self.accounts[host].base_bytes;
        let labels: Vec<String> = allocated(counters).map(|id| counters.label(id)).collect();
        let is_empty = publications == 0 && images == 0 && mapped == 0 && labels.is_empty();
        (!is_empty).then(|| {
            format!(
                "host {host} keeps logs of {publications} publications and {images} images, {mapped} bytes, \
                 counters {labels:?}"
            )
        })
    }

    /// Returns the differences between a driver's counters and the frames on the wire.
    pub(super) fn differences(
        &self,
        host: HostId,
        counters: &CountersReader,
        tally: &Tally,
        (errors, refuses, was_upset, are_sends_short): (&[String], bool, bool, bool),
    ) -> Vec<String> {
        let value = |counter: C| counters.value(counter as i32) as u64;
        let mut texts = Vec::new();
        for (counter, expected) in [
            (C::BytesSent, tally.bytes_sent),
            (C::BytesReceived, tally.bytes_received),
            (C::NaksReceived, tally.naks_received),
            (C::ErrorFramesReceived, tally.errors_received),
            (C::InvalidPackets, 0),
            (C::FreeFails, 0),
        ] {
            if value(counter) != expected {
                texts.push(format!("host {host}: {counter:?} is {}, not {expected}", value(counter)));
            }
        }
        // The driver counts one for all connections of an image.
        for (counter, most) in [
            (C::NaksSent, tally.naks_sent),
            (C::StatusMessagesSent, tally.positions_sent),
            (C::ErrorFramesSent, tally.errors_sent),
            (C::HeartbeatsReceived, tally.heartbeats_received),
        ] {
            if value(counter) > most && !are_sends_short
                || most > 0 && value(counter) == 0 && counter != C::HeartbeatsReceived
            {
                texts.push(format!("host {host}: {counter:?} is {}, of {most} frames", value(counter)));
            }
        }
        // Only a receiver that cannot take a stream may record an error.
        let is_expected = |text: &str| {
            refuses && text.contains("mtu")
                || text.starts_with("WARN: onPublicationError")
                || was_upset && text.contains("unknown ")
                || text.contains("address in use")
                || text.contains("correlation-id")
                || text.contains("correlationId")
                || text.contains("CLOSING state, please retry")
        };
        let wrong: Vec<&String> = errors.iter().filter(|text| !is_expected(text)).collect();
        if !wrong.is_empty() || errors.len() as u64 > value(C::Errors) {
            texts.push(format!("host {host}: {} errors were recorded: {wrong:?}", value(C::Errors)));
        }
        if (value(C::RetransmitsSent) > 0) != (value(C::RetransmittedBytes) > 0) {
            texts.push(format!("host {host}: retransmits without bytes, or bytes without retransmits"));
        }
        texts
    }
}
