//! A subscription, its images and what it is polled for.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use rusteron_client::bindings::*;
use serde_json::{Value, json};

use crate::client::{Client, Failure, closed, completed, done};
use crate::events;
use crate::wait::Wait;

const FRAGMENT_LIMIT: usize = 16;
const ADDRESSES: usize = 8;
const ADDRESS_LENGTH: usize = AERON_CLIENT_MAX_LOCAL_ADDRESS_STR_LEN as usize;
const URI_LENGTH: usize = AERON_URI_MAX_LENGTH as usize;

pub struct Subscription {
    /// Null once it is closed.
    handle: *mut aeron_subscription_t,
    channel: CString,
}

// SAFETY: the library's handles are not bound to a thread; one at a time uses a subscription, behind its lock.
unsafe impl Send for Subscription {}

/// What a handler of fragments is told beside the payload.
pub struct Header {
    pub flags: u8,
    pub reserved_value: i64,
}

impl Subscription {
    pub fn add(client: &Client, channel: CString, stream: i32) -> Result<Self, Failure> {
        let mut pending = ptr::null_mut();
        let none = ptr::null_mut();
        // SAFETY: the client lives and copies the channel; handlers are functions without data of ours; the pending
        // call lives until its poll has an outcome.
        let handle = unsafe {
            done(aeron_async_add_subscription(
                &mut pending,
                client.aeron,
                channel.as_ptr(),
                stream,
                Some(events::on_image),
                none,
                Some(events::on_image_gone),
                none,
            ))?;
            completed(
                "the subscription",
                |it| aeron_async_add_subscription_poll(it, pending),
                ptr::null_mut(),
            )?
        };
        Ok(Self { handle, channel })
    }

    /// The handle, which lives until `close`.
    fn handle(&self) -> Result<*mut aeron_subscription_t, Failure> {
        if self.handle.is_null() {
            return Err(Failure::of("the subscription is closed".to_owned()));
        }
        Ok(self.handle)
    }

    pub fn registration(&self) -> Result<i64, Failure> {
        // SAFETY: integers and pointers, of which all zeroes are values.
        let mut constants: aeron_subscription_constants_t = unsafe { std::mem::zeroed() };
        // SAFETY: a live handle.
        done(unsafe { aeron_subscription_constants(self.handle()?, &mut constants) })?;
        Ok(constants.registration_id)
    }

    /// The channel with the port that the system chose.
    pub fn resolve(&self) -> Result<Value, Failure> {
        let handle = self.handle()?;
        let (mut uri, mut endpoint) = (vec![0_u8; URI_LENGTH], vec![0_u8; ADDRESS_LENGTH]);
        Wait::until("the bound port", || {
            // SAFETY: a live handle and a buffer with its length.
            let found = done(unsafe {
                aeron_subscription_resolved_endpoint(handle, endpoint.as_mut_ptr().cast(), endpoint.len())
            })?;
            Ok((found == 1).then_some(()))
        })?;
        // SAFETY: a live handle and a buffer with its length.
        done(unsafe {
            aeron_subscription_try_resolve_channel_endpoint_port(handle, uri.as_mut_ptr().cast(), uri.len())
        })?;
        Ok(json!({
            "channel": self.in_written_order(&text(&uri)),
            "endpoint": text(&endpoint),
            "local": self.addresses()?.join(" "),
            // SAFETY: a live handle.
            "status": unsafe { aeron_subscription_channel_status(handle) },
        }))
    }

    /// The library writes parameters in an order of its own: as the caller wrote them, with the endpoint that was
    /// found.
    fn in_written_order(&self, resolved: &str) -> String {
        let own = self.channel.to_string_lossy().into_owned();
        let endpoint_of = |uri: &str| {
            let start = uri.find("endpoint=")? + "endpoint=".len();
            Some(uri[start..].split('|').next().unwrap_or_default().to_owned())
        };
        match (endpoint_of(&own), endpoint_of(resolved)) {
            (Some(from), Some(to)) => own.replace(&format!("endpoint={from}"), &format!("endpoint={to}")),
            _ => own,
        }
    }

