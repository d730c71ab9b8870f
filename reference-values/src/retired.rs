//! What was replaced and may still be in use: in go old values, and each is dropped here, once nobody else holds it.
//!
//! Large sets take milliseconds to give their memory back. With a second handle in keeping, the thread that happens to
//! finish with an old set last only counts down, whatever it was busy with; the keeper drops it where nothing waits.

use std::sync::Arc;

/// Replaced values.
#[derive(Debug)]
pub struct Retired<T>(Vec<Arc<T>>);

impl<T> Default for Retired<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Retired<T> {
    /// Takes a value that nobody can get any more who does not hold it already. Call it before anyone else could drop
    /// the last handle: take the handle first, then replace the value.
    pub fn keep(&mut self, old: Arc<T>) {
        self.0.push(old);
    }

    /// Drops what nobody else holds, and says how many are left. Call it on a thread that may take its time, again and
    /// again until none is left.
    pub fn drop_unused(&mut self) -> usize {
        self.0.retain(|old| Arc::strong_count(old) > 1);
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread::{self, ThreadId},
    };

    use super::Retired;

    struct Told(mpsc::Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[test]
    fn what_is_still_held_is_kept_and_dropped_on_the_keepers_thread() {
        let (tell, told) = mpsc::channel();
        let busy = Arc::new(Told(tell));
        let mut retired = Retired::default();
        retired.keep(Arc::clone(&busy));
        assert_eq!(retired.drop_unused(), 1);
        thread::spawn(move || drop(busy)).join().unwrap();
        assert!(told.try_recv().is_err(), "the busy thread dropped it");
        assert_eq!(retired.drop_unused(), 0);
        assert_eq!(told.recv().unwrap(), thread::current().id());
    }
}
