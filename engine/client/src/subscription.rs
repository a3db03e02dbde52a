//! Receiving all sessions of a stream (spec 01 §5.4).

use harrier_ringbuf::counters::CountersReader;
use harrier_ringbuf::image_reader::{Action, Block, Header};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::release::{Release, ReleaseQueue};
use crate::resolve::{self, ChannelStatus};
use crate::{Image, RawBlock};

/// Change of an image that the conductor reports to a subscription.
pub(crate) enum ImageChange {
    Add(Box<Image>),
    Remove { correlation_id: i64 },
}

/// A stream of a channel, with an [`Image`] for each of its sessions. Dropping it removes it from the driver.
pub struct Subscription {
    pub(crate) channel: String,
    pub(crate) stream_id: i32,
    pub(crate) registration_id: i64,
    pub(crate) channel_status_id: i32,
    pub(crate) images: Vec<Image>,
    pub(crate) next_image: usize,
    pub(crate) changes: rtrb::Consumer<ImageChange>,
    pub(crate) closed: Arc<AtomicBool>,
    pub(crate) releases: Arc<ReleaseQueue>,
}

impl Subscription {
    /// Channel of the add.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Stream id within the channel.
    pub fn stream_id(&self) -> i32 {
        self.stream_id
    }

    /// Correlation id of the command that added it.
    pub fn registration_id(&self) -> i64 {
        self.registration_id
    }

    /// Id of the channel status counter; -1 for IPC and spies.
    pub fn channel_status_id(&self) -> i32 {
        self.channel_status_id
    }

    /// True when the client has closed it.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Applies the changes of images since the last poll; polls do this themselves.
    #[inline]
    pub fn update_images(&mut self) {
        while let Ok(change) = self.changes.pop() {
            match change {
                ImageChange::Add(image) => self.images.push(*image),
                ImageChange::Remove { correlation_id } => {
                    self.images.retain(|image| image.correlation_id() != correlation_id);
                }
            }
        }
    }

    /// The images, oldest first.
    pub fn images(&mut self) -> &mut [Image] {
        self.update_images();
        &mut self.images
    }

    /// The image of a session.
    pub fn image_by_session_id(&mut self, session_id: i32) -> Option<&mut Image> {
        self.images().iter_mut().find(|image| image.session_id() == session_id)
    }

    /// Removes an image from the subscription, so that it can be polled separately. It still closes with the stream.
    pub fn take_image(&mut self, correlation_id: i64) -> Option<Image> {
        self.update_images();
        let index = self.images.iter().position(|image| image.correlation_id() == correlation_id)?;
        Some(self.images.remove(index))
    }

    /// True while at least one image is open.
    pub fn is_connected(&mut self) -> bool {
        self.images().iter().any(|image| !image.is_closed())
    }

    /// Delivers up to `limit` frames of all images to `handler`, and begins with another image each time; returns
    /// their number.
    #[inline]
    pub fn poll(&mut self, limit: usize, handler: &mut impl FnMut(&[u8], &Header<'_>)) -> usize {
        self.in_turn(limit, |image, rest| image.poll(rest, handler))
    }

    /// Works as [`poll`](Self::poll), but `handler` decides about each frame.
    #[inline]
    pub fn controlled_poll(
        &mut self,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> usize {
        self.in_turn(limit, |image, rest| image.controlled_poll(rest, handler))
    }

    /// Passes contiguous frames of each image, up to `max_bytes` each, to `handler`; returns the length of all.
    pub fn block_poll(&mut self, max_bytes: usize, handler: &mut impl FnMut(Block<'_>)) -> usize {
        self.update_images();
        self.images.iter_mut().map(|image| image.block_poll(max_bytes, handler)).sum()
    }

    /// Works as [`block_poll`](Self::block_poll), and also tells `handler` where the frames are in each log file.
    pub fn raw_poll(&mut self, max_bytes: usize, handler: &mut impl FnMut(RawBlock<'_>)) -> usize {
        self.update_images();
        self.images.iter_mut().map(|image| image.raw_poll(max_bytes, handler)).sum()
    }

    #[inline]
    fn in_turn(&mut self, limit: usize, mut poll: impl FnMut(&mut Image, usize) -> usize) -> usize {
        self.update_images();
        let count = self.images.len();
        if count == 0 {
            return 0;
        }
        let mut start = self.next_image;
        self.next_image += 1;
        if start >= count {
            start = 0;
            self.next_image = 0;
        }
        let mut done = 0;
        for turn in 0..count {
            let index = start + turn;
            let image = &mut self.images[if index < count { index } else { index - count }];
            done += poll(image, limit - done);
            if done >= limit {
                break;
            }
        }
        done
    }

    /// State of the channel's socket.
    pub fn channel_status(&self, counters: &CountersReader) -> ChannelStatus {
        if self.is_closed() {
            return ChannelStatus::Closing;
        }
        resolve::channel_status(counters, self.channel_status_id)
    }

    /// Addresses to which the channel is bound; none until it is active.
    pub fn local_socket_addresses(&self, counters: &CountersReader) -> Vec<String> {
        resolve::local_socket_addresses(counters, self.channel_status_id)
    }

    /// Returns the channel with the bound port in the place of port 0; `None` until the driver has bound it.
    pub fn resolved_channel(&self, counters: &CountersReader) -> Option<String> {
        resolve::resolved_channel(counters, &self.channel, self.channel_status_id)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.releases.push(Release::Subscription { registration_id: self.registration_id });
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("channel", &self.channel)
            .field("stream_id", &self.stream_id)
            .field("registration_id", &self.registration_id)
            .field("image_count", &self.images.len())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
