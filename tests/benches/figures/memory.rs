//! How much memory is in use: an allocator that counts what it hands out, and gives it all to the system's.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

#[global_allocator]
static COUNTING: Counting = Counting { used: AtomicUsize::new(0), peak: AtomicUsize::new(0) };

struct Counting {
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl Counting {
    fn takes(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Relaxed) + bytes;
        // Read first: writing on every allocation would slow every thread.
        if used > self.peak.load(Relaxed) {
            self.peak.fetch_max(used, Relaxed);
        }
    }
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one that is asked for.
        let memory = unsafe { System.alloc(layout) };
        if !memory.is_null() {
            self.takes(layout.size());
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.dealloc(memory, layout) };
        self.used.fetch_sub(layout.size(), Relaxed);
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise is the one that is asked for.
        let moved = unsafe { System.realloc(memory, layout, size) };
        if !moved.is_null() {
            self.takes(size);
            self.used.fetch_sub(layout.size(), Relaxed);
        }
        moved
    }
}

/// Bytes that are allocated now.
pub(crate) fn used() -> usize {
    COUNTING.used.load(Relaxed)
}

/// What `work` gives, the bytes that it leaves allocated, and the most that it had allocated on its way.
pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = used();
    COUNTING.peak.store(before, Relaxed);
    let done = work();
    (done, used().saturating_sub(before), COUNTING.peak.load(Relaxed).saturating_sub(before))
}
