//! The expiry policy of flows, as a pure function.

use lb_common::abi::packet::{PacketSettings, state};
use lb_common::abi::protocol;

use super::flows::Met;
use lb_common::flows::End;

/// The collector's decision about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The flow stays in the table.
    Keep,
    /// The flow has ended, and both ends know it: its entry is removed.
    Forget,
    /// The flow has been idle for too long: both ends are told, since they may not know.
    Expire,
    /// A TCP flow has lost its backend: both ends are told.
    Orphan,
}

/// The state of a flow's backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// The backend serves its clients.
    Here,
    /// The backend is out of service: it is down, or its drain is over.
    Down,
    /// The backend was removed, or its flows were closed.
    Gone,
}

/// The decision about a flow at `now_s`, in seconds of the kernel's clock.
pub(super) fn expiry(flow: &Met, served: Served, now_s: u32, ages: &PacketSettings) -> Expiry {
    let idle_s = now_s.saturating_sub(flow.last_s());
    let tcp = is_tcp(flow);
    if tcp && state::is_ended(flow.at.state) {
        return if idle_s >= ages.closing_s {
            Expiry::Forget
        } else {
            Expiry::Keep
        };
    }
    match (served, tcp) {
        (Served::Gone, true) => return Expiry::Orphan,
        // A UDP flow has no end of its own: its client's next datagram goes to another backend.
        (Served::Down, false) => return Expiry::Forget,
        // The packet program tells a UDP client when its next datagram arrives.
        _ => {}
    }
    let (limit_s, tell) = match (tcp, flow.has(state::ESTABLISHED)) {
        (false, _) => (ages.udp_s, false),
        (true, false) => (ages.syn_s, false),
        (true, true) => (ages.established_s, true),
    };
    match idle_s >= limit_s {
        false => Expiry::Keep,
        true if tell => Expiry::Expire,
        true => Expiry::Forget,
    }
}

fn is_tcp(flow: &Met) -> bool {
    flow.key.protocol == u32::from(protocol::TCP)
}

/// Seconds without an answer to a client's SYN after which the attempt counts as failed. A client repeats
/// its SYN after one second, then after two and four more (RFC 6298, section 2).
const PATIENCE_S: u32 = 2;

