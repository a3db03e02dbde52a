//! Reads the state of a media driver and its streams from its directory, without a trace (spec 01 §3).
//!
//! Files are mapped read-only, so a live driver is not disturbed. Every length is checked before it is used.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use harrier::driver::LOSS_REPORT_FILE;
use harrier::platform::MappedMemory;
use harrier::ringbuf::counters::{CountersReader, STATE_ALLOCATED, STATE_UNUSED};
use harrier::ringbuf::loss_report::{self, Loss};
use harrier::ringbuf::many_to_one::ManyToOneRing;
use harrier::ringbuf::memory::MapMode;
use harrier::ringbuf::{AtomicBuffer, Memory, MemoryError, Region, error_log};
use harrier_protocol::cnc::{CNC_FILE, CNC_HEADER_LENGTH, CNC_VERSION_OFFSET, CncError, CncHeader};
use thiserror::Error;

/// Reason why a directory cannot be read.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// There is no file of a driver.
    #[error(
        "no media driver in {}: there is no {CNC_FILE}; start harrier-driver or name its directory with --aeron-dir",
        directory.display()
    )]
    Absent {
        /// The directory.
        directory: PathBuf,
    },
    /// The file does not belong to a driver that this version knows.
    #[error("{}: {error}", path.display())]
    Cnc {
        /// The file.
        path: PathBuf,
        /// Fault of the file.
        error: CncError,
    },
    /// The sections contradict each other.
    #[error("{}: {reason}; is it a CnC file?", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Fault of the file.
        reason: String,
    },
    /// The system refuses to map the file.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A distinct error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedError {
    /// Number of observations.
    pub observation_count: i32,
    /// Time of the first observation, epoch ms.
    pub first_ms: i64,
    /// Time of the last observation, epoch ms.
    pub last_ms: i64,
    /// Text of the error.
    pub text: String,
}

/// A counter in use, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterRecord {
    /// Id of the counter.
    pub id: i32,
    /// Type id.
    pub type_id: i32,
    /// Value.
    pub value: i64,
    /// Registration id.
    pub registration_id: i64,
    /// Client that owns the counter; -1 for none.
    pub owner_id: i64,
    /// Id that the counter refers to: for a subscriber position the image's correlation id.
    pub reference_id: i64,
    /// Key bytes.
    pub key: Vec<u8>,
    /// Label.
    pub label: String,
}

impl CounterRecord {
    /// The i32 at the start of the key, which is the cluster's id in its counters.
    pub fn key_i32(&self, offset: usize) -> i32 {
        self.key[offset..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word))
    }
}

/// A driver's directory.
#[derive(Debug)]
pub struct AeronDirectory {
    path: PathBuf,
    /// Header of the CnC file.
    pub header: CncHeader,
    counters: CountersReader,
    to_driver: ManyToOneRing,
    errors: AtomicBuffer,
}

