//! A driver that fails to start, crashes, or has no reader of its output (spec 02 §5.14, §6.3).

use std::fs::File;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use harrier::client::ClientError;
use harrier::platform::{MappedMemory, SystemClock};
use harrier::protocol::cnc::{CNC_HEADER_LENGTH, CncHeader};
use harrier::protocol::udp::{SETUP_LENGTH, Setup};
use harrier::ringbuf::{Clock, Region};

use super::{Files, LAST_WORDS, command, error_log, finish, start, stop};
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::{Process, in_small_file_system};
use crate::support::{directory, until};

const ERRORS: i32 = 15;

#[test]
fn starts_that_fail_name_stage_code_and_cause() {
    let home = directory("driver");
    let path = |name: &str| home.path().join(name);
    std::fs::write(path("file"), "in the way").unwrap();
    std::fs::create_dir(path("locked.lock")).unwrap();
    std::fs::create_dir(path("old")).unwrap();
    let mut old = vec![0; 4_096];
    old[2] = 9;
    std::fs::write(path("old/cnc.dat"), &old).unwrap();
    std::fs::create_dir(path("odd")).unwrap();
    std::fs::create_dir(path("odd/cnc.dat")).unwrap();
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let held = format!("-Daeron.driver.resolver.interface={}", holder.local_addr().unwrap());
    let named = "-Daeron.driver.resolver.name=a";
    let delete = "-Daeron.dir.delete.on.start=true";
    // (directory, arguments, stage and code, expected words)
    let rows: [(&str, &[&str], &str, &str); 9] = [
        ("file/aeron", &[], "driver init (17) File exists", "/file"),
        ("file", &[], "driver init (20) Not a directory", "/file"),
        ("file", &[delete], "driver init (20) Not a directory", "/file"),
        ("/proc/sys/aeron", &[], "driver init (", "/proc/sys"),
        ("locked", &[], "driver init (21) Is a directory", "/locked.lock"),
        ("old", &[], "driver init (-1) generic error, see message", "/old/cnc.dat has version 589824"),
        ("busy", &[named, &held], "driver init (98) Address already in use", "cannot open UDP socket on"),
        (
            "foreign",
            &[named, "-Daeron.driver.resolver.interface=192.0.2.1:0"],
            "driver init (99) Cannot assign requested address",
            "192.0.2.1",
        ),
        ("pigeons", &["-Dharrier.driver.transport=pigeons"], "context init (22) Invalid argument", "pigeons"),
    ];
    for (name, arguments, stage, words) in rows {
        let (code, output, errors) = finish(command(&path(name), &[]).args(arguments));
        assert_eq!((code, output.as_str()), (1, ""), "{name}: {errors}");
        let [first, second] = errors.lines().collect::<Vec<_>>()[..] else { panic!("{name}: {errors}") };
        assert!(first.starts_with(&format!("ERROR: {stage}")), "{name}: {errors}");
        assert!(second.starts_with('[') && second.contains(words), "{name}: {errors}");
    }
    // Existing files are unchanged, and no file was added.
    assert_eq!(std::fs::read_to_string(path("file")).unwrap(), "in the way");
    assert_eq!(std::fs::read(path("old/cnc.dat")).unwrap(), old);
    let mut left: Vec<_> =
        std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["file", "locked.lock", "odd", "old"]);
    // A directory in place of the file is deleted with its parent.
    let (driver, client) = start(&path("odd"), &[]);
    drop(client);
    stop(driver);
}

#[test]
fn a_full_file_system_ends_the_start() {
    let home = directory("space");
    let aeron = home.path().join("aeron");
    let Some(mut small) = in_small_file_system(home.path(), "8m", &command(&aeron, &[])) else { return };
    let (code, output, errors) = finish(&mut small);
    assert_eq!((code, output.as_str()), (1, ""));
    assert!(errors.starts_with("ERROR: driver init (28) No space left on device\n["), "{errors}");
    assert!(errors.contains(&format!("not enough space in {}", aeron.display())), "{errors}");
}

#[test]
fn threads_that_are_not_to_be_had_end_the_start_and_clients_see_no_driver() {
    for mode in ["SHARED", "SHARED_NETWORK", "DEDICATED"] {
        let home = directory("driver");
        let aeron = home.path().join("aeron");
        // A thread cannot have such a large stack.
        let variables = [("AERON_THREADING_MODE", mode), ("RUST_MIN_STACK", "100000000000000")];
        let (code, output, errors) = finish(&mut command(&aeron, &variables));
        assert_eq!((code, output.as_str()), (1, ""), "{mode}");
        let expected = "ERROR: driver start (11) Resource temporarily unavailable\n[";
        assert!(errors.starts_with(expected) && !errors.contains("panicked"), "{mode}: {errors}");
        let error = match harrier::client::Aeron::connect(
            harrier::client::Context::new(&aeron),
            MappedMemory,
            &SystemClock.now(),
        ) {
            Ok(_) => panic!("{mode}: there is a driver"),
            Err(error) => error,
        };
        assert!(matches!(error, ClientError::NotReady { .. }), "{mode}: {error}");
        let (driver, client) = start(&aeron, &[("AERON_THREADING_MODE", mode)]);
        drop(client);
        stop(driver);
    }
}

