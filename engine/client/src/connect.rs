//! Opening the driver's CnC file (spec 01 §3.3).

use harrier_protocol::cnc::{CNC_FILE, CNC_HEADER_LENGTH, CNC_VERSION_OFFSET, CncError, CncHeader};
use harrier_ringbuf::broadcast::Receiver;
use harrier_ringbuf::counters::CountersReader;
use harrier_ringbuf::many_to_one::ManyToOneRing;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, Memory, Now, Region};
use std::sync::atomic::Ordering;

use crate::{ClientError, Context};

/// The parts of a CnC file that a client uses.
pub(crate) struct Cnc {
    pub(crate) to_driver: ManyToOneRing,
    pub(crate) to_clients: Receiver,
    pub(crate) counters: CountersReader,
    pub(crate) client_liveness_timeout_ns: i64,
}

/// Maps the CnC file when a live driver owns it.
pub(crate) fn open<M: Memory>(context: &Context, memory: &M, now: &Now) -> Result<Cnc, ClientError> {
    let path = context.directory.join(CNC_FILE);
    let not_ready = |reason: String| ClientError::NotReady { directory: context.directory.clone(), reason };
    let corrupt = |detail: String| ClientError::Corrupt { directory: context.directory.clone(), detail };

    let buffer = match memory.map(&path, MapMode::ReadWrite) {
        Ok(buffer) => buffer,
        Err(error) if error.is_not_found() => return Err(not_ready("there is no CnC file".into())),
        Err(error) => return Err(error.into()),
    };
    if buffer.capacity() < CNC_HEADER_LENGTH {
        return Err(not_ready("the CnC file is still being created".into()));
    }
    if buffer.load_i32(CNC_VERSION_OFFSET, Ordering::Acquire) == 0 {
        return Err(not_ready("the driver is still starting".into()));
    }
    let mut bytes = [0; CNC_HEADER_LENGTH];
    buffer.copy_out(0, &mut bytes);
    let header = CncHeader::decode(&bytes).map_err(|error| match error {
        CncError::Version { major, minor } => {
            ClientError::Version { directory: context.directory.clone(), major, minor }
        }
        other => corrupt(other.to_string()),
    })?;
    let layout = header.layout().map_err(|error| corrupt(error.to_string()))?;
    if layout.check_file_length(buffer.capacity()).is_err() {
        return Err(not_ready("the CnC file is shorter than its sections".into()));
    }
    let section = |range: std::ops::Range<usize>| -> AtomicBuffer { buffer.slice(range.start, range.len()) };
    let to_driver =
        ManyToOneRing::new(section(layout.to_driver.clone())).map_err(|error| corrupt(error.to_string()))?;
    let to_clients =
        Receiver::new(section(layout.to_clients.clone())).map_err(|error| corrupt(error.to_string()))?;
    let counters = CountersReader::new(
        section(layout.counters_metadata.clone()),
        section(layout.counters_values.clone()),
    )
    .map_err(|error| corrupt(error.to_string()))?;

    let heartbeat_ms = to_driver.consumer_heartbeat_ms();
    if heartbeat_ms <= 0 {
        return Err(not_ready("the driver has shut down or is still starting".into()));
    }
    let age_ms = now.epoch_ms - heartbeat_ms;
    if age_ms > context.driver_timeout_ms {
        return Err(not_ready(format!("the driver's last heartbeat is {age_ms} ms old")));
    }
    Ok(Cnc { to_driver, to_clients, counters, client_liveness_timeout_ns: header.client_liveness_timeout_ns })
}
