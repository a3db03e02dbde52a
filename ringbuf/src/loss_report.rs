//! The loss report: which streams have lost how much (spec 01 §3.9).

use std::sync::atomic::Ordering;

use crate::position::align;
use crate::{AtomicBuffer, Region};

const TOTAL_BYTES: usize = 8;
const FIRST_OBSERVATION: usize = 16;
const LAST_OBSERVATION: usize = 24;
const SESSION_ID: usize = 32;
const STREAM_ID: usize = 36;
const CHANNEL: usize = 40;
const ALIGNMENT: usize = 64;

/// Place of the losses of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossEntry(usize);

/// Losses of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Number of times that bytes were missing.
    pub observation_count: i64,
    /// Sum of the missing bytes.
    pub total_bytes_lost: i64,
    /// Time of the first loss, epoch ms.
    pub first_observation_ms: i64,
    /// Time of the last loss, epoch ms.
    pub last_observation_ms: i64,
    /// Session of the stream.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Channel of the subscription.
    pub channel: String,
    /// Address of the sender.
    pub source: String,
}

/// Writes the report.
#[derive(Debug)]
pub struct LossReport {
    buffer: AtomicBuffer,
    next: usize,
}

impl LossReport {
    /// Creates a report on a zeroed buffer.
    pub fn new(buffer: AtomicBuffer) -> Self {
        Self { buffer, next: 0 }
    }

    /// Adds a stream with its first loss; returns `None` when the report is full.
    pub fn create_entry(
        &mut self,
        bytes_lost: i64,
        epoch_ms: i64,
        session_id: i32,
        stream_id: i32,
        channel: &str,
        source: &str,
    ) -> Option<LossEntry> {
        let source_offset = align(4 + channel.len(), 4);
        let length = align(CHANNEL + source_offset + 4 + source.len(), ALIGNMENT);
        let offset = self.next;
        if offset + length > self.buffer.capacity() {
            return None;
        }
        let buffer = &self.buffer;
        buffer.store_i64(offset + TOTAL_BYTES, bytes_lost, Ordering::Relaxed);
        buffer.store_i64(offset + FIRST_OBSERVATION, epoch_ms, Ordering::Relaxed);
        buffer.store_i64(offset + LAST_OBSERVATION, epoch_ms, Ordering::Relaxed);
        buffer.store_i32(offset + SESSION_ID, session_id, Ordering::Relaxed);
        buffer.store_i32(offset + STREAM_ID, stream_id, Ordering::Relaxed);
        put_text(buffer, offset + CHANNEL, channel);
        put_text(buffer, offset + CHANNEL + source_offset, source);
        buffer.store_i64(offset, 1, Ordering::Release);
        self.next += length;
        Some(LossEntry(offset))
    }

    /// Counts a further loss of a stream.
    pub fn record(&self, entry: LossEntry, bytes_lost: i64, epoch_ms: i64) {
        self.buffer.store_i64(entry.0 + LAST_OBSERVATION, epoch_ms, Ordering::Release);
        self.buffer.fetch_add_i64(entry.0 + TOTAL_BYTES, bytes_lost);
        self.buffer.fetch_add_i64(entry.0, 1);
    }
}

fn put_text(buffer: &AtomicBuffer, offset: usize, text: &str) {
    buffer.store_i32(offset, text.len() as i32, Ordering::Relaxed);
    buffer.copy_in(offset + 4, text.as_bytes());
}

fn text_at(buffer: &AtomicBuffer, offset: usize) -> Option<(String, usize)> {
    if offset + 4 > buffer.capacity() {
        return None;
    }
    let length = usize::try_from(buffer.load_i32(offset, Ordering::Relaxed)).ok()?;
    if length > buffer.capacity() - offset - 4 {
        return None;
    }
    let mut bytes = vec![0; length];
    buffer.copy_out(offset + 4, &mut bytes);
    Some((String::from_utf8_lossy(&bytes).into_owned(), length))
}

/// Reads all entries of a report.
pub fn read(buffer: &AtomicBuffer) -> Vec<Loss> {
    let mut losses = Vec::new();
    let mut offset = 0;
    while offset + CHANNEL <= buffer.capacity() {
        let observation_count = buffer.load_i64(offset, Ordering::Acquire);
        if observation_count <= 0 {
            break;
        }
        let Some((channel, channel_length)) = text_at(buffer, offset + CHANNEL) else { break };
        let source_offset = align(4 + channel_length, 4);
        let Some((source, source_length)) = text_at(buffer, offset + CHANNEL + source_offset) else { break };
        losses.push(Loss {
            observation_count,
            total_bytes_lost: buffer.load_i64(offset + TOTAL_BYTES, Ordering::Relaxed),
            first_observation_ms: buffer.load_i64(offset + FIRST_OBSERVATION, Ordering::Relaxed),
            last_observation_ms: buffer.load_i64(offset + LAST_OBSERVATION, Ordering::Relaxed),
            session_id: buffer.load_i32(offset + SESSION_ID, Ordering::Relaxed),
            stream_id: buffer.load_i32(offset + STREAM_ID, Ordering::Relaxed),
            channel,
            source,
        });
        offset += align(CHANNEL + source_offset + 4 + source_length, ALIGNMENT);
    }
    losses
}
