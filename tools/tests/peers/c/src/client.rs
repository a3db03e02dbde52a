//! The client, and how its calls fail.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use rusteron_client::bindings::*;
use serde_json::{Value, json};

use crate::events;
use crate::wait::Wait;

/// A driver may be stopped by the system for a while.
const DRIVER_TIMEOUT_MS: u64 = 30_000;
/// Between two duty cycles of the client's conductor.
const CONDUCTOR_SLEEP_NS: u64 = 1_000_000;

/// Why a command failed.
pub struct Failure {
    text: String,
    code: c_int,
}

impl Failure {
    /// A failure of this program's.
    pub fn of(text: String) -> Self {
        Self { text, code: 0 }
    }

    /// The error that the last call of this thread has left.
    pub fn last() -> Self {
        // SAFETY: the text is this thread's own and lives until its next call.
        unsafe {
            let text = CStr::from_ptr(aeron_errmsg()).to_string_lossy().into_owned();
            Self { text, code: aeron_errcode() }
        }
    }

    /// The driver's codes are negative in the client.
    pub fn reply(self) -> Value {
        let mut reply = json!({ "error": self.text, "kind": "error" });
        if self.code != 0 {
            reply["code"] = self.code.abs().into();
        }
        reply
    }
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.code, self.text)
    }
}

/// The result of a call that returns -1 when it fails.
pub fn done(result: c_int) -> Result<c_int, Failure> {
    if result < 0 { Err(Failure::last()) } else { Ok(result) }
}

/// Waits for the end of an asynchronous call, which `poll` tells: 1 when it has the result, 0 before.
pub fn completed<R>(what: &str, mut poll: impl FnMut(*mut R) -> c_int, none: R) -> Result<R, Failure> {
    let mut result = none;
    Wait::until(what, || Ok((done(poll(&mut result))? == 1).then_some(())))?;
    Ok(result)
}

/// Waits until the client has closed something, for which `close` gets a handler and its data.
pub fn closed(
    close: impl FnOnce(aeron_notification_t, *mut c_void) -> c_int,
    client: &Client,
) -> Result<(), Failure> {
    // Never freed: a client that is closed meanwhile may or may not tell it.
    let is_closed: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    done(close(Some(on_closed), ptr::from_ref(is_closed).cast_mut().cast()))?;
    Wait::until("the end of a resource", || {
        Ok((is_closed.load(Ordering::Acquire) || client.is_closed()).then_some(()))
    })
}

unsafe extern "C" fn on_closed(is_closed: *mut c_void) {
    // SAFETY: the flag of `closed`, which is never freed.
    unsafe { &*is_closed.cast::<AtomicBool>() }.store(true, Ordering::Release);
}

/// A client whose conductor has a thread of its own.
pub struct Client {
    pub aeron: *mut aeron_t,
    context: *mut aeron_context_t,
}

// SAFETY: the library's functions on a client may be called from any thread; they hand over to the conductor's.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    pub fn connect(directory: &str) -> Result<Self, Failure> {
        let directory = CString::new(directory).expect("a path without NUL");
        let mut it = Self { aeron: ptr::null_mut(), context: ptr::null_mut() };
        // SAFETY: each handle is made by the call before it is used, and lives until `close`; the context copies the
        // path.
        unsafe {
            done(aeron_context_init(&mut it.context))?;
            done(aeron_context_set_dir(it.context, directory.as_ptr()))?;
            let timeout_ms = std::env::var("PEERTEST_DRIVER_TIMEOUT_MS").ok();
            let timeout_ms = timeout_ms.map_or(DRIVER_TIMEOUT_MS, |text| text.parse().expect("a number"));
            done(aeron_context_set_driver_timeout_ms(it.context, timeout_ms))?;
            done(aeron_context_set_idle_sleep_duration_ns(it.context, CONDUCTOR_SLEEP_NS))?;
            events::install(it.context);
            done(aeron_init(&mut it.aeron, it.context))?;
            done(aeron_start(it.aeron))?;
        }
        Ok(it)
    }

    pub fn id(&self) -> i64 {
        // SAFETY: the client lives.
        unsafe { aeron_client_id(self.aeron) }
    }

    pub fn is_closed(&self) -> bool {
        // SAFETY: the client lives.
        unsafe { aeron_is_closed(self.aeron) }
    }

    /// A session id that no stream with this id has on the driver.
    pub fn next_session_id(&self, stream: i32) -> Result<i32, Failure> {
        let mut pending = ptr::null_mut();
        // SAFETY: the client lives; the pending call is its own until it is completed.
        unsafe {
            done(aeron_async_next_session_id(&mut pending, self.aeron, stream))?;
            completed("the session id", |id| aeron_async_next_session_id_poll(id, pending), 0)
        }
    }

    /// Closes the client. Nothing may use it any more but threads that the end of the process takes along.
    pub fn close(&self) {
        // SAFETY: called once, at the end; the client before what it was made from.
        unsafe {
            aeron_close(self.aeron);
            aeron_context_close(self.context);
        }
    }
}
