//! Tests of channels with their own resolver and interfaces.

use super::*;
use harrier_protocol::ErrorCode;
use harrier_ringbuf::Transport;
use harrier_ringbuf::transport::{
    BufferLimits, Datagrams, InterfaceAddress, QueueFull, SendBuffer, TransportError,
};

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
    fn interfaces(&self) -> Vec<InterfaceAddress> {
        let address = |name: &str, index, ip: &str, prefix, is_usable| {
            let (name, ip) = (name.to_owned(), ip.parse().unwrap());
            InterfaceAddress { name, index, ip, prefix, is_usable }
        };
        vec![
            address("lo", 1, "127.0.0.1", 8, true),
            address("lo", 1, "::1", 128, true),
            address("dead0", 2, "10.1.2.9", 30, false),
            address("eth0", 3, "10.1.2.3", 24, true),
            address("eth0", 3, "fe80::5", 64, true),
            address("eth1", 4, "10.1.2.4", 28, true),
        ]
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
        canonical("aeron:udp?endpoint=localhost:40456|interface=10.1.2.0/28"),
        "UDP-10.1.2.4:0-localhost:40456"
    );
    assert_eq!(canonical("aeron:udp?control=localhost:1|control-mode=dynamic"), "UDP-localhost:1-0.0.0.0:0");
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

/// Tagged channels are compared by their requested names, because the address of a name may have changed since the
/// socket was opened.
#[test]
fn a_tagged_channel_is_found_again_after_its_name_has_moved() {
    for text in
        ["aeron:udp?endpoint=localhost:9|tags=7", "aeron:udp?control=localhost:9|control-mode=dynamic|tags=7"]
    {
        let mut before = channel(text).unwrap();
        let moved = |address: Option<SocketAddr>| {
            address.map(|one| SocketAddr::new([127, 0, 0, 2].into(), one.port()))
        };
        (before.endpoint, before.control) = (moved(before.endpoint), moved(before.control));
        let again = channel(text).unwrap();
        assert!(again.endpoint != before.endpoint || again.control != before.control);
        assert!(again.matches(&before).unwrap());
        let by_address = channel(&text.replace("localhost", "127.0.0.1")).unwrap();
        assert!(by_address.matches(&again).unwrap(), "other words for the same address");
        assert!(by_address.matches(&before).unwrap_err().message.contains("mismatched endpoint or control"));
    }
}

#[test]
fn bad_addresses_have_their_codes() {
    let code = |text| channel(text).unwrap_err().code;
    assert_eq!(code("aeron:udp?endpoint=nohost.invalid:21000"), ErrorCode::UnknownHost);
    assert_eq!(code("aeron:udp?endpoint=127.0.0.1"), ErrorCode::InvalidChannel);
    assert_eq!(code("aeron:udp?endpoint=127.0.0.1:1|interface=10.99.99.99/24"), ErrorCode::GenericError);
    assert_eq!(code("aeron:udp?endpoint=224.10.9.8:1"), ErrorCode::InvalidChannel);
    assert_eq!(code("aeron:udp?endpoint=224.10.9.9:1|interface={eth7}"), ErrorCode::GenericError);
    assert_eq!(code("aeron:udp?endpoint=224.10.9.9:1|interface={eth0"), ErrorCode::GenericError);
    assert_eq!(code("aeron:udp?endpoint=224.10.9.9:1|interface={eth1}:x"), ErrorCode::GenericError);
    assert_eq!(code("aeron:udp?endpoint=224.10.9.9:1|interface=dead::beef"), ErrorCode::GenericError);
}

#[test]
fn a_group_is_known_by_its_interface_and_data_address() {
    let canonical = |text: &str| channel(&format!("aeron:udp?endpoint={text}")).unwrap().canonical;
    // The smallest network that is up goes first, the loopback last.
    assert_eq!(canonical("224.10.9.9:1"), "UDP-10.1.2.4:0-224.10.9.9:1");
    assert_eq!(canonical("224.10.9.9:1|interface=10.1.2.3"), "UDP-10.1.2.3:0-224.10.9.9:1");
    assert_eq!(canonical("224.10.9.9:1|interface=10.0.0.0:77/8"), "UDP-10.1.2.4:77-224.10.9.9:1");
    assert_eq!(canonical("224.10.9.9:1|interface=localhost"), "UDP-127.0.0.1:0-224.10.9.9:1");
    assert_eq!(canonical("224.10.9.9:1|interface={eth0}"), "UDP-10.1.2.3:0-224.10.9.9:1");
    assert_eq!(canonical("224.10.9.9:1|interface={lo}:9"), "UDP-127.0.0.1:9-224.10.9.9:1");
    assert_eq!(canonical("[ff02::3]:1"), "UDP-[fe80::5]:0-[ff02::3]:1");
    assert_eq!(canonical("[ff02::3]:1|interface=[::1]:8/64"), "UDP-[::1]:8-[ff02::3]:1");
    // A group has no other control address and no destinations.
    let group = channel("aeron:udp?endpoint=224.10.9.9:1|control=10.1.2.3:5|control-mode=dynamic").unwrap();
    assert_eq!((group.control, group.is_multi_destination(), group.is_group()), (None, false, true));
    assert_eq!(group.group.unwrap().control, "224.10.9.10:1".parse().unwrap());
    let control = |text: &str| channel(text).unwrap().group.unwrap().control.to_string();
    assert_eq!(control("aeron:udp?endpoint=[ff02::ff]:1"), "[ff02::]:1");
}

#[test]
fn sockets_of_a_group_share_its_port_and_join_what_they_hear() {
    let group = channel("aeron:udp?endpoint=224.10.9.9:7|interface=10.1.2.3:78|ttl=4").unwrap();
    let send = group.send_socket(true, 9);
    assert_eq!((send.bind, send.connect), ("0.0.0.0:78".parse().unwrap(), group.endpoint));
    let control = group.control_socket(9).unwrap();
    let receive = group.receive_socket(9);
    for (spec, address, joins) in
        [(&send, "224.10.9.9:7", false), (&control, "224.10.9.10:7", true), (&receive, "224.10.9.9:7", true)]
    {
        let multicast = spec.multicast.as_ref().unwrap();
        assert_eq!((multicast.group, multicast.join), (address.parse().unwrap(), joins));
        assert_eq!((multicast.interface, multicast.ttl), ("10.1.2.3".parse().unwrap(), Some(4)));
        assert_eq!(spec.reuse_address, joins);
    }
    assert_eq!((control.bind, receive.bind), ("0.0.0.0:7".parse().unwrap(), "0.0.0.0:7".parse().unwrap()));
    let plain = channel("aeron:udp?endpoint=224.10.9.9:7").unwrap();
    assert_eq!(plain.receive_socket(9).multicast.unwrap().ttl, Some(9));
    assert_eq!(plain.receive_socket(0).multicast.unwrap().ttl, None);
    assert_eq!((plain.group.unwrap().ttl(0), plain.group.unwrap().ttl(9)), (0, 9));
    assert_eq!(channel("aeron:udp?endpoint=10.1.2.3:7").unwrap().control_socket(0), None);
}
