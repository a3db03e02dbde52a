//! UDP channels with resolved addresses, and the rule for sharing a socket (spec 02 §2.2, §2.11, §3.14).

mod interface;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use harrier_protocol::uri::{ChannelUri, ControlMode, Endpoint, key};
use harrier_ringbuf::transport::{Multicast, SocketSpec, TransportError};

use crate::failure::Failure;
use crate::resolver::HostNames;
use interface::{LocalInterface, find_interface};

/// A channel of `aeron:udp` with its addresses.
#[derive(Debug, Clone)]
pub(crate) struct UdpChannel {
    pub(crate) uri: ChannelUri,
    /// The channel as the client wrote it.
    pub(crate) text: String,
    /// Canonical form without its suffix.
    pub(crate) canonical: String,
    /// True when the canonical form needs a suffix, because no address identifies the socket.
    pub(crate) needs_suffix: bool,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) control: Option<SocketAddr>,
    pub(crate) interface: Option<SocketAddr>,
    /// The multicast group of the endpoint.
    pub(crate) group: Option<ChannelGroup>,
    pub(crate) control_mode: Option<ControlMode>,
    pub(crate) tag: Option<i64>,
}

/// The multicast group of a channel (spec 02 §3.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelGroup {
    /// Address of data.
    pub(crate) data: SocketAddr,
    /// Address to which receivers answer: the next one after the data address.
    pub(crate) control: SocketAddr,
    interface: LocalInterface,
    /// Time to live that the channel names.
    ttl: Option<u8>,
}

impl ChannelGroup {
    /// Returns the time to live of datagrams: that of the channel, else the driver's; 0 stands for the system's
    /// default.
    pub(crate) fn ttl(&self, driver_ttl: u8) -> u8 {
        self.explicit_ttl(driver_ttl).unwrap_or(0)
    }

    fn explicit_ttl(&self, driver_ttl: u8) -> Option<u8> {
        self.ttl.or((driver_ttl > 0).then_some(driver_ttl))
    }

    fn multicast(&self, group: SocketAddr, join: bool, driver_ttl: u8) -> Multicast {
        Multicast {
            group,
            interface: self.interface.address.ip(),
            interface_index: self.interface.index,
            ttl: self.explicit_ttl(driver_ttl),
            join,
        }
    }

    /// Returns a socket on the group's port that joins one of its addresses.
    fn joined(&self, address: SocketAddr, driver_ttl: u8) -> SocketSpec {
        let bind = SocketAddr::new(wildcard(address.is_ipv6()).ip(), address.port());
        SocketSpec {
            multicast: Some(self.multicast(address, true, driver_ttl)),
            reuse_address: true,
            ..SocketSpec::unicast(bind)
        }
    }
}

impl UdpChannel {
    /// Resolves all names of a channel; blocks as long as the resolver does.
    pub(crate) fn resolve<N: HostNames>(uri: ChannelUri, text: &str, names: &N) -> Result<Self, Failure> {
        let endpoint = resolve_parameter(&uri, key::ENDPOINT, names)?;
        if let Some(data) = endpoint.filter(|address| address.ip().is_multicast()) {
            return Self::multicast(uri, text, data, names);
        }
        let control_mode = uri.control_mode();
        let control = resolve_parameter(&uri, key::CONTROL, names)?;
        let is_ipv6 = endpoint.or(control).is_some_and(|address| address.is_ipv6());
        let wildcard = wildcard(is_ipv6);
        let interface = match uri.get(key::INTERFACE) {
            Some(interface) => Some(find_interface(interface, is_ipv6, names)?.address),
            None => None,
        };
        let remote = uri.get(key::ENDPOINT).map_or_else(|| wildcard.to_string(), str::to_owned);
        let local = match (uri.get(key::CONTROL), interface) {
            (Some(control), _) => control.to_owned(),
            (None, Some(interface)) => interface.to_string(),
            (None, None) => wildcard.to_string(),
        };
        let has_no_address = endpoint.is_none() && control.is_none();
        let has_wildcard_port = endpoint.or(control).is_some_and(|address| address.port() == 0)
            || control.is_some_and(|address| address.port() == 0);
        Ok(Self {
            canonical: format!("UDP-{local}-{remote}"),
            needs_suffix: has_no_address || has_wildcard_port,
            tag: uri.tags()?.map(|tags| tags.channel),
            text: text.to_owned(),
            uri,
            endpoint,
            control,
            interface,
            group: None,
            control_mode,
        })
    }

