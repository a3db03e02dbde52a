//! A disk that is full at one of the writes: the client gets the error, and the archive keeps serving.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use harrier_archive::SourceLocation;
use harrier_archive::client::ArchiveAnswer;
use harrier_platform::FileStorage;
use harrier_protocol::counter_types::type_id;
use harrier_ringbuf::storage::{Operation, Output, Storage, StorageError};

use crate::rig::{CHANNEL, STREAM_ID, World, directory};

/// Storage of which one write fails: the one at which the countdown reaches 0.
struct FullDisk {
    inner: FileStorage,
    countdown: Rc<Cell<i64>>,
    failed: Vec<u64>,
}

impl Storage for FullDisk {
    fn submit(&mut self, token: u64, operation: Operation) {
        if matches!(operation, Operation::Write { .. } | Operation::SetLength { .. }) {
            self.countdown.set(self.countdown.get() - 1);
            if self.countdown.get() == 0 {
                self.failed.push(token);
                return;
            }
        }
        self.inner.submit(token, operation);
    }

    fn poll(&mut self, visit: &mut dyn FnMut(u64, Result<Output, StorageError>)) -> usize {
        let failed = std::mem::take(&mut self.failed);
        for token in &failed {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            visit(*token, Err(StorageError::new("write", Path::new("/disk"), full)));
        }
        failed.len() + self.inner.poll(visit)
    }

    fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError> {
        self.inner.blocking(operation)
    }
}

#[test]
fn each_write_may_find_a_full_disk() {
    for write in 1..9 {
        let countdown = Rc::new(Cell::new(0));
        let storage =
            FullDisk { inner: FileStorage::inline(), countdown: countdown.clone(), failed: Vec::new() };
        let mut world = World::start_on(directory(), storage, |_| ());
        world.connect();
        countdown.set(write);
        let local = SourceLocation::Local;
        let start = world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, local, false).unwrap();
        world.ok(start);
        let mut publication = world.publication(CHANNEL);
        let mut refused = None;
        world.until("the error", |world| {
            // The publication is never full: nobody records it when the disk is.
            let _unread = publication.offer(&[1; 200]);
            while let Some(answer) = world.client.poll_answer() {
                if let ArchiveAnswer::Error { correlation_id, code, message } = answer {
                    assert_eq!((correlation_id, code), (start, 11), "write {write}: {message}");
                    refused = Some(message);
                }
            }
            refused.is_some().then_some(())
        });
        assert!(refused.unwrap().contains("cannot write /disk"));
        assert!(world.counter(type_id::ARCHIVE_ERROR_COUNT) > 0 && !world.errors().is_empty());
        // The recording has a stop position, and what it holds is replayed.
        let stop = world.until("the stop position", |world| {
            let request = world.client.stop_position(&world.aeron, 0).unwrap();
            let stop = world.ok(request);
            (stop != -1).then_some(stop)
        });
        let count = (stop / 256) as usize;
        if count > 0 {
            assert_eq!(world.replay(0, 0, -1, count).len(), count);
        }
        // There is room again.
        drop(publication);
        let request = world.client.stop_recording(&world.aeron, CHANNEL, STREAM_ID).unwrap();
        world.answer(request);
        let (id, _) = world.record("aeron:ipc?term-length=64k|alias=next", 0..10);
        assert_eq!(id, 1, "write {write}");
        assert_eq!(world.replay(id, 0, -1, 10), (0..10).collect::<Vec<_>>());
    }
}
