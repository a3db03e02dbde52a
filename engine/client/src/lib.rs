//! Publications, subscriptions, images and counters of a media driver.
#![forbid(unsafe_code)]
