//! Small example services of the engine, for tests and demonstrations.

pub mod book;
mod book_service;
pub mod book_snapshot;
mod echo;
pub mod orders;

pub use book_service::BookService;
pub use echo::EchoService;
