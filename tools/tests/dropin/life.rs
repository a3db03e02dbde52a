//! Drivers that restart under running clients, and clients that crash.

use harrier::client::ClientError;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;

use super::{error_log, start, stop};
use crate::support::binaries::{harrier, harrier_driver};
use crate::support::client::Client;
use crate::support::process::{Process, in_small_file_system};
use crate::support::{directory, until};

/// Error with which a client detects the loss of its driver.
fn end_of(client: &mut Client) -> ClientError {
    until("the end of the client", || client.aeron.do_work(&SystemClock.now()).err())
}

#[test]
fn clients_close_when_their_driver_goes_and_new_ones_find_the_next() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (mut driver, mut client) = start(&aeron, &[]);
    for is_killed in [false, true, false] {
        let mut publication = client.exclusive("aeron:ipc?term-length=64k", 10);
        let mut subscription = client.subscription("aeron:ipc", 10);
        client.send(&mut publication, 0..10, 100);
        client.receive(&mut subscription, 0..10, 100);
        if is_killed {
            driver.kill();
        } else {
            stop(driver);
        }
        if !is_killed {
            // The driver resets the heartbeat, which ends the client.
            let error = end_of(&mut client);
            assert!(matches!(error, ClientError::DriverTimeout { .. }), "{error}");
            assert!(matches!(client.aeron.add_publication("aeron:ipc", 11), Err(ClientError::Closed)));
        }
        // The next driver detects immediately that the old one was killed.
        let (next, new_client) = start(&aeron, &[]);
        assert!(publication.offer(b"to nobody").is_err() || is_killed, "a closed publication takes nothing");
        drop((publication, subscription));
        (driver, client) = (next, new_client);
    }
    assert_eq!(error_log(&aeron), Vec::<String>::new());
    drop(client);
    stop(driver);
}

/// The default directory is named after the user, who is in the password database even when the environment does not
/// name one (spec 02 §6.2).
#[test]
fn the_default_directory_is_named_after_the_user() {
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(id.stdout).unwrap().trim().to_owned();
    for (variable, name) in [(None, user.as_str()), (Some(""), user.as_str()), (Some("somebody"), "somebody")]
    {
        let with_user = |mut command: std::process::Command| {
            command.env_remove("AERON_DIR");
            match variable {
                Some(value) => command.env("USER", value),
                None => command.env_remove("USER"),
            };
            command
        };
        let expected = format!("/dev/shm/aeron-{name}");
        let mut driver = harrier_driver();
        driver.arg("--ready");
        let shared_memory = std::path::Path::new("/dev/shm");
        let Some(mut driver) = in_small_file_system(shared_memory, "64m", &with_user(driver)) else { return };
        let mut driver = Process::start("harrier-driver", &mut driver);
        let ready = driver.line();
        assert!(ready.contains(&format!("\"aeron_dir\":\"{expected}\"")), "{ready}");
        driver.signal("TERM");
        assert_eq!(driver.wait().code(), Some(15));
        let mut stat = harrier();
        stat.arg("stat");
        let stat = in_small_file_system(shared_memory, "1m", &with_user(stat));
        let (status, _, errors) = Process::finish("harrier stat", &mut stat.unwrap());
        assert!(!status.success() && errors.contains(&expected), "{errors}");
    }
}