#[test]
fn an_agent_that_ends_by_itself_is_an_error_of_the_close() {
    for mode in ["SHARED", "DEDICATED"] {
        let home = directory("driver");
        let aeron = home.path().join("aeron");
        let (mut driver, client) = start(&aeron, &[("AERON_THREADING_MODE", mode)]);
        drop(client);
        // A correct client never writes such a command.
        let ring = Files::of(&aeron).ring;
        let capacity = ring.region().capacity() - 768;
        let next = ring.consumer_position() as usize % capacity;
        ring.region().store_i32(next, 5, Ordering::Release);
        assert_eq!(driver.wait().code(), Some(1), "{mode}");
        assert_eq!(driver.last_lines(), [LAST_WORDS]);
        let errors = driver.errors();
        let expected = "ERROR: driver close (-1) generic error, see message\n[";
        let (_, closing) = errors.split_once(expected).unwrap_or_else(|| panic!("{mode}: {errors}"));
        let cause = "an agent ended by itself; see the error log: driver-conductor: ";
        assert!(closing.contains(cause) && closing.contains("ring record of 5 bytes"), "{mode}: {errors}");
        let (driver, client) = start(&aeron, &[]);
        drop(client);
        stop(driver);
    }
}

#[test]
fn a_directory_that_cannot_be_removed_is_an_error_of_the_close() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (mut driver, client) = start(&aeron, &[("AERON_DIR_DELETE_ON_SHUTDOWN", "true")]);
    drop(client);
    std::fs::rename(&aeron, home.path().join("elsewhere")).unwrap();
    std::fs::write(&aeron, "in the way").unwrap();
    driver.signal("TERM");
    assert_eq!(driver.wait().code(), Some(1));
    assert_eq!(driver.last_lines(), [LAST_WORDS]);
    let errors = driver.errors();
    assert!(errors.starts_with("ERROR: driver close (-1) generic error, see message\n["), "{errors}");
    let words = format!("cannot remove directory {}: Not a directory", aeron.display());
    assert!(errors.contains(&words), "{errors}");
    // The error log of the earlier run holds the error too.
    let log = error_log(&home.path().join("elsewhere"));
    assert!(log.len() == 1 && log[0].contains(&words), "{log:?}");
}

/// Output streams without a reader.
fn deaf_streams() -> Vec<(&'static str, Stdio)> {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    vec![("a closed pipe", writer.into()), ("a full device", full.into())]
}

#[test]
fn a_driver_whose_words_nobody_hears_serves_all_the_same() {
    let deaf = deaf_streams().into_iter().zip(deaf_streams());
    for ((what, output), (_, errors)) in deaf {
        let home = directory("driver");
        let aeron = home.path().join("aeron");
        let (driver, client) = start(&aeron, &[]);
        drop(client);
        stop(driver);
        // The driver prints its configuration and a warning.
        let variables = [("AERON_PRINT_CONFIGURATION", "true"), ("AERON_DIR_WARN_IF_EXISTS", "true")];
        let mut child = command(&aeron, &variables).stdout(output).stderr(errors).spawn().unwrap();
        let mut client = until("the driver's own file", || {
            assert_eq!(child.try_wait().unwrap(), None, "{what}");
            let bytes = std::fs::read(aeron.join("cnc.dat")).ok()?;
            let header = CncHeader::decode(bytes.get(..CNC_HEADER_LENGTH)?).ok()?;
            (header.pid == i64::from(child.id())).then(|| Client::connect(&aeron))
        });
        drop(client.publication("aeron:ipc?term-length=64k", 10));
        drop(client);
        let status = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(status.success());
        let status = until("the end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(15), "{what}");
        // A failed start keeps its exit code.
        let [(_, output), _] = <[_; 2]>::try_from(deaf_streams()).unwrap();
        let [(_, errors), _] = <[_; 2]>::try_from(deaf_streams()).unwrap();
        let mut child = command(&aeron, &[]).arg("-x").stdout(output).stderr(errors).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{what}");
    }
}

#[test]
fn errors_of_the_driver_before_are_saved_beside_the_directory() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (mut driver, mut client) = start(&aeron, &[]);
    for _ in 0..2 {
        client.try_exclusive("aeron:udp?endpoint=127.0.0.1:0", 10).unwrap_err();
    }
    client.try_exclusive("aeron:foo", 10).unwrap_err();
    drop(client);
    let saved = || -> Vec<_> {
        let entries = std::fs::read_dir(home.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with("-error.log")).collect()
    };
    driver.kill();
    assert_eq!(saved(), Vec::<String>::new());
    let (mut driver, client) = start(&aeron, &[]);
    drop(client);
    let names = saved();
    let [name] = &names[..] else { panic!("{names:?}") };
    // aeron-yyyy-MM-dd-HH-mm-ss-SSS+0000-error.log
    let shape: String = name.chars().map(|one| if one.is_ascii_digit() { '0' } else { one }).collect();
    assert_eq!(shape, "aeron-0000-00-00-00-00-00-000+0000-error.log");
    let path = home.path().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let day = name[6..16].to_owned();
    assert!(text.starts_with(&format!("\n2 observations from {day} ")), "{text}");
    assert!(text.contains("+0000 for:\n(-1) invalid channel\nendpoint has port=0 for publication"), "{text}");
    assert!(text.contains(&format!("\n\n1 observations from {day} ")), "{text}");
    assert!(text.ends_with("\n\n2 distinct errors observed.\n"), "{text}");
    driver.signal("TERM");
    assert_eq!(driver.wait().code(), Some(15));
    assert_eq!(driver.errors(), format!("WARNING: Existing errors saved to: {}\n", path.display()));
    // The next run has no errors to save.
    let (driver, client) = start(&aeron, &[]);
    drop(client);
    stop(driver);
    assert_eq!(saved().len(), 1);
}

