//! The streams of a run and their faults, drawn from its seed.

use harrier_driver::DriverContext;
use harrier_ringbuf::Rng;

use super::limits::Strategy;
use super::wire::Kind;
use super::{FAULTS_END_NS, SECOND_NS, client_of};
use crate::faults::{Fault, Plan};
use crate::kernel::HostId;
use crate::network::{Link, SendFaults};
use crate::node::{endpoint, small};

mod exchanges;
mod groups;

/// Time after which a silent receiver has left its group, ns.
pub(super) const RECEIVER_TIMEOUT_NS: i64 = 600_000_000;
/// Time after which an image without datagrams ends, ns.
pub(super) const IMAGE_LIVENESS_NS: i64 = SECOND_NS;
/// Time after which a silent client is dead, ns.
pub(super) const CLIENT_LIVENESS_NS: i64 = 800_000_000;
/// Time after which a silent driver is dead, ms.
pub(super) const DRIVER_TIMEOUT_MS: i64 = 900;
/// Time for which a closed publication stays that nobody acknowledges, ns.
pub(super) const LINGER_NS: i64 = 500_000_000;

/// Longest delay of NAKs of the receivers of a group, ns.
pub(super) const GROUP_BACKOFF_NS: i64 = 4_000_000;

/// Kind of path from a publication to its receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Within one host.
    Ipc,
    /// To one endpoint.
    Unicast,
    /// To receivers that announce themselves.
    Dynamic,
    /// To destinations that the client names.
    Manual,
    /// To a multicast group.
    Group,
    /// To the requester.
    Response,
}

/// Relation of a stream to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// No relation.
    Alone,
    /// Another stream carries its responses.
    Request {
        /// Number of the stream of responses.
        response: usize,
    },
    /// It carries the responses of another stream.
    Response {
        /// Number of the stream of requests.
        request: usize,
    },
}

/// A stream: one publication at a time, and its listeners.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) stream_id: i32,
    pub(super) from: HostId,
    pub(super) way: Way,
    pub(super) role: Role,
    pub(super) channel: String,
    /// Destinations of the publication.
    pub(super) destinations: Vec<String>,
    pub(super) strategy: Strategy,
    pub(super) is_exclusive: bool,
    /// Some claims are never committed.
    pub(super) loses_claims: bool,
    /// Its receiver cannot take datagrams of this length.
    pub(super) is_refused: bool,
    pub(super) rejoins: bool,
    /// Length of the longest message, bytes.
    pub(super) longest: u64,
    /// Mean pause between bursts, ns.
    pub(super) pace_ns: u64,
    /// Most messages of a burst.
    pub(super) burst: u64,
    /// Mean life time of a publication, ns; 0 for one that is never closed.
    pub(super) life_ns: u64,
    pub(super) revokes: bool,
    pub(super) listeners: Vec<ListenerPlan>,
}

impl Flow {
    /// Returns the properties that are needed to judge its datagrams.
    pub(super) fn kind(&self) -> Kind {
        Kind {
            strategy: self.strategy,
            has_destinations: matches!(self.way, Way::Dynamic | Way::Manual),
            is_group: matches!(self.way, Way::Dynamic | Way::Manual | Way::Group),
            has_spies: self.channel.contains("|ssc=true"),
        }
    }
}

/// A reader of a stream.
#[derive(Debug, Clone)]
pub(super) struct ListenerPlan {
    pub(super) host: HostId,
    pub(super) channel: String,
    /// Sources of a multi-destination subscription.
    pub(super) sources: Vec<String>,
    pub(super) is_spy: bool,
    pub(super) is_reliable: bool,
    pub(super) is_tethered: bool,
    /// It reads nothing before the stream has ended.
    pub(super) is_stuck: bool,
    /// The datagrams of the stream do not reach it.
    pub(super) is_out_of_reach: bool,
    /// No sender hears it.
    pub(super) is_unheard: bool,
    /// Its window does not count for the sender.
    pub(super) may_be_outrun: bool,
    /// Pause between polls during the faults, ns; 0 for none.
    pub(super) pause_ns: u64,
    /// Fragment limit of a poll.
    pub(super) limit: usize,
    /// Mean life time of a subscription, ns; 0 for one that is never closed.
    pub(super) life_ns: u64,
    /// It rejects an image now and then.
    pub(super) rejects: bool,
}

