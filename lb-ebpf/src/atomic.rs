//! Atomic instructions, which the compiler has none of for BPF. Each object uses a part of them.
#![allow(dead_code)]

/// Atomic addition. `core::sync::atomic` offers none on a target without compare-and-swap, which
/// BPF is to the compiler.
///
/// # Safety
///
/// `counter` is valid and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn atomic_add(counter: *mut u64, amount: i64) {
    // SAFETY: the instruction touches the eight bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {amount}",
            counter = in(reg) counter,
            amount = in(reg) amount,
        );
    }
}

/// The same on the host, for the linters alone.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn atomic_add(counter: *mut u64, amount: i64) {
    // SAFETY: the caller vouches for the pointer.
    let counter = unsafe { core::sync::atomic::AtomicU64::from_ptr(counter) };
    counter.fetch_add(amount as u64, core::sync::atomic::Ordering::Relaxed);
}

/// Replaces the word at `place`, if that is `old`; returns the former word. Nothing is moved across it.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn replace(place: *mut u32, old: u32, new: u32) -> u32 {
    let found: u64;
    // SAFETY: the instruction touches the four bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "w0 = cmpxchg32_32(r1 + 0, w0, w2)",
            inout("r0") u64::from(old) => found,
            in("r1") place,
            in("r2") u64::from(new),
        );
    }
    found as u32
}

/// The same on the host, for the linters alone.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn replace(place: *mut u32, old: u32, new: u32) -> u32 {
    // SAFETY: the caller vouches for the pointer.
    let place = unsafe { core::sync::atomic::AtomicU32::from_ptr(place) };
    let order = core::sync::atomic::Ordering::SeqCst;
    let done = place.compare_exchange(old, new, order, order);
    done.unwrap_or_else(|found| found)
}

/// Adds to the word at `place`; returns the former word. Nothing is moved across it.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn add_fetched(place: *mut u32, amount: u32) -> u32 {
    let found: u64;
    // SAFETY: the instruction touches the four bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "w2 = atomic_fetch_add((u32 *)(r1 + 0), w2)",
            inout("r2") u64::from(amount) => found,
            in("r1") place,
        );
    }
    found as u32
}

/// The same on the host, for the linters alone.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn add_fetched(place: *mut u32, amount: u32) -> u32 {
    // SAFETY: the caller vouches for the pointer.
    let place = unsafe { core::sync::atomic::AtomicU32::from_ptr(place) };
    place.fetch_add(amount, core::sync::atomic::Ordering::SeqCst)
}

/// [`replace`] for a word of eight bytes.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn replace_64(place: *mut u64, old: u64, new: u64) -> u64 {
    let found: u64;
    // SAFETY: the instruction touches the eight bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64(r1 + 0, r0, r2)",
            inout("r0") old => found,
            in("r1") place,
            in("r2") new,
        );
    }
    found
}

/// The same on the host, for the linters alone.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn replace_64(place: *mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: the caller vouches for the pointer.
    let place = unsafe { core::sync::atomic::AtomicU64::from_ptr(place) };
    let order = core::sync::atomic::Ordering::SeqCst;
    let done = place.compare_exchange(old, new, order, order);
    done.unwrap_or_else(|found| found)
}

/// A memory barrier: accesses before it are not reordered with those behind it. x86-64 keeps the order of
/// loads among each other, as of stores, so there only the compiler has to be held back. Other processors
/// need an instruction. eBPF has none of its own, but an atomic addition that fetches is fully ordered
/// (the kernel's `Documentation/atomic_t.txt`); on arm64 it becomes `LDADDAL`, or a loop with `DMB ISH`.
#[inline(always)]
pub fn fence(_word: *mut u32) {
    #[cfg(all(target_arch = "bpf", bpf_target_arch = "x86_64"))]
    // SAFETY: it does nothing.
    unsafe {
        core::arch::asm!("");
    }
    #[cfg(all(target_arch = "bpf", not(bpf_target_arch = "x86_64")))]
    // SAFETY: a valid, aligned word of a map; it adds nothing.
    unsafe {
        add_fetched(_word, 0);
    }
}