    /// Creates a channel whose endpoint is a group. It has no other addresses (spec 02 §2.11, §3.13).
    fn multicast<N: HostNames>(
        uri: ChannelUri,
        text: &str,
        data: SocketAddr,
        names: &N,
    ) -> Result<Self, Failure> {
        let control = control_address(data).ok_or_else(|| {
            Failure::channel(format!("Multicast data address must be odd: {data} channel={text}"))
        })?;
        let wanted = uri.get(key::INTERFACE).unwrap_or(if data.is_ipv6() { "[::]/0" } else { "0.0.0.0/0" });
        let interface = find_interface(wanted, data.is_ipv6(), names)?;
        let ttl = uri.ttl()?;
        Ok(Self {
            canonical: format!("UDP-{}-{data}", interface.address),
            needs_suffix: false,
            tag: uri.tags()?.map(|tags| tags.channel),
            text: text.to_owned(),
            uri,
            endpoint: Some(data),
            control: None,
            interface: Some(interface.address),
            group: Some(ChannelGroup { data, control, interface, ttl }),
            control_mode: None,
        })
    }

    /// True when a publication may have several receivers.
    pub(crate) fn is_group(&self) -> bool {
        self.group.is_some() || self.is_multi_destination()
    }

    /// True when a publication's datagrams go to destinations.
    pub(crate) fn is_multi_destination(&self) -> bool {
        matches!(self.control_mode, Some(ControlMode::Manual | ControlMode::Dynamic))
    }

    /// True when the channel names the endpoint, so that its address may change. Multicast groups do not move.
    pub(crate) fn has_endpoint_name(&self) -> bool {
        if self.group.is_some() {
            return false;
        }
        let is_name =
            |text| Endpoint::parse(text).is_none_or(|endpoint| endpoint.host.parse::<IpAddr>().is_err());
        self.uri.get(key::ENDPOINT).is_some_and(is_name)
    }

    /// True for `control-mode=manual`.
    pub(crate) fn is_manual(&self) -> bool {
        self.control_mode == Some(ControlMode::Manual)
    }

    /// True for `control-mode=response`.
    pub(crate) fn is_response(&self) -> bool {
        self.control_mode == Some(ControlMode::Response)
    }

    /// Returns the socket from which a publication sends (spec 02 §2.2, §3.13).
    pub(crate) fn send_socket(&self, connect: bool, driver_ttl: u8) -> SocketSpec {
        if let Some(group) = &self.group {
            let local = wildcard(group.data.is_ipv6()).ip();
            let bind = SocketAddr::new(local, group.interface.address.port());
            return SocketSpec {
                connect: connect.then_some(group.data),
                multicast: Some(group.multicast(group.data, false, driver_ttl)),
                ..SocketSpec::unicast(bind)
            };
        }
        let is_ipv6 = self.endpoint.or(self.control).is_some_and(|address| address.is_ipv6());
        let mut spec = SocketSpec::unicast(self.interface.or(self.control).unwrap_or(wildcard(is_ipv6)));
        if connect && self.control_mode.is_none() {
            spec.connect = self.endpoint;
        }
        spec
    }

    /// Returns the socket of the multicast control group, on which a publication hears its receivers; `None` for other
    /// channels, whose receivers answer to the sending socket.
    pub(crate) fn control_socket(&self, driver_ttl: u8) -> Option<SocketSpec> {
        self.group.map(|group| group.joined(group.control, driver_ttl))
    }