    fn addresses(&self) -> Result<Vec<String>, Failure> {
        let mut texts = [[0_u8; ADDRESS_LENGTH]; ADDRESSES];
        let mut vector =
            texts.each_mut().map(|text| aeron_iovec_t { iov_base: text.as_mut_ptr(), iov_len: text.len() });
        // SAFETY: a live handle, and buffers with their lengths.
        let count = done(unsafe {
            aeron_subscription_local_sockaddrs(self.handle()?, vector.as_mut_ptr(), ADDRESSES)
        })?;
        Ok(texts.iter().take(count as usize).map(|bytes| text(bytes)).collect())
    }

    pub fn image_count(&self) -> Result<usize, Failure> {
        // SAFETY: a live handle.
        done(unsafe { aeron_subscription_image_count(self.handle()?) }).map(|count| count as usize)
    }

    /// Gives the image of an index to `visit`.
    fn with_image<V>(
        &self,
        index: usize,
        visit: impl FnOnce(*mut aeron_image_t) -> Result<V, Failure>,
    ) -> Result<Option<V>, Failure> {
        let handle = self.handle()?;
        // SAFETY: a live handle; the image is retained until it is released below.
        let image = unsafe { aeron_subscription_image_at_index(handle, index) };
        if image.is_null() {
            return Ok(None);
        }
        let value = visit(image);
        // SAFETY: the image that was retained above, once.
        done(unsafe { aeron_subscription_image_release(handle, image) })?;
        value.map(Some)
    }

    pub fn images(&self) -> Result<Vec<Value>, Failure> {
        (0..self.image_count()?).filter_map(|index| self.with_image(index, describe).transpose()).collect()
    }

    /// Positions of the first image: where it was joined, and where it is.
    pub fn positions(&self) -> Result<(i64, i64), Failure> {
        let found = self.with_image(0, |image| {
            // SAFETY: the image is retained.
            Ok((constants(image)?.join_position, unsafe { aeron_image_position(image) }))
        })?;
        found.ok_or_else(|| Failure::of("there is no image".to_owned()))
    }

    pub fn reject(&self, reason: &CStr) -> Result<(), Failure> {
        // SAFETY: the image is retained, the text is copied.
        let rejected =
            self.with_image(0, |image| done(unsafe { aeron_image_reject(image, reason.as_ptr()) }))?;
        rejected.map(drop).ok_or_else(|| Failure::of("there is no image".to_owned()))
    }

    /// Hands out fragments as they are in the log.
    pub fn poll(&self, mut handler: impl FnMut(&[u8], Header)) -> Result<usize, Failure> {
        let mut handler: &mut dyn FnMut(&[u8], Header) = &mut handler;
        let data = ptr::from_mut(&mut handler).cast();
        // SAFETY: a live handle; the handler lives for the call, during which it is called.
        done(unsafe { aeron_subscription_poll(self.handle()?, Some(on_fragment), data, FRAGMENT_LIMIT) })
            .map(|count| count as usize)
    }

    pub fn add_destination(&self, client: &Client, channel: &CStr) -> Result<(), Failure> {
        self.change_destinations(client, channel, aeron_subscription_async_add_destination)
    }

    pub fn remove_destination(&self, client: &Client, channel: &CStr) -> Result<(), Failure> {
        self.change_destinations(client, channel, aeron_subscription_async_remove_destination)
    }

    fn change_destinations(&self, client: &Client, channel: &CStr, change: Change) -> Result<(), Failure> {
        let mut pending = ptr::null_mut();
        // SAFETY: subscription and client live, the text is copied; the pending call lives until its poll has an
        // outcome.
        unsafe {
            done(change(&mut pending, client.aeron, self.handle()?, channel.as_ptr()))?;
            let poll = |_: *mut ()| aeron_subscription_async_destination_poll(pending);
            completed("the destinations", poll, ())
        }
    }

    pub fn close(&mut self, client: &Client) -> Result<(), Failure> {
        let handle = self.handle()?;
        self.handle = ptr::null_mut();
        // SAFETY: the handle lives until now and is not used after this.
        closed(|handler, data| unsafe { aeron_subscription_close(handle, handler, data) }, client)
    }
}

