//! The released C media driver on threads of this process. Its settings are the variables of the environment.

use std::ffi::CString;
use std::ptr;

use rusteron_media_driver::bindings as driver;

use crate::client::{Failure, done};

pub struct Driver {
    driver: *mut driver::aeron_driver_t,
    context: *mut driver::aeron_driver_context_t,
}

impl Driver {
    pub fn launch(directory: &str) -> Result<Self, Failure> {
        let directory = CString::new(directory).expect("a path without NUL");
        let mut it = Self { driver: ptr::null_mut(), context: ptr::null_mut() };
        // SAFETY: each handle is made by the call before it is used, and lives until `drop`; the driver copies the
        // path.
        unsafe {
            done(driver::aeron_driver_context_init(&mut it.context))?;
            done(driver::aeron_driver_context_set_dir(it.context, directory.as_ptr()))?;
            done(driver::aeron_driver_init(&mut it.driver, it.context))?;
            done(driver::aeron_driver_start(it.driver, false))?;
        }
        Ok(it)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: the handles of `launch`, each closed once, the driver before what it was made from.
        unsafe {
            driver::aeron_driver_close(self.driver);
            driver::aeron_driver_context_close(self.context);
        }
    }
}
