//! Waiting for a condition until a deadline.

use std::time::{Duration, Instant};

use crate::client::Failure;

const PATIENCE: Duration = Duration::from_secs(100);
const LONGEST_PAUSE: Duration = Duration::from_micros(100);

pub struct Wait {
    what: String,
    end: Instant,
    idle: u32,
}

impl Wait {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), end: Instant::now() + PATIENCE, idle: 0 }
    }

    /// Backs off after a look that brought nothing; an error past the deadline.
    pub fn idle(&mut self, has_worked: bool) -> Result<(), Failure> {
        if has_worked {
            self.idle = 0;
            return Ok(());
        }
        self.idle += 1;
        match self.idle {
            0..=10 => std::hint::spin_loop(),
            11..=30 => std::thread::yield_now(),
            _ => std::thread::sleep(LONGEST_PAUSE),
        }
        if Instant::now() > self.end {
            return Err(Failure::of(format!("{} did not come", self.what)));
        }
        Ok(())
    }

    /// Polls until there is a value.
    pub fn until<V>(
        what: impl Into<String>,
        mut condition: impl FnMut() -> Result<Option<V>, Failure>,
    ) -> Result<V, Failure> {
        let mut wait = Self::new(what);
        loop {
            if let Some(value) = condition()? {
                return Ok(value);
            }
            wait.idle(false)?;
        }
    }
}
