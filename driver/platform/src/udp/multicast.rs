//! Multicast groups of sockets, and the interfaces of the host.

use std::ffi::CStr;
use std::io::{Error, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use harrier_ringbuf::transport::{InterfaceAddress, Multicast};
use socket2::Socket;

/// Joins a group, or makes a socket send to it, on an interface.
pub(super) fn set_multicast(socket: &Socket, multicast: &Multicast) -> Result<(), Error> {
    match (multicast.group.ip(), multicast.interface) {
        (IpAddr::V4(group), IpAddr::V4(interface)) => {
            if multicast.join {
                socket.join_multicast_v4(&group, &interface)?;
                // Sockets that share a port must receive only the groups that they have joined.
                socket.set_multicast_all_v4(false)?;
            }
            socket.set_multicast_if_v4(&interface)?;
            if let Some(ttl) = multicast.ttl {
                socket.set_multicast_ttl_v4(u32::from(ttl))?;
            }
        }
        (IpAddr::V6(group), IpAddr::V6(_)) => {
            if multicast.join {
                socket.join_multicast_v6(&group, multicast.interface_index)?;
                socket.set_multicast_all_v6(false)?;
            }
            socket.set_multicast_if_v6(multicast.interface_index)?;
            if let Some(ttl) = multicast.ttl {
                socket.set_multicast_hops_v6(u32::from(ttl))?;
            }
        }
        _ => {
            return Err(Error::new(ErrorKind::InvalidInput, "group and interface are of different families"));
        }
    }
    Ok(())
}

/// Addresses of the interfaces of the host.
pub(super) fn interfaces() -> Vec<InterfaceAddress> {
    let mut first = MaybeUninit::<*mut libc::ifaddrs>::uninit();
    // SAFETY: the call initialises the pointer when it succeeds.
    if unsafe { libc::getifaddrs(first.as_mut_ptr()) } != 0 {
        return Vec::new();
    }
    // SAFETY: initialised by the successful call.
    let first = unsafe { first.assume_init() };
    let mut found = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: the list is valid until it is freed below.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        let (Some(address), Some(mask)) = (ip_of(entry.ifa_addr), ip_of(entry.ifa_netmask)) else { continue };
        let prefix = match mask {
            IpAddr::V4(mask) => u32::from(mask).count_ones(),
            IpAddr::V6(mask) => u128::from(mask).count_ones(),
        };
        // SAFETY: the name is a string of the list, which is valid until it is freed below.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        // SAFETY: as above; an unknown name gives index 0.
        let index = unsafe { libc::if_nametoindex(entry.ifa_name) };
        let has = |flags: i32| entry.ifa_flags & flags as u32 != 0;
        found.push(InterfaceAddress {
            name: name.to_string_lossy().into_owned(),
            index,
            ip: address,
            prefix: prefix as u8,
            is_usable: has(libc::IFF_UP) && has(libc::IFF_MULTICAST | libc::IFF_LOOPBACK),
        });
    }
    // SAFETY: the list came from getifaddrs and is freed once.
    unsafe { libc::freeifaddrs(first) };
    found
}

fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and every sockaddr starts with its family.
    let family = i32::from(unsafe { (*address).sa_family });
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that it is an IPv4 address.
            let address: &libc::sockaddr_in = unsafe { &*address.cast() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is an IPv6 address.
            let address: &libc::sockaddr_in6 = unsafe { &*address.cast() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}
