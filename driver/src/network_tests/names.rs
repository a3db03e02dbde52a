//! Name resolution among drivers (spec 02 §1.9, §5.12).

use std::net::SocketAddr;

use harrier_protocol::counter_types::type_id;
use harrier_protocol::resolution::{ResolutionEntry, ResolutionWriter};
use harrier_protocol::udp::{Frame, frame_type};
use harrier_ringbuf::counters::CountersManager;
use harrier_ringbuf::{AtomicBuffer, Now};

use super::net::{Net, Sent};
use super::rig::{MS, SECOND};
use crate::context::{DriverContext, NameResolverSupplier};
use crate::driver::DriverHandle;
use crate::resolver::{HostNames, Names};
use crate::system_counters::{SystemCounter, SystemCounters};

const START_NS: i64 = 1_000 * SECOND;

/// A captured datagram.
fn golden(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("protocol/testdata/udp");
    std::fs::read(folder.join(name)).unwrap()
}

/// The name resolution of one driver.
struct Host {
    names: Names<Net>,
    counters: CountersManager,
    system: SystemCounters,
    handle: DriverHandle,
    address: SocketAddr,
}

impl Host {
    fn new(net: &Net, name: &str, interface: &str, neighbors: &str) -> Self {
        let mut context = DriverContext::new("/dev/shm/unused");
        context.resolver_name = name.into();
        context.resolver_interface = interface.into();
        context.resolver_bootstrap_neighbor = neighbors.into();
        Self::with(net, &context)
    }

    fn with(net: &Net, context: &DriverContext) -> Self {
        let (metadata, values) = (AtomicBuffer::heap(512 * 256), AtomicBuffer::heap(128 * 256));
        let mut counters = CountersManager::new(metadata, values, 0).unwrap();
        let system = SystemCounters::allocate(&mut counters, context, 0).unwrap();
        let handle = DriverHandle::default();
        let names = Names::new(context, net.clone(), &mut counters, &system, &handle).unwrap();
        let address = context.resolver_interface.parse().unwrap_or_else(|_| "0.0.0.0:0".parse().unwrap());
        Self { names, counters, system, handle, address }
    }

    /// Labels and values of the counters of a type.
    fn of_type(&mut self, type_id: i32) -> Vec<(String, i64)> {
        let mut found = Vec::new();
        let reader = self.counters.reader();
        reader.for_each(&mut |id, counter_type, _, label| {
            if counter_type == type_id {
                found.push((label.to_owned(), reader.value(id)));
            }
        });
        found
    }

    /// Returns the numbers of neighbours and of names in the cache.
    fn known(&mut self) -> (i64, i64) {
        let neighbors = self.of_type(type_id::RESOLVER_NEIGHBORS)[0].1;
        (neighbors, self.of_type(type_id::RESOLVER_CACHE_ENTRIES)[0].1)
    }

    fn finds(&self, name: &str) -> Option<String> {
        self.names.resolve(name, 7).ok().map(|address| address.to_string())
    }

    fn invalid(&self) -> i64 {
        self.system.get(SystemCounter::InvalidPackets).get()
    }

    /// Hands the host a frame of another driver.
    fn hear(&mut self, net: &Net, from: &str, entries: &[ResolutionEntry<'_>], now_ns: i64) {
        let mut buffer = [0; 65_504];
        let mut writer = ResolutionWriter::new(&mut buffer).unwrap();
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        let length = writer.finish();
        net.inject(from.parse().unwrap(), self.address, &buffer[..length]);
        self.names.work(&Now { ns: now_ns, epoch_ms: 0 });
    }
}

fn entry<'a>(name: &'a str, address: &str, is_self: bool, age_ms: i32) -> ResolutionEntry<'a> {
    ResolutionEntry { is_self, address: address.parse().unwrap(), age_ms, name }
}

/// Lets time pass for all, in steps of the poll interval.
fn run(hosts: &mut [&mut Host], from_ns: i64, to_ns: i64) {
    let mut now_ns = from_ns;
    while now_ns < to_ns {
        for host in hosts.iter_mut() {
            host.names.work(&Now { ns: now_ns, epoch_ms: 0 });
        }
        now_ns += 10 * MS;
    }
}

