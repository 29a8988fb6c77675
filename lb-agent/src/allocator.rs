//! Memory that is not in use any more.

/// Returns memory that the calling thread has freed to the kernel. Reading the programs and the kernel's
/// types takes some twenty megabytes for a moment, which the allocator would keep.
pub fn give_back() {
    // SAFETY: it may be called at any time; if another allocator is in use it finds nothing.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
