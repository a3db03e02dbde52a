//! Resources of streams and their release: files, pages, space, terms up to 1 GiB, and limits that end in an error
//! while everything else goes on (spec 02 §5.6, §5.9).

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::world::{World, free_address};
use harrier_client::{Aeron, ClientError, Context, ExclusivePublication};
use harrier_driver::system_counters::SystemCounter as C;
use harrier_platform::{MappedMemory, PausingClock};
use harrier_protocol::cnc::{CNC_FILE, CNC_HEADER_LENGTH, CncHeader};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{Clock, Memory, Region, error_log};

const STREAM: i32 = 10;
const GIB: i64 = 1 << 30;

fn files(world: &World, folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.directory.path().join("aeron").join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Returns the log file of a publication.
fn log_of(world: &World, publication: &ExclusivePublication) -> PathBuf {
    let name = format!("publications/{}.logbuffer", publication.registration_id());
    world.directory.path().join("aeron").join(name)
}

/// Returns the allocated bytes of a file.
fn allocated(path: &PathBuf) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn channel() -> String {
    format!("aeron:udp?endpoint={}", free_address())
}

fn count(world: &World, counter: C) -> i64 {
    world.client.counters().value(counter as i32)
}

/// Returns the texts of the error log.
fn errors(world: &World) -> Vec<String> {
    let path = world.directory.path().join("aeron").join(CNC_FILE);
    let cnc = MappedMemory.map(&path, MapMode::ReadOnly).unwrap();
    let mut bytes = [0; CNC_HEADER_LENGTH];
    cnc.copy_out(0, &mut bytes);
    let log = CncHeader::decode(&bytes).unwrap().layout().unwrap().error_log;
    let mut texts = Vec::new();
    error_log::read(&cnc.slice(log.start, log.len()), 0, &mut |_, _, _, text: &str| {
        texts.push(text.to_owned());
    });
    texts
}

fn refusal<V: std::fmt::Debug>(result: Result<V, ClientError>) -> (i32, String) {
    match result {
        Err(ClientError::Registration { code, message, .. }) => (code, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sparse_logs_take_no_pages_and_others_have_all_of_theirs() {
    for by_default in [true, false] {
        let mut world = World::new(|context| context.term_buffer_sparse_file = by_default);
        let length = 3 * (1 << 20) + 4_096;
        for (kind, parameter, is_sparse) in [
            ("ipc?", "|sparse=true", true),
            ("ipc?", "|sparse=false", false),
            ("ipc?", "", by_default),
            ("udp?endpoint=127.0.0.1:24325|", "", by_default),
        ] {
            let channel = format!("aeron:{kind}term-length=1m{parameter}");
            let publication = world.exclusive(&channel, STREAM).unwrap();
            let path = log_of(&world, &publication);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), length, "{channel}");
            // A sparse log has the pages of its metadata and those that publishers clean ahead.
            let bytes = allocated(&path);
            assert!(if is_sparse { bytes <= 256 << 10 } else { bytes >= length }, "{channel}: {bytes}");
        }
    }
}

#[test]
fn a_client_that_touches_its_logs_gives_a_sparse_one_its_pages() {
    let mut world = World::new(|_| ());
    let mut context = Context::new(world.directory.path().join("aeron"));
    context.pre_touch_mapped_memory = true;
    let mut touching = Aeron::connect(context, MappedMemory, &PausingClock.now()).unwrap();
    let id = touching.add_exclusive_publication("aeron:ipc?term-length=1m|sparse=true", STREAM).unwrap();
    let publication = world.until("the publication", |_| {
        touching.do_work(&PausingClock.now()).unwrap();
        touching.exclusive_publication(id).unwrap()
    });
    let path = log_of(&world, &publication);
    assert_eq!(allocated(&path), std::fs::metadata(&path).unwrap().len());
}

#[test]
fn images_take_pages_as_their_subscriptions_say() {
    let mut world = World::new(|_| ());
    for (parameter, is_sparse) in [("|sparse=true", true), ("|sparse=false", false)] {
        let channel = channel();
        let mut subscription = world.subscription(&format!("{channel}{parameter}"), STREAM).unwrap();
        let mut publication = world.exclusive(&format!("{channel}|term-length=1m"), STREAM).unwrap();
        world.exchange(&mut publication, &mut subscription, 5, 100);
        let image = subscription.images()[0].correlation_id();
        let path = world.directory.path().join(format!("aeron/images/{image}.logbuffer"));
        let bytes = allocated(&path);
        assert!(if is_sparse { bytes <= 256 << 10 } else { bytes >= 3 << 20 }, "{parameter}: {bytes}");
    }
}

#[test]
fn logs_end_at_a_page_of_the_size_that_was_set() {
    const PAGE: u64 = 2 << 20;
    let mut world = World::new(|context| context.file_page_size = PAGE as usize);
    for channel in ["aeron:ipc".to_owned(), channel()] {
        let mut subscription = world.subscription(&channel, STREAM).unwrap();
        let mut publication = world.exclusive(&channel, STREAM).unwrap();
        world.exchange(&mut publication, &mut subscription, 2_000, 100);
        assert_eq!(std::fs::metadata(log_of(&world, &publication)).unwrap().len(), PAGE);
        assert!(files(&world, "images").iter().all(|path| std::fs::metadata(path).unwrap().len() == PAGE));
    }
    assert_eq!(std::fs::metadata(world.directory.path().join("aeron/cnc.dat")).unwrap().len() % PAGE, 0);
}

#[test]
fn a_publication_lingers_as_long_as_its_channel_or_the_driver_says() {
    for (default_s, parameter, expected_s) in [(4, "", 4), (30, "|linger=4s", 4)] {
        let mut world =
            World::new(|context| context.publication_linger_timeout_ns = default_s * 1_000_000_000);
        // No receiver can acknowledge the end of the stream.
        let publication = world.exclusive(&format!("{}{parameter}", channel()), STREAM).unwrap();
        let path = log_of(&world, &publication);
        drop(publication);
        world.pass(expected_s - 2);
        assert!(path.exists(), "{parameter}");
        world.pass(4);
        assert!(!path.exists(), "{parameter}");
    }
}

#[test]
fn claims_never_committed_are_unblocked_while_active_and_when_drained() {
    let mut world = World::new(|_| ());
    for (number, channel) in ["aeron:ipc".to_owned(), channel()].into_iter().enumerate() {
        let before = 2 * number as i64;
        let mut subscription = world.subscription(&channel, STREAM).unwrap();
        let mut publication = world.publication(&channel, STREAM).unwrap();
        world.until("the connection", |_| publication.is_connected().then_some(()));
        std::mem::forget(publication.try_claim(100).unwrap());
        publication.offer(b"after the hole").unwrap();
        let mut seen = 0;
        world.pass(1);
        assert_eq!(subscription.poll(10, &mut |_, _| ()), 0, "it is not time yet");
        world.pass(2);
        world.until("the message behind the hole", |_| {
            seen += subscription.poll(10, &mut |payload, _| assert_eq!(payload, b"after the hole"));
            (seen == 1).then_some(())
        });
        assert_eq!(count(&world, C::UnblockedPublications), before + 1, "{channel}");
        // The last reference is dropped with an open claim, so no time-out is awaited.
        std::mem::forget(publication.try_claim(100).unwrap());
        publication.offer(b"the last").unwrap();
        drop(publication);
        world.until("the last message", |_| {
            seen += subscription.poll(10, &mut |payload, _| assert_eq!(payload, b"the last"));
            (seen == 2).then_some(())
        });
        assert_eq!(count(&world, C::UnblockedPublications), before + 2, "{channel}");
        drop(subscription);
    }
}

#[test]
fn an_exclusive_publication_blocks_only_itself_until_it_goes() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let mut publication = world.exclusive("aeron:ipc", STREAM).unwrap();
    world.until("the connection", |_| publication.is_connected().then_some(()));
    std::mem::forget(publication.try_claim(100).unwrap());
    publication.offer(b"behind").unwrap();
    world.pass(4);
    assert_eq!(count(&world, C::UnblockedPublications), 0);
    drop(publication);
    let mut seen = 0;
    world.until("the message behind the claim", |_| {
        seen += subscription.poll(10, &mut |payload, _| assert_eq!(payload, b"behind"));
        (seen == 1).then_some(())
    });
    assert_eq!(count(&world, C::UnblockedPublications), 1);
}

#[test]
fn space_that_runs_low_is_a_warning_in_the_error_log() {
    let mut world = World::new(|context| context.low_file_store_warning_threshold = u64::MAX);
    let mut subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let mut publication = world.exclusive("aeron:ipc", STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    let errors = errors(&world);
    let expected = format!("space is running low: threshold={} usable=", u64::MAX);
    assert!(errors.len() == 1 && errors[0].starts_with("WARN"), "{errors:?}");
    assert!(errors[0].contains(&expected) && errors[0].contains("/aeron"), "{errors:?}");
    let mut silent = World::new(|context| context.low_file_store_warning_threshold = 0);
    silent.exclusive("aeron:ipc", STREAM).unwrap();
    assert_eq!(count(&silent, C::Errors), 0);
}

/// Publishes to a log of the longest terms, from shortly before the end of its position space to the end.
fn ends_at_the_last_position(channel: impl Fn(&str) -> (String, String)) {
    // The files are sparse, so they need less than the 3 GiB that the storage check would ask for.
    let mut world = World::new(|context| context.perform_storage_checks = false);
    let start = GIB - (48 << 20);
    let position = format!("init-term-id=-5|term-id={}|term-offset={start}", i32::MAX - 5);
    let (subscribed, published) = channel(&format!("term-length=1g|sparse=true|{position}"));
    let mut subscription = world.subscription(&subscribed, STREAM).unwrap();
    let mut publication = world.exclusive(&published, STREAM).unwrap();
    let max_position = GIB << 31;
    let first = max_position - (48 << 20);
    assert_eq!((publication.max_possible_position(), publication.position()), (max_position, first));
    assert_eq!(publication.max_message_length(), 16 << 20);
    world.until("the connection", |_| publication.is_connected().then_some(()));
    let log = log_of(&world, &publication);
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 3 * GIB as u64 + 4_096);
    let message = vec![7_u8; 1_000_000];
    let (mut sent, mut received) = (0_u64, 0_u64);
    let mut reader = harrier_ringbuf::assembly::FragmentAssembler::default();
    let end = world.until("the end of the position space", |_| {
        let offered = publication.offer(&message);
        subscription.poll(64, &mut |payload, header| {
            reader.on_fragment(payload, header, &mut |whole, _| {
                assert_eq!(whole.len(), message.len());
                received += 1;
            });
        });
        match offered {
            Ok(_) => sent += 1,
            Err(OfferError::BackPressured | OfferError::AdminAction) => {}
            Err(OfferError::MaxPositionExceeded) => return Some(publication.position()),
            Err(error) => panic!("{error}"),
        }
        None
    });
    assert!(sent >= 45 && end <= max_position && end > max_position - (2 << 20), "{sent} to {end}");
    world.until("all messages", |_| {
        subscription.poll(64, &mut |payload, header| {
            reader.on_fragment(payload, header, &mut |_, _| received += 1);
        });
        (received == sent).then_some(())
    });
    assert!(allocated(&log) <= 256 << 20, "{}", allocated(&log));
    assert_eq!(publication.offer(b"x"), Err(OfferError::MaxPositionExceeded));
    assert_eq!(count(&world, C::Errors), 0);
}

#[test]
fn an_ipc_stream_of_terms_of_1_gib_ends_at_its_last_position() {
    ends_at_the_last_position(|parameters| ("aeron:ipc".into(), format!("aeron:ipc?{parameters}")));
}

#[test]
fn a_network_stream_of_terms_of_1_gib_ends_at_its_last_position() {
    let channel = channel();
    ends_at_the_last_position(|parameters| {
        (format!("{channel}|sparse=true"), format!("{channel}|{parameters}"))
    });
}

#[test]
fn terms_that_are_too_long_are_refused() {
    let mut world = World::new(|_| ());
    for length in ["2g", "1g1", "1073741825", "32k"] {
        let (code, message) = refusal(world.exclusive(&format!("aeron:ipc?term-length={length}"), STREAM));
        assert_eq!(code, 1, "{length}: {message}");
        assert!(message.contains("term") || message.contains(length), "{length}: {message}");
    }
    assert!(files(&world, "publications").is_empty());
}

#[test]
fn sessions_beyond_the_limit_of_a_stream_are_refused_and_the_others_flow() {
    let mut world = World::new(|context| context.stream_session_limit = 2);
    let channel = channel();
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publications: Vec<_> = Vec::new();
    for number in 1..=3 {
        publications.push(world.exclusive(&channel, STREAM).unwrap());
        if number < 3 {
            world.until("the image", |_| (subscription.images().len() == number).then_some(()));
        }
    }
    world.until("the refusal", |client| (client.counters().value(C::Errors as i32) > 0).then_some(()));
    world.pass(2);
    let third = publications.pop().unwrap();
    assert_eq!(subscription.images().len(), 2);
    assert!(subscription.image_by_session_id(third.session_id()).is_none());
    let errors = errors(&world);
    let expected = format!("exceeded session limit, stream-id={STREAM} session-id={}", third.session_id());
    assert!(errors.len() == 1 && errors[0].contains(&expected), "{errors:?}");
    assert!(errors[0].contains("aeron.driver.stream.session.limit=2"), "{errors:?}");
    // Another stream of the channel goes on.
    let mut other = world.subscription(&channel, STREAM + 1).unwrap();
    let mut publication = world.exclusive(&channel, STREAM + 1).unwrap();
    world.exchange(&mut publication, &mut other, 10, 100);
    let mut first = publications.swap_remove(0);
    world.exchange(&mut first, &mut subscription, 10, 100);
}

#[test]
fn so_many_logs_as_the_limit_says_are_freed_in_one_duty_cycle() {
    const LIMIT: usize = 3;
    // One timer run finishes all of them.
    let mut world = World::new(|context| {
        context.resource_free_limit = LIMIT;
        context.timer_interval_ns = 900_000_000;
    });
    let publications: Vec<_> =
        (0..20).map(|stream_id| world.exclusive("aeron:ipc", stream_id).unwrap()).collect();
    drop(publications);
    let mut before = files(&world, "publications").len();
    assert_eq!(before, 20);
    let mut most = 0;
    for step in 0..600 {
        world.pass_ms(if step % 100 == 99 { 950 } else { 0 });
        let after = files(&world, "publications").len();
        most = most.max(before - after);
        before = after;
    }
    assert_eq!((before, most), (0, LIMIT));
}

#[test]
fn counters_that_are_used_up_are_an_error_and_the_driver_lives() {
    let mut world = World::new(|context| context.counters_buffer_length = 64 << 10);
    let channel = channel();
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    let mut held = Vec::new();
    let (code, message) = loop {
        let id = world.client.add_counter(1_001, b"", "one of many").unwrap();
        match world.until("the counter", |client| client.counter(id).transpose()) {
            Ok(counter) => held.push(counter),
            Err(ClientError::Registration { code, message, .. }) => break (code, message),
            Err(error) => panic!("{error}"),
        }
        assert!(held.len() < 1_000);
    };
    assert_eq!(code, 11, "{message}");
    assert!(message.contains("raise aeron.counters.buffer.length"), "{message}");
    // The refused publication has left no counter behind.
    let before = files(&world, "publications").len();
    let (_, message) = refusal(world.exclusive("aeron:ipc", STREAM));
    assert!(message.contains("counter"), "{message}");
    let other = format!("aeron:udp?endpoint={}", free_address());
    let (_, message) = refusal(world.exclusive(&other, STREAM));
    assert!(message.contains("counter"), "{message}");
    world.exchange(&mut publication, &mut subscription, 10, 100);
    held.clear();
    world.pass(3);
    assert_eq!(files(&world, "publications").len(), before);
    let mut again = world.exclusive(&other, STREAM).unwrap();
    let mut reader = world.subscription(&other, STREAM).unwrap();
    world.exchange(&mut again, &mut reader, 10, 100);
}

#[test]
fn ports_that_are_used_up_are_an_error_and_come_back() {
    let port = free_address().port();
    let mut world = World::new(|context| context.sender_wildcard_port_range = (port, port));
    let channel = |host: u8| format!("aeron:udp?control=127.0.0.{host}:0|control-mode=dynamic");
    let first = world.exclusive(&channel(1), STREAM).unwrap();
    let bound = first.local_socket_addresses(world.client.counters());
    assert_eq!(bound, [format!("127.0.0.1:{port}")]);
    let (code, message) = refusal(world.exclusive(&channel(1), STREAM + 1));
    assert!(message.contains("port"), "{code} {message}");
    drop(first);
    world.pass(2);
    let again = world.exclusive(&channel(1), STREAM).unwrap();
    assert_eq!(again.local_socket_addresses(world.client.counters()), bound);
}

#[test]
fn ports_that_could_not_be_bound_stay_in_their_range() {
    let address = free_address();
    let (holder, port) = (std::net::UdpSocket::bind(address).unwrap(), address.port());
    let mut world = World::new(|context| {
        context.receiver_wildcard_port_range = (port, port);
        context.sender_wildcard_port_range = (port, port);
    });
    let wildcard = "aeron:udp?endpoint=127.0.0.1:0";
    let dynamic = "aeron:udp?control=127.0.0.1:0|control-mode=dynamic";
    let manual = world.subscription("aeron:udp?control-mode=manual", STREAM).unwrap();
    for _ in 0..2 {
        let destination = world.client.add_rcv_destination(manual.registration_id(), wildcard);
        for (code, message) in [
            refusal(world.subscription(wildcard, STREAM)),
            refusal(world.exclusive(dynamic, STREAM)),
            refusal(world.done(destination)),
        ] {
            assert_eq!(code, 11);
            assert!(message.starts_with("(98) Address already in use\n"), "{message}");
        }
    }
    drop(holder);
    let subscription = world.subscription(wildcard, STREAM).unwrap();
    let (_, message) = refusal(world.subscription(wildcard, STREAM + 1));
    assert!(message.contains(&format!("no available ports in range {port} {port}")), "{message}");
    drop(subscription);
    world.pass(1);
    world.exclusive(dynamic, STREAM).unwrap();
}

#[test]
fn a_channel_that_gets_only_some_of_its_counters_keeps_none() {
    let mut world = World::new(|context| context.counters_buffer_length = 64 << 10);
    let mut held = Vec::new();
    loop {
        let id = world.client.add_counter(1_001, b"", "one of many").unwrap();
        match world.until("the counter", |client| client.counter(id).transpose()) {
            Ok(counter) => held.push(counter),
            Err(_) => break,
        }
    }
    let channels = [channel(), "aeron:udp?control-mode=manual".to_owned()];
    for left in 1..3 {
        held.truncate(held.len() - 1);
        world.pass(3);
        for channel in &channels {
            let (_, message) = refusal(world.exclusive(channel, STREAM));
            assert!(message.contains("counter"), "{left}: {message}");
        }
        if left == 1 {
            let (_, message) = refusal(world.subscription(&channels[0], STREAM));
            assert!(message.contains("counter"), "{message}");
        }
        world.pass(3);
    }
    let mut others = Vec::new();
    world.client.counters().for_each(&mut |_, type_id, _, label| {
        others.extend((![0, 11, 1_001].contains(&type_id)).then(|| label.to_owned()));
    });
    assert_eq!(others, Vec::<String>::new());
    // The refusal has left no socket behind either.
    std::net::UdpSocket::bind(channels[0].rsplit('=').next().unwrap()).unwrap();
}

#[test]
fn an_image_whose_log_cannot_be_made_is_tried_again_and_is_one_entry_of_the_error_log() {
    let mut world = World::new(|_| ());
    let images = world.directory.path().join("aeron/images");
    std::fs::remove_dir(&images).unwrap();
    std::fs::write(&images, "in the way").unwrap();
    let channel = channel();
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    let seconds = 5;
    world.pass(seconds);
    let errors = errors(&world);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("(20) Not a directory\n"), "{errors:?}");
    assert!(errors[0].contains(&format!("{}/*", images.display())), "{errors:?}");
    let tries = count(&world, C::Errors);
    assert!((2..=seconds + 1).contains(&tries), "about once a second: {tries}");
    std::fs::remove_file(&images).unwrap();
    std::fs::create_dir(&images).unwrap();
    world.pass(2);
    world.exchange(&mut publication, &mut subscription, 10, 100);
}

#[test]
fn sessions_that_ask_for_too_long_datagrams_do_not_take_the_places_of_others() {
    let mut world = World::new(|context| context.stream_session_limit = 2);
    let channel = channel();
    let mut subscription = world.subscription(&format!("{channel}|rcv-wnd=4k"), STREAM).unwrap();
    let greedy: Vec<_> =
        (0..5).map(|_| world.exclusive(&format!("{channel}|mtu=8k"), STREAM).unwrap()).collect();
    world.pass(3);
    let errors = errors(&world);
    let [text] = &errors[..] else { panic!("errors of one kind have one entry: {errors:?}") };
    assert!(text.contains("mtuLength=8192 > initialWindowLength=4096"), "{text}");
    assert_eq!(count(&world, C::Errors), greedy.len() as i64, "each counts once");
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
}
