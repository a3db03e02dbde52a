//! Removal of a driver's directory. It is refused when the directory holds files that do not belong to a driver.

use std::path::Path;

use harrier_protocol::cnc::CNC_FILE;
use harrier_ringbuf::{Memory, MemoryError};

use crate::cnc::{LOSS_REPORT_FILE, OWNER_FILE, StartError};
use crate::log_files::{IMAGES, PUBLICATIONS};

/// Files that drivers, ours and the released ones, keep in their directory.
const FILES: [&str; 3] = [CNC_FILE, LOSS_REPORT_FILE, OWNER_FILE];
/// Directories of logs in it.
const DIRECTORIES: [&str; 2] = [PUBLICATIONS, IMAGES];
const LOG_SUFFIX: &str = ".logbuffer";
/// Endings of files that drivers of any make may leave: locks, saved errors and crash traces.
const SUFFIXES: [&str; 3] = [".lock", "-error.log", ".stack.log"];
/// Most foreign files that an error names.
const NAMED: usize = 5;

/// Removes a driver's directory with its content. A missing directory is no error.
///
/// # Errors
/// [`StartError::ForeignFiles`] when the directory holds foreign files; then nothing is removed.
pub(crate) fn remove<M: Memory>(memory: &M, directory: &Path) -> Result<(), StartError> {
    let mut foreign = match foreign_files(memory, directory) {
        // A file holds nothing that could be foreign. The removal names the reason why it fails.
        Err(error) if error.is_not_a_directory() => Vec::new(),
        foreign => foreign?,
    };
    if !foreign.is_empty() {
        let count = foreign.len();
        foreign.truncate(NAMED);
        return Err(StartError::ForeignFiles {
            directory: directory.to_owned(),
            count,
            names: foreign.join(", "),
        });
    }
    Ok(memory.remove_directory(directory)?)
}

/// Returns the entries that do not belong to a driver, relative to the directory.
fn foreign_files<M: Memory>(memory: &M, directory: &Path) -> Result<Vec<String>, MemoryError> {
    let mut foreign = Vec::new();
    for name in memory.list(directory)? {
        if DIRECTORIES.contains(&name.as_str()) {
            let logs = memory.list(&directory.join(&name))?;
            foreign.extend(
                logs.iter().filter(|log| !log.ends_with(LOG_SUFFIX)).map(|log| format!("{name}/{log}")),
            );
        } else if !FILES.contains(&name.as_str()) && !SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
            foreign.push(name);
        }
    }
    Ok(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::heap::HeapMemory;

    fn with(names: &[&str]) -> HeapMemory {
        let memory = HeapMemory::new();
        for name in names {
            memory.create(&Path::new("/aeron").join(name), 64, true).unwrap();
        }
        memory
    }

    #[test]
    fn what_is_all_a_drivers_is_removed() {
        let memory = with(&[
            "cnc.dat",
            "loss-report.dat",
            "publications/7.logbuffer",
            "images/8.logbuffer",
            "x.lock",
            "harrier.pid",
        ]);
        remove(&memory, Path::new("/aeron")).unwrap();
        assert!(memory.list(Path::new("/aeron")).unwrap().is_empty());
        remove(&memory, Path::new("/aeron")).unwrap();
    }

    #[test]
    fn a_directory_with_other_files_stays_whole_and_they_are_named() {
        for foreign in ["archive/archive.catalog", "0-0.rec", "images/notes.txt"] {
            let memory = with(&["cnc.dat", "images/8.logbuffer", foreign]);
            let error = remove(&memory, Path::new("/aeron")).unwrap_err().to_string();
            let name = foreign.strip_suffix("/archive.catalog").unwrap_or(foreign);
            assert!(error.contains(name) && error.contains("/aeron"), "{error}");
            assert!(
                memory.map(Path::new("/aeron/cnc.dat"), harrier_ringbuf::memory::MapMode::ReadOnly).is_ok()
            );
        }
    }
}
