use super::*;
use harrier_ringbuf::heap::HeapMemory;

fn facts(component: Component) -> MarkFacts {
    MarkFacts {
        component,
        cluster_directory: "/c".into(),
        aeron_directory: "/a".into(),
        archive_stream_id: 10,
        service_stream_id: 104,
        module_stream_id: 105,
        ingress_stream_id: 101,
        member_id: 0,
        service_id: if component == Component::Container { 0 } else { -1 },
        cluster_id: 0,
        control_channel: "aeron:ipc".into(),
        ingress_channel: "aeron:udp".into(),
        service_name: String::new(),
    }
}

fn at(epoch_ms: i64) -> Now {
    Now { ns: 0, epoch_ms }
}

/// A file in the layout without a message header, as aeron-go writes it.
fn legacy(memory: &HeapMemory, component_type: i32, activity_ms: i64) -> AtomicBuffer {
    let path = Path::new("/c").join("cluster-mark-service-0.dat");
    let buffer = memory.create(&path, HEADER_LENGTH + ERROR_BUFFER_LENGTH, false).unwrap();
    buffer.store_i32(0, FILE_VERSION, Ordering::Relaxed);
    buffer.store_i32(4, component_type, Ordering::Relaxed);
    buffer.store_i64(8, activity_ms, Ordering::Relaxed);
    buffer.store_i64(32, -1, Ordering::Relaxed);
    buffer
}

#[test]
fn a_file_says_what_its_component_is() {
    let memory = HeapMemory::new();
    let options = MarkOptions {
        directory: Some("/marks".into()),
        error_buffer_length: 64 << 10,
        authenticator: "challenge".into(),
        services_directory: Some("/services".into()),
    };
    let owner = facts(Component::ConsensusModule);
    let mark = MarkFile::take_with(&owner, &options, &memory, &at(7)).unwrap();
    let mut head = [0; 1_024];
    mark.buffer.copy_out(0, &mut head);
    let starting = MarkHeader::parse(&head).unwrap();
    assert_eq!((starting.version, starting.activity_timestamp_ms), (0, -1));
    mark.signal_ready(&at(9));
    mark.buffer.copy_out(0, &mut head);
    let header = MarkHeader::parse(&head).unwrap();
    assert_eq!((header.version, header.component_type, header.is_legacy), (FILE_VERSION, 1, false));
    assert_eq!((header.activity_timestamp_ms, header.start_timestamp_ms), (9, 7));
    assert_eq!(
        (header.authenticator.as_str(), header.services_directory.as_str()),
        ("challenge", "/services")
    );
    assert_eq!((header.header_length, header.error_buffer_length), (8_192, 64 << 10));
    let link = memory.map(&Path::new("/c").join("cluster-mark.lnk"), MapMode::ReadOnly).unwrap();
    let mut text = vec![0; link.capacity()];
    link.copy_out(0, &mut text);
    assert!(text.starts_with(b"/marks"));
    mark.signal_failed_start();
    mark.buffer.copy_out(0, &mut head);
    assert_eq!(MarkHeader::parse(&head).unwrap().version, -1);
    assert!(matches!(MarkFile::take_with(&owner, &options, &memory, &at(9)), Err(MarkError::Active { .. })));
    drop(mark);
    let _beside = MarkFile::take(&owner, &memory, &at(9)).unwrap();
    assert!(memory.length(&Path::new("/c").join("cluster-mark.lnk")).is_err());
}

#[test]
fn the_released_files_are_read_in_both_layouts() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/marks");
    let read = |name: &str| MarkHeader::parse(&std::fs::read(data.join(name)).unwrap()).unwrap();
    let module = read("cluster-mark.head8192.dat");
    assert_eq!((module.version, module.component_type, module.service_id), (FILE_VERSION, 1, -1));
    assert_eq!((module.archive_stream_id, module.ingress_stream_id), (10, 101));
    let service = read("cluster-mark-service-0.head8192.dat");
    assert_eq!((service.component_type, service.service_id), (2, 0));
    assert_eq!(service.service_name, "clustered-service-0-0");
    let go = read("go-mark-service-0.head.dat");
    assert!(go.is_legacy);
    assert_eq!((go.version, go.component_type, go.service_id), (FILE_VERSION, 2, 0));
    assert_eq!(go.header_length, 8_192);
}

