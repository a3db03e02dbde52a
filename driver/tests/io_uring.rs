//! Runs the tests of streams, destinations, responses, multicast and time stamps again with the io_uring back end.

use std::process::Command;

use crate::world::TRANSPORT_VARIABLE;

/// The modules of this test program whose tests run again.
const MODULES: [&str; 5] = ["destinations::", "multicast::", "responses::", "streams::", "timestamps::"];

#[test]
fn streams_pass_again_on_io_uring() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(MODULES).env(TRANSPORT_VARIABLE, "io_uring").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!text.contains("running 0 tests"), "no test of {MODULES:?} ran:\n{text}");
    // The harness of this program hides the output of the inner one, which may say that tests ran on sockets instead.
    eprintln!("{errors}");
}