/// Returns the settings of a host's driver. Times are short, so that runs see many ends.
pub(super) fn driver_context(directory: &str, rng: &mut Rng) -> DriverContext {
    let mut context = DriverContext::new(directory);
    small(&mut context);
    context.timer_interval_ns = 20_000_000;
    context.driver_timeout_ms = DRIVER_TIMEOUT_MS;
    context.client_liveness_timeout_ns = CLIENT_LIVENESS_NS;
    context.image_liveness_timeout_ns = IMAGE_LIVENESS_NS;
    context.publication_connection_timeout_ns = 1_200_000_000;
    context.publication_linger_timeout_ns = LINGER_NS;
    context.publication_unblock_timeout_ns = CLIENT_LIVENESS_NS + 100_000_000;
    context.status_message_timeout_ns = 50_000_000;
    context.flow_control_receiver_timeout_ns = RECEIVER_TIMEOUT_NS;
    context.untethered_window_limit_timeout_ns = 200_000_000;
    context.untethered_linger_timeout_ns = 150_000_000;
    context.untethered_resting_timeout_ns = 300_000_000;
    context.counters_free_to_reuse_timeout_ns = 100_000_000;
    context.nak_unicast_retry_delay_ratio = [500, 2_000, 5_000][rng.below(3) as usize];
    context.nak_multicast_max_backoff_ns = GROUP_BACKOFF_NS;
    context.retransmit_unicast_linger_ns = [2_000_000, 10_000_000][rng.below(2) as usize];
    context.retransmit_unicast_delay_ns = [0, 0, 1_000_000][rng.below(3) as usize];
    context.cubic_measure_rtt = rng.chance(1, 2);
    context.cubic_tcp_mode = rng.chance(1, 3);
    context.max_resend = [1, 2, 16][rng.below(3) as usize];
    context.delete_directory_on_start = rng.chance(1, 2);
    context.seed = rng.next_u64();
    context
}

/// Returns a port of a host that only this flow uses.
fn port(flow: usize, number: usize) -> u16 {
    20_000 + (flow * 10 + number) as u16
}

/// Draws the streams between the hosts.
pub(super) fn draw_flows(rng: &mut Rng, hosts: usize) -> Vec<Flow> {
    let mut flows = Vec::new();
    if rng.chance(1, 5) {
        exchanges::draw_exchange(rng, &mut flows, hosts);
    }
    let others = if hosts > 2 { 3 } else { 2 };
    let count = if flows.is_empty() { 1 + rng.below(others) } else { rng.below(2) };
    for _ in 0..count {
        let number = flows.len();
        flows.push(draw_flow(rng, number, hosts));
    }
    flows
}

/// Draws additional properties of streams without a change to all other draws.
pub(super) fn draw_additions(rng: &mut Rng, flows: &mut [Flow], hosts: usize) {
    groups::add_destinations(rng, flows, hosts);
}

/// A stream without channel and listeners.
fn draw_flow_of(rng: &mut Rng, number: usize, from: HostId, way: Way) -> Flow {
    let is_refused = way == Way::Unicast && rng.chance(1, 16);
    let is_exclusive = rng.chance(1, 2);
    Flow {
        stream_id: 1_000 + number as i32,
        from,
        way,
        role: Role::Alone,
        channel: String::new(),
        destinations: Vec::new(),
        strategy: Strategy::Max,
        is_exclusive,
        loses_claims: !is_exclusive && rng.chance(1, 2),
        is_refused,
        rejoins: !rng.chance(1, 8),
        longest: [200, 1_300, 7_900][rng.below(3) as usize],
        pace_ns: [2_000_000, 6_000_000, 12_000_000][rng.below(3) as usize],
        burst: [2, 6, 40][rng.below(3) as usize],
        life_ns: if rng.chance(1, 3) { 200_000_000 + rng.below(2_000_000_000) } else { 0 },
        revokes: rng.chance(1, 3),
        listeners: Vec::new(),
    }
}