#[test]
fn a_living_owner_keeps_its_directory_and_a_dead_one_does_not() {
    for (activity_ms, is_alive) in [(99_000, true), (90_001, true), (90_000, false), (-1, false)] {
        let memory = HeapMemory::new();
        legacy(&memory, 2, activity_ms);
        let taken = MarkFile::take(&facts(Component::Container), &memory, &at(100_000));
        assert_eq!(matches!(taken, Err(MarkError::Active { .. })), is_alive, "{activity_ms}");
    }
}

#[test]
fn a_living_owner_with_long_names_is_seen() {
    let memory = HeapMemory::new();
    let mut owner = facts(Component::ConsensusModule);
    owner.control_channel = format!("aeron:ipc?alias={}", "long".repeat(800));
    let mark = MarkFile::take(&owner, &memory, &at(7)).unwrap();
    mark.signal_ready(&at(99_000));
    // Simulates a file that another implementation wrote.
    mark.buffer.zero(OWNER_OFFSET, 64);
    drop(mark);
    assert!(matches!(MarkFile::take(&owner, &memory, &at(100_000)), Err(MarkError::Active { .. })));
}

#[test]
fn files_of_other_components_and_versions_are_refused() {
    let memory = HeapMemory::new();
    let buffer = legacy(&memory, 1, -1);
    let taken = MarkFile::take(&facts(Component::Container), &memory, &at(100_000));
    assert!(matches!(taken, Err(MarkError::Component { expected: 2, found: 1, .. })));
    buffer.store_i32(0, 1 << 16, Ordering::Relaxed);
    let taken = MarkFile::take(&facts(Component::Container), &memory, &at(100_000));
    assert!(matches!(taken, Err(MarkError::Version { version: 65_536, .. })));
}

#[test]
fn a_term_that_an_old_file_holds_is_told() {
    let memory = HeapMemory::new();
    let owner = facts(Component::ConsensusModule);
    let mark = MarkFile::take(&owner, &memory, &at(7)).unwrap();
    assert_eq!(mark.previous_candidate_term_id(), -1);
    mark.signal_ready(&at(9));
    mark.buffer.store_i64(40, 5, Ordering::Relaxed);
    mark.signal_terminated();
    drop(mark);
    assert_eq!(MarkFile::take(&owner, &memory, &at(9)).unwrap().previous_candidate_term_id(), 5);
}

#[test]
fn errors_of_the_earlier_run_are_saved() {
    let memory = HeapMemory::new();
    let owner = facts(Component::ConsensusModule);
    let mut mark = MarkFile::take(&owner, &memory, &at(7)).unwrap();
    mark.signal_ready(&at(9));
    mark.errors.record(1_795_315_445_404, "it went wrong");
    mark.errors.record(1_795_315_445_404, "it went wrong");
    drop(mark);
    drop(MarkFile::take(&owner, &memory, &at(1_795_315_460_649)).unwrap());
    let path = Path::new("/c").join("CONSENSUS_MODULE-2026-11-22-02-44-20-649+0000-error.log");
    let names = memory.list(Path::new("/c")).unwrap();
    assert!(memory.length(&path).is_ok(), "{names:?}");
    let saved = memory.map(&path, MapMode::ReadOnly).unwrap();
    let mut text = vec![0; saved.capacity()];
    saved.copy_out(0, &mut text);
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("2 observations") && text.contains("it went wrong"), "{text}");
    let again = MarkFile::take(&owner, &memory, &at(1_795_315_470_000)).unwrap();
    drop(again);
    let logs =
        memory.list(Path::new("/c")).unwrap().iter().filter(|name| name.ends_with("error.log")).count();
    assert_eq!(logs, 1);
}

#[test]
fn errors_of_two_services_are_saved_in_the_same_millisecond() {
    let memory = HeapMemory::new();
    let directories = [Path::new("/marks/0"), Path::new("/marks/1")];
    let options = directories
        .map(|directory| MarkOptions { directory: Some(directory.to_owned()), ..MarkOptions::default() });
    let owner = facts(Component::Container);
    for options in &options {
        let mut mark = MarkFile::take_with(&owner, options, &memory, &at(7)).unwrap();
        mark.signal_ready(&at(9));
        mark.errors.record(8, "it went wrong");
    }
    for options in &options {
        drop(MarkFile::take_with(&owner, options, &memory, &at(60_000)).unwrap());
    }
    let names = memory.list(Path::new("/c")).unwrap();
    let logs: Vec<_> = names.iter().filter(|name| name.ends_with("error.log")).collect();
    assert_eq!(logs.len(), 2, "{names:?}");
    assert!(logs.iter().any(|name| name.ends_with("-2-error.log")), "{logs:?}");
}
