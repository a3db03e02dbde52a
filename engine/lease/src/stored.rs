//! The lease table in the stream of a snapshot.

use harrier_cluster::service::{Cluster, ServiceFailure, SnapshotImage, SnapshotPublication};
use harrier_protocol::sbe::SbeError;
use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::{MAX_MESSAGE_LENGTH, Record};
use crate::table::{LeaseTable, SnapshotStateError, TableReader};
use crate::waiters::{Wait, Waiters};

/// Writes a table, with waiters or without.
pub(crate) fn write(
    cluster: &mut Cluster<'_>,
    snapshot: &mut SnapshotPublication,
    table: &LeaseTable,
    waiters: Option<&Waiters>,
) -> Result<(), ServiceFailure> {
    let waiters = waiters.filter(|_| !is_planted(Bug::SnapshotWithoutWaiters));
    write_records(table, waiters, &mut |message| -> Result<(), ServiceFailure> {
        cluster.retry(|_| Ok(snapshot.offer(message)?))?;
        Ok(())
    })
}

/// Passes all records of a table to `put`, encoded.
pub(crate) fn write_records<E: From<SbeError>>(
    table: &LeaseTable,
    waiters: Option<&Waiters>,
    put: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = [0; MAX_MESSAGE_LENGTH];
    let mut put = |record: &Record<'_>| -> Result<(), E> {
        let length = record.encode(&mut buffer)?;
        put(&buffer[..length])
    };
    let mut records = table.write_records(waiters.map_or(0, Waiters::len), &mut put)?;
    for (index, wait) in waiters.into_iter().flat_map(Waiters::all) {
        put(&Record::Waiter {
            session_id: wait.session_id,
            correlation_id: wait.correlation_id,
            lease_slot: wait.lease_slot as i32,
            index: index as i32,
        })?;
        records += 1;
    }
    put(&Record::End { records })
}

/// Reads a table up to its end; the rest stays in the stream. Without a place for waiters the table must have none.
pub(crate) fn read(
    cluster: &mut Cluster<'_>,
    snapshot: &mut SnapshotImage<'_>,
    table: &mut LeaseTable,
    mut waiters: Option<&mut Waiters>,
) -> Result<(), ServiceFailure> {
    let mut reader = TableReader::default();
    while !reader.is_complete() {
        let mut outcome = Ok(());
        // Reads one frame at a time, because the frame after the end belongs to the wrapped service.
        let count = snapshot.poll(1, &mut |message, _| {
            outcome = take_record(&mut reader, table, waiters.as_deref_mut(), message);
        });
        outcome?;
        if count == 0 && (snapshot.is_end_of_stream() || snapshot.is_closed()) {
            break;
        }
        cluster.idle(count);
    }
    Ok(reader.finish()?)
}

/// Reads a table from all its records.
pub(crate) fn read_records<'m>(
    records: impl IntoIterator<Item = &'m [u8]>,
    table: &mut LeaseTable,
    mut waiters: Option<&mut Waiters>,
) -> Result<(), SnapshotStateError> {
    let mut reader = TableReader::default();
    for message in records {
        take_record(&mut reader, table, waiters.as_deref_mut(), message)?;
    }
    reader.finish()
}

fn take_record(
    reader: &mut TableReader,
    table: &mut LeaseTable,
    mut waiters: Option<&mut Waiters>,
    message: &[u8],
) -> Result<(), SnapshotStateError> {
    reader.on_record(table, message, &mut |waiter| {
        let wait = Wait {
            session_id: waiter.session_id,
            correlation_id: waiter.correlation_id,
            lease_slot: waiter.lease_slot,
        };
        match &mut waiters {
            Some(waiters) => waiters.add_at(waiter.index, wait),
            None => Err("a table that only judges fences has no waiters"),
        }
    })
}

/// Checks that the stream holds nothing more.
pub(crate) fn expect_end(
    cluster: &mut Cluster<'_>,
    snapshot: &mut SnapshotImage<'_>,
) -> Result<(), ServiceFailure> {
    let mut surplus = 0;
    snapshot.read_to_end(cluster, &mut |_| surplus += 1)?;
    if surplus == 0 {
        Ok(())
    } else {
        Err(format!("the snapshot has {surplus} messages behind the lease table").into())
    }
}
