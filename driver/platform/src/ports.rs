//! Ports that stay free for a while, for tests, examples and benchmarks that start several processes on one host.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::net::UdpSocket;
use std::sync::Mutex;

/// First port that is given out; it is below the ports that the system gives out by itself.
const FIRST: u16 = 12_000;
/// Ports of a block: enough that none is given out twice while somebody may still use it.
const BLOCK: u16 = 500;
const BLOCKS: u16 = 40;

/// A block of ports. Other processes do not use it while its file is locked.
struct Block {
    first: u16,
    given: u16,
    _lock: File,
}

/// Returns UDP ports of the loopback address that nobody uses.
///
/// A port that was bound to 0 and closed again may be taken by anybody before it is used. The ports of this function
/// are given out by no system, and to no other process as long as this one lives. They repeat after five hundred.
///
/// # Errors
///
/// No block is free, or the block of this process has too few free ports.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    static HELD: Mutex<Option<Block>> = Mutex::new(None);
    let mut held = HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let block = match &mut *held {
        Some(block) => block,
        none => none.insert(take_block()?),
    };
    let mut found = Vec::with_capacity(count);
    for _ in 0..BLOCK {
        if found.len() == count {
            break;
        }
        let port = block.first + block.given % BLOCK;
        block.given = (block.given + 1) % BLOCK;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
    }
    if found.len() < count {
        let text = format!("not {count} ports from {} on are free", block.first);
        return Err(Error::new(ErrorKind::AddrInUse, text));
    }
    Ok(found)
}

fn take_block() -> Result<Block> {
    // SAFETY: a call without arguments that cannot fail.
    let user = unsafe { libc::getuid() };
    let folder = std::env::temp_dir().join(format!("harrier-ports-{user}"));
    let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(named)?;
    for number in 0..BLOCKS {
        let lock = File::create(folder.join(number.to_string())).map_err(named)?;
        if lock.try_lock().is_ok() {
            return Ok(Block { first: FIRST + number * BLOCK, given: 0, _lock: lock });
        }
    }
    Err(Error::new(ErrorKind::AddrInUse, format!("all blocks of ports in {} are taken", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_once_and_not_while_somebody_has_them() {
        let first = free_ports(3).unwrap();
        let next = free_ports(1).unwrap()[0];
        assert!(first.iter().all(|port| (FIRST..FIRST + BLOCK * BLOCKS).contains(port) && *port != next));
        let _held = UdpSocket::bind(("127.0.0.1", next)).unwrap();
        // One round of the block, and one step past the port that is taken.
        for _ in 0..BLOCK {
            assert_ne!(free_ports(1).unwrap()[0], next);
        }
        assert_eq!(free_ports(usize::from(BLOCK)).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn another_process_has_another_block() {
        let (one, other) = (take_block().unwrap(), take_block().unwrap());
        assert_ne!(one.first, other.first);
    }
}
