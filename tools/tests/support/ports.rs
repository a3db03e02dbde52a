//! Ports that no other test uses, in this process or another, from any checkout.

/// A free UDP port of the loopback address.
pub fn free_port() -> u16 {
    harrier::platform::free_ports(1).expect("a free port")[0]
}
