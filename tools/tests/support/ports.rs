//! Ports that no other test takes, in this process or another, whichever checkout it runs from.

use std::fs::File;
use std::net::UdpSocket;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the system gives out by itself.
const FIRST: u16 = 12_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 200;
/// Blocks of a process: so many ports that none is given out twice while a test may still come back to it.
const HELD_BLOCKS: u16 = 5;

/// A UDP port of the loopback address that is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = blocks();
    let count = BLOCK * HELD_BLOCKS;
    (0..count)
        .map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % count)
        .find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// First port of the blocks that this process holds as long as it lives.
fn blocks() -> u16 {
    static HELD: OnceLock<(u16, Vec<File>)> = OnceLock::new();
    HELD.get_or_init(|| {
        let user = std::env::var("USER").unwrap_or_default();
        let folder = std::env::temp_dir().join(format!("harrier-test-ports-{user}"));
        std::fs::create_dir_all(&folder).unwrap();
        let hold = |number: u16| {
            let file = File::create(folder.join(number.to_string())).unwrap();
            file.try_lock().is_ok().then_some(file)
        };
        (0..BLOCKS)
            .step_by(usize::from(HELD_BLOCKS))
            .find_map(|number| {
                let files: Option<Vec<_>> = (number..number + HELD_BLOCKS).map(hold).collect();
                Some((FIRST + number * BLOCK, files?))
            })
            .expect("blocks of ports that no other process holds")
    })
    .0
}
