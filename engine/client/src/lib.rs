//! Publications, subscriptions, images and counters of a media driver.
//!
//! [`Aeron`] is one client of one driver: it maps the driver's CnC file, sends commands, reads events and hands out
//! [`Publication`]s, [`Subscription`]s and [`Counter`]s. Nothing waits: adding a resource returns its registration id
//! at once, and the resource is fetched when the driver has answered. The owner calls [`Aeron::do_work`] from its duty
//! cycle; the resources can be used on other threads.
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

pub use conductor::Aeron;
pub use context::Context;
pub use counter::Counter;
pub use error::ClientError;
pub use event::{ClientEvent, PublicationErrorFrame};
pub use image::Image;
pub use publication::{ExclusivePublication, Publication};
pub use resolve::ChannelStatus;
pub use subscription::Subscription;
