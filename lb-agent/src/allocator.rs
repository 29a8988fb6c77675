//! Memory that is not in use any more.

/// Gives the kernel back what the calling thread has freed. Reading the programs, and the kernel's types
/// beside them, takes some twenty megabytes for a moment, which the allocator would keep.
pub fn give_back() {
    // SAFETY: it may be called at any time; where another allocator is in use it finds nothing.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
