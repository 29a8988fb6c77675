//! The licence and the panic handler that every object needs.

/// GPL-compatible, as some helpers ask; the sources are MIT OR Apache-2.0.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A panic that the compiler could not rule out loops for ever, which the verifier refuses: no
/// program with a reachable panic is ever loaded.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