/// What any publication's channel may say.
fn draw_parameters(rng: &mut Rng, is_exclusive: bool, is_refused: bool) -> String {
    let mtu = if is_refused { 8_192 } else { [1_408, 1_408, 4_096, 8_192][rng.below(4) as usize] };
    let mut parameters = format!("|term-length=64k|mtu={mtu}");
    if rng.chance(1, 4) {
        parameters += &format!("|pub-wnd={}", [8_192, 16_384, 32_768][rng.below(3) as usize]);
    }
    if is_exclusive && rng.chance(1, 3) {
        // Term ids wrap.
        parameters += "|init-term-id=2147483646|term-id=2147483647|term-offset=64";
    }
    if rng.chance(1, 8) {
        parameters += "|eos=false";
    }
    parameters
}

fn draw_flow(rng: &mut Rng, number: usize, hosts: usize) -> Flow {
    let from = rng.below(hosts as u64) as usize;
    let way = match rng.below(16) {
        0 => Way::Ipc,
        1..=5 => Way::Unicast,
        6..=8 => Way::Dynamic,
        9..=11 => Way::Manual,
        _ => Way::Group,
    };
    let mut flow = draw_flow_of(rng, number, from, way);
    let mut parameters = draw_parameters(rng, flow.is_exclusive, flow.is_refused);
    add_listeners(rng, &mut flow, number, hosts);
    if way != Way::Ipc && flow.listeners.iter().any(|listener| listener.is_spy) && rng.chance(1, 2) {
        parameters += "|ssc=true";
    }
    flow.channel += &parameters;
    flow
}

/// The flow control of a stream with several receivers; of `receivers` hosts some carry the tag 7.
fn draw_strategy(rng: &mut Rng, receivers: usize) -> (Strategy, String) {
    let least = if rng.chance(1, 3) { receivers } else { 0 };
    let group = |tag| Strategy::Min { tag, least, timeout_ns: RECEIVER_TIMEOUT_NS };
    match rng.below(6) {
        0 => (Strategy::Max, String::new()),
        1 => (Strategy::Max, "|fc=max".into()),
        2 | 3 => (group(None), format!("|fc=min,g:/{least},t:600ms")),
        _ => (
            Strategy::Min { tag: Some(7), least: 1, timeout_ns: RECEIVER_TIMEOUT_NS },
            "|fc=tagged,g:7/1".into(),
        ),
    }
}

fn add_listeners(rng: &mut Rng, flow: &mut Flow, number: usize, hosts: usize) {
    let from = flow.from;
    let others: Vec<HostId> = (0..hosts).filter(|host| *host != from).collect();
    let first = rng.below(others.len() as u64) as usize;
    match flow.way {
        Way::Ipc => {
            flow.channel = "aeron:ipc?alias=a".into();
            add_host(rng, flow, from, "aeron:ipc?alias=b".into(), Vec::new(), false);
        }
        Way::Unicast => {
            let host = others[first];
            let channel = format!("aeron:udp?endpoint={}", endpoint(host, port(number, 0)));
            flow.channel.clone_from(&channel);
            add_host(rng, flow, host, channel, Vec::new(), false);
        }
        Way::Group => groups::add_group(rng, flow, number, hosts),
        // What answers comes with its requests.
        Way::Response => {}
        Way::Dynamic | Way::Manual => {
            let count = 1 + rng.below(others.len() as u64) as usize;
            let (strategy, parameter) = draw_strategy(rng, count);
            flow.strategy = strategy;
            let control = endpoint(from, port(number, 9));
            flow.channel = match flow.way {
                Way::Manual => format!("aeron:udp?control-mode=manual|control={control}{parameter}"),
                _ => format!("aeron:udp?control-mode=dynamic|control={control}{parameter}"),
            };
            for step in 0..count {
                let host = others[(first + step) % others.len()];
                add_receiver(rng, flow, (number, step, count), host, &control);
            }
        }
    }
    if matches!(flow.way, Way::Unicast | Way::Dynamic | Way::Group) && !flow.is_refused && rng.chance(1, 2) {
        let channel = flow.channel.split("|fc=").next().unwrap_or_default();
        let mut spy = listener(rng, from, format!("aeron-spy:{channel}"));
        spy.is_spy = true;
        draw_tether(rng, &mut spy);
        flow.listeners.push(spy);
    }
}

