//! What becomes of a flow that is looked at: pure.

use lb_common::abi::packet::{Flow, FlowKey, PacketSettings, flow};
use lb_common::abi::protocol;

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Keep,
    /// It is over, and both ends know.
    Forget,
    /// It is given up: nothing has come for too long, and the ends may not know.
    Expire,
    /// It is one of TCP whose backend is gone.
    Orphan,
}

/// What becomes of a flow with this entry, of which `pair` is the other one, at `now_s`. `gone`
/// says that its backend is.
pub(super) fn fate(
    key: &FlowKey,
    entry: &Flow,
    pair: Option<&Flow>,
    gone: bool,
    now_s: u32,
    ages: &PacketSettings,
) -> Fate {
    let other = pair.map_or(0, |pair| pair.flags);
    let age = |flow: &Flow| now_s.saturating_sub(flow.seen_s);
    let idle_s = pair.map_or(age(entry), |pair| age(entry).min(age(pair)));
    let tcp = key.protocol == u32::from(protocol::TCP);
    let ended = (entry.flags | other) & flow::RST != 0 || entry.flags & other & flow::FIN != 0;
    if tcp && ended {
        return if idle_s >= ages.closing_s {
            Fate::Forget
        } else {
            Fate::Keep
        };
    }
    // Of UDP the program tells the client, with its next datagram.
    if gone && tcp {
        return Fate::Orphan;
    }
    let established = entry.flags & flow::ESTABLISHED != 0;
    let (limit_s, tell) = match (tcp, established) {
        (false, _) => (ages.udp_s, false),
        (true, false) => (ages.syn_s, false),
        (true, true) => (ages.established_s, true),
    };
    match idle_s >= limit_s {
        false => Fate::Keep,
        true if tell => Fate::Expire,
        true => Fate::Forget,
    }
}

/// How long a client waits for an answer to its SYN before the attempt counts as failed. It sends
/// another after one second, and after two and four more (RFC 6298, section 2).
const PATIENCE_S: u32 = 2;

/// Whether the SYN of a flow that is not established has become too old between these two looks, so
/// that each one is counted once.
pub(super) fn is_silent(key: &FlowKey, entry: &Flow, [last_s, now_s]: [u32; 2]) -> bool {
    let due_s = entry.seen_s.saturating_add(PATIENCE_S);
    key.protocol == u32::from(protocol::TCP)
        && entry.flags & (flow::FIN | flow::RST) == 0
        && (last_s + 1..=now_s).contains(&due_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: PacketSettings = PacketSettings {
        closing_s: 30,
        syn_s: 30,
        established_s: 86_400,
        udp_s: 60,
        cpus: 1,
        seed: 0,
        redirects_back: 0,
        routes_s: 0,
    };

    fn key(protocol: u8) -> FlowKey {
        FlowKey {
            protocol: protocol.into(),
            ..FlowKey::default()
        }
    }

    fn flow_with(flags: u32, seen_s: u32) -> Flow {
        Flow {
            flags,
            seen_s,
            ..Flow::default()
        }
    }

    #[test]
    fn each_kind_of_flow_has_its_age() {
        let cases = [
            (protocol::TCP, 0, 29, Fate::Keep),
            (protocol::TCP, 0, 30, Fate::Forget),
            (protocol::TCP, flow::ESTABLISHED, 86_399, Fate::Keep),
            (protocol::TCP, flow::ESTABLISHED, 86_400, Fate::Expire),
            (protocol::TCP, flow::ESTABLISHED | flow::RST, 29, Fate::Keep),
            (
                protocol::TCP,
                flow::ESTABLISHED | flow::RST,
                30,
                Fate::Forget,
            ),
            (protocol::UDP, flow::ESTABLISHED, 59, Fate::Keep),
            (protocol::UDP, flow::ESTABLISHED, 60, Fate::Forget),
        ];
        for (protocol, flags, age_s, expected) in cases {
            let entry = flow_with(flags, 1000);
            let found = fate(&key(protocol), &entry, None, false, 1000 + age_s, &AGES);
            assert_eq!(found, expected, "{protocol} {flags} {age_s}");
        }
    }

    #[test]
    fn a_syn_without_an_answer_is_counted_by_one_look() {
        let entry = flow_with(flow::SEEN, 100);
        let looks = [100, 101, 101, 102, 105, 106];
        let counted = looks
            .windows(2)
            .filter(|look| is_silent(&key(protocol::TCP), &entry, [look[0], look[1]]));
        assert_eq!(counted.count(), 1);
        assert!(!is_silent(&key(protocol::UDP), &entry, [101, 102]));
    }

    #[test]
    fn a_flow_is_as_old_as_its_younger_direction() {
        let old = flow_with(flow::ESTABLISHED, 0);
        let young = flow_with(flow::ESTABLISHED, 90_000);
        let found = fate(
            &key(protocol::TCP),
            &old,
            Some(&young),
            false,
            90_001,
            &AGES,
        );
        assert_eq!(found, Fate::Keep);
    }

    #[test]
    fn a_fin_from_one_side_ends_nothing() {
        let half = flow_with(flow::ESTABLISHED | flow::FIN, 0);
        let other = flow_with(flow::ESTABLISHED, 0);
        let tcp = key(protocol::TCP);
        assert_eq!(
            fate(&tcp, &half, Some(&other), false, 40, &AGES),
            Fate::Keep
        );
        assert_eq!(
            fate(&tcp, &half, Some(&half), false, 40, &AGES),
            Fate::Forget
        );
    }

    #[test]
    fn a_flow_whose_backend_is_gone_ends_unless_it_has_ended() {
        let entry = flow_with(flow::ESTABLISHED, 0);
        let tcp = key(protocol::TCP);
        assert_eq!(fate(&tcp, &entry, None, true, 1, &AGES), Fate::Orphan);
        let reset = flow_with(flow::ESTABLISHED | flow::RST, 0);
        assert_eq!(fate(&tcp, &reset, None, true, 1, &AGES), Fate::Keep);
        let udp = key(protocol::UDP);
        assert_eq!(fate(&udp, &entry, None, true, 59, &AGES), Fate::Keep);
        assert_eq!(fate(&udp, &entry, None, true, 60, &AGES), Fate::Forget);
    }

    #[test]
    fn a_clock_that_is_a_second_behind_expires_nothing() {
        let entry = flow_with(flow::ESTABLISHED, 1000);
        assert_eq!(
            fate(&key(protocol::TCP), &entry, None, false, 999, &AGES),
            Fate::Keep
        );
    }
}