type Change = unsafe extern "C" fn(
    *mut *mut aeron_async_destination_t,
    *mut aeron_t,
    *mut aeron_subscription_t,
    *const c_char,
) -> std::ffi::c_int;

/// Puts the fragments of messages together, for one poll after the other.
pub struct Assembler {
    assembler: *mut aeron_fragment_assembler_t,
    /// Where a poll puts its handler, which lives as long as the poll.
    current: Box<*mut c_void>,
}

impl Assembler {
    pub fn new() -> Result<Self, Failure> {
        let mut it = Self { assembler: ptr::null_mut(), current: Box::new(ptr::null_mut()) };
        let data = ptr::from_mut(&mut *it.current).cast();
        // SAFETY: the box does not move and lives as long as the assembler.
        done(unsafe { aeron_fragment_assembler_create(&mut it.assembler, Some(on_message), data) })?;
        Ok(it)
    }

    /// Hands out whole messages.
    pub fn poll(
        &mut self,
        subscription: &Subscription,
        mut handler: impl FnMut(&[u8]),
    ) -> Result<usize, Failure> {
        let mut handler: &mut dyn FnMut(&[u8]) = &mut handler;
        *self.current = ptr::from_mut(&mut handler).cast();
        // SAFETY: a live handle and assembler; the handler lives for the call, during which it is called.
        let polled = done(unsafe {
            aeron_subscription_poll(
                subscription.handle()?,
                Some(assemble),
                self.assembler.cast(),
                FRAGMENT_LIMIT,
            )
        });
        *self.current = ptr::null_mut();
        polled.map(|count| count as usize)
    }
}

impl Drop for Assembler {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted once.
        unsafe { aeron_fragment_assembler_delete(self.assembler) };
    }
}

/// The library's handler in the form that its poll wants.
unsafe extern "C-unwind" fn assemble(
    assembler: *mut c_void,
    buffer: *const u8,
    length: usize,
    header: *mut aeron_header_t,
) {
    // SAFETY: what the library gives is passed on.
    unsafe { aeron_fragment_assembler_handler(assembler, buffer, length, header) };
}

unsafe extern "C-unwind" fn on_message(
    data: *mut c_void,
    buffer: *const u8,
    length: usize,
    _: *mut aeron_header_t,
) {
    // SAFETY: the box of the assembler, which holds the handler of the poll that runs; the bytes live for the call.
    unsafe {
        let handler = &mut **(*data.cast::<*mut c_void>()).cast::<&mut dyn FnMut(&[u8])>();
        handler(std::slice::from_raw_parts(buffer, length));
    }
}

unsafe extern "C-unwind" fn on_fragment(
    data: *mut c_void,
    buffer: *const u8,
    length: usize,
    header: *mut aeron_header_t,
) {
    // SAFETY: the handler of the poll that runs; bytes and header live for the call; of integers all zeroes are values.
    unsafe {
        let handler = &mut **data.cast::<&mut dyn FnMut(&[u8], Header)>();
        let mut values: aeron_header_values_t = std::mem::zeroed();
        aeron_header_values(header, &mut values);
        let header = Header { flags: values.frame.flags, reserved_value: values.frame.reserved_value };
        handler(std::slice::from_raw_parts(buffer, length), header);
    }
}

fn constants(image: *mut aeron_image_t) -> Result<aeron_image_constants_t, Failure> {
    // SAFETY: integers and pointers, of which all zeroes are values; callers retain the image.
    unsafe {
        let mut constants: aeron_image_constants_t = std::mem::zeroed();
        done(aeron_image_constants(image, &mut constants))?;
        Ok(constants)
    }
}

fn describe(image: *mut aeron_image_t) -> Result<Value, Failure> {
    let constants = constants(image)?;
    // SAFETY: the image is retained, and so is the text of its source.
    let (source, position) =
        unsafe { (CStr::from_ptr(constants.source_identity), aeron_image_position(image)) };
    Ok(json!({
        "correlation": constants.correlation_id,
        "session": constants.session_id,
        "join": constants.join_position,
        "position": position,
        "source": source.to_string_lossy(),
        "termLength": constants.term_buffer_length,
    }))
}

/// The text up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