    /// Returns the socket of a subscription (spec 02 §3.1). It joins the group or is bound to the endpoint. When only a
    /// control address is known, it is bound to any port.
    pub(crate) fn receive_socket(&self, driver_ttl: u8) -> SocketSpec {
        if let Some(group) = &self.group {
            return group.joined(group.data, driver_ttl);
        }
        let is_ipv6 = self.control.is_some_and(|address| address.is_ipv6());
        SocketSpec::unicast(self.endpoint.or(self.interface).unwrap_or(wildcard(is_ipv6)))
    }

    /// True when this new channel may use the socket of the existing channel `other`: by tag, else by canonical form.
    ///
    /// # Errors
    /// Equal tags with different addresses.
    pub(crate) fn matches(&self, other: &Self) -> Result<bool, Failure> {
        if let (Some(tag), Some(other_tag)) = (self.tag, other.tag) {
            if tag != other_tag {
                return Ok(false);
            }
            if self.control_mode.is_some() && self.control_mode != other.control_mode {
                return Err(Failure::generic(format!(
                    "matching tag={tag} has mismatched control-mode: {} <> {}",
                    self.text, other.text
                )));
            }
            let has_no_address = self.endpoint.is_none() && self.control.is_none();
            if has_no_address || self.requests_same(other) {
                return Ok(true);
            }
            return Err(Failure::generic(format!(
                "matching tag={tag} has mismatched endpoint or control: {} <> {}",
                self.text, other.text
            )));
        }
        Ok(!self.needs_suffix && !other.needs_suffix && self.canonical == other.canonical)
    }

    /// True when two channels request the same addresses. Equal names are enough, because a name may have moved since
    /// one of the channels was resolved; so are names with equal addresses.
    fn requests_same(&self, other: &Self) -> bool {
        let is_same = |key, address: Option<SocketAddr>, other_address| {
            self.uri.get(key) == other.uri.get(key) || address == other_address
        };
        is_same(key::ENDPOINT, self.endpoint, other.endpoint)
            && is_same(key::CONTROL, self.control, other.control)
    }

    /// Returns the name of the channel's socket, which detects clashes of session ids. Unique channels differ by
    /// `suffix`.
    pub(crate) fn socket_name(&self, suffix: i64) -> String {
        match (self.needs_suffix, self.tag) {
            (false, _) => self.canonical.clone(),
            (true, Some(tag)) => format!("{}#{tag}", self.canonical),
            (true, None) => format!("{}-{suffix}", self.canonical),
        }
    }
}

/// Returns the control address of a group: the next one after its data address, whose last byte is odd (spec 02 §3.13).
fn control_address(data: SocketAddr) -> Option<SocketAddr> {
    let mut control = data;
    let last = match data.ip() {
        IpAddr::V4(ip) => {
            let mut octets = ip.octets();
            octets[3] = octets[3].wrapping_add(1);
            control.set_ip(octets.into());
            octets[3]
        }
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[15] = octets[15].wrapping_add(1);
            control.set_ip(octets.into());
            octets[15]
        }
    };
    (last % 2 == 0).then_some(control)
}

/// Returns the unspecified address with port 0.
pub(crate) fn wildcard(is_ipv6: bool) -> SocketAddr {
    let ip = if is_ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}

/// Formats an address for counters and events: `a.b.c.d:port` or `[v6]:port`.
pub(crate) fn address_text(address: SocketAddr) -> String {
    address.to_string()
}

fn resolve_parameter<N: HostNames>(
    uri: &ChannelUri,
    key: &'static str,
    names: &N,
) -> Result<Option<SocketAddr>, Failure> {
    let Some(text) = uri.get(key) else { return Ok(None) };
    let unresolved = |error: TransportError| {
        let failure = Failure::from(error);
        let message = format!("{}\nUnresolved - {key}={text}, name-and-port={text}", failure.message);
        Failure { message, ..failure }
    };
    let substitute = names.substitute(text).map_err(unresolved)?;
    let Some(endpoint) = Endpoint::parse(substitute.as_deref().unwrap_or(text)) else {
        return Err(Failure::channel(format!(
            "port invalid: ''\nUnresolved - {key}={text}, name-and-port={text}: host:port is required"
        )));
    };
    names.resolve(endpoint.host, endpoint.port).map(Some).map_err(unresolved)
}

#[cfg(test)]
mod tests;
