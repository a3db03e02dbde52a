//! Numbered messages with known bytes; the Java peer creates and checks the same.

/// Shortest message.
pub const MIN_LENGTH: usize = 8;

/// Fills `message` with the bytes of message `number`.
pub fn fill(message: &mut [u8], number: u64) {
    message[..MIN_LENGTH].copy_from_slice(&number.to_le_bytes());
    for (at, byte) in message.iter_mut().enumerate().skip(MIN_LENGTH) {
        *byte = byte_at(number, at);
    }
}

/// Panics unless `message` is message `number` with `length` bytes.
pub fn check(message: &[u8], length: usize, number: u64) {
    assert_eq!(message.len(), length, "length of message {number}");
    assert_eq!(message[..MIN_LENGTH], number.to_le_bytes(), "number of the message");
    let wrong = message.iter().enumerate().skip(MIN_LENGTH).find(|(at, byte)| **byte != byte_at(number, *at));
    assert_eq!(wrong, None, "message {number}");
}

fn byte_at(number: u64, at: usize) -> u8 {
    number.wrapping_mul(31).wrapping_add(at as u64 * 7) as u8
}
