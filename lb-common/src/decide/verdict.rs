//! The verdict on a packet, as one number, and the stages of its processing, each of which names the next.

use crate::abi::packet::PacketCounter;

/// The verdict on a packet, or the next [`Stage`]: an [`Outcome`] as one number. In the kernel it goes from
/// function to function without uninitialised parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(u64);

/// The decoded verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not ours, or the stack serves it as it is: untouched.
    Pass,
    /// It was rewritten, and the stack takes it from here.
    Stack,
    /// It goes out by the interface that it came by.
    Transmit,
    /// It goes out by this interface.
    Redirect(u32),
    /// It goes out by this interface as soon as the kernel has found out to which MAC address.
    Neighbour(u32),
    /// It is dropped, for a reason that has been counted.
    Drop,
}

impl Verdict {
    pub(crate) const PASS: Self = Self(0);
    pub(crate) const STACK: Self = Self(1 << 32);
    pub(crate) const TRANSMIT: Self = Self(2 << 32);
    const REDIRECT: u64 = 3 << 32;
    /// Dropped, for a reason that has been counted.
    pub(super) const DROPPED: Self = Self(Self::DROP);
    const DROP: u64 = 4 << 32;
    const NEIGHBOUR: u64 = 5 << 32;
    const NEXT: u64 = 6 << 32;
    /// Not decided: the long way, from its beginning.
    pub(super) const LONG_WAY: Self = Self::next(Stage::Ingress);

    /// Not decided yet: that part of the way is next.
    #[inline(always)]
    pub(crate) const fn next(stage: Stage) -> Self {
        Self(Self::NEXT | stage as u64)
    }

    /// The part of the way that is next.
    #[inline(always)]
    pub(super) const fn stage(self) -> Option<Stage> {
        if self.0 < Self::NEXT {
            return None;
        }
        match self.0.wrapping_sub(Self::NEXT) {
            0 => Some(Stage::Ingress),
            1 => Some(Stage::Flow),
            2 => Some(Stage::Forget),
            3 => Some(Stage::Known),
            4 => Some(Stage::Advance),
            5 => Some(Stage::NewFlow),
            6 => Some(Stage::BackendGone),
            7 => Some(Stage::Dsr),
            8 => Some(Stage::Icmp),
            9 => Some(Stage::Reset),
            10 => Some(Stage::Error),
            11 => Some(Stage::Extensions),
            12 => Some(Stage::Received),
            13 => Some(Stage::Transitioning),
            14 => Some(Stage::Send),
            15 => Some(Stage::Leaving),
            16 => Some(Stage::LocalReply),
            17 => Some(Stage::LocalError),
            18 => Some(Stage::LocalExtensions),
            19 => Some(Stage::IcmpRelated),
            20 => Some(Stage::Mend),
            21 => Some(Stage::LocalIcmpRelated),
            22 => Some(Stage::Enter),
            25 => Some(Stage::Borrow),
            23 => Some(Stage::WayOut),
            24 => Some(Stage::LocalKnown),
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) const fn redirect(ifindex: u32) -> Self {
        Self(Self::REDIRECT | ifindex as u64)
    }

    /// Out by an interface, perhaps the one that it came by.
    #[inline(always)]
    pub(super) const fn out(ifindex: u32, ingress: u32) -> Self {
        if ifindex == ingress {
            Self::TRANSMIT
        } else {
            Self::redirect(ifindex)
        }
    }

    #[inline(always)]
    pub(crate) const fn neighbour(ifindex: u32) -> Self {
        Self(Self::NEIGHBOUR | ifindex as u64)
    }

    /// Dropped, for a reason that is not counted yet.
    #[inline(always)]
    pub(crate) const fn drop(reason: PacketCounter) -> Self {
        Self(Self::DROP | (reason as u64 + 1))
    }

    /// The reason of a drop that is not counted yet, by its number.
    #[inline(always)]
    pub(super) const fn uncounted(self) -> Option<u32> {
        if self.0 > Self::DROP && self.0 < Self::NEIGHBOUR {
            Some(self.0 as u32 - 1)
        } else {
            None
        }
    }

    /// The number.
    #[inline(always)]
    pub const fn code(self) -> u64 {
        self.0
    }

    /// The verdict with this number.
    #[inline(always)]
    pub const fn from_code(code: u64) -> Self {
        Self(code)
    }

    /// Decodes the number.
    #[inline(always)]
    pub const fn outcome(self) -> Outcome {
        match self.0 >> 32 {
            0 => Outcome::Pass,
            1 => Outcome::Stack,
            2 => Outcome::Transmit,
            3 => Outcome::Redirect(self.0 as u32),
            5 => Outcome::Neighbour(self.0 as u32),
            _ => Outcome::Drop,
        }
    }
}

/// Parts of the way; each names the next. In the kernel each is a function of its own, with its own
/// stack, which the verifier checks once. The context lies in memory that all of them share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Read the headers, and look up the destination.
    Ingress = 0,
    /// Find the flow.
    Flow = 1,
    /// A SYN on a known flow: forget the flow if it is over.
    Forget = 2,
    /// Go the way of a flow that is known.
    Known = 3,
    /// Advance the state of a flow that is not established.
    Advance = 4,
    /// Enter a new flow.
    NewFlow = 5,
    /// Tell the sender that the backend is gone.
    BackendGone = 6,
    /// Send to the owner of the slot.
    Dsr = 7,
    /// An ICMP message.
    Icmp = 8,
    /// Answer with a reset.
    Reset = 9,
    /// Answer with an ICMP error.
    Error = 10,
    /// Read the extension headers of IPv6.
    Extensions = 11,
    /// Look up the destination of a packet with a parsed IP header.
    Received = 12,
    /// Find the backend in a slot that is not clean.
    Transitioning = 13,
    /// Send to the backend that was found.
    Send = 14,
    /// Classify a packet that leaves.
    Leaving = 15,
    /// Mend a reply of a backend on this host.
    LocalReply = 16,
    /// Mend an ICMP error of this host.
    LocalError = 17,
    /// The same behind extension headers of IPv6.
    LocalExtensions = 18,
    /// Find the flow that an ICMP error is about.
    IcmpRelated = 19,
    /// Mend the error, and send it on.
    Mend = 20,
    /// Find the flow that an error of the host's own stack is about.
    LocalIcmpRelated = 21,
    /// Enter a new flow with a chosen backend.
    Enter = 22,
    /// Find the way of an ICMP error about a flow.
    WayOut = 23,
    /// Give a reply of the host itself the address of the service.
    LocalKnown = 24,
    /// Look for a source port among those of another CPU.
    Borrow = 25,
}
