//! Identities of processes for claims (spec 05 L23).

use harrier_lease::ProcessIdentity;
use harrier_platform::ProcessFacts;

/// Identity of the process with an id on this host, for
/// [`LeaseClientContext::process`](harrier_lease::LeaseClientContext).
/// [`BlockingLeaseClient`](super::BlockingLeaseClient) uses its own process unless its context names another one.
///
/// ```
/// use harrier::leases::process_identity;
///
/// let identity = process_identity(std::process::id()).unwrap();
/// assert!(identity.name.starts_with("pid "));
/// ```
///
/// # Errors
/// No such process, or `/proc` is not mounted.
pub fn process_identity(pid: u32) -> std::io::Result<ProcessIdentity> {
    let ProcessFacts { pid, host, started_ms, id } = ProcessFacts::of(pid)?;
    Ok(ProcessIdentity { id, started_ms, name: format!("pid {pid} on {host}") })
}
