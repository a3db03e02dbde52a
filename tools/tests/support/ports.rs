//! Ports that no other test takes, in this process or another, whichever checkout it runs from.

use std::fs::File;
use std::net::UdpSocket;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the system gives out by itself.
const FIRST: u16 = 12_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 200;

/// A UDP port of the loopback address that is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = block();
    (0..BLOCK)
        .map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % BLOCK)
        .find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// First port of the block that this process holds as long as it lives.
fn block() -> u16 {
    static HELD: OnceLock<(u16, File)> = OnceLock::new();
    HELD.get_or_init(|| {
        let user = std::env::var("USER").unwrap_or_default();
        let folder = std::env::temp_dir().join(format!("harrier-test-ports-{user}"));
        std::fs::create_dir_all(&folder).unwrap();
        (0..BLOCKS)
            .find_map(|number| {
                let file = File::create(folder.join(number.to_string())).unwrap();
                file.try_lock().is_ok().then_some((FIRST + number * BLOCK, file))
            })
            .expect("a block of ports that no other process holds")
    })
    .0
}
