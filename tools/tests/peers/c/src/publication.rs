//! A shared or exclusive publication.

use std::ffi::CStr;
use std::ptr;

use rusteron_client::bindings::*;
use serde_json::{Value, json};

use crate::client::{Client, Failure, closed, completed, done};

#[derive(Clone, Copy)]
pub enum Publication {
    Shared(*mut aeron_publication_t),
    Exclusive(*mut aeron_exclusive_publication_t),
    Closed,
}

// SAFETY: the library's handles are not bound to a thread; one at a time uses a publication, behind its lock.
unsafe impl Send for Publication {}

/// A publication that is being added.
#[derive(Clone, Copy)]
pub enum Adding {
    Shared(*mut aeron_async_add_publication_t),
    Exclusive(*mut aeron_async_add_exclusive_publication_t),
}

// SAFETY: as for publications.
unsafe impl Send for Adding {}

/// What became of an offer or a claim.
pub enum Outcome {
    Done,
    Retry,
}

/// A claim that was neither committed nor aborted.
pub struct Claim(aeron_buffer_claim_t);

impl Claim {
    pub fn message(&mut self) -> &mut [u8] {
        // SAFETY: the claimed bytes are this claim's until it is committed or aborted, which consumes it.
        unsafe { std::slice::from_raw_parts_mut(self.0.data, self.0.length) }
    }

    pub fn commit(mut self) -> Result<(), Failure> {
        // SAFETY: a claim that is neither committed nor aborted.
        done(unsafe { aeron_buffer_claim_commit(&mut self.0) }).map(drop)
    }

    pub fn abort(mut self) -> Result<(), Failure> {
        // SAFETY: a claim that is neither committed nor aborted.
        done(unsafe { aeron_buffer_claim_abort(&mut self.0) }).map(drop)
    }
}

/// Calls the function of a publication's kind with its handle.
macro_rules! call {
    ($publication:expr, $shared:ident, $exclusive:ident $(, $argument:expr)*) => {
        match *$publication {
            // SAFETY: the handle lives until the publication is closed, which leaves `Closed`; arguments live for the
            // call.
            Publication::Shared(it) => Ok(unsafe { $shared(it $(, $argument)*) }),
            // SAFETY: as above.
            Publication::Exclusive(it) => Ok(unsafe { $exclusive(it $(, $argument)*) }),
            Publication::Closed => Err(Failure::of("the publication is closed".to_owned())),
        }
    };
}

/// Begins a change of a publication's destinations.
macro_rules! change {
    ($publication:expr, $client:expr, $shared:ident, $exclusive:ident, $what:expr) => {{
        let mut pending = ptr::null_mut();
        let result = match *$publication {
            // SAFETY: publication and client live; the text is copied.
            Publication::Shared(it) => unsafe { $shared(&mut pending, $client.aeron, it, $what) },
            // SAFETY: as above.
            Publication::Exclusive(it) => unsafe { $exclusive(&mut pending, $client.aeron, it, $what) },
            Publication::Closed => return Err(Failure::of("the publication is closed".to_owned())),
        };
        done(result).map(|_| pending)
    }};
}

impl Adding {
    pub fn begin(client: &Client, channel: &CStr, stream: i32, is_exclusive: bool) -> Result<Self, Failure> {
        // SAFETY: the client lives, and copies the channel.
        unsafe {
            if is_exclusive {
                let mut pending = ptr::null_mut();
                done(aeron_async_add_exclusive_publication(
                    &mut pending,
                    client.aeron,
                    channel.as_ptr(),
                    stream,
                ))?;
                Ok(Self::Exclusive(pending))
            } else {
                let mut pending = ptr::null_mut();
                done(aeron_async_add_publication(&mut pending, client.aeron, channel.as_ptr(), stream))?;
                Ok(Self::Shared(pending))
            }
        }
    }

    pub fn registration(self) -> i64 {
        // SAFETY: the pending call lives until it is finished or cancelled, which consumes it.
        unsafe {
            match self {
                Self::Shared(pending) => aeron_async_add_publication_get_registration_id(pending),
                Self::Exclusive(pending) => {
                    aeron_async_add_exclusive_publication_get_registration_id(pending)
                }
            }
        }
    }

    pub fn finish(self) -> Result<Publication, Failure> {
        const WHAT: &str = "the publication";
        // SAFETY: the pending call lives until its poll has an outcome, and is not polled after it.
        unsafe {
            Ok(match self {
                Self::Shared(pending) => Publication::Shared(completed(
                    WHAT,
                    |it| aeron_async_add_publication_poll(it, pending),
                    ptr::null_mut(),
                )?),
                Self::Exclusive(pending) => Publication::Exclusive(completed(
                    WHAT,
                    |it| aeron_async_add_exclusive_publication_poll(it, pending),
                    ptr::null_mut(),
                )?),
            })
        }
    }

    pub fn cancel(self, client: &Client) -> Result<(), Failure> {
        // SAFETY: the pending call lives; it is not used after this.
        let result = unsafe {
            match self {
                Self::Shared(pending) => aeron_async_add_publication_cancel(client.aeron, pending),
                Self::Exclusive(pending) => {
                    aeron_async_add_exclusive_publication_cancel(client.aeron, pending)
                }
            }
        };
        done(result).map(drop)
    }
}

