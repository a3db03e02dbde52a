//! Commands that send and receive: `harrier ping`, `pong`, `pub`, `sub` and `rate`.

mod line;
pub mod ping;
pub mod pong;
pub mod publish;
pub mod rate;
pub mod subscribe;

pub use line::LineArguments;
