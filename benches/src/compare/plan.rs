//! List of comparisons and bars.

use super::statistics::{Ratio, Tag};

/// The other program of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The Java harness with these arguments.
    Java(&'static str),
    /// The C client with this command.
    C {
        /// Driver of the client.
        driver: CDriver,
        /// Threading mode and idle strategy of the driver, e.g. `shared backoff`.
        mode: &'static str,
        /// The driver has long datagrams, large buffers and a large window.
        is_tuned: bool,
        /// Arguments of the client.
        client: &'static str,
    },
    /// The etcd harness with these arguments.
    Etcd(&'static str),
    /// Another benchmark of ours.
    Own(&'static str),
}

/// Driver of a C client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CDriver {
    /// The client's own driver.
    Own,
    /// `harrier-driver`.
    Ours,
}

impl Peer {
    /// Name for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Java(_) => "Java 1.51",
            Self::C { driver: CDriver::Own, .. } => "C 1.54",
            Self::C { driver: CDriver::Ours, .. } => "C 1.54 client on harrier-driver",
            Self::Etcd(_) => "etcd 3.4",
            Self::Own(name) => name,
        }
    }
}

/// Bar of a figure, as a ratio of ours to the peer's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// For times: at most this ratio.
    AtMost(f64),
    /// For rates: at least this ratio.
    AtLeast(f64),
    /// For rates: at least the first ratio with near cores, the second with far ones.
    AtLeastByTag(f64, f64),
    /// For our own figure: at most this value, whatever the peer's is.
    Under(f64),
    /// The figure is shown without a bar.
    Shown,
}

impl Bar {
    /// True when a ratio meets the bar; `None` without a bar. `tolerance` is the share that the runner cannot
    /// distinguish.
    pub fn holds(&self, tag: Tag, ratio: &Ratio, tolerance: f64) -> Option<bool> {
        match *self {
            Self::AtMost(most) => Some(ratio.median <= most * (1.0 + tolerance)),
            Self::AtLeast(least) => Some(ratio.median >= least / (1.0 + tolerance)),
            Self::AtLeastByTag(near, far) => {
                let least = if tag == Tag::Near { near } else { far };
                Some(ratio.median >= least / (1.0 + tolerance))
            }
            Self::Under(most) => Some(ratio.ours <= most),
            Self::Shown => None,
        }
    }

    /// Returns the bar for a tag as text for tables.
    pub fn text(&self, tag: Tag) -> String {
        match *self {
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtLeastByTag(near, far) => format!("≥ {}", if tag == Tag::Near { near } else { far }),
            Self::Under(most) => format!("ours ≤ {most}"),
            Self::Shown => "–".to_owned(),
        }
    }
}

/// One of our runs; its figures have the key `SIZE MODE`.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// Our benchmark.
    pub benchmark: &'static str,
    /// Length of a message, bytes.
    pub size: usize,
    /// Number of outstanding requests.
    pub window: usize,
    /// `closed`, `window` or `stream`.
    pub mode: &'static str,
    /// Figures and bars.
    pub bars: &'static [(&'static str, Bar)],
}

impl Lane {
    /// Returns the key of the figures of this lane, in both programs.
    pub fn key(&self) -> String {
        format!("{} {}", self.size, self.mode)
    }
}

/// Our program and one peer.
#[derive(Debug)]
pub struct Comparison {
    /// Name on the command line.
    pub name: &'static str,
    /// Description for the report.
    pub about: &'static str,
    /// Our runs.
    pub lanes: &'static [Lane],
    /// The peer, which measures all lanes in one run.
    pub peer: Peer,
}

const fn closed(benchmark: &'static str, size: usize, bars: &'static [(&'static str, Bar)]) -> Lane {
    Lane { benchmark, size, window: 1, mode: "closed", bars }
}

const fn stream(benchmark: &'static str, size: usize, bars: &'static [(&'static str, Bar)]) -> Lane {
    Lane { benchmark, size, window: 1, mode: "stream", bars }
}

const fn window(size: usize, bars: &'static [(&'static str, Bar)]) -> Lane {
    Lane { benchmark: "cluster-1", size, window: 128, mode: "window", bars }
}

/// Comparison of leases, with names of about 64 bytes.
const fn leases(
    benchmark: &'static str,
    window: usize,
    mode: &'static str,
    bars: &'static [(&'static str, Bar)],
) -> Lane {
    Lane { benchmark, size: 64, window, mode, bars }
}