#[test]
fn drivers_find_each_other_through_one_neighbour_and_forget_the_silent() {
    let net = Net::default();
    let mut first = Host::new(&net, "A", "10.0.0.1:5", "10.0.0.2:5,nowhere:9");
    let mut second = Host::new(&net, "B", "10.0.0.2:5", "");
    let mut third = Host::new(&net, "C", "10.0.0.3:5", "10.0.0.2:5");
    assert_eq!(first.of_type(type_id::RESOLVER_NEIGHBORS)[0].0, "Resolver neighbors: bound 10.0.0.1:5");
    assert_eq!(first.of_type(type_id::RESOLVER_CACHE_ENTRIES)[0].0, "Resolver cache entries: name=A");
    let bootstraps = [
        ("Bootstrap neighbor: name=10.0.0.2:5 resolved=10.0.0.2:5".to_owned(), 0),
        ("Bootstrap neighbor: name=nowhere:9 resolved=".to_owned(), 0),
    ];
    assert_eq!(first.of_type(type_id::BOOTSTRAP_NEIGHBOR), bootstraps);
    run(&mut [&mut first, &mut second, &mut third], START_NS, START_NS + 3 * SECOND);
    for host in [&mut first, &mut second, &mut third] {
        assert_eq!(host.known(), (2, 2));
        for (name, address) in [("A", "10.0.0.1:7"), ("B", "10.0.0.2:7"), ("C", "10.0.0.3:7")] {
            assert_eq!(host.finds(name).as_deref(), Some(address));
        }
        assert_eq!(host.finds("D"), None);
    }
    let values = first.of_type(type_id::BOOTSTRAP_NEIGHBOR);
    assert_eq!((values[0].1, values[1].1), (1, 0));
    // The third host falls silent. Entries from the others do not keep its name alive.
    let silent_ns = START_NS + 3 * SECOND;
    run(&mut [&mut first, &mut second], silent_ns, silent_ns + 9 * SECOND);
    assert_eq!((first.known(), second.known()), ((2, 2), (2, 2)));
    run(&mut [&mut first, &mut second], silent_ns + 9 * SECOND, silent_ns + 11 * SECOND);
    assert_eq!((first.known(), second.known()), ((1, 1), (1, 1)));
    assert_eq!((first.finds("C"), second.finds("B")), (None, Some("10.0.0.2:7".into())));
    // A host without this name resolution has no such names.
    let plain = Host::with(&net, &DriverContext::new("/dev/shm/unused"));
    assert_eq!((plain.finds("B"), plain.finds("10.0.0.9")), (None, Some("10.0.0.9:7".into())));
}

#[test]
fn frames_are_those_of_the_released_drivers_and_come_in_their_times() {
    let net = Net::default();
    let mut host = Host::new(&net, "driverA", "127.0.0.1:24510", "10.0.0.2:5");
    run(&mut [&mut host], START_NS, START_NS + 4 * SECOND + 1);
    let sent = net.take_sent();
    assert_eq!(sent.len(), 5, "at once, then every second");
    for peer in ["java", "c"] {
        assert!(sent.iter().all(|sent| sent.bytes == golden(&format!("{peer}-25-res-self.bin"))));
        let frame = golden(&format!("{peer}-26-res-neighbors.bin"));
        net.inject("10.0.0.2:5".parse().unwrap(), host.address, &frame);
        let now_ns = START_NS + 4 * SECOND + 10 * MS;
        run(&mut [&mut host], now_ns, now_ns + 1);
        let Ok(Frame::Resolution(frame)) = Frame::decode(&frame) else { unreachable!() };
        let all: Vec<_> = frame.entries().map(|entry| (entry.name, entry.address.ip())).collect();
        assert_eq!(all.iter().map(|one| one.0).collect::<Vec<_>>(), ["peer", "other"]);
        for (name, ip) in all {
            assert_eq!(host.finds(name), Some(SocketAddr::new(ip, 7).to_string()));
        }
    }
    // The host sends the same entries to the neighbours that it learned from them.
    net.take_sent();
    let is_cache = |sent: &&Sent| matches!(sent.frame(), Frame::Resolution(frame) if !frame.entries().next().unwrap().is_self);
    run(&mut [&mut host], START_NS + 5 * SECOND, START_NS + 7 * SECOND);
    let sent = net.take_sent();
    let told: Vec<_> = sent.iter().filter(is_cache).collect();
    assert_eq!(told.len(), 2, "one to each neighbour every two seconds");
    assert_eq!(told[0].bytes.len(), golden("java-26-res-neighbors.bin").len());
}

