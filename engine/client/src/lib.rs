//! Publications, subscriptions, images and counters of a media driver.
//!
//! [`Aeron`] is one client of one driver: it maps the driver's CnC file, sends commands, reads events and hands out
//! [`Publication`]s, [`Subscription`]s and [`Counter`]s. Nothing waits: adding a resource returns its registration id
//! at once, and the resource is fetched when the driver has answered. The owner calls [`Aeron::do_work`] from its duty
//! cycle; the resources can be used on other threads.
//!
//! # Requests and answers
//! A stream can answer one requester alone (spec 02 §2.12): the requester names the subscription that awaits its answers,
//! the responder names the image of the requests. Over IPC the channels are `aeron:ipc` and
//! `aeron:ipc?control-mode=response`. A whole program is `engine/examples/request_response.rs`.
//!
//! ```no_run
//! # use harrier_client::{Aeron, ClientError, Image, Subscription};
//! const ANSWERS: &str = "aeron:udp?control-mode=response|control=192.168.0.7:9001";
//!
//! /// `answers` was added by the requester with the channel `ANSWERS`.
//! fn ask(aeron: &mut Aeron, answers: &Subscription) -> Result<i64, ClientError> {
//!     let id = answers.registration_id();
//!     let channel = format!("aeron:udp?endpoint=192.168.0.7:9000|response-correlation-id={id}");
//!     aeron.add_exclusive_publication(&channel, 1)
//! }
//!
//! /// `requests` is an image of the responder's subscription to `aeron:udp?endpoint=192.168.0.7:9000`.
//! fn answer(aeron: &mut Aeron, requests: &Image) -> Result<i64, ClientError> {
//!     let channel = format!("{ANSWERS}|response-correlation-id={}", requests.correlation_id());
//!     aeron.add_exclusive_publication(&channel, 2)
//! }
//! ```
#![forbid(unsafe_code)]

mod conductor;
mod connect;
mod context;
mod counter;
mod error;
mod event;
mod image;
mod publication;
mod release;
mod resolve;
mod subscription;
mod termination;

pub use conductor::Aeron;
pub use context::Context;
pub use counter::Counter;
pub use error::ClientError;
pub use event::{ClientEvent, PublicationErrorFrame};
pub use image::{Image, RawBlock};
pub use publication::{ExclusivePublication, Publication};
pub use resolve::ChannelStatus;
pub use subscription::Subscription;
pub use termination::request_driver_termination;
