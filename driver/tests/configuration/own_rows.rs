//! Rows of the settings that Aeron does not have.

use super::rows::Row;
use super::values::*;

pub const OWN_ROWS: &[Row] = &[
    (
        "HARRIER_DRIVER_TRANSPORT",
        "harrier.driver.transport",
        "transport.kind",
        "Sockets",
        &[("io_uring", "IoUring"), ("sockets", "Sockets"), ("pigeons", REFUSED)],
    ),
    (
        "HARRIER_IMAGE_MAX_TERM_LENGTH",
        "harrier.image.max.term.length",
        "image_max_term_length",
        "0",
        &[("64m", "67108864"), ("-1", WARNED), ("x", WARNED)],
    ),
    (
        "HARRIER_LOG_ALLOCATION_LENGTH",
        "harrier.log.allocation.length",
        "log_allocation_length",
        "0",
        &[("256k", "262144"), ("-1", WARNED), ("x", WARNED)],
    ),
    (
        "HARRIER_DRIVER_EVENT_MAX_LENGTH",
        "harrier.driver.event.max.length",
        "event_max_length",
        "8192",
        &[("4k", "4096"), ("1", "4096"), ("1m", "65536"), ("x", WARNED)],
    ),
    (
        "HARRIER_DRIVER_UDP_SEGMENTATION",
        "harrier.driver.udp.segmentation",
        "transport.segmentation",
        "true",
        FLAG,
    ),
    (
        "HARRIER_DRIVER_IO_URING_SQPOLL",
        "harrier.driver.io_uring.sqpoll",
        "transport.kernel_polling",
        "false",
        FLAG,
    ),
];
