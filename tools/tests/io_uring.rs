//! Repeats the UDP tests against released drivers and clients with our driver on the io_uring back end.

use std::process::Command;

use crate::support::binaries::TRANSPORT_VARIABLE;

/// The modules of this test program whose tests run again.
const MODULES: [&str; 4] =
    ["peers::congestion::", "peers::multicast::", "peers::timestamps::", "peers::udp::"];

#[test]
fn peers_pass_again_on_io_uring() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(MODULES).env(TRANSPORT_VARIABLE, "io_uring").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!text.contains("running 0 tests"), "no test of {MODULES:?} ran:\n{text}");
    // Reports skipped tests past the harness.
    eprintln!("{errors}");
}
