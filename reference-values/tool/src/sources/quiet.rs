//! Readers of formats that panic where an image is damaged: in, a step of reading; out, its result, or an error.

use std::{
    cell::Cell,
    io,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// Whether a panic of this thread is an error of what is read.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Does a step; a panic in it becomes an error, and stderr stays as it is.
pub(super) fn contained<T>(step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                before(info);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(step));
    CONTAINED.set(outer);
    done.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::InvalidData, "the image is damaged")))
}
