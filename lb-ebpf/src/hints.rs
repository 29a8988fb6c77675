//! Optimisation barriers: they keep the compiler from removing code that the verifier needs. Each object
//! uses a part of them.
#![allow(dead_code)]

/// Keeps the compiler from leaving out an argument that a function does not use: the verifier
/// wants every function to be called as it is declared.
#[inline(always)]
pub fn kept<T>(ctx: *mut T) -> *mut T {
    #[cfg(target_arch = "bpf")]
    let mut ctx = ctx;
    #[cfg(target_arch = "bpf")]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "it is not followed")]
    // SAFETY: a move to itself changes nothing.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) ctx, options(nomem, nostack));
    }
    ctx
}

/// Hides the known range of a number from the compiler. The compiler would leave out bounds checks that it
/// can prove needless, and the verifier cannot follow its proof.
#[inline(always)]
pub fn opaque(number: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    let mut number = number;
    #[cfg(target_arch = "bpf")]
    // SAFETY: adding nothing changes nothing. (Without any instruction the line table would name
    // one place twice, which the kernel refuses.)
    unsafe {
        core::arch::asm!("{0} += 0", inout(reg) number, options(pure, nomem, nostack));
    }
    number
}

/// Hides the known range of a number from the verifier, by turning its bytes round and back.
#[inline(always)]
pub fn forgotten(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let mut number = number;
    #[cfg(target_arch = "bpf")]
    // SAFETY: it changes nothing but a register, and that back.
    unsafe {
        core::arch::asm!(
            "{0} = be64 {0}",
            "{0} = be64 {0}",
            inout(reg) number,
            options(pure, nomem, nostack)
        );
    }
    number
}
