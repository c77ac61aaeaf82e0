//! What is made ahead of its use, in a thread of its own.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Items that wait to be used; one more may be in the making.
const WAITING: usize = 2;

/// The items of another iterator, made a few ahead in a thread of their own while the model works.
#[derive(Debug)]
pub struct Prefetch<T> {
    ready: Option<Receiver<T>>,
    worker: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts to make them.
    pub fn of(items: impl Iterator<Item = T> + Send + 'static) -> Self {
        let (sender, ready) = sync_channel(WAITING);
        let worker = std::thread::spawn(move || {
            for item in items {
                // Sending fails once nobody wants more.
                if sender.send(item).is_err() {
                    break;
                }
            }
        });
        Self { ready: Some(ready), worker: Some(worker) }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let next = self.ready.as_ref()?.recv().ok();
        if next.is_none() {
            let ended = self.worker.take().map(JoinHandle::join);
            if let Some(Err(panic)) = ended {
                std::panic::resume_unwind(panic);
            }
        }
        next
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.ready = None;
        // The worker is at most one item away from its end; a panic of it has no one left to reach.
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn items_come_whole_and_in_order() {
        assert_eq!(Prefetch::of(0..100).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_are_made_than_may_wait() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let counted = (0..1000).inspect(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let mut items = Prefetch::of(counted);
        items.next();
        std::thread::sleep(std::time::Duration::from_millis(50));
        // One was used, the others wait, and one has no room to.
        assert!((1..=WAITING + 2).contains(&made.load(Ordering::SeqCst)), "{made:?}");
    }

    #[test]
    fn leaving_early_does_not_hang() {
        assert_eq!(Prefetch::of(0..).next(), Some(0));
    }

    #[test]
    #[should_panic(expected = "a broken item")]
    fn a_panic_in_the_worker_reaches_the_user() {
        Prefetch::of((0..3).map(|item| if item == 1 { panic!("a broken item") } else { item }))
            .for_each(drop);
    }
}
