//! UDP channels with resolved addresses, and when two share a socket (spec 02 §2.2, §2.11, §3.14).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use harrier_protocol::ErrorCode;
use harrier_protocol::uri::{ChannelUri, ControlMode, Endpoint, key};
use harrier_ringbuf::Transport;
use harrier_ringbuf::transport::SocketSpec;

use crate::failure::Failure;

/// A channel of `aeron:udp` as the agents use it.
#[derive(Debug, Clone)]
pub(crate) struct UdpChannel {
    pub(crate) uri: ChannelUri,
    /// The channel as the client wrote it.
    pub(crate) text: String,
    /// Canonical form without its suffix.
    pub(crate) canonical: String,
    /// The canonical form is made unique: no address says which socket this is.
    pub(crate) needs_suffix: bool,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) control: Option<SocketAddr>,
    pub(crate) interface: Option<SocketAddr>,
    pub(crate) control_mode: Option<ControlMode>,
    pub(crate) tag: Option<i64>,
}

impl UdpChannel {
    /// Resolves all names of a channel; blocks as long as the resolver does.
    pub(crate) fn resolve<T: Transport>(uri: ChannelUri, text: &str, transport: &T) -> Result<Self, Failure> {
        let control_mode = uri.control_mode();
        let endpoint = resolve_parameter(&uri, key::ENDPOINT, transport)?;
        let control = resolve_parameter(&uri, key::CONTROL, transport)?;
        if endpoint.is_some_and(|address| address.ip().is_multicast()) {
            return Err(Failure::new(
                ErrorCode::NotSupported,
                format!(
                    "multicast is not supported by this driver: channel={text}; use control-mode=dynamic"
                ),
            ));
        }
        let interface = match uri.get(key::INTERFACE) {
            Some(interface) => Some(find_interface(interface, transport)?),
            None => None,
        };
        let is_ipv6 = endpoint.or(control).is_some_and(|address| address.is_ipv6());
        let wildcard = wildcard(is_ipv6);
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
            control_mode,
        })
    }

    /// True when a publication's datagrams go to destinations.
    pub(crate) fn is_multi_destination(&self) -> bool {
        matches!(self.control_mode, Some(ControlMode::Manual | ControlMode::Dynamic))
    }

    /// True when the address of the endpoint may change: it was given as a name.
    pub(crate) fn has_endpoint_name(&self) -> bool {
        let endpoint = self.uri.get(key::ENDPOINT).and_then(Endpoint::parse);
        endpoint.is_some_and(|endpoint| endpoint.host.parse::<IpAddr>().is_err())
    }

    /// True for `control-mode=manual`.
    pub(crate) fn is_manual(&self) -> bool {
        self.control_mode == Some(ControlMode::Manual)
    }

    /// True for `control-mode=response`.
    pub(crate) fn is_response(&self) -> bool {
        self.control_mode == Some(ControlMode::Response)
    }

    /// The socket of a publication (spec 02 §2.2).
    pub(crate) fn send_socket(&self, connect: bool) -> SocketSpec {
        let is_ipv6 = self.endpoint.or(self.control).is_some_and(|address| address.is_ipv6());
        let mut spec = SocketSpec::unicast(self.interface.or(self.control).unwrap_or(wildcard(is_ipv6)));
        if connect && self.control_mode.is_none() {
            spec.connect = self.endpoint;
        }
        spec
    }

    /// The socket of a subscription (spec 02 §3.1): bound to the endpoint, or to any port when only a control address
    /// is known.
    pub(crate) fn receive_socket(&self) -> SocketSpec {
        let is_ipv6 = self.control.is_some_and(|address| address.is_ipv6());
        SocketSpec::unicast(self.endpoint.or(self.interface).unwrap_or(wildcard(is_ipv6)))
    }

    /// True when this channel, new, may use the socket of `other`, which exists: by tag, else by canonical form.
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
            if has_no_address || (self.endpoint == other.endpoint && self.control == other.control) {
                return Ok(true);
            }
            return Err(Failure::generic(format!(
                "matching tag={tag} has mismatched endpoint or control: {} <> {}",
                self.text, other.text
            )));
        }
        Ok(!self.needs_suffix && !other.needs_suffix && self.canonical == other.canonical)
    }

    /// Which socket of the driver this is, for clashes of session ids: unique channels differ by `suffix`.
    pub(crate) fn socket_name(&self, suffix: i64) -> String {
        match (self.needs_suffix, self.tag) {
            (false, _) => self.canonical.clone(),
            (true, Some(tag)) => format!("{}#{tag}", self.canonical),
            (true, None) => format!("{}-{suffix}", self.canonical),
        }
    }
}

/// The unspecified address with port 0.
pub(crate) fn wildcard(is_ipv6: bool) -> SocketAddr {
    let ip = if is_ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}

/// An address as counters and events show it: `a.b.c.d:port` or `[v6]:port`.
pub(crate) fn address_text(address: SocketAddr) -> String {
    address.to_string()
}

