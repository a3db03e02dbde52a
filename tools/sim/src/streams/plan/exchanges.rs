//! Requests and what answers them: each a stream, over response channels.

use harrier_ringbuf::Rng;

use super::{Flow, Role, Way, draw_flow_of, draw_parameters, listener, port};
use crate::kernel::HostId;
use crate::node::endpoint;

/// One or two requesters of one responder; all share the responder's sockets.
pub(super) fn draw_exchange(rng: &mut Rng, flows: &mut Vec<Flow>, hosts: usize) {
    let responder = rng.below(hosts as u64) as HostId;
    let others: Vec<HostId> = (0..hosts).filter(|host| *host != responder).collect();
    let first = rng.below(others.len() as u64) as usize;
    let first_number = flows.len();
    if rng.chance(1, 4) {
        return add_pair(rng, flows, first_number, (responder, responder));
    }
    for step in 0..1 + rng.below(others.len().min(2) as u64) as usize {
        add_pair(rng, flows, first_number, (others[(first + step) % others.len()], responder));
    }
}

fn add_pair(
    rng: &mut Rng,
    flows: &mut Vec<Flow>,
    first_number: usize,
    (requester, responder): (HostId, HostId),
) {
    let is_ipc = requester == responder;
    let number = flows.len();
    let request_way = if is_ipc { Way::Ipc } else { Way::Unicast };
    let response_way = if is_ipc { Way::Ipc } else { Way::Response };
    let mut request = draw_flow_of(rng, number, requester, request_way);
    let mut response = draw_flow_of(rng, number + 1, responder, response_way);
    (request.role, response.role) =
        (Role::Request { response: number + 1 }, Role::Response { request: number });
    let (request_channel, response_channel) = match is_ipc {
        true => ("aeron:ipc?alias=q".to_owned(), "aeron:ipc?control-mode=response".to_owned()),
        false => (
            format!("aeron:udp?endpoint={}", endpoint(responder, port(first_number, 0))),
            format!("aeron:udp?control-mode=response|control={}", endpoint(responder, port(first_number, 9))),
        ),
    };
    let own = match is_ipc {
        true => "aeron:ipc?alias=m".to_owned(),
        false => response_channel.clone(),
    };
    for (flow, host, heard, written) in [
        (&mut request, responder, request_channel.clone(), request_channel),
        (&mut response, requester, response_channel, own),
    ] {
        // All requesters share what the responder has on the same socket; a stream goes on when its reader does.
        flow.rejoins = true;
        flow.is_refused = false;
        flow.channel = written + &draw_parameters(rng, flow.is_exclusive, false);
        let mut one = listener(rng, host, heard);
        one.rejects = false;
        flow.listeners.push(one);
    }
    flows.extend([request, response]);
}
