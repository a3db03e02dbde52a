//! Recordings: record, list, replay, follow, truncate, purge segments, replicate, purge.
//!
//! ```text
//! cargo run --release -p harrier --example recording
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use harrier::archive::SourceLocation;
use harrier::archive::client::{ArchiveClientContext, ReplicationParams};
use harrier::archive::codec::Signal;
use harrier::client::{ExclusivePublication, Subscription};
use harrier::driver::context::ThreadingMode;
use harrier::platform::free_ports;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::{ArchiveNode, ArchiveNodeContext, BlockingArchiveClient, BlockingArchiveError};
use media::Outcome;

const STREAM: i32 = 1_001;
/// A message of 96 bytes takes a frame of 128.
const FRAME: i64 = 128;
const SEGMENT: i64 = 64 << 10;

/// Starts an archive with a driver, as `harrier-archive --with-driver --fused` does, and a client of it.
fn start(base: &Path, name: &str, port: u16) -> Outcome<(ArchiveNode, BlockingArchiveClient)> {
    let aeron = base.join(name).join("aeron");
    let mut context = ArchiveNodeContext::new(&aeron, base.join(name).join("archive")).with_driver();
    context.idle = IdleStrategy::Yield;
    context.archive.control_channel = Some(format!("aeron:udp?endpoint=127.0.0.1:{port}"));
    context.archive.replication_channel = Some("aeron:udp?endpoint=127.0.0.1:0".to_owned());
    context.archive.segment_file_length = SEGMENT as i32;
    context.archive.low_storage_space_threshold = 0;
    if let Some(driver) = &mut context.driver {
        driver.threading_mode = ThreadingMode::Shared;
        driver.term_buffer_sparse_file = true;
        driver.counters_buffer_length = 1 << 20;
    }
    let node = ArchiveNode::launch(context)?;
    let mut settings = ArchiveClientContext::ipc();
    settings.message_timeout_ns = 60_000_000_000;
    settings.seed = u64::from(port);
    Ok((node, BlockingArchiveClient::connect(aeron, settings)?))
}

/// Publishes messages that hold their numbers.
fn publish(
    archive: &mut BlockingArchiveClient,
    publication: &mut ExclusivePublication,
    numbers: std::ops::Range<u64>,
) -> Result<(), BlockingArchiveError> {
    for number in numbers {
        let mut message = [0; 96];
        message[..8].copy_from_slice(&number.to_le_bytes());
        archive.until("room", |_| Ok(publication.offer(&message).ok()))?;
    }
    Ok(())
}

/// Receives messages; returns the first and last number.
fn receive(
    archive: &mut BlockingArchiveClient,
    subscription: &mut Subscription,
    count: usize,
) -> Result<(u64, u64), BlockingArchiveError> {
    let mut numbers = Vec::new();
    archive.until("the messages", |_| {
        subscription.poll(count - numbers.len(), &mut |message, _| {
            let number = message.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
            numbers.push(number);
        });
        Ok((numbers.len() == count).then_some(()))
    })?;
    Ok((numbers[0], numbers[count - 1]))
}

/// Returns what the program prints.
pub fn run(base: &Path) -> Outcome<Vec<String>> {
    let ports = free_ports(2)?;
    let (node, mut archive) = start(base, "first", ports[0])?;
    let mut lines = Vec::new();

    // Record: the archive subscribes to the stream and writes what is published.
    let channel = "aeron:ipc?term-length=64k|alias=orders";
    archive
        .call(|client, aeron| client.start_recording(aeron, channel, STREAM, SourceLocation::Local, true))?;
    let mut publication = archive.publication(channel, STREAM)?;
    let id = archive.await_signal(Signal::Start)?.recording_id;
    publish(&mut archive, &mut publication, 0..1_000)?;
    archive.await_recorded(id, 1_000 * FRAME)?;
    lines.push(format!("recording {id} has 1000 messages"));

    // Replay a part of it while it goes on, and all of it, followed by what is still published.
    let (_, mut part) = archive.replay(id, 100 * FRAME, 50 * FRAME, "aeron:ipc", 77)?;
    lines.push(format!("replayed {:?}", receive(&mut archive, &mut part, 50)?));
    let (follow_id, mut live) = archive.replay(id, 0, -1, "aeron:ipc", 78)?;
    receive(&mut archive, &mut live, 1_000)?;
    publish(&mut archive, &mut publication, 1_000..1_100)?;
    lines.push(format!("followed {:?}", receive(&mut archive, &mut live, 100)?));
    archive.call(|client, aeron| client.stop_replay(aeron, follow_id))?;

    // The end of the publication ends the recording, because it was started with auto-stop.
    drop(publication);
    let stop = archive.await_signal(Signal::Stop)?.position;
    let listed = archive.list(0, 100)?;
    lines.push(format!("{} recording of {}, {stop} bytes", listed.len(), listed[0].original_channel));

    // Shorten it at both ends: at the end to any message, at the start by whole segments.
    archive.call(|client, aeron| client.truncate_recording(aeron, id, 1_050 * FRAME))?;
    archive.await_signal(Signal::Delete)?;
    let purged = archive.call(|client, aeron| client.purge_segments(aeron, id, SEGMENT))?;
    archive.await_signal(Signal::Delete)?;
    let start_position = archive.call(|client, aeron| client.start_position(aeron, id))?;
    lines.push(format!("purged {purged} segment; the recording starts at {start_position}"));

    // Replicate it to another archive, which asks this one for a replay.
    let (second_node, mut second) = start(base, "second", ports[1])?;
    let source = format!("aeron:udp?endpoint=127.0.0.1:{}", ports[0]);
    second.call(|client, aeron| client.replicate(aeron, id, 10, &source, &ReplicationParams::default()))?;
    let copied = second.await_signal(Signal::Sync)?;
    second.await_signal(Signal::Stop)?;
    let (_, mut copy) = second.replay(copied.recording_id, SEGMENT, -1, "aeron:ipc", 77)?;
    lines.push(format!("the copy has {:?}", receive(&mut second, &mut copy, 538)?));

    // Purge it, after which its id is unknown.
    archive.call(|client, aeron| client.purge_recording(aeron, id))?;
    archive.await_signal(Signal::Delete)?;
    let gone = archive.call(|client, aeron| client.start_position(aeron, id));
    if let Err(BlockingArchiveError::Refused { message, .. }) = gone {
        lines.push(message);
    }
    second.close();
    archive.close();
    second_node.stop()?;
    node.stop()?;
    Ok(lines)
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("recording", run)
}