/// A driver with a limit on open files.
fn start_with_files(aeron: &Path, files: usize) -> (Process, Client) {
    let driver = command(aeron, &[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"]).arg(driver.get_program());
    for (name, value) in driver.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let process = Process::start("harrier-driver", &mut shell);
    (process, Client::connect(aeron))
}

fn refusal<V: std::fmt::Debug>(outcome: Result<V, ClientError>) -> String {
    match outcome {
        Err(ClientError::Registration { code: 11, message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_driver_without_file_descriptors_refuses_and_goes_on() {
    const TOO_MANY: &str = "(24) Too many open files\n";
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (driver, mut client) = start_with_files(&aeron, 40);
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
    let mut subscription = client.subscription(&channel, 10);
    let mut publication = client.exclusive(&format!("{channel}|term-length=64k"), 10);
    client.send(&mut publication, 0..10, 100);
    client.receive(&mut subscription, 0..10, 100);
    let mut held = Vec::new();
    let wildcard = "aeron:udp?endpoint=127.0.0.1:0";
    let refused = loop {
        let id = client.aeron.add_subscription(wildcard, 11).unwrap();
        match client.until("the subscription", |aeron| aeron.subscription(id).transpose()) {
            Ok(subscription) => held.push(subscription),
            outcome => break refusal(outcome),
        }
        assert!(held.len() < 40);
    };
    assert!(refused.starts_with(TOO_MANY) && refused.contains("127.0.0.1:0"), "{refused}");
    for channel in ["aeron:udp?endpoint=127.0.0.1:9|term-length=64k", "aeron:ipc?term-length=64k"] {
        let refused = refusal(client.try_exclusive(channel, 12));
        assert!(refused.starts_with(TOO_MANY), "{channel}: {refused}");
    }
    // Images get no log either.
    let local = client.resolved(&held[0]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let setup = Setup {
        flags: 0,
        term_offset: 0,
        session_id: 7,
        stream_id: 11,
        initial_term_id: 3,
        active_term_id: 3,
        term_length: 64 << 10,
        mtu: 1_408,
        ttl: 0,
    };
    let mut bytes = [0; SETUP_LENGTH];
    setup.encode(&mut bytes).unwrap();
    let sends_setup = || sender.send_to(&bytes, local.rsplit('=').next().unwrap()).unwrap();
    let image_log = |text: &String| text.starts_with(TOO_MANY) && text.contains("/images/*");
    until("the error of the image", || {
        sends_setup();
        error_log(&aeron).iter().any(image_log).then_some(())
    });
    client.until("a second try", |aeron| {
        sends_setup();
        (aeron.counters().value(ERRORS) >= 5).then_some(())
    });
    let log = error_log(&aeron);
    assert_eq!(log.iter().filter(|text| image_log(text)).count(), 1, "{log:#?}");
    assert!(log.iter().all(|text| text.starts_with(TOO_MANY)), "{log:#?}");
    client.send(&mut publication, 10..20, 100);
    client.receive(&mut subscription, 10..20, 100);
    // Freed memory can be allocated again.
    held.truncate(held.len() - 3);
    client.until("the image", |_| {
        sends_setup();
        (held[0].images().len() == 1).then_some(())
    });
    let other = "aeron:udp?endpoint=127.0.0.1:9|term-length=64k";
    drop(until("another publication", || client.try_exclusive(other, 12).ok()));
    drop((publication, subscription, held, client));
    stop(driver);
}
