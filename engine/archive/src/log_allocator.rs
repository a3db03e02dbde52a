//! Allocation of image logs after authentication.

use std::fmt;
use std::sync::Arc;

/// Asks the media driver to allocate the whole log of an image whose subscription has `log-allocation=hint`. Until then
/// only its first bytes are allocated, and flow control stops the stream behind them.
#[derive(Clone)]
pub struct LogAllocator(Arc<dyn Fn(i64) + Send + Sync>);

impl LogAllocator {
    /// Creates an allocator from a function of the image's correlation id. The function must ignore unknown ids.
    pub fn new(allocate: impl Fn(i64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(allocate))
    }

    /// Requests the allocation of an image's log.
    pub fn allocate(&self, image_correlation_id: i64) {
        (self.0)(image_correlation_id);
    }
}

impl fmt::Debug for LogAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogAllocator")
    }
}