#[test]
fn bad_frames_are_counted_and_change_nothing_else() {
    let net = Net::default();
    let mut host = Host::new(&net, "A", "10.0.0.1:5", "");
    let good = golden("java-26-res-neighbors.bin");
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    // The port is its bytes 10 and 11.
    let mut portless = changed(10, 0);
    portless[11] = 0;
    let bad = [
        vec![],
        good[..4].to_vec(),
        changed(4, 1),
        good[..good.len() - 8].to_vec(),
        changed(0, 255),
        changed(8, 3),
        changed(20, 0),
        changed(20, 200),
        changed(21, 0x80),
        portless,
    ];
    for (number, bytes) in bad.iter().enumerate() {
        net.inject("10.0.0.9:5".parse().unwrap(), host.address, bytes);
        let now_ns = START_NS + number as i64 * 10 * MS;
        host.names.work(&Now { ns: now_ns, epoch_ms: 0 });
        assert_eq!(host.invalid(), number as i64 + 1, "{bytes:?}");
    }
    assert_eq!((host.known(), host.handle.errors.drain().len()), ((0, 0), 0));
    assert_eq!(net.take_sent().len(), 0);
    // Frames of other types are ignored.
    net.inject("10.0.0.9:5".parse().unwrap(), host.address, &golden("java-02-sm.bin"));
    run(&mut [&mut host], START_NS + SECOND, START_NS + SECOND + 1);
    assert_eq!((host.invalid(), host.known()), (bad.len() as i64, (0, 0)));
}

/// A frame with one entry that names its sender: type, address and name. The entry is cut after `length` bytes.
fn one_entry(kind: u8, address: &[u8], name_length: usize, length: Option<usize>) -> Vec<u8> {
    let mut entry = vec![kind, 0x80, 5, 0, 0, 0, 0, 0];
    entry.extend(address);
    entry.extend((name_length as u16).to_le_bytes());
    entry.extend(vec![b'n'; name_length]);
    entry.resize(length.unwrap_or(entry.len().next_multiple_of(8)), 0);
    let mut frame = ((8 + entry.len()) as u32).to_le_bytes().to_vec();
    frame.extend([0, 0]);
    frame.extend(frame_type::RES.to_le_bytes());
    frame.extend(entry);
    frame
}

#[test]
fn lengths_of_names_and_addresses_are_those_of_their_entries() {
    let (ipv4, ipv6) = ([10, 0, 0, 9], [0xFD; 16]);
    let cases = [
        ("the longest name", one_entry(1, &ipv4, 255, None), true),
        ("a name that is too long", one_entry(1, &ipv4, 256, None), false),
        ("a name of more than its entry", one_entry(1, &ipv4, 60_000, Some(64)), false),
        ("no name", one_entry(1, &ipv4, 0, None), false),
        ("a name of IPv6", one_entry(2, &ipv6, 1, None), true),
        ("an address of IPv6 that is cut", one_entry(2, &ipv6, 1, Some(24)), false),
        ("an entry of IPv4 as IPv6", one_entry(2, &ipv4, 1, None), false),
        ("an entry without an address", one_entry(1, &[], 1, Some(8)), false),
        ("an entry of an unknown kind", one_entry(0, &ipv4, 1, None), false),
    ];
    for (what, frame, is_good) in cases {
        let net = Net::default();
        let mut host = Host::new(&net, "A", "10.0.0.1:5", "");
        net.inject("10.0.0.9:5".parse().unwrap(), host.address, &frame);
        host.names.work(&Now { ns: START_NS, epoch_ms: 0 });
        let known = i64::from(is_good);
        assert_eq!((host.invalid(), host.known()), (1 - known, (known, known)), "{what}");
    }
}

