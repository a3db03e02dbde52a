//! Conditions that end a member without a command (spec 04 §4.11, §5.6).

use crate::rig::{Node, Plan, counter, directory, members, ports, value};
use harrier_archive::client::{ArchiveClient, ArchiveClientContext};
use harrier_cluster::module::{ConsensusModule, ConsensusModuleContext};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::{Agent, Clock};

const ROLE: &str = "consensus-module-0-0";

#[test]
fn a_full_disk() {
    let (directory, ports) = (directory(), ports());
    let plan = Plan { low_storage_threshold: u64::MAX, ..Plan::default() };
    let mut node = Node::start(directory.path(), &ports, &plan);
    let text = node.until_end(ROLE);
    assert!(text.contains("archive has no storage space left"), "{text}");
    assert!(node.logged_errors().iter().any(|error| error.contains("no storage space left")));
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
}

#[test]
fn a_log_that_is_not_recorded_any_more() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "safe");
    let settings = ArchiveClientContext { control_response_stream_id: 999, ..ArchiveClientContext::ipc() };
    let mut archive = ArchiveClient::new(settings);
    node.until("the archive", |node| {
        archive.poll(&mut node.tool, &PausingClock.now()).unwrap();
        archive.is_connected().then_some(())
    });
    archive.stop_recording_by_identity(&node.tool, 0).unwrap();
    let text = node.until_end(ROLE);
    assert!(text.contains("recording of the log has stopped at position"), "{text}");
    node.until("the end of the service", |node| node.has_seen("0 terminate").then_some(()));
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    assert!(node.has_seen("0 message safe"));
}

#[test]
fn a_second_module_of_the_cluster_on_the_same_driver() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let other = crate::rig::directory();
    let driver = directory.path().join("node");
    let mut context = ConsensusModuleContext::new(driver, other.path(), 0, members(&ports));
    context.startup_timeout_ns = 200_000_000;
    let now = PausingClock.now();
    let mut second = ConsensusModule::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap();
    let error = node.until("the end of the second", |_| second.do_work(&PausingClock.now()).err());
    assert!(error.to_string().contains("another consensus module with cluster id 0 is active"), "{error}");
    second.on_close(&PausingClock.now());
    let client = node.connect(ports[0]);
    node.exchange(client, "the first goes on");
    assert!(node.is_at(counter::STATE, value::ACTIVE));
}
