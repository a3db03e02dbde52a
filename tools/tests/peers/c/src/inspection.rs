//! Counters of the driver, and counters of this client's.

use std::ffi::{c_char, c_void};
use std::ptr;

use rusteron_client::bindings::*;
use serde_json::{Value, json};

use crate::client::{Client, Failure, completed, done};
use crate::command::Command;

struct Listing {
    reader: *mut aeron_counters_reader_t,
    counters: Vec<Value>,
}

pub fn counters(client: &Client) -> Value {
    // SAFETY: the client lives, and with it its reader; the listing lives for the call, during which the handler runs.
    let listing = unsafe {
        let reader = aeron_counters_reader(client.aeron);
        let mut listing = Listing { reader, counters: Vec::new() };
        let data = ptr::from_mut(&mut listing).cast();
        aeron_counters_reader_foreach_counter(reader, Some(on_counter), data);
        listing
    };
    json!({ "counters": listing.counters })
}

unsafe extern "C" fn on_counter(
    value: i64,
    id: i32,
    type_id: i32,
    _: *const u8,
    _: usize,
    label: *const c_char,
    length: usize,
    data: *mut c_void,
) {
    // SAFETY: the listing of `counters`; the label has `length` bytes, which live for the call.
    unsafe {
        let listing = &mut *data.cast::<Listing>();
        let mut registration = 0;
        aeron_counters_reader_counter_registration_id(listing.reader, id, &mut registration);
        let label = std::slice::from_raw_parts(label.cast::<u8>(), length);
        listing.counters.push(json!({
            "id": id,
            "type": type_id,
            "value": value,
            "registration": registration,
            "label": String::from_utf8_lossy(label),
        }));
    }
}

pub fn add_counter(client: &Client, command: &Command) -> Result<Value, Failure> {
    let label = command.text("label")?;
    add(command, |pending, type_id| {
        // SAFETY: the client lives and copies key and label.
        unsafe {
            aeron_async_add_counter(
                pending,
                client.aeron,
                type_id,
                ptr::null(),
                0,
                label.as_ptr().cast(),
                label.len(),
            )
        }
    })
}

/// A counter that outlives its client.
pub fn add_static_counter(client: &Client, command: &Command) -> Result<Value, Failure> {
    let label = command.text("label")?;
    let registration = command.number("registration")?;
    add(command, |pending, type_id| {
        // SAFETY: the client lives and copies key and label.
        unsafe {
            aeron_async_add_static_counter(
                pending,
                client.aeron,
                type_id,
                ptr::null(),
                0,
                label.as_ptr().cast(),
                label.len(),
                registration,
            )
        }
    })
}

fn add(
    command: &Command,
    begin: impl FnOnce(*mut *mut aeron_async_add_counter_t, i32) -> std::ffi::c_int,
) -> Result<Value, Failure> {
    let mut pending = ptr::null_mut();
    done(begin(&mut pending, command.integer("type")?))?;
    // SAFETY: the pending call lives until its poll has an outcome; the counter lives as long as the client, for it is
    // never closed, and its value is one aligned word that only this client writes.
    unsafe {
        let counter =
            completed("the counter", |it| aeron_async_add_counter_poll(it, pending), ptr::null_mut())?;
        let mut constants: aeron_counter_constants_t = std::mem::zeroed();
        done(aeron_counter_constants(counter, &mut constants))?;
        if let Some(value) = command.find("value") {
            let value = value.parse().map_err(|_| Failure::of(format!("no number: {value}")))?;
            std::sync::atomic::AtomicI64::from_ptr(aeron_counter_addr(counter))
                .store(value, std::sync::atomic::Ordering::Release);
        }
        Ok(json!({ "counter": constants.counter_id, "registration": constants.registration_id }))
    }
}
