//! SBE messages of clients, consensus modules, services and snapshots (spec 04 §1).
#![no_main]

use harrier_cluster::codec::{
    BackupAnswer, BackupRequest, ConsensusMessage, Egress, Ingress, LogMessage, ModuleMessage, ServiceMessage,
    SnapshotMessage,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    drop(format!("{:?}", Ingress::decode(message)));
    drop(format!("{:?}", Egress::decode(message)));
    drop(format!("{:?}", LogMessage::decode(message)));
    drop(format!("{:?}", ServiceMessage::decode(message)));
    drop(format!("{:?}", ModuleMessage::decode(message)));
    drop(format!("{:?}", SnapshotMessage::decode(message)));
    drop(format!("{:?}", ConsensusMessage::decode(message).map(|own| own.map(|own| own.is_plausible()))));
    drop(format!("{:?}", BackupRequest::decode(message)));
    drop(format!("{:?}", BackupAnswer::decode(message)));
});
