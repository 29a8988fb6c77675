//! Layouts of `lb_decap`, which has an object and maps of its own.

/// The one value of the `DECAP_SETTINGS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecapSettings {
    /// UDP port of GUE in network byte order; 0 for no GUE.
    pub gue_port_be: u16,
    /// Not 0: only the sources in `DECAP_FROM` may wrap.
    pub only_from: u16,
}
const _: () = assert!(size_of::<DecapSettings>() == 4);

/// Entries of the `DECAP_FROM` map.
pub const MAX_DECAP_FROM: usize = 1024;
