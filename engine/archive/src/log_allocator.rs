//! How a part of a node has the log of an image allocated once the sender is authenticated.

use std::fmt;
use std::sync::Arc;

/// Has the media driver allocate the whole log of an image whose subscription has `log-allocation=hint`. Until then only its
/// first bytes are allocated, and the stream stands still behind them.
#[derive(Clone)]
pub struct LogAllocator(Arc<dyn Fn(i64) + Send + Sync>);

impl LogAllocator {
    /// Allocates by `allocate`, which is given the image's correlation id. Ids that it does not know must do no harm.
    pub fn new(allocate: impl Fn(i64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(allocate))
    }

    /// Has the log of an image allocated.
    pub fn allocate(&self, image_correlation_id: i64) {
        (self.0)(image_correlation_id);
    }
}

impl fmt::Debug for LogAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogAllocator")
    }
}
