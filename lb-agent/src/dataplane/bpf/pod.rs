//! Wraps the layouts of `lb_common` in transparent newtypes that implement aya's trait for plain old data.

use lb_common::abi;

macro_rules! pod {
    ($($name:ident),+ $(,)?) => {$(
        #[doc = concat!("[`abi::", stringify!($name), "`] as a map key or value.")]
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub(super) abi::$name);

        // SAFETY: `#[repr(C)]` or transparent over integers, with no padding that is not spelled
        // out (`lb_common::abi` asserts the sizes); every bit pattern is valid.
        unsafe impl aya::Pod for $name {}
    )+};
}

pod!(
    Affinity,
    AffinityKey,
    Backend,
    BackendId,
    BackendStats,
    ListenKey,
    Meta,
    OwnerKey,
    ServiceId,
    ServiceKey,
    ServiceName,
    ServiceTable,
    SocketOwner,
);

/// [`abi::decap::DecapSettings`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(super) struct DecapSettings(pub(super) abi::decap::DecapSettings);

// SAFETY: as above.
unsafe impl aya::Pod for DecapSettings {}

// SAFETY: `#[repr(C)]` over integers, with its padding spelled out.
unsafe impl aya::Pod for super::canary::Context {}

macro_rules! packet_pod {
    ($($name:ident),+ $(,)?) => {$(
        #[doc = concat!("[`abi::packet::", stringify!($name), "`] as a map key or value.")]
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub(super) abi::packet::$name);

        // SAFETY: as above.
        unsafe impl aya::Pod for $name {}
    )+};
}

packet_pod!(
    AddressMarks,
    Device,
    DsrTable,
    FlowKey,
    Interface,
    NearVip,
    PacketBackend,
    PacketSettings,
    Target,
    Tracked,
    Vip,
    VipKey,
);

/// [`abi::access::RuleData`] in a map key.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleData(pub(super) abi::access::RuleData);

// SAFETY: as above.
unsafe impl aya::Pod for RuleData {}

/// [`abi::access::Rule`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule(pub(super) abi::access::Rule);

// SAFETY: as above.
unsafe impl aya::Pod for Rule {}

/// A zeroed value on the heap, for types that are too large for the stack.
pub(super) fn zeroed<T: aya::Pod>() -> Box<T> {
    let value = Box::<T>::new_zeroed();
    // SAFETY: plain old data: zeros are a value.
    unsafe { value.assume_init() }
}