fn resolve_parameter<T: Transport>(
    uri: &ChannelUri,
    key: &'static str,
    transport: &T,
) -> Result<Option<SocketAddr>, Failure> {
    let Some(text) = uri.get(key) else { return Ok(None) };
    let Some(endpoint) = Endpoint::parse(text) else {
        return Err(Failure::channel(format!(
            "port invalid\nUnresolved - {key}={text}, name-and-port={text}: host:port is required"
        )));
    };
    transport.resolve(endpoint.host, endpoint.port).map(Some).map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(
            failure.code,
            format!("{}\nUnresolved - {key}={text}, name-and-port={text}", failure.message),
        )
    })
}

/// `ADDR[:port][/prefix]`: the first interface with an address equal under the prefix (spec 02 §3.13).
fn find_interface<T: Transport>(text: &str, transport: &T) -> Result<SocketAddr, Failure> {
    let unknown = || Failure::generic(format!("could not find matching interface='{text}'"));
    if let Some(name) = text.strip_prefix('{') {
        let name = name.split('}').next().unwrap_or(name);
        return Err(Failure::generic(format!("unknown interface {name}; give its address")));
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| unknown())?)),
        None => (text, None),
    };
    let (ip, port) = match address.parse::<IpAddr>() {
        Ok(ip) => (ip, 0),
        Err(_) => {
            let socket: SocketAddr = address.parse().map_err(|_| unknown())?;
            (socket.ip(), socket.port())
        }
    };
    if ip.is_unspecified() {
        return Ok(SocketAddr::new(ip, port));
    }
    let prefix = prefix.unwrap_or(if ip.is_ipv4() { 32 } else { 128 });
    let mut found: Vec<IpAddr> = transport
        .interfaces()
        .into_iter()
        .filter(|(own, _)| is_equal_under(*own, ip, prefix))
        .map(|(own, _)| own)
        .collect();
    found.sort_by_key(IpAddr::is_loopback);
    found.first().map(|own| SocketAddr::new(*own, port)).ok_or_else(unknown)
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

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::transport::{BufferLimits, Datagrams, QueueFull, SendBuffer, TransportError};

    #[derive(Clone)]
    struct Names;
    struct NoSocket;

    impl Datagrams for NoSocket {
        fn local_address(&self) -> SocketAddr {
            wildcard(false)
        }
        fn reconnect(&mut self, _: SocketAddr) -> Result<(), TransportError> {
            Ok(())
        }
        fn submit(&mut self, _: u64, _: SendBuffer<'_>, _: Option<SocketAddr>) -> Result<(), QueueFull> {
            Err(QueueFull)
        }
        fn complete(&mut self, _: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize {
            0
        }
        fn receive(&mut self, _: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
            Ok(0)
        }
    }

    impl Transport for Names {
        type Socket = NoSocket;
        fn open(&self, _: &SocketSpec) -> Result<NoSocket, TransportError> {
            Ok(NoSocket)
        }
        fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
            let ip = match host {
                "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                _ => host.parse().map_err(|_| TransportError::UnknownHost { name: host.to_owned() })?,
            };
            Ok(SocketAddr::new(ip, port))
        }
        fn interfaces(&self) -> Vec<(IpAddr, u8)> {
            vec![("127.0.0.1".parse().unwrap(), 8), ("10.1.2.3".parse().unwrap(), 24)]
        }
        fn buffer_limits(&self) -> BufferLimits {
            BufferLimits::default()
        }
    }

    fn channel(text: &str) -> Result<UdpChannel, Failure> {
        UdpChannel::resolve(ChannelUri::parse(text).unwrap(), text, &Names)
    }

    #[test]
    fn canonical_forms_follow_the_table() {
        let canonical = |text| channel(text).unwrap().canonical;
        assert_eq!(canonical("aeron:udp?endpoint=localhost:40456"), "UDP-0.0.0.0:0-localhost:40456");
        assert_eq!(
            canonical("aeron:udp?endpoint=localhost:40456|interface=10.1.2.0/24"),
            "UDP-10.1.2.3:0-localhost:40456"
        );
        assert_eq!(
            canonical("aeron:udp?control=localhost:1|control-mode=dynamic"),
            "UDP-localhost:1-0.0.0.0:0"
        );
    }

    #[test]
    fn wildcard_ports_are_shared_only_by_tag() {
        let plain = channel("aeron:udp?endpoint=localhost:0").unwrap();
        assert!(!plain.matches(&plain.clone()).unwrap());
        let tagged = channel("aeron:udp?endpoint=localhost:0|tags=7").unwrap();
        assert!(channel("aeron:udp?tags=7").unwrap().matches(&tagged).unwrap());
        let other = channel("aeron:udp?endpoint=localhost:9|tags=7").unwrap();
        assert!(other.matches(&tagged).unwrap_err().message.contains("mismatched endpoint or control"));
    }

    #[test]
    fn bad_addresses_have_their_codes() {
        let code = |text| channel(text).unwrap_err().code;
        assert_eq!(code("aeron:udp?endpoint=nohost.invalid:21000"), ErrorCode::UnknownHost);
        assert_eq!(code("aeron:udp?endpoint=127.0.0.1"), ErrorCode::InvalidChannel);
        assert_eq!(code("aeron:udp?endpoint=127.0.0.1:1|interface=10.99.99.99/24"), ErrorCode::GenericError);
        assert_eq!(code("aeron:udp?endpoint=224.10.9.9:1"), ErrorCode::NotSupported);
    }
}
