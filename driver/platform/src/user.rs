//! Name of the user that this process runs as, and the Aeron directory that follows from it.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;

/// Longest record of the password database that is read, bytes.
const MAX_RECORD_LENGTH: usize = 1 << 20;

/// Directory of a media driver without settings: `aeron-<user>` below /dev/shm, or below the directory for temporary
/// files where there is no /dev/shm (spec 02 §6.2).
pub fn default_aeron_directory() -> PathBuf {
    let shared_memory = PathBuf::from("/dev/shm");
    let parent = if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() };
    parent.join(format!("aeron-{}", user_name()))
}

/// The user's name: `USER` of the environment, else the name of the effective user id in the password database, else
/// `default`.
pub fn user_name() -> String {
    let named = std::env::var("USER").ok().filter(|name| !name.is_empty());
    // SAFETY: the call has no preconditions and cannot fail.
    named.or_else(|| name_of(unsafe { libc::geteuid() })).unwrap_or_else(|| "default".to_owned())
}

/// Name of a user id in the password database; `None` when it has none.
fn name_of(id: libc::uid_t) -> Option<String> {
    let mut text = vec![0_u8; 1_024];
    loop {
        // SAFETY: an all-zero passwd is a valid value to be overwritten: its pointers may be null.
        let mut record: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        let start = text.as_mut_ptr().cast::<c_char>();
        // SAFETY: `record`, `found` and `text` are valid for writing for as long as the call lasts, and the length is
        // that of `text`.
        let code = unsafe { libc::getpwuid_r(id, &mut record, start, text.len(), &mut found) };
        if code == libc::ERANGE && text.len() < MAX_RECORD_LENGTH {
            let longer = text.len() * 2;
            text.resize(longer, 0);
            continue;
        }
        if code != 0 || found.is_null() || record.pw_name.is_null() {
            return None;
        }
        // SAFETY: the name is a C string inside `text`, which is neither moved nor changed while it is read.
        let name = unsafe { CStr::from_ptr(record.pw_name) };
        return name.to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_id() {
        assert_eq!(name_of(0).as_deref(), Some("root"));
        assert_eq!(name_of(4_000_000_123), None);
    }

    #[test]
    fn the_directory_is_named_after_the_user() {
        let directory = default_aeron_directory();
        assert_eq!(directory.file_name().unwrap().to_str().unwrap(), format!("aeron-{}", user_name()));
    }
}