/// A receiving host of a stream with destinations.
fn add_receiver(
    rng: &mut Rng,
    flow: &mut Flow,
    (number, step, receivers): (usize, usize, usize),
    host: HostId,
    control: &str,
) {
    let is_tagged = matches!(flow.strategy, Strategy::Min { tag: Some(_), .. });
    // At least the first one belongs to the group.
    let has_tag = is_tagged && (step == 0 || rng.chance(1, 2));
    let tag = if has_tag { "|gtag=7" } else { "" };
    let may_be_outrun = flow.strategy == Strategy::Max && receivers > 1 || is_tagged && !has_tag;
    let is_dynamic = flow.way == Way::Dynamic;
    let own = endpoint(host, port(number, 0));
    if is_dynamic {
        let channel =
            format!("aeron:udp?endpoint={own}|control={control}|control-mode=dynamic{tag}|group=infer");
        return add_host(rng, flow, host, channel, Vec::new(), may_be_outrun);
    }
    let mut sources = vec![format!("aeron:udp?endpoint={own}")];
    if rng.chance(1, 3) {
        sources.push(format!("aeron:udp?endpoint={}", endpoint(host, port(number, 1))));
    }
    flow.destinations.extend_from_slice(&sources);
    if sources.len() > 1 || rng.chance(1, 4) {
        let channel = format!("aeron:udp?control-mode=manual{tag}");
        add_host(rng, flow, host, channel, sources, may_be_outrun);
    } else {
        add_host(rng, flow, host, format!("{}{tag}", sources[0]), Vec::new(), may_be_outrun);
    }
}

/// Those that listen on one host: the first is tethered, others may be left behind.
fn add_host(
    rng: &mut Rng,
    flow: &mut Flow,
    host: HostId,
    channel: String,
    sources: Vec<String>,
    may_be_outrun: bool,
) {
    let is_reliable = flow.way == Way::Ipc || !rng.chance(1, 6);
    let mut channel = channel;
    if flow.way != Way::Ipc {
        channel += &format!("|reliable={is_reliable}");
        // Receivers whose windows differ much do not get into one group (spec 02 §4).
        let varies = !matches!(flow.strategy, Strategy::Min { least: 2.., .. });
        if varies && rng.chance(1, 3) {
            channel += "|cc=cubic";
        }
        if varies && rng.chance(1, 4) {
            channel += &format!("|rcv-wnd={}", [16_384, 32_768][rng.below(2) as usize]);
        }
        if flow.is_refused {
            channel += "|rcv-wnd=4096";
        }
    }
    channel += &format!("|rejoin={}", flow.rejoins);
    let is_alone = flow.is_refused || !sources.is_empty() && rng.chance(1, 2);
    let count = if is_alone { 1 } else { 1 + rng.below(3) };
    for place in 0..count {
        let mut one = listener(rng, host, channel.clone());
        one.sources.clone_from(&sources);
        (one.is_reliable, one.may_be_outrun) = (is_reliable, may_be_outrun);
        if place > 0 {
            draw_tether(rng, &mut one);
            // Only one subscription of a host brings its sources.
            if !sources.is_empty() {
                return;
            }
        }
        flow.listeners.push(one);
    }
}

fn draw_tether(rng: &mut Rng, listener: &mut ListenerPlan) {
    if rng.chance(1, 2) {
        listener.is_tethered = false;
        listener.channel += "|tether=false";
        listener.is_stuck = rng.chance(1, 3);
        if rng.chance(1, 3) {
            listener.pause_ns = 400_000_000;
        }
    }
}

fn listener(rng: &mut Rng, host: HostId, channel: String) -> ListenerPlan {
    ListenerPlan {
        host,
        channel,
        sources: Vec::new(),
        is_spy: false,
        is_reliable: true,
        is_tethered: true,
        is_stuck: false,
        is_out_of_reach: false,
        is_unheard: false,
        may_be_outrun: false,
        pause_ns: if rng.chance(1, 4) { 1_000_000 + rng.below(30_000_000) } else { 0 },
        limit: 1 + rng.below(20) as usize,
        life_ns: if rng.chance(1, 5) { 200_000_000 + rng.below(1_500_000_000) } else { 0 },
        rejects: rng.chance(1, 8),
    }
}

