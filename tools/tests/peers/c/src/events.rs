//! What the client's handlers were told, in order.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;

use rusteron_client::bindings::*;

static EVENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(event: String) {
    EVENTS.lock().unwrap().push(event);
}

/// All events up to now.
pub fn so_far() -> Vec<String> {
    EVENTS.lock().unwrap().clone()
}

/// Installs all handlers of a context.
///
/// # Safety
/// `context` must be a live context from which no client was made yet.
pub unsafe fn install(context: *mut aeron_context_t) {
    let none = std::ptr::null_mut();
    // SAFETY: as the caller promises; the handlers are functions, which live for ever, and use no data of the caller's.
    unsafe {
        aeron_context_set_error_handler(context, Some(on_error), none);
        aeron_context_set_on_new_publication(context, Some(on_publication), none);
        aeron_context_set_on_new_exclusive_publication(context, Some(on_exclusive_publication), none);
        aeron_context_set_on_new_subscription(context, Some(on_subscription), none);
        aeron_context_set_on_available_counter(context, Some(on_counter), none);
        aeron_context_set_on_unavailable_counter(context, Some(on_counter_gone), none);
        aeron_context_set_on_close_client(context, Some(on_close), none);
    }
}

/// # Safety
/// `text` must end in NUL and live for the call.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

unsafe extern "C" fn on_error(_: *mut c_void, code: c_int, message: *const c_char) {
    // SAFETY: the client's message.
    let message = unsafe { text(message) };
    eprintln!("client: {code}: {message}");
    note(format!("error {code}"));
}

unsafe extern "C" fn on_publication(
    _: *mut c_void,
    channel: *const c_char,
    stream: i32,
    session: i32,
    _: i64,
) {
    // SAFETY: the client's channel.
    note(format!("publication {} {stream} {session}", unsafe { text(channel) }));
}

unsafe extern "C" fn on_exclusive_publication(
    _: *mut c_void,
    channel: *const c_char,
    stream: i32,
    session: i32,
    _: i64,
) {
    // SAFETY: the client's channel.
    note(format!("exclusive-publication {} {stream} {session}", unsafe { text(channel) }));
}

unsafe extern "C" fn on_subscription(_: *mut c_void, channel: *const c_char, stream: i32, _: i64) {
    // SAFETY: the client's channel.
    note(format!("subscription {} {stream}", unsafe { text(channel) }));
}

unsafe extern "C" fn on_counter(
    _: *mut c_void,
    _: *mut aeron_counters_reader_t,
    registration: i64,
    counter: i32,
) {
    note(format!("counter {counter} {registration}"));
}

unsafe extern "C" fn on_counter_gone(
    _: *mut c_void,
    _: *mut aeron_counters_reader_t,
    registration: i64,
    counter: i32,
) {
    note(format!("counter-gone {counter} {registration}"));
}

unsafe extern "C" fn on_close(_: *mut c_void) {
    note("closed".to_owned());
}

/// # Safety
/// `image` must be a live image.
unsafe fn session(image: *mut aeron_image_t) -> i32 {
    // SAFETY: plain integers and pointers, of which all zeroes are values; the image lives as the caller promises.
    unsafe {
        let mut constants: aeron_image_constants_t = std::mem::zeroed();
        aeron_image_constants(image, &mut constants);
        constants.session_id
    }
}

pub unsafe extern "C" fn on_image(_: *mut c_void, _: *mut aeron_subscription_t, image: *mut aeron_image_t) {
    // SAFETY: the image lives for the call.
    note(format!("image {}", unsafe { session(image) }));
}

pub unsafe extern "C" fn on_image_gone(
    _: *mut c_void,
    _: *mut aeron_subscription_t,
    image: *mut aeron_image_t,
) {
    // SAFETY: the image lives for the call.
    note(format!("image-gone {}", unsafe { session(image) }));
}
