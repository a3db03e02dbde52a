//! Selection of the interface that a channel names (spec 02 §3.13).

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use harrier_ringbuf::transport::InterfaceAddress;

use crate::failure::Failure;
use crate::resolver::HostNames;

/// An interface of this host, with the local port that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalInterface {
    pub(crate) address: SocketAddr,
    pub(crate) index: u32,
}

/// Finds the interface for `ADDR[:port][/prefix]` or `{name}[:port]`. A candidate is up, has the address or name, and
/// supports multicast or is the loopback. Others precede the loopback, and smaller networks precede larger ones.
pub(super) fn find_interface<N: HostNames>(
    text: &str,
    is_ipv6: bool,
    names: &N,
) -> Result<LocalInterface, Failure> {
    if let Some(rest) = text.strip_prefix('{') {
        return find_by_name(text, rest, is_ipv6, names);
    }
    let unknown = || Failure::generic(format!("could not find matching interface='{text}'"));
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| unknown())?)),
        None => (text, None),
    };
    let (ip, port) = parse_address(address).ok_or_else(unknown)?;
    if ip.is_unspecified() && prefix.is_none() {
        return Ok(LocalInterface { address: SocketAddr::new(ip, port), index: 0 });
    }
    let prefix = prefix.unwrap_or(if ip.is_ipv4() { 32 } else { 128 });
    let candidates = names.interfaces();
    let found = candidates
        .iter()
        .filter(|interface| interface.is_usable && is_equal_under(interface.ip, ip, prefix))
        .min_by_key(|interface| (interface.ip.is_loopback(), Reverse(interface.prefix)));
    found.map(|interface| local(interface, port)).ok_or_else(unknown)
}

fn find_by_name<N: HostNames>(
    text: &str,
    rest: &str,
    is_ipv6: bool,
    names: &N,
) -> Result<LocalInterface, Failure> {
    let invalid = || Failure::generic(format!("invalid interface={text}: must be {{name}} or {{name}}:port"));
    let (name, rest) = rest.split_once('}').ok_or_else(invalid)?;
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| invalid())?,
        None if rest.is_empty() => 0,
        None => return Err(invalid()),
    };
    let candidates = names.interfaces();
    let found =
        candidates.iter().find(|interface| interface.name == name && interface.ip.is_ipv6() == is_ipv6);
    found
        .map(|interface| local(interface, port))
        .ok_or_else(|| Failure::generic(format!("unknown interface {name}")))
}

fn local(interface: &InterfaceAddress, port: u16) -> LocalInterface {
    LocalInterface { address: SocketAddr::new(interface.ip, port), index: interface.index }
}

/// Parses an address with an optional port. An IPv6 address before a port is in brackets; `localhost` is the loopback.
fn parse_address(text: &str) -> Option<(IpAddr, u16)> {
    let text = text.replace("localhost", "127.0.0.1");
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, 0));
    }
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    if let Some(ip) = bare.and_then(|inner| inner.parse::<IpAddr>().ok()) {
        return Some((ip, 0));
    }
    text.parse::<SocketAddr>().ok().map(|address| (address.ip(), address.port()))
}

fn is_equal_under(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let (one, other, bits) = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits()), u128::from(other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    let shift = u32::from(bits - prefix.min(bits));
    shift == 128 || (one >> shift) == (other >> shift)
}
