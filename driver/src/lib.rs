//! Aeron-compatible media driver.
#![forbid(unsafe_code)]
