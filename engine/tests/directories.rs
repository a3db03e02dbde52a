//! Directories that a node refuses, so that it never loses a log.

use std::path::{Path, PathBuf};

use harrier::cluster::tool::rebuild_recording_log;
use harrier::platform::{FileStorage, MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use harrier::{Node, NodeContext};

use crate::node::{Heard, base, keepers, snapshot, told, until};
use crate::support::Cluster;

fn refusal(context: NodeContext) -> String {
    match Node::launch(context, keepers(1)) {
        Ok(_) => panic!("the node starts"),
        Err(error) => error.to_string(),
    }
}

/// All files below a directory with their contents.
fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

/// Runs a node in which a service keeps a text, and stops it.
fn keep(cluster: &Cluster, text: &str, with_snapshot: bool) -> Vec<String> {
    let node = cluster.start(keepers(1)).unwrap();
    let mut client = cluster.connect().unwrap();
    client.offer(text.as_bytes(), &mut Heard::default()).unwrap();
    let kept = told(&mut client, 1);
    if with_snapshot {
        snapshot(&node);
    }
    client.close();
    node.stop().unwrap();
    kept
}

#[test]
fn a_driver_directory_that_overlaps_with_the_nodes_is_refused() {
    let base = base();
    let cluster = Cluster::new(base.path()).unwrap();
    keep(&cluster, "kept", false);
    let before = content(&base.path().join("node"));
    std::os::unix::fs::symlink(base.path().join("node"), base.path().join("link")).unwrap();
    for aeron in ["node", "node/archive", "node/cluster/aeron", "link/archive", ".", "node/../node"] {
        let context = NodeContext { aeron_directory: base.path().join(aeron), ..cluster.context() };
        let text = refusal(context);
        let is_named = text.contains("overlap") && text.contains("choose directories apart");
        // The parent of archive and cluster does not overlap with them; other files in it are not the driver's.
        assert!(
            is_named || text.contains("files that are not a media driver's (archive, cluster)"),
            "{aeron}: {text}"
        );
    }
    assert!(content(&base.path().join("node")) == before, "nothing was changed");
}

#[test]
fn a_driver_directory_with_foreign_files_is_not_deleted() {
    let base = base();
    let cluster = Cluster::new(base.path()).unwrap();
    let aeron = cluster.aeron_directory();
    std::fs::create_dir_all(aeron.join("publications")).unwrap();
    std::fs::write(aeron.join("thesis.tex"), "precious").unwrap();
    let text = refusal(cluster.context());
    assert!(text.contains("1 files that are not a media driver's (thesis.tex)"), "{text}");
    assert_eq!(std::fs::read_to_string(aeron.join("thesis.tex")).unwrap(), "precious");
    std::fs::remove_file(aeron.join("thesis.tex")).unwrap();
    keep(&cluster, "kept", false);
}

#[test]
fn a_missing_recording_log_is_refused_and_rebuilt_from_its_copy_or_the_archive() {
    let base = base();
    let cluster = Cluster::new(base.path()).unwrap();
    keep(&cluster, "one", true);
    let kept = keep(&cluster, "two", false);
    let directory = base.path().join("node/cluster");
    let (log, seal) = (directory.join("recording.log"), directory.join("recording.log.seal"));
    let before = std::fs::read(&log).unwrap();
    for has_seal in [true, false] {
        std::fs::remove_file(&log).unwrap();
        if !has_seal {
            std::fs::remove_file(&seal).unwrap();
        }
        let text = refusal(cluster.context());
        for part in ["no recording.log in", "rebuild-recording-log", "--start-anew"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let archive = base.path().join("node/archive");
        let mut storage = FileStorage::inline();
        let archive = Some((archive.as_path(), FileStorage::inline()));
        let now = SystemClock.now();
        let rebuilt = rebuild_recording_log(&MappedMemory, &mut storage, &directory, archive, &now).unwrap();
        if has_seal {
            assert_eq!(rebuilt.source, "recording.log.seal");
            assert_eq!(std::fs::read(&log).unwrap(), before);
        } else {
            // Without a sealed copy the node replays its log from the start.
            assert!(rebuilt.source.starts_with("recording 0 of "), "{}", rebuilt.source);
            assert!(rebuilt.entries.iter().all(|entry| entry.service_id == -1 && entry.is_term()));
        }
        let node = cluster.start(keepers(1)).unwrap();
        let mut client = cluster.connect().unwrap();
        assert_eq!(told(&mut client, 1), kept);
        client.close();
        node.stop().unwrap();
    }
}

#[test]
fn a_member_whose_other_files_are_gone_too_is_refused_for_its_archive_unless_it_starts_anew() {
    let base = base();
    let cluster = Cluster::new(base.path()).unwrap();
    keep(&cluster, "one", false);
    std::fs::remove_dir_all(base.path().join("node/cluster")).unwrap();
    let text = refusal(cluster.context());
    assert!(text.contains("the archive has a log from 0 to ") && text.contains("in recording 0"), "{text}");
    let node = Node::launch(NodeContext { start_anew: true, ..cluster.context() }, keepers(1)).unwrap();
    until("readiness", || node.is_ready());
    let mut client = cluster.connect().unwrap();
    assert_eq!(told(&mut client, 1), ["0 has "]);
    client.close();
    node.stop().unwrap();
}