#[test]
fn what_is_heard_is_believed_by_its_age() {
    let net = Net::default();
    let mut host = Host::new(&net, "A", "10.0.0.1:5", "");
    let mut now_ns = START_NS;
    let mut hear = |host: &mut Host, entries: &[ResolutionEntry<'_>]| {
        now_ns += 10 * MS;
        host.hear(&net, "10.0.0.2:77", entries, now_ns);
    };
    // Own entries, multicast groups and unspecified addresses are ignored.
    hear(
        &mut host,
        &[
            entry("A", "10.0.0.9:5", true, 0),
            entry("M", "224.0.0.1:5", true, 0),
            entry("N", "0.0.0.0:5", false, 0),
        ],
    );
    assert_eq!(host.known(), (0, 0));
    // For a driver that does not know its address, the source address of the frame and the port of its entry count.
    hear(&mut host, &[entry("B", "0.0.0.0:5", true, 0)]);
    assert_eq!((host.known(), host.finds("B").unwrap()), ((1, 1), "10.0.0.2:7".into()));
    // A driver of the same name on another port is another driver.
    hear(&mut host, &[entry("A", "10.0.0.8:6", false, 0)]);
    assert_eq!((host.known(), host.finds("A").unwrap()), ((2, 2), "10.0.0.8:7".into()));
    // A newer entry moves a name; an older one does not.
    hear(&mut host, &[entry("B", "10.0.0.3:5", false, 0)]);
    assert_eq!(host.finds("B").unwrap(), "10.0.0.3:7");
    hear(&mut host, &[entry("B", "10.0.0.4:5", false, 500)]);
    assert_eq!(host.finds("B").unwrap(), "10.0.0.3:7");
    // Ages may be impossibly large, or negative.
    hear(&mut host, &[entry("C", "10.0.0.5:5", true, i32::MAX), entry("D", "10.0.0.6:5", true, i32::MIN)]);
    assert_eq!((host.finds("C"), host.finds("D")), (None, Some("10.0.0.6:7".into())));
    // A flood of names takes bounded memory, and living names stay.
    let names: Vec<_> =
        (0..1_000).map(|at| (format!("n{at}"), format!("10.1.{}.{}:5", at / 250, at % 250))).collect();
    for names in names.chunks(100) {
        let told: Vec<_> = names.iter().map(|(name, address)| entry(name, address, true, 0)).collect();
        hear(&mut host, &told);
    }
    assert_eq!((host.known(), host.finds("B").unwrap()), ((256, 256), "10.0.0.3:7".into()));
}

#[test]
fn neighbours_that_cannot_be_sent_to_are_told_of() {
    let net = Net::default();
    let mut host = Host::new(&net, "A", "10.0.0.1:5", "10.0.0.2:5");
    net.set_failing(true);
    run(&mut [&mut host], START_NS, START_NS + 1);
    let errors = host.handle.errors.drain();
    assert!(errors[0].contains("Failed to send resolution frames to neighbor 10.0.0.2:5"), "{errors:?}");
}

#[test]
fn settings_that_make_no_name_are_refused() {
    let net = Net::default();
    let refusal = |name: &str, interface: &str, neighbors: &str| {
        let mut context = DriverContext::new("/dev/shm/unused");
        context.name_resolver_supplier = NameResolverSupplier::Driver;
        context.resolver_name = name.into();
        context.resolver_interface = interface.into();
        context.resolver_bootstrap_neighbor = neighbors.into();
        let (metadata, values) = (AtomicBuffer::heap(512 * 256), AtomicBuffer::heap(128 * 256));
        let mut counters = CountersManager::new(metadata, values, 0).unwrap();
        let system = SystemCounters::allocate(&mut counters, &context, 0).unwrap();
        let names = Names::new(&context, net.clone(), &mut counters, &system, &DriverHandle::default());
        names.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refusal("", "10.0.0.1:5", "").contains("resolver name is required"));
    assert!(refusal(&"n".repeat(256), "10.0.0.1:5", "").contains("resolver name is required"));
    assert!(refusal("A", "10.0.0.1", "").contains("must be host:port"));
    assert!(refusal("A", "", "").contains("must be host:port"));
    assert!(refusal("A", "10.0.0.1:5", &"h:1,".repeat(21)).contains("at most 20"));
    let unknown = refusal("A", "nowhere:5", "");
    assert_eq!(unknown, "aeron.driver.resolver.interface=nowhere:5: unresolved host: nowhere");
    assert_eq!(refusal("A", "10.0.0.1:5", &"h:1,".repeat(20)), "");
}