impl AeronDirectory {
    /// Opens a directory; its driver may be alive or dead.
    ///
    /// # Errors
    ///
    /// See [`DirectoryError`].
    pub fn open(directory: &Path) -> Result<Self, DirectoryError> {
        let path = directory.join(CNC_FILE);
        let buffer = match MappedMemory.map(&path, MapMode::ReadOnly) {
            Ok(buffer) => buffer,
            Err(error) if error.is_not_found() => {
                return Err(DirectoryError::Absent { directory: directory.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let cnc = |error| DirectoryError::Cnc { path: path.clone(), error };
        if buffer.capacity() < CNC_HEADER_LENGTH {
            return Err(cnc(CncError::Short { length: buffer.capacity(), required: CNC_HEADER_LENGTH }));
        }
        // Acquire: this makes the driver's stores before the version visible.
        buffer.load_i32(CNC_VERSION_OFFSET, Ordering::Acquire);
        let mut bytes = [0; CNC_HEADER_LENGTH];
        buffer.copy_out(0, &mut bytes);
        let header = CncHeader::decode(&bytes).map_err(cnc)?;
        let layout = header.layout().map_err(cnc)?;
        layout.check_file_length(buffer.capacity()).map_err(cnc)?;
        let section = |range: std::ops::Range<usize>| buffer.slice(range.start, range.len());
        let corrupt = |reason: String| DirectoryError::Corrupt { path: path.clone(), reason };
        let counters =
            CountersReader::new(section(layout.counters_metadata), section(layout.counters_values))
                .map_err(|error| corrupt(error.to_string()))?;
        let to_driver =
            ManyToOneRing::new(section(layout.to_driver)).map_err(|error| corrupt(error.to_string()))?;
        let errors = section(layout.error_log);
        Ok(Self { path: directory.to_owned(), header, counters, to_driver, errors })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Time of the driver's last heartbeat, epoch ms; -1 after it has stopped, 0 before it has started.
    pub fn heartbeat_ms(&self) -> i64 {
        self.to_driver.consumer_heartbeat_ms()
    }

    /// Returns the counters in use. A record that is freed or reused while it is read is left out.
    pub fn counters(&self) -> Vec<CounterRecord> {
        let reader = &self.counters;
        let mut records = Vec::new();
        for id in 0..reader.capacity() as i32 {
            match reader.state(id) {
                STATE_UNUSED => break,
                STATE_ALLOCATED => {}
                _ => continue,
            }
            let record = CounterRecord {
                id,
                type_id: reader.type_id(id),
                registration_id: reader.registration_id(id),
                owner_id: reader.owner_id(id),
                reference_id: reader.reference_id(id),
                key: reader.key(id).to_vec(),
                label: reader.label(id),
                value: reader.value(id),
            };
            let is_same = reader.is_allocated(id)
                && reader.type_id(id) == record.type_id
                && reader.key(id)[..] == record.key[..];
            if is_same {
                records.push(record);
            }
        }
        records
    }

    /// Returns the errors of the driver that were seen since a time, epoch ms.
    pub fn errors(&self, since_ms: i64) -> Vec<LoggedError> {
        read_errors(&self.errors, since_ms)
    }

    /// Returns the entries of the loss report; none when the driver made no report.
    ///
    /// # Errors
    ///
    /// The system refuses to map the file.
    pub fn losses(&self) -> Result<Vec<Loss>, DirectoryError> {
        match MappedMemory.map(&self.path.join(LOSS_REPORT_FILE), MapMode::ReadOnly) {
            Ok(buffer) => Ok(loss_report::read(&buffer)),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The records of a distinct error log.
pub fn read_errors(buffer: &AtomicBuffer, since_ms: i64) -> Vec<LoggedError> {
    let mut errors = Vec::new();
    error_log::read(buffer, since_ms, &mut |observation_count, first_ms, last_ms, text: &str| {
        errors.push(LoggedError { observation_count, first_ms, last_ms, text: text.to_owned() });
    });
    errors
}

/// Returns the directory that `AERON_DIR` names, or that of a driver without settings.
pub fn default_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("AERON_DIR") {
        return directory.into();
    }
    harrier::platform::default_aeron_directory()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Read;

    /// Returns a directory with the CnC file and the loss report that a released driver left.
    pub(crate) fn golden() -> tempfile::TempDir {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driver/testdata/memory/java");
        let mut cnc = Vec::new();
        let packed = std::fs::File::open(data.join("cnc.dat.gz")).unwrap();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut cnc).unwrap();
        std::fs::write(directory.path().join(CNC_FILE), cnc).unwrap();
        let mut losses = std::fs::read(data.join("loss_report_head.bin")).unwrap();
        losses.resize(1 << 20, 0);
        std::fs::write(directory.path().join(LOSS_REPORT_FILE), losses).unwrap();
        directory
    }

    #[test]
    fn the_files_of_a_released_driver_are_read() {
        let golden = golden();
        let directory = AeronDirectory::open(golden.path()).unwrap();
        let counters = directory.counters();
        assert_eq!((counters[0].label.as_str(), counters[0].value), ("Bytes sent", 256));
        assert_eq!(counters[34].label, "Aeron software: version=1.51.0 commit=9773cba37e");
        assert_eq!(directory.errors(0).len(), 2);
        assert_eq!(directory.errors(i64::MAX), []);
        let losses = directory.losses().unwrap();
        assert_eq!(losses.iter().map(|loss| loss.stream_id).collect::<Vec<_>>(), [10, 11]);
        std::fs::remove_file(golden.path().join(LOSS_REPORT_FILE)).unwrap();
        assert_eq!(directory.losses().unwrap(), []);
    }

    #[test]
    fn files_that_are_absent_cut_or_foreign_say_what_they_are() {
        let golden = golden();
        let path = golden.path().join(CNC_FILE);
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            AeronDirectory::open(golden.path()).unwrap_err().to_string()
        };
        assert!(refused(&[]).contains("0 bytes"));
        assert!(refused(&whole[..127]).contains("127 bytes"));
        assert!(refused(&whole[..whole.len() / 2]).contains("needs"));
        let mut damaged = whole.clone();
        damaged[..4].fill(0);
        assert!(refused(&damaged).contains("not ready"));
        damaged[..4].copy_from_slice(&(7_i32 << 16).to_le_bytes());
        assert!(refused(&damaged).contains("version 7.0"));
        damaged[..whole.len()].copy_from_slice(&whole);
        damaged[16..20].copy_from_slice(&100_i32.to_le_bytes());
        assert!(refused(&damaged).contains("counters"));
        std::fs::remove_file(&path).unwrap();
        let absent = AeronDirectory::open(golden.path()).unwrap_err().to_string();
        assert!(absent.contains("no media driver") && absent.contains("--aeron-dir"), "{absent}");
    }
}