/// Whether an unanswered attempt to open a connection has passed its time limit between these two walks.
/// Each attempt is thus counted once.
pub(super) fn is_silent(flow: &Met, [last_s, now_s]: [u32; 2]) -> bool {
    let [client_s, _] = flow.seen_s;
    let due_s = client_s.saturating_add(PATIENCE_S);
    let spoken = End::Backend.bits(state::SEEN);
    let other = state::ESTABLISHED | state::FIN | state::RST | spoken;
    is_tcp(flow) && !flow.has(other) && (last_s + 1..=now_s).contains(&due_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::BackendId;
    use lb_common::abi::packet::FlowKey;
    use lb_common::flows::At;

    const AGES: PacketSettings = PacketSettings {
        closing_s: 30,
        syn_s: 30,
        established_s: 86_400,
        udp_s: 60,
        cpus: 1,
        seed: 0,
        redirects_back: 0,
        routes_s: 0,
        sets: 1,
        ports: 1,
        rules: 0,
        syn_cookies: 0,
        key: [0; 6],
    };

    /// The given state bits, set for both ends of a flow.
    const fn both(bits: u32) -> u32 {
        bits | End::Backend.bits(bits)
    }

    fn flow(protocol: u8, state: u32, seen_s: [u32; 2]) -> Met {
        Met {
            at: At {
                state: state::IN_USE | state,
                ..At::NONE
            },
            key: FlowKey {
                protocol: protocol.into(),
                ..FlowKey::NONE
            },
            out: FlowKey::NONE,
            backend: BackendId::NONE,
            seen_s,
            next_seq: [0; 2],
        }
    }

    #[test]
    fn each_kind_of_flow_has_its_age() {
        let cases = [
            (protocol::TCP, 0, 29, Expiry::Keep),
            (protocol::TCP, 0, 30, Expiry::Forget),
            (protocol::TCP, state::ESTABLISHED, 86_399, Expiry::Keep),
            (protocol::TCP, state::ESTABLISHED, 86_400, Expiry::Expire),
            (
                protocol::TCP,
                state::ESTABLISHED | state::RST,
                29,
                Expiry::Keep,
            ),
            (
                protocol::TCP,
                state::ESTABLISHED | state::RST,
                30,
                Expiry::Forget,
            ),
            (protocol::UDP, state::ESTABLISHED, 59, Expiry::Keep),
            (protocol::UDP, state::ESTABLISHED, 60, Expiry::Forget),
        ];
        for (protocol, state, age_s, expected) in cases {
            let flow = flow(protocol, state, [1000; 2]);
            let found = expiry(&flow, Served::Here, 1000 + age_s, &AGES);
            assert_eq!(found, expected, "{protocol} {state} {age_s}");
        }
    }

    #[test]
    fn a_syn_without_an_answer_is_counted_by_one_look() {
        let syn = flow(protocol::TCP, state::SEEN, [100; 2]);
        let looks = [100, 101, 101, 102, 105, 106];
        let counted = |flow: &Met| {
            let looks = looks.windows(2);
            looks
                .filter(|look| is_silent(flow, [look[0], look[1]]))
                .count()
        };
        assert_eq!(counted(&syn), 1);
        assert_eq!(counted(&flow(protocol::UDP, state::SEEN, [100; 2])), 0);
        let answered = flow(protocol::TCP, both(state::SEEN), [100; 2]);
        assert_eq!(counted(&answered), 0);
    }

    #[test]
    fn a_flow_is_as_old_as_its_younger_direction() {
        for seen_s in [[0, 90_000], [90_000, 0]] {
            let flow = flow(protocol::TCP, state::ESTABLISHED, seen_s);
            assert_eq!(expiry(&flow, Served::Here, 90_001, &AGES), Expiry::Keep);
        }
    }

    #[test]
    fn a_fin_from_one_side_ends_nothing() {
        let half = flow(protocol::TCP, state::ESTABLISHED | state::FIN, [0; 2]);
        let other = state::ESTABLISHED | End::Backend.bits(state::FIN);
        let other = flow(protocol::TCP, other, [0; 2]);
        let whole = flow(protocol::TCP, state::ESTABLISHED | both(state::FIN), [0; 2]);
        for flow in [half, other] {
            assert_eq!(expiry(&flow, Served::Here, 40, &AGES), Expiry::Keep);
        }
        assert_eq!(expiry(&whole, Served::Here, 40, &AGES), Expiry::Forget);
    }

    #[test]
    fn a_flow_whose_backend_is_gone_ends_unless_it_has_ended() {
        let open = flow(protocol::TCP, state::ESTABLISHED, [0; 2]);
        assert_eq!(expiry(&open, Served::Gone, 1, &AGES), Expiry::Orphan);
        let reset = flow(protocol::TCP, state::ESTABLISHED | state::RST, [0; 2]);
        assert_eq!(expiry(&reset, Served::Gone, 1, &AGES), Expiry::Keep);
        let udp = flow(protocol::UDP, state::ESTABLISHED, [0; 2]);
        assert_eq!(expiry(&udp, Served::Gone, 59, &AGES), Expiry::Keep);
        assert_eq!(expiry(&udp, Served::Gone, 60, &AGES), Expiry::Forget);
    }

    #[test]
    fn datagrams_leave_a_backend_out_of_service_and_connections_stay() {
        let udp = flow(protocol::UDP, state::ESTABLISHED, [0; 2]);
        assert_eq!(expiry(&udp, Served::Down, 1, &AGES), Expiry::Forget);
        let open = flow(protocol::TCP, state::ESTABLISHED, [0; 2]);
        assert_eq!(expiry(&open, Served::Down, 1, &AGES), Expiry::Keep);
    }

    #[test]
    fn a_clock_that_is_a_second_behind_expires_nothing() {
        let flow = flow(protocol::TCP, state::ESTABLISHED, [1000; 2]);
        assert_eq!(expiry(&flow, Served::Here, 999, &AGES), Expiry::Keep);
    }
}