impl Publication {
    pub fn describe(&self) -> Result<Value, Failure> {
        // SAFETY: plain integers and pointers, of which all zeroes are values.
        let mut constants: aeron_publication_constants_t = unsafe { std::mem::zeroed() };
        done(call!(
            self,
            aeron_publication_constants,
            aeron_exclusive_publication_constants,
            &mut constants
        )?)?;
        Ok(json!({
            "session": constants.session_id,
            "registration": constants.registration_id,
            "original": constants.original_registration_id,
            "position": self.position()?,
            "initialTermId": constants.initial_term_id,
            "termLength": constants.term_buffer_length,
            "maxMessage": constants.max_message_length,
            "exclusive": matches!(self, Self::Exclusive(_)),
            "connected": self.is_connected()?,
        }))
    }

    pub fn position(&self) -> Result<i64, Failure> {
        call!(self, aeron_publication_position, aeron_exclusive_publication_position)
    }

    pub fn is_connected(&self) -> Result<bool, Failure> {
        call!(self, aeron_publication_is_connected, aeron_exclusive_publication_is_connected)
    }

    pub fn offer(&self, message: &[u8]) -> Result<Outcome, Failure> {
        outcome(call!(
            self,
            aeron_publication_offer,
            aeron_exclusive_publication_offer,
            message.as_ptr(),
            message.len(),
            None,
            ptr::null_mut()
        )?)
    }

    pub fn try_claim(&self, length: usize) -> Result<Option<Claim>, Failure> {
        // SAFETY: a length and pointers, of which all zeroes are values.
        let mut claim: aeron_buffer_claim_t = unsafe { std::mem::zeroed() };
        let result = call!(
            self,
            aeron_publication_try_claim,
            aeron_exclusive_publication_try_claim,
            length,
            &mut claim
        )?;
        Ok(match outcome(result)? {
            Outcome::Done => Some(Claim(claim)),
            Outcome::Retry => None,
        })
    }

    /// Adds a destination; returns its registration id.
    pub fn add_destination(&self, client: &Client, channel: &CStr) -> Result<i64, Failure> {
        let pending = change!(
            self,
            client,
            aeron_publication_async_add_destination,
            aeron_exclusive_publication_async_add_destination,
            channel.as_ptr()
        )?;
        // SAFETY: the pending call lives until its poll has an outcome.
        let id = unsafe { aeron_async_destination_get_registration_id(pending) };
        self.finish(pending).map(|()| id)
    }

    pub fn remove_destination(&self, client: &Client, channel: &CStr) -> Result<(), Failure> {
        let pending = change!(
            self,
            client,
            aeron_publication_async_remove_destination,
            aeron_exclusive_publication_async_remove_destination,
            channel.as_ptr()
        )?;
        self.finish(pending)
    }

    pub fn remove_destination_by_id(&self, client: &Client, id: i64) -> Result<(), Failure> {
        let pending = change!(
            self,
            client,
            aeron_publication_async_remove_destination_by_id,
            aeron_exclusive_publication_async_remove_destination_by_id,
            id
        )?;
        self.finish(pending)
    }

    /// Waits for the end of a change of destinations.
    fn finish(&self, pending: *mut aeron_async_destination_t) -> Result<(), Failure> {
        let poll = match self {
            Self::Shared(_) => aeron_publication_async_destination_poll,
            Self::Exclusive(_) | Self::Closed => aeron_exclusive_publication_async_destination_poll,
        };
        // SAFETY: the pending call lives until its poll has an outcome, and is not polled after it.
        completed("the destinations", |_: *mut ()| unsafe { poll(pending) }, ())
    }

    pub fn close(&mut self, client: &Client) -> Result<(), Failure> {
        let it = std::mem::replace(self, Self::Closed);
        closed(
            |handler, data| {
                call!(&it, aeron_publication_close, aeron_exclusive_publication_close, handler, data)
                    .unwrap_or(-1)
            },
            client,
        )
    }

    /// Ends an exclusive publication so that its receivers do not wait for what they lack.
    pub fn revoke(&mut self, client: &Client) -> Result<(), Failure> {
        let Self::Exclusive(it) = *self else {
            return Err(Failure::of("only exclusive publications are revoked".to_owned()));
        };
        *self = Self::Closed;
        // SAFETY: the handle lives until now and is not used after this.
        closed(|handler, data| unsafe { aeron_exclusive_publication_revoke(it, handler, data) }, client)
    }
}

fn outcome(position: i64) -> Result<Outcome, Failure> {
    const NOT_CONNECTED: i64 = AERON_PUBLICATION_NOT_CONNECTED as i64;
    const BACK_PRESSURED: i64 = AERON_PUBLICATION_BACK_PRESSURED as i64;
    const ADMIN_ACTION: i64 = AERON_PUBLICATION_ADMIN_ACTION as i64;
    match position {
        1.. => Ok(Outcome::Done),
        NOT_CONNECTED | BACK_PRESSURED | ADMIN_ACTION => Ok(Outcome::Retry),
        other => Err(Failure::of(format!("offer: {other}"))),
    }
}