const fn state(benchmark: &'static str, mode: &'static str) -> Lane {
    Lane { benchmark, size: crate::benchmark::STATE, window: 1, mode, bars: &[("p50_ns", Bar::AtMost(0.5))] }
}

const fn footprint(benchmark: &'static str) -> Lane {
    let bars = &[("p50_ns", Bar::Under(20e6)), ("resident_bytes", Bar::Under(5e6))];
    Lane { benchmark, size: 8, window: 1, mode: "start", bars }
}

const fn c(driver: CDriver, mode: &'static str, client: &'static str) -> Peer {
    Peer::C { driver, mode, is_tuned: false, client }
}

const fn tuned(driver: CDriver, mode: &'static str, client: &'static str) -> Peer {
    Peer::C { driver, mode, is_tuned: true, client }
}

const C_UDP_RTT: &str = "udp-rtt --size 32 --idle yield --api offer";
const C_IPC_RTT: &str = "ipc-rtt --size 32 --idle spin --api offer";
const C_UDP: &str = "udp-throughput --size 32 --idle yield --api offer --pub exclusive";
const C_UDP_LONG: &str = "udp-throughput --size 1344 --idle yield --api offer --pub exclusive";
const C_IPC: &str = "ipc-throughput --size 32 --idle backoff --api offer --pub exclusive";
const C_IPC_LONG: &str = "ipc-throughput --size 1344 --idle spin --api offer --pub exclusive";
const SHOWN_TIMES: &[(&str, Bar)] = &[("p50_ns", Bar::Shown), ("p99_ns", Bar::Shown)];
const NO_SLOWER: &[(&str, Bar)] = &[("p50_ns", Bar::AtMost(1.0)), ("p99_ns", Bar::AtMost(1.0))];
const IPC_TIMES: &[(&str, Bar)] = &[("p50_ns", Bar::AtMost(1.1)), ("p99_ns", Bar::AtMost(1.25))];
const FASTER: &[(&str, Bar)] = &[("msgs_per_s", Bar::AtLeast(1.1))];
const RATE_SHOWN: &[(&str, Bar)] = &[("msgs_per_s", Bar::Shown)];
const HALF: &[(&str, Bar)] = &[("p50_ns", Bar::AtMost(0.5)), ("p99_ns", Bar::AtMost(0.5))];
const TENTH: &[(&str, Bar)] = &[("p50_ns", Bar::AtMost(0.1)), ("p99_ns", Bar::AtMost(0.1))];
const SAME_RATE: &[(&str, Bar)] = &[("msgs_per_s", Bar::AtLeast(1.0))];

