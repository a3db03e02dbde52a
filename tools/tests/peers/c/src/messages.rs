//! Numbered messages whose every byte is known: the number, then bytes that follow from number and place. The tests
//! on the other side make and check the same.

use crate::client::Failure;

const MIN_LENGTH: usize = 8;

pub fn fill(message: &mut [u8], number: u64) {
    message[..MIN_LENGTH].copy_from_slice(&number.to_le_bytes());
    for (at, byte) in message.iter_mut().enumerate().skip(MIN_LENGTH) {
        *byte = byte_at(number, at);
    }
}

pub fn check(message: &[u8], length: usize, number: u64) -> Result<(), Failure> {
    if message.len() != length {
        return Err(Failure::of(format!("message {number}: length {}, not {length}", message.len())));
    }
    let found = u64::from_le_bytes(message[..MIN_LENGTH].try_into().expect("eight bytes"));
    if found != number {
        return Err(Failure::of(format!("message {found} where {number} was due")));
    }
    let wrong = message.iter().enumerate().skip(MIN_LENGTH).find(|(at, byte)| **byte != byte_at(number, *at));
    match wrong {
        Some((at, _)) => Err(Failure::of(format!("message {number}: wrong byte at {at}"))),
        None => Ok(()),
    }
}

fn byte_at(number: u64, at: usize) -> u8 {
    number.wrapping_mul(31).wrapping_add(at as u64 * 7) as u8
}
