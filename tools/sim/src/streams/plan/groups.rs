//! Streams to multicast groups.

use harrier_ringbuf::Rng;

use super::{Flow, Way, add_host, draw_strategy, listener, port};
use crate::kernel::HostId;
use crate::streams::limits::Strategy;

/// A group that several streams of a run may share.
const SHARED_GROUP: &str = "224.10.10.1:29999";

/// The network of the hosts' second interface, in the form for channels.
const SECOND_NETWORK: &str = "|interface=10.0.1.0/24";

/// Draws two to four receiving hosts of a group, if there are so many; the sender's host may be one of them.
pub(super) fn add_group(rng: &mut Rng, flow: &mut Flow, number: usize, hosts: usize) {
    let is_shared = rng.chance(1, 4);
    let mut group = match is_shared {
        true => format!("aeron:udp?endpoint={SHARED_GROUP}"),
        false => format!("aeron:udp?endpoint=224.10.{number}.9:{}", port(number, 0)),
    };
    if rng.chance(1, 3) {
        group += SECOND_NETWORK;
    }
    let is_local = !is_shared && rng.chance(1, 12);
    // Publications that share a socket share its hops.
    let own_hops = match (is_local, is_shared) {
        (true, _) => "|ttl=0",
        (_, true) => "",
        _ => ["", "|ttl=1", "|ttl=4"][rng.below(3) as usize],
    };
    let mut members = draw_members(rng, flow.from, hosts);
    if is_local {
        members.retain(|host| *host != flow.from);
        members.truncate(1);
        members.insert(0, flow.from);
    }
    let heard = if is_local { 1 } else { members.len() };
    let (strategy, parameter) = loop {
        let drawn = draw_strategy(rng, heard);
        // Tags belong to sockets.
        if !is_shared || !matches!(drawn.0, Strategy::Min { tag: Some(_), .. }) {
            break drawn;
        }
    };
    flow.strategy = strategy;
    flow.channel = format!("{group}{own_hops}{parameter}");
    let is_tagged = matches!(strategy, Strategy::Min { tag: Some(_), .. });
    for (step, host) in members.into_iter().enumerate() {
        let has_tag = is_tagged && (step == 0 || rng.chance(1, 2));
        let tag = if has_tag { "|gtag=7" } else { "" };
        let hops = if is_shared || is_local { "" } else { ["", "", "|ttl=2"][rng.below(3) as usize] };
        let may_be_outrun = strategy == Strategy::Max && heard > 1 || is_tagged && !has_tag;
        let first = flow.listeners.len();
        if !is_shared && rng.chance(1, 4) {
            let sources = vec![format!("{group}{hops}")];
            let channel = format!("aeron:udp?control-mode=manual{tag}");
            add_host(rng, flow, host, channel, sources, may_be_outrun);
        } else {
            let hops = if is_local && host == flow.from { own_hops } else { hops };
            add_host(rng, flow, host, format!("{group}{hops}{tag}"), Vec::new(), may_be_outrun);
        }
        for listener in &mut flow.listeners[first..] {
            listener.is_out_of_reach = is_local && host != flow.from;
        }
    }
}

/// Draws the hosts that join, the sender's host now and then.
fn draw_members(rng: &mut Rng, from: HostId, hosts: usize) -> Vec<HostId> {
    let mut members: Vec<HostId> = (0..hosts).filter(|host| *host != from).collect();
    let first = rng.below(members.len() as u64) as usize;
    members.rotate_left(first);
    let most = members.len().min(3);
    members.truncate(if most > 1 { 2 + rng.below(most as u64 - 1) as usize } else { 1 });
    if members.len() < 2 || rng.chance(1, 5) {
        members.push(from);
    }
    members
}

/// Lets publications with manual destinations send to groups: as another path to hosts that have several sources, and
/// as the only path to a host that no sender hears, because its messages go to the group's control address (spec 02
/// §3.13).
pub(super) fn add_destinations(rng: &mut Rng, flows: &mut [Flow], hosts: usize) {
    for (number, flow) in flows.iter_mut().enumerate().filter(|(_, flow)| flow.way == Way::Manual) {
        if rng.chance(1, 2) {
            continue;
        }
        let group = format!("aeron:udp?endpoint=224.11.{number}.9:{}", port(number, 2));
        let mut is_heard = false;
        for listener in flow.listeners.iter_mut().filter(|listener| !listener.sources.is_empty()) {
            if rng.chance(2, 3) {
                listener.sources.push(group.clone());
                is_heard = true;
            }
        }
        if !is_heard || rng.chance(1, 3) {
            let host = rng.below(hosts as u64) as HostId;
            let mut one = listener(rng, host, format!("{group}|reliable=false|rejoin={}", flow.rejoins));
            (one.is_reliable, one.is_unheard, one.rejects) = (false, true, false);
            flow.listeners.push(one);
        }
        flow.destinations.push(group);
    }
}
