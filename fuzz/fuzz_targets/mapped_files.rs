//! Files that are mapped: node state, CnC, error log, loss report.
#![no_main]

use std::path::Path;

use harrier_client::{Aeron, Context};
use harrier_cluster::node_state::NodeState;
use harrier_ringbuf::heap::HeapMemory;
use harrier_ringbuf::{AtomicBuffer, Memory, Now, Region, error_log, loss_report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, content)) = bytes.split_first() else { return };
    let length = content.len().next_multiple_of(8).max(8);
    let memory = HeapMemory::new();
    let put = |path: &str| {
        let buffer = memory.create(Path::new(path), length, true).expect("a new file");
        buffer.copy_in(0, content);
        buffer
    };
    match kind % 4 {
        0 => {
            put("/cluster/node-state.dat");
            for was_ours in [false, true] {
                let state = NodeState::open(&memory, Path::new("/cluster"), false, was_ours);
                drop(state.map(|state| state.candidate_term_id()));
            }
        }
        1 => {
            put("/aeron/cnc.dat");
            let now = Now { ns: 1, epoch_ms: 1 };
            drop(Aeron::connect(Context::new("/aeron"), memory.clone(), &now));
        }
        2 => {
            let buffer: AtomicBuffer = put("/errors");
            error_log::read(&buffer, 0, &mut |_, _, _, text| drop(text.to_owned()));
        }
        _ => drop(loss_report::read(&put("/losses"))),
    }
});
