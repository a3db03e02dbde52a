//! Area `election`: the pure elections of one, three or five members over a model log and a model network.
//!
//! Members crash and keep what is durable, stand still, and are cut off one way or both; messages are lost, doubled,
//! delayed and reordered. The model's owner of an election does exactly what its actions say (spec 07).

mod coverage;
mod member;
mod model_log;
mod owner;
mod plan;
mod run;
mod stream;
mod timeline;
mod truth;
pub mod walk;

pub use coverage::EXPECTED;
pub use plan::Scenario;
pub use run::run;

/// Length of an entry of the model log, bytes.
const ENTRY: i64 = 32;
/// Most members.
const MEMBERS: usize = 5;