#[test]
fn bad_bootstrap_neighbours_are_skipped_and_the_next_good_one_is_used() {
    let net = Net::default();
    let mut first = Host::new(&net, "A", "10.0.0.1:5", "just:wrong, 10.0.0.2, nowhere:9, 10.0.0.3:5");
    let mut last = Host::new(&net, "C", "10.0.0.3:5", "");
    let errors = first.handle.errors.drain();
    let setting = "WARN: aeron.driver.resolver.bootstrap.neighbor: ";
    assert_eq!(
        errors,
        [
            format!("{setting}just:wrong is skipped: it must be host:port"),
            format!("{setting}10.0.0.2 is skipped: it must be host:port"),
            format!("{setting}nowhere:9 is skipped until it resolves: unresolved host: nowhere"),
        ]
    );
    let labels: Vec<String> =
        first.of_type(type_id::BOOTSTRAP_NEIGHBOR).into_iter().map(|counter| counter.0).collect();
    let expected = ["name=nowhere:9 resolved=", "name=10.0.0.3:5 resolved=10.0.0.3:5"];
    assert_eq!(labels, expected.map(|text| format!("Bootstrap neighbor: {text}")));
    run(&mut [&mut first, &mut last], START_NS, START_NS + 3 * SECOND);
    assert_eq!((first.known(), last.known()), ((1, 1), (1, 1)));
    assert!(first.handle.errors.drain().is_empty());
}

#[test]
fn a_table_moves_names_as_its_counters_say() {
    let net = Net::default();
    let mut context = DriverContext::new("/dev/shm/unused");
    context.name_resolver_supplier = NameResolverSupplier::Table;
    context.name_resolver_arguments = "one,10.0.0.1,10.0.0.2|two:9,10.0.0.3:9,10.0.0.4:9|".into();
    let mut host = Host::with(&net, &context);
    let rows = host.of_type(type_id::NAME_TABLE_ENTRY);
    let label = "NameEntry{name='one', initialResolutionHost='10.0.0.1', reResolutionHost='10.0.0.2'}";
    assert_eq!((rows.len(), rows[0].0.as_str(), rows[0].1), (2, label, 0));
    let find = |host: &mut Host| {
        let reader = host.counters.reader();
        let mut first = None;
        reader.for_each(&mut |id, counter_type, _, _| {
            if counter_type == type_id::NAME_TABLE_ENTRY {
                first = first.or(Some(id));
            }
        });
        first.unwrap()
    };
    let id = find(&mut host);
    let choose = |host: &mut Host, value: i64| host.counters.counter(id).unwrap().set_ordered(value);
    assert_eq!(host.finds("one").unwrap(), "10.0.0.1:7");
    choose(&mut host, 1);
    assert_eq!(host.finds("one").unwrap(), "10.0.0.2:7");
    choose(&mut host, -1);
    let error = host.names.resolve("one", 7).unwrap_err();
    assert_eq!(crate::failure::Failure::from(error).message, "Unable to resolve host=(one): (forced)");
    // One row names a whole address; another address has no row.
    assert_eq!(host.names.substitute("two:9").unwrap().unwrap(), "10.0.0.3:9");
    assert_eq!(
        (host.names.substitute("three:9").unwrap(), host.finds("10.0.0.7").unwrap()),
        (None, "10.0.0.7:7".into())
    );
    context.name_resolver_arguments = "one,10.0.0.1".into();
    let mut other =
        CountersManager::new(AtomicBuffer::heap(512 * 256), AtomicBuffer::heap(128 * 256), 0).unwrap();
    let refused = Names::new(&context, net, &mut other, &host.system, &host.handle).err().unwrap();
    assert!(refused.to_string().contains("rows of name,initialHost,reResolutionHost"));
}