/// Draws what goes wrong between the hosts of these streams.
pub(super) fn draw_faults(rng: &mut Rng, flows: &[Flow], hosts: usize) -> Plan {
    let mut faults = vec![(FAULTS_END_NS, Fault::Heal)];
    for _ in 0..2 + rng.below(6) {
        let at = rng.below(FAULTS_END_NS as u64) as i64;
        draw_fault(rng, at, flows, hosts, &mut faults);
    }
    Plan::of(faults)
}

/// Sender and receiver of a stream, or the other way round.
fn draw_link(rng: &mut Rng, flows: &[Flow]) -> (HostId, HostId) {
    let flow = &flows[rng.below(flows.len() as u64) as usize];
    let hosts = flow.listeners.iter().map(|listener| listener.host);
    let others: Vec<HostId> = hosts.filter(|host| *host != flow.from).collect();
    let Some(to) = others.get(rng.below(others.len().max(1) as u64) as usize).copied() else {
        return (flow.from, usize::from(flow.from == 0));
    };
    if rng.chance(2, 3) { (flow.from, to) } else { (to, flow.from) }
}

fn draw_fault(rng: &mut Rng, at: i64, flows: &[Flow], hosts: usize, faults: &mut Vec<(i64, Fault)>) {
    let (from, to) = draw_link(rng, flows);
    let host = rng.below(hosts as u64) as usize;
    let mut heals_after_ns = None;
    match rng.below(16) {
        0..=3 => {
            heals_after_ns = Some(rng.below(1_500_000_000) as i64);
            let link = Link::noisy(rng, [0, 100_000, 3_000_000], [20_000, 500_000, 5_000_000]);
            faults.push((at, Fault::Noise { from, to, link }));
        }
        4 | 5 => {
            // A loss burst, of one receiver or of all.
            let duration_ns = rng.below(20_000_000) as i64;
            let is_for_all = rng.chance(1, 2);
            for to in (0..hosts).filter(|host| *host == to || is_for_all && *host != from) {
                faults.push((at, Fault::Cut { from, to, duration_ns }));
            }
        }
        6 => faults.push((at, Fault::Cut { from, to, duration_ns: rng.below(1_600_000_000) as i64 })),
        7 => {
            let duration_ns = rng.below(1_600_000_000) as i64;
            faults.push((at, Fault::Cut { from, to, duration_ns }));
            faults.push((at, Fault::Cut { from: to, to: from, duration_ns }));
        }
        8 => faults.push((at, Fault::Burst { from, to, duration_ns: rng.below(200_000_000) as i64 })),
        9 => {
            heals_after_ns = Some(rng.below(1_000_000_000) as i64);
            let sends =
                SendFaults { short_ppm: rng.below(300_000), queue_capacity: 1 + rng.below(6) as usize };
            faults.push((at, Fault::NoRoom { host: from, sends }));
        }
        10 => {
            heals_after_ns = Some(rng.below(900_000_000) as i64);
            faults.push((at, Fault::ShortMtu { from, to, max_length: 1_000 }));
        }
        11 | 12 => {
            let longest_ns = [50_000_000, 400_000_000, 1_500_000_000][rng.below(3) as usize];
            let duration_ns = rng.below(longest_ns) as i64;
            let host = if rng.chance(2, 3) { client_of(hosts, host) } else { host };
            faults.push((at, Fault::Stall { host, duration_ns }));
        }
        13 => {
            let down_ns = 10_000_000 + rng.below(1_200_000_000) as i64;
            faults.push((at, Fault::ClientCrash { host, of_machine: false, calls: rng.below(200), down_ns }));
        }
        _ => {
            let host = client_of(hosts, host);
            let down_ns = 10_000_000 + rng.below(1_200_000_000) as i64;
            faults.push((at, Fault::ClientCrash { host, of_machine: false, calls: 0, down_ns }));
        }
    }
    if let Some(after_ns) = heals_after_ns {
        faults.push(((at + after_ns).min(FAULTS_END_NS), Fault::Heal));
    }
}
