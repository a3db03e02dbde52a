//! Child processes that must end with their parent.

use std::io::Error;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Puts the process that `command` will start into a process group of its own, and lets the system kill it when the
/// thread that starts it ends, for whatever reason.
pub fn bind_to_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec only system calls are made that may be made there; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(Error::last_os_error());
            }
            // Otherwise the death of a parent before this call would not be noticed.
            if libc::getppid() as u32 == parent { Ok(()) } else { Err(Error::from_raw_os_error(libc::ESRCH)) }
        })
    }
}

/// Asks the process of a [bound](bind_to_parent) command and its group to end.
///
/// # Errors
///
/// The error of the system; a group that is gone is no error.
pub fn ask_to_end(child: &Child) -> Result<(), Error> {
    signal(child, libc::SIGTERM)
}

/// Kills the process of a [bound](bind_to_parent) command and its group.
///
/// # Errors
///
/// The error of the system; a group that is gone is no error.
pub fn kill_group(child: &Child) -> Result<(), Error> {
    signal(child, libc::SIGKILL)
}

fn signal(child: &Child, signal: libc::c_int) -> Result<(), Error> {
    // SAFETY: a plain system call. The group's id is that of a child that has not been waited for by anybody else.
    if unsafe { libc::kill(-(child.id() as libc::pid_t), signal) } == 0 {
        return Ok(());
    }
    match Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sleeper() -> Child {
        bind_to_parent(Command::new("sleep").arg("60")).spawn().unwrap()
    }

    #[test]
    fn a_group_ends_when_it_is_told() {
        let mut child = sleeper();
        ask_to_end(&child).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        let mut child = sleeper();
        kill_group(&child).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a thread's end is what is tested")]
    fn a_child_does_not_outlive_the_thread_that_started_it() {
        let mut child = std::thread::spawn(sleeper).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
