//! Ports that no other test takes, in this process or another, whichever checkout it runs from.

/// A UDP port of the loopback address that is free.
pub fn free_port() -> u16 {
    harrier::platform::free_ports(1).expect("a free port")[0]
}
