//! Tickets: answers of a tracker that never change (spec 05 L18).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    answer: Option<bool>,
    wakers: Vec<Waker>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    is_ready: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, context: &Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        match state.answer {
            Some(answer) => Poll::Ready(answer),
            None => {
                if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    state.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// A question to a tracker. Its answer never changes: it may be asked any number of times, from any thread, before it
/// is ready or after. A ticket is also a future of its answer.
///
/// ```
/// use harrier_lease::{Resolver, Ticket};
///
/// let (resolver, ticket) = Ticket::new();
/// assert_eq!(ticket.answer(), None);
/// resolver.resolve(true);
/// assert!(ticket.wait() && ticket.clone().wait());
/// ```
#[derive(Debug, Clone)]
pub struct Ticket(Arc<Shared>);

impl Ticket {
    /// Creates a ticket and its resolver.
    pub fn new() -> (Resolver, Self) {
        let shared = Arc::new(Shared::default());
        (Resolver(shared.clone()), Self(shared))
    }

    /// Creates a ticket that is answered already.
    pub fn answered(answer: bool) -> Self {
        let (resolver, ticket) = Self::new();
        resolver.resolve(answer);
        ticket
    }

    /// Waits for the answer.
    pub fn wait(&self) -> bool {
        let mut state = self.0.lock();
        loop {
            if let Some(answer) = state.answer {
                return answer;
            }
            state = self.0.is_ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the answer for at most this time.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<bool> {
        let state = self.0.lock();
        let waited = self.0.is_ready.wait_timeout_while(state, timeout, |state| state.answer.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.answer
    }

    /// Returns the answer, if there is one.
    pub fn answer(&self) -> Option<bool> {
        self.0.lock().answer
    }

    /// Returns a handle that is ready when the answer is; it does not contain the answer.
    pub fn ready(&self) -> Ready {
        Ready(self.0.clone())
    }
}

impl Future for Ticket {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        self.0.poll(context)
    }
}

/// Readiness of a ticket: a future to select on, or a value to poll.
#[derive(Debug, Clone)]
pub struct Ready(Arc<Shared>);

impl Ready {
    /// True when the ticket is answered.
    pub fn is_ready(&self) -> bool {
        self.0.lock().answer.is_some()
    }
}

impl Future for Ready {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll(context).map(drop)
    }
}

/// Answers a ticket once. When it is dropped, the answer is false.
#[derive(Debug)]
pub struct Resolver(Arc<Shared>);

impl Resolver {
    /// Answers the ticket.
    pub fn resolve(self, answer: bool) {
        self.set(answer);
    }

    fn set(&self, answer: bool) {
        let mut state = self.0.lock();
        if state.answer.is_some() {
            return;
        }
        state.answer = Some(answer);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.0.is_ready.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_answer_never_changes() {
        // Spec 05 L18.
        let (resolver, ticket) = Ticket::new();
        assert_eq!((ticket.answer(), ticket.ready().is_ready()), (None, false));
        assert_eq!(ticket.wait_timeout(Duration::from_millis(1)), None);
        resolver.resolve(true);
        for _ in 0..2 {
            assert!(ticket.wait() && ticket.clone().wait());
            assert_eq!(ticket.wait_timeout(Duration::ZERO), Some(true));
        }
        assert!(ticket.ready().is_ready());
        assert!(!Ticket::answered(false).wait());
        let (resolver, ticket) = Ticket::new();
        drop(resolver);
        assert!(!ticket.wait());
    }

    #[test]
    fn all_threads_are_woken() {
        let (resolver, ticket) = Ticket::new();
        #[expect(clippy::disallowed_methods, reason = "a ticket is waited for on any thread")]
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let ticket = ticket.clone();
                std::thread::spawn(move || ticket.wait())
            })
            .collect();
        resolver.resolve(true);
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
    }

    #[test]
    fn futures_are_woken_once_each() {
        let (resolver, ticket) = Ticket::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let (mut future, mut ready) = (ticket.clone(), ticket.ready());
        assert_eq!(Pin::new(&mut future).poll(&mut context), Poll::Pending);
        assert_eq!(Pin::new(&mut future).poll(&mut context), Poll::Pending);
        assert_eq!(Pin::new(&mut ready).poll(&mut context), Poll::Pending);
        resolver.resolve(true);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(Pin::new(&mut future).poll(&mut context), Poll::Ready(true));
        assert_eq!(Pin::new(&mut ready).poll(&mut context), Poll::Ready(()));
    }
}