/// All comparisons.
pub const COMPARISONS: &[Comparison] = &[
    Comparison {
        name: "udp-floor",
        about: "UDP round trip over loopback, one message in flight, driver invoked in the client's thread on both sides, beside plain sockets that spin",
        lanes: &[closed("udp-rtt", 32, &[("p50_ns", Bar::AtMost(1.25)), ("p99_ns", Bar::Shown)])],
        peer: Peer::Own("udp-floor"),
    },
    Comparison {
        name: "udp-rtt",
        about: "UDP round trip over loopback, one message in flight, driver invoked in the client's thread on both sides",
        lanes: &[closed("udp-rtt", 32, NO_SLOWER)],
        peer: Peer::Java("udp-rtt --size 32 --mode closed --driver invoker --idle spin"),
    },
    Comparison {
        name: "udp-rtt-c",
        about: "the same beside the C client, whose driver is on a thread of its own; both yield, for two spinning clients and a driver are too much for two cores",
        lanes: &[closed("udp-rtt", 32, NO_SLOWER)],
        peer: c(CDriver::Own, "shared yield", C_UDP_RTT),
    },
    Comparison {
        name: "udp-rtt-c-ours",
        about: "the same beside the C client of our driver, which is on a thread of its own",
        lanes: &[closed("udp-rtt", 32, SHOWN_TIMES)],
        peer: c(CDriver::Ours, "shared yield", C_UDP_RTT),
    },
    Comparison {
        name: "ipc-rtt",
        about: "IPC round trip, one message in flight, driver backs off, ping and echo spin",
        lanes: &[closed("ipc-rtt", 32, IPC_TIMES)],
        peer: c(CDriver::Own, "shared backoff", C_IPC_RTT),
    },
    Comparison {
        name: "ipc-rtt-java",
        about: "the same beside Java",
        lanes: &[closed("ipc-rtt", 32, IPC_TIMES)],
        peer: Peer::Java("ipc-rtt --size 32 --mode closed --driver-idle backoff --idle spin"),
    },
    Comparison {
        name: "ipc-rtt-c-ours",
        about: "the same beside the C client of our driver",
        lanes: &[closed("ipc-rtt", 32, SHOWN_TIMES)],
        peer: c(CDriver::Ours, "shared backoff", C_IPC_RTT),
    },
    Comparison {
        name: "ipc-throughput",
        about: "IPC, exclusive publication to one subscriber, driver invoked in the subscriber's thread on both sides, which sleeps 10 µs when it has caught up; each with the terms that suit it best on Intel's processors, 512 KiB ours, 64 MiB Java",
        lanes: &[stream("ipc-throughput-short", 32, &[("msgs_per_s", Bar::AtLeastByTag(1.7, 2.5))])],
        peer: Peer::Java("ipc-throughput --size 32 --driver invoker --idle sleep:10000 --term 64m"),
    },
    Comparison {
        name: "ipc-throughput-short",
        about: "the same with terms of 512 KiB on both sides",
        lanes: &[stream("ipc-throughput-short", 32, RATE_SHOWN)],
        peer: Peer::Java("ipc-throughput --size 32 --driver invoker --idle sleep:10000 --term 512k"),
    },
    Comparison {
        name: "ipc-throughput-long",
        about: "the same with terms of 64 MiB on both sides",
        lanes: &[stream("ipc-throughput-invoked", 32, RATE_SHOWN)],
        peer: Peer::Java("ipc-throughput --size 32 --driver invoker --idle sleep:10000 --term 64m"),
    },
    Comparison {
        name: "ipc-throughput-threads",
        about: "IPC, exclusive publication to one subscriber, the driver on a thread of its own that backs off, both ends spin, 64 MiB terms",
        lanes: &[stream("ipc-throughput", 32, RATE_SHOWN)],
        peer: Peer::Java("ipc-throughput --size 32 --driver-idle backoff --idle spin"),
    },
    Comparison {
        name: "ipc-throughput-c",
        about: "IPC, exclusive publication to one subscriber, each in its best arrangement: our driver invoked in the subscriber's thread, which sleeps 10 µs when it has caught up, 512 KiB terms; C's on a thread of its own, driver and both ends back off, 64 MiB terms",
        lanes: &[stream("ipc-throughput-short", 32, &[("msgs_per_s", Bar::AtLeast(1.2))])],
        peer: c(CDriver::Own, "shared backoff", C_IPC),
    },
    Comparison {
        name: "ipc-throughput-c-1344",
        about: "the same with long messages and 64 MiB terms on both sides; C's ends spin",
        lanes: &[stream("ipc-throughput-invoked", 1_344, SAME_RATE)],
        peer: c(CDriver::Own, "shared backoff", C_IPC_LONG),
    },
    Comparison {
        name: "ipc-throughput-c-threads",
        about: "IPC, exclusive publication to one subscriber, both drivers on a thread that backs off; our ends spin, C's back off",
        lanes: &[stream("ipc-throughput", 32, RATE_SHOWN)],
        peer: c(CDriver::Own, "shared backoff", C_IPC),
    },
    Comparison {
        name: "ipc-throughput-c-ours",
        about: "the same beside the C client of our driver",
        lanes: &[stream("ipc-throughput", 32, RATE_SHOWN)],
        peer: c(CDriver::Ours, "shared backoff", C_IPC),
    },
    Comparison {
        name: "ipc-throughput-1344",
        about: "IPC, exclusive publication to one subscriber, driver invoked in the subscriber's thread, which sleeps 10 µs when it has caught up; long messages",
        lanes: &[stream("ipc-throughput-invoked", 1_344, RATE_SHOWN)],
        peer: Peer::Java("ipc-throughput --size 1344 --driver invoker --idle sleep:10000 --term 64m"),
    },
    Comparison {
        name: "udp-throughput-32",
        about: "UDP over loopback, driver invoked in the client's thread, 8 KiB MTU, 2 MiB buffers and window",
        lanes: &[stream("udp-throughput-invoked", 32, FASTER)],
        peer: Peer::Java(
            "udp-throughput --size 32 --driver invoker --idle spin --mtu 8k --socket-buffer 2m --window 2m --term 64m",
        ),
    },
    Comparison {
        name: "udp-throughput-32-c",
        about: "the same beside C, whose driver is on dedicated threads and whose client yields",
        lanes: &[stream("udp-throughput-invoked", 32, FASTER)],
        peer: tuned(CDriver::Own, "dedicated backoff", C_UDP),
    },
    Comparison {
        name: "udp-throughput-32-c-ours",
        about: "the same beside the C client of our driver, both on dedicated threads",
        lanes: &[stream("udp-throughput", 32, RATE_SHOWN)],
        peer: tuned(CDriver::Ours, "dedicated backoff", C_UDP),
    },
    Comparison {
        name: "udp-throughput-1344",
        about: "UDP over loopback, driver invoked in the client's thread, 8 KiB MTU, 2 MiB buffers and window",
        lanes: &[stream("udp-throughput-invoked", 1_344, FASTER)],
        peer: Peer::Java(
            "udp-throughput --size 1344 --driver invoker --idle spin --mtu 8k --socket-buffer 2m --window 2m --term 64m",
        ),
    },
    Comparison {
        name: "udp-throughput-1344-c",
        about: "the same beside C, whose driver is on dedicated threads and whose client yields",
        lanes: &[stream("udp-throughput-invoked", 1_344, FASTER)],
        peer: tuned(CDriver::Own, "dedicated backoff", C_UDP_LONG),
    },
    Comparison {
        name: "udp-throughput-1344-c-ours",
        about: "the same beside the C client of our driver, both on dedicated threads",
        lanes: &[stream("udp-throughput", 1_344, RATE_SHOWN)],
        peer: tuned(CDriver::Ours, "dedicated backoff", C_UDP_LONG),
    },
    Comparison {
        name: "driver-footprint",
        about: "a driver without clients: from its start until clients can connect, ns, and what is resident beyond its mapped files, bytes",
        lanes: &[footprint("driver-footprint")],
        peer: Peer::Own("driver-footprint-c"),
    },
    Comparison {
        name: "driver-footprint-java",
        about: "the same beside Java's",
        lanes: &[footprint("driver-footprint")],
        peer: Peer::Own("driver-footprint-java"),
    },
    Comparison {
        name: "cluster-1-32",
        about: "cluster of one member, echo service; ours fused on one thread with the client's driver invoked, Java's parts on threads that yield",
        lanes: &[closed("cluster-1", 32, HALF), window(32, SAME_RATE)],
        peer: Peer::Java(
            "cluster-client --spawn --members 1 --size 32 --mode closed,window --window-size 128 --driver-idle yield --archive-idle yield --node-idle yield --idle yield",
        ),
    },
    Comparison {
        name: "cluster-1-288",
        about: "the same with messages of 288 bytes",
        lanes: &[closed("cluster-1", 288, HALF), window(288, SAME_RATE)],
        peer: Peer::Java(
            "cluster-client --spawn --members 1 --size 288 --mode closed,window --window-size 128 --driver-idle yield --archive-idle yield --node-idle yield --idle yield",
        ),
    },
    Comparison {
        name: "cluster-state",
        about: "a member of one with 100 MB of state: a snapshot, and a start from it until clients are served; ours fused, Java's parts on threads that yield, in a JVM that is warm",
        lanes: &[state("cluster-snapshot", "snapshot"), state("cluster-restart", "restart")],
        peer: Peer::Java(
            "cluster-state --state-bytes 100000000 --rounds 3 --driver-idle yield --archive-idle yield --node-idle yield",
        ),
    },
    Comparison {
        name: "leases",
        about: "leadership leases of one member, nothing synced: claims (each released again, one or 128 outstanding), renewals, take-over after a holder's death with leases of 2 s; etcd's election API over leases granted before",
        lanes: &[
            leases("lease-claims", 1, "closed", TENTH),
            leases("lease-claims", 128, "window", &[("msgs_per_s", Bar::AtLeast(10.0))]),
            leases("lease-renewals", 128, "renew", &[("msgs_per_s", Bar::AtLeast(3.0))]),
            leases(
                "lease-takeover",
                1,
                "takeover",
                &[("p50_ns", Bar::AtMost(1.0)), ("p99_ns", Bar::AtMost(1.0))],
            ),
        ],
        peer: Peer::Etcd("--modes closed,window,renew,takeover"),
    },
    Comparison {
        name: "leases-sync",
        about: "the same with every write synced on both sides",
        lanes: &[
            leases("lease-claims-sync", 1, "closed", &[("p50_ns", Bar::Shown), ("p99_ns", Bar::Shown)]),
            leases("lease-claims-sync", 128, "window", &[("msgs_per_s", Bar::AtLeast(2.0))]),
            leases("lease-renewals-sync", 128, "renew", RATE_SHOWN),
        ],
        peer: Peer::Etcd("--sync --modes closed,window,renew"),
    },
    Comparison {
        name: "cluster-timers",
        about: "timers that a service sets and that fire, 1,000 of them at any time; ours fused, Java's parts on threads that yield",
        lanes: &[Lane { benchmark: "cluster-timers", size: 32, window: 1, mode: "stream", bars: RATE_SHOWN }],
        peer: Peer::Java(
            "cluster-timers --size 32 --driver-idle yield --archive-idle yield --node-idle yield --idle yield",
        ),
    },
    Comparison {
        name: "ring-8-rtrb",
        about: "one-to-one ring beside rtrb, messages of 8 bytes",
        lanes: &[stream("one-to-one", 8, &[("msgs_per_s", Bar::AtLeast(0.3))])],
        peer: Peer::Own("rtrb"),
    },
    Comparison {
        name: "ring-64-rtrb",
        about: "one-to-one ring beside rtrb, messages of 64 bytes",
        lanes: &[stream("one-to-one", 64, &[("msgs_per_s", Bar::AtLeast(0.8))])],
        peer: Peer::Own("rtrb"),
    },
    Comparison {
        name: "ring-8-java",
        about: "one-to-one ring beside Agrona's, messages of 8 bytes",
        lanes: &[stream("one-to-one", 8, SAME_RATE)],
        peer: Peer::Java("micro --only one-to-one --size 8 --rounds 1"),
    },
    Comparison {
        name: "ring-64-java",
        about: "one-to-one ring beside Agrona's, messages of 64 bytes",
        lanes: &[stream("one-to-one", 64, SAME_RATE)],
        peer: Peer::Java("micro --only one-to-one --size 64 --rounds 1"),
    },
    Comparison {
        name: "aa-ipc-rtt",
        about: "the same program on both sides: how far the ratio of times may be trusted",
        lanes: &[closed("ipc-rtt", 32, &[("p50_ns", Bar::Shown), ("p99_ns", Bar::Shown)])],
        peer: Peer::Own("ipc-rtt"),
    },
    Comparison {
        name: "aa-udp-rtt",
        about: "the same program on both sides, over UDP",
        lanes: &[closed("udp-rtt", 32, &[("p50_ns", Bar::Shown), ("p99_ns", Bar::Shown)])],
        peer: Peer::Own("udp-rtt"),
    },
    Comparison {
        name: "aa-ring",
        about: "the same program on both sides: how far the ratio of rates may be trusted",
        lanes: &[stream("one-to-one", 64, RATE_SHOWN)],
        peer: Peer::Own("one-to-one"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_hold_by_tag_and_tolerance() {
        let of = |median| Ratio { ours: 1.0, theirs: 1.0, median, low: median, high: median, pairs: 7 };
        let by_tag = Bar::AtLeastByTag(1.7, 2.5);
        assert_eq!(by_tag.holds(Tag::Near, &of(1.8), 0.0), Some(true));
        assert_eq!(by_tag.holds(Tag::Far, &of(1.8), 0.0), Some(false));
        assert_eq!(Bar::AtMost(1.0).holds(Tag::Near, &of(1.04), 0.0), Some(false));
        assert_eq!(Bar::AtMost(1.0).holds(Tag::Near, &of(1.04), 0.06), Some(true));
        assert_eq!(Bar::Under(1.0).holds(Tag::Near, &of(9.0), 0.0), Some(true));
        assert_eq!(Bar::Under(0.9).holds(Tag::Near, &of(0.5), 1.0), Some(false));
        assert_eq!(Bar::Shown.holds(Tag::Near, &of(9.0), 0.0), None);
    }

    #[test]
    fn every_lane_is_a_benchmark_and_names_are_unique() {
        let mut names: Vec<&str> = COMPARISONS.iter().map(|comparison| comparison.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COMPARISONS.len());
        for comparison in COMPARISONS {
            for lane in comparison.lanes {
                crate::benchmark::find(lane.benchmark).unwrap();
            }
        }
    }
}
