//! The operating system behind the engine's seams: clocks, mapped files, files, sockets, cores.
//!
//! Only the code that composes parts chooses this crate; the engine itself knows the traits of `harrier-ringbuf`.

mod affinity;
mod allocations;
mod child;
mod clock;
mod control;
mod file_storage;
mod host;
mod host_transport;
mod mapped_memory;
mod ports;
mod process;
mod segmentation;
mod send_queue;
mod udp;
mod uring;
mod user;

pub use affinity::{core_count, pin_current_thread};
pub use allocations::CountingAllocator;
pub use child::{ask_to_end, bind_to_parent, kill_group};
pub use clock::{PausingClock, SystemClock};
pub use file_storage::FileStorage;
pub use host::{CoreFacts, HostFacts, IdleState, Interrupt};
pub use host_transport::{HostSocket, HostTransport};
pub use mapped_memory::{FileLock, MappedMemory};
pub use ports::free_ports;
pub use process::ProcessFacts;
pub use udp::{UdpSocket, UdpTransport};
pub use uring::{UringSocket, UringTransport};
pub use user::{default_aeron_directory, user_name};
