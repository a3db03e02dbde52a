//! The embeddable engine: driver, archive, consensus and services in one builder.
#![forbid(unsafe_code)]
