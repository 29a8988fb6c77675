//! Attaches the packet programs to interfaces by pinned links, one pin for each program and interface. A
//! program of an earlier agent is replaced through its link, so that no packet passes unhandled. A foreign
//! program stays attached.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode, tc};

use super::super::canary;
use super::super::link;
use super::super::open_error::OpenError;
use super::super::programs;
use crate::dataplane::packets::{InterfaceState, Wanted};
use crate::errors::chain;
use crate::network::remove_clsact;
use crate::network::survey::Place;

/// Names of the programs. The same names begin the names of pins.
const XDP: &str = "lb_xdp";
const INGRESS: &str = "lb_tc_ingress";
const EGRESS: &str = "lb_tc_egress";
/// [`EGRESS`] for interfaces without Ethernet headers.
const BARE_EGRESS: &str = "lb_tc_egress_bare";
pub(super) const PROGRAMS: [&str; 4] = [XDP, INGRESS, EGRESS, BARE_EGRESS];

/// Largest MTU, in bytes, that drivers without multi-buffer XDP commonly accept. It is a page of 4,096
/// bytes less headroom, frame header and the kernel's own bookkeeping.
const COMMON_MTU: u32 = 3498;
/// Priority and handle of the filters on kernels without TCX (before 6.6).
const FILTER: NlOptions = NlOptions {
    priority: 0xcafe,
    handle: TcHandle::new(0, 1),
    classid: None,
};

/// The kernel's answers to loading the programs; an error is its text.
#[derive(Clone, Debug)]
struct Loaded {
    /// `lb_xdp`.
    xdp: Result<(), String>,
    /// `lb_tc_ingress` and `lb_tc_egress`.
    tc: Result<(), String>,
}

impl Loaded {
    /// The errors of the programs that the kernel refused.
    fn refusals(&self) -> impl Iterator<Item = &String> {
        [&self.xdp, &self.tc]
            .into_iter()
            .filter_map(|loaded| loaded.as_ref().err())
    }

    /// Whether at least one kind of program can forward packets.
    fn serves(&self) -> bool {
        self.xdp.is_ok() || self.tc.is_ok()
    }
}

/// The programs and the interfaces that they are attached to.
pub(super) struct Attachments {
    pin_dir: PathBuf,
    /// The loaded eBPF object with the programs.
    object: Ebpf,
    /// The kernel's answers; `None` until the programs are first loaded.
    loaded: Option<Loaded>,
    attached: BTreeMap<u32, (Wanted, InterfaceState)>,
    /// Whether the pins of an earlier agent have been checked.
    adopted: bool,
}

impl Attachments {
    pub(super) fn new(object: Ebpf, pin_dir: &Path) -> Self {
        Self {
            pin_dir: pin_dir.to_owned(),
            object,
            loaded: None,
            attached: BTreeMap::new(),
            adopted: false,
        }
    }

    /// Loads the programs unless that was done. Returns whether at least one kind can serve. Without
    /// `lb_xdp` packets are forwarded behind the driver; without the TC programs, only by drivers.
    ///
    /// Loading waits until the programs are needed, because the verifier takes some time.
    pub(super) fn load(&mut self) -> bool {
        let (object, pin_dir) = (&mut self.object, &self.pin_dir);
        let loaded = self.loaded.get_or_insert_with(|| {
            let loaded = Loaded {
                xdp: load_xdp(object, pin_dir).map_err(|error| chain(&error)),
                tc: load_tc(object, pin_dir).map_err(|error| chain(&error)),
            };
            for error in loaded.refusals() {
                tracing::warn!("a packet program cannot serve: {error}");
            }
            loaded
        });
        loaded.serves()
    }

    /// The reasons for which the kernel refused programs that were needed.
    pub(super) fn refusals(&self) -> Vec<String> {
        let loaded = self.loaded.iter();
        loaded.flat_map(Loaded::refusals).cloned().collect()
    }

    /// Attaches the programs to the interfaces `wanted`, and detaches them from all others.
    pub(super) fn follow(&mut self, wanted: &[Wanted]) -> Vec<InterfaceState> {
        let keep = |index: u32| wanted.iter().any(|wanted| wanted.index == index);
        if !self.adopted {
            self.adopted = true;
            for (pin, _, index) in pins(&self.pin_dir) {
                if !keep(index) {
                    detach(&pin);
                }
            }
        }
        let gone: Vec<u32> = self
            .attached
            .keys()
            .copied()
            .filter(|i| !keep(*i))
            .collect();
        for index in gone {
            self.detach_interface(index);
        }
        if wanted.is_empty() || !self.load() {
            return Vec::new();
        }
        wanted
            .iter()
            .map(|wanted| self.follow_one(wanted))
            .collect()
    }

    /// Has the programs attached anew by the next [`Attachments::follow`], as another agent may have replaced them.
    pub(super) fn distrust(&mut self) {
        self.attached.clear();
        self.adopted = false;
    }

    /// Interfaces that keep their programs until open flows have ended, although no service needs them.
    pub(super) fn left(&self) -> Vec<InterfaceState> {
        let state = |name: String, mode: &str| InterfaceState {
            name,
            mode: mode.to_owned(),
            why: Some("until flows of before are over".to_owned()),
        };
        if self.adopted {
            let attached = self.attached.values();
            let attached = attached
                .filter(|(wanted, found)| found.mode != "none" && self.is_attached(wanted, found));
            return attached
                .map(|(_, found)| state(found.name.clone(), &found.mode))
                .collect();
        }
        pins(&self.pin_dir)
            .into_iter()
            .filter(|(pin, program, _)| [XDP, INGRESS].contains(program) && link::is_live(pin))
            .map(|(_, program, index)| {
                let mode = if program == XDP { "xdp" } else { "tcx" };
                let name = nix::net::if_::if_indextoname(index).unwrap_or_default();
                state(name.to_string_lossy().into_owned(), mode)
            })
            .collect()
    }

    fn follow_one(&mut self, wanted: &Wanted) -> InterfaceState {
        if let Some((before, state)) = self.attached.get(&wanted.index)
            && before == wanted
            && self.is_attached(wanted, state)
        {
            return state.clone();
        }
        let state = attach(&mut self.object, wanted, &self.pin_dir);
        match (&state.mode[..], &state.why) {
            ("none", why) => tracing::warn!(
                interface = wanted.name,
                "no packets are forwarded: {}",
                why.as_deref().unwrap_or_default()
            ),
            (mode, _) => tracing::info!(interface = wanted.name, mode, "packets are forwarded"),
        }
        self.attached
            .insert(wanted.index, (wanted.clone(), state.clone()));
        state
    }

    /// Whether the programs are still attached; another process may have detached them.
    fn is_attached(&self, wanted: &Wanted, state: &InterfaceState) -> bool {
        let program = match &state.mode[..] {
            "xdp" => XDP,
            "tcx" => INGRESS,
            // Detached filters cannot be noticed. A link that failed is not retried.
            _ => return true,
        };
        link::is_live(&pin_of(&self.pin_dir, program, wanted.index))
    }

    fn detach_interface(&mut self, index: u32) {
        for program in PROGRAMS {
            let pin = pin_of(&self.pin_dir, program, index);
            if pin.exists() {
                detach(&pin);
            }
        }
        if let Some((wanted, state)) = self.attached.remove(&index)
            && state.mode == "tc"
        {
            remove_filters(&wanted.name);
        }
    }
}

fn load_xdp(object: &mut Ebpf, pin_dir: &Path) -> Result<(), OpenError> {
    let program: &mut Xdp = programs::program(object, XDP)?;
    program.load().map_err(programs::refused(XDP))?;
    let fd = program.fd().map_err(programs::refused(XDP))?;
    canary::check_packets(fd.as_fd(), XDP, canary::pass::XDP)?;
    programs::pin_program(object, XDP, pin_dir)
}

fn load_tc(object: &mut Ebpf, pin_dir: &Path) -> Result<(), OpenError> {
    for name in [INGRESS, EGRESS] {
        check_tc(object, name)?;
    }
    for name in [INGRESS, EGRESS] {
        programs::pin_program(object, name, pin_dir)?;
    }
    Ok(())
}

/// Loads a TC program, and runs it on test frames.
fn check_tc(object: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program: &mut SchedClassifier = programs::program(object, name)?;
    program.load().map_err(programs::refused(name))?;
    let fd = program.fd().map_err(programs::refused(name))?;
    canary::check_packets(fd.as_fd(), name, canary::pass::TC)?;
    Ok(())
}

/// Loads the program for replies that leave by an interface without Ethernet headers, unless that was done.
/// Few hosts need it.
fn load_bare(object: &mut Ebpf, pin_dir: &Path) -> Result<(), OpenError> {
    let program: &mut SchedClassifier = programs::program(object, BARE_EGRESS)?;
    if program.fd().is_ok() {
        return Ok(());
    }
    check_tc(object, BARE_EGRESS)?;
    programs::pin_program(object, BARE_EGRESS, pin_dir)
}

fn none(wanted: &Wanted, why: String) -> InterfaceState {
    InterfaceState {
        name: wanted.name.clone(),
        mode: "none".to_owned(),
        why: Some(why),
    }
}

/// Attaches the programs to an interface: one for incoming packets. If replies of backends on this host
/// leave by it, it also gets one for egress.
fn attach(object: &mut Ebpf, wanted: &Wanted, pin_dir: &Path) -> InterfaceState {
    let pin = |program| pin_of(pin_dir, program, wanted.index);
    let mut state = match &wanted.place {
        Place::Nowhere(why) => return none(wanted, why.clone()),
        Place::Driver => match to_driver(object, wanted, &pin(XDP)) {
            Ok(()) => InterfaceState {
                name: wanted.name.clone(),
                mode: "xdp".to_owned(),
                why: None,
            },
            Err(why) => behind(object, wanted, &pin(INGRESS), why),
        },
        Place::Behind(why) => behind(object, wanted, &pin(INGRESS), why.clone()),
    };
    // Only one of the two is attached, so that no packet is processed twice.
    if state.mode != "xdp" {
        detach(&pin(XDP));
    } else {
        detach(&pin(INGRESS));
    }
    let egress = if wanted.bare { BARE_EGRESS } else { EGRESS };
    if wanted.mends_replies && state.mode != "none" {
        let loaded = match wanted.bare {
            true => load_bare(object, pin_dir).map_err(|error| chain(&error)),
            false => Ok(()),
        };
        if let Err(why) = loaded.and_then(|()| to_tc(object, egress, wanted, &pin(egress))) {
            state.why = Some(format!("replies of backends on this host: {why}"));
        }
    } else {
        detach(&pin(egress));
    }
    state
}

fn behind(object: &mut Ebpf, wanted: &Wanted, pin: &Path, why: String) -> InterfaceState {
    match to_tc(object, INGRESS, wanted, pin) {
        Ok(mode) => InterfaceState {
            name: wanted.name.clone(),
            mode: mode.to_owned(),
            why: Some(why),
        },
        Err(error) => none(wanted, format!("{why}; {error}")),
    }
}

/// Attaches `lb_xdp` to the driver, or replaces the program of the link at `pin`.
///
/// # Errors
/// The reason, as a text for the operator.
fn to_driver(object: &mut Ebpf, wanted: &Wanted, pin: &Path) -> Result<(), String> {
    let program: &mut Xdp = programs::program(object, XDP).map_err(|error| chain(&error))?;
    let fd = program.fd().map_err(|_| not_taken(XDP))?;
    match link::replace(fd, pin) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => return Err(chain(&error)),
    }
    let link = program
        .attach_to_if_index(wanted.index, XdpMode::Driver)
        .and_then(|id| program.take_link(id))
        .map_err(|error| refusal(&error, wanted))?;
    keep_xdp(link, pin)
}

/// The short error for a program that was not loaded; [`Attachments::refusals`] has the full text.
fn not_taken(name: &str) -> String {
    format!("the kernel refuses {name}")
}

fn keep_xdp(link: XdpLink, pin: &Path) -> Result<(), String> {
    // Without a link (before Linux 5.9) the program would be detached when the agent ends.
    let link: FdLink = link
        .try_into()
        .map_err(|_| "the kernel has no XDP links".to_owned())?;
    link.pin(pin).map(drop).map_err(|error| error.to_string())
}

/// The reason for which a driver refuses the program, as a text for the operator.
fn refusal(error: &ProgramError, wanted: &Wanted) -> String {
    let errno = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    let name = &wanted.name;
    match errno {
        Some(libc::EBUSY | libc::EEXIST) => {
            "another program is on its XDP hook, and stays there".to_owned()
        }
        _ if wanted.mtu > COMMON_MTU => format!(
            "its MTU of {} is too large for XDP (commonly up to {COMMON_MTU})",
            wanted.mtu
        ),
        Some(libc::ENOMEM | libc::ENOSPC) => format!(
            "the driver has too few queues for XDP (ethtool -L {name} combined, one more for each \
             CPU)"
        ),
        Some(libc::EOPNOTSUPP) => format!(
            "the driver has no XDP, or large receive offload is on (ethtool -K {name} lro off)"
        ),
        _ => format!("the driver refuses: {error}"),
    }
}

/// Attaches a program behind the driver, or replaces the one of the link at `pin`. Returns the mode: `tcx`
/// or `tc`.
fn to_tc(
    object: &mut Ebpf,
    name: &'static str,
    wanted: &Wanted,
    pin: &Path,
) -> Result<&'static str, String> {
    let program: &mut SchedClassifier = programs::program(object, name).map_err(|e| chain(&e))?;
    let kind = match name {
        INGRESS => TcAttachType::Ingress,
        _ => TcAttachType::Egress,
    };
    let fd = program.fd().map_err(|_| not_taken(name))?;
    match link::replace(fd, pin) {
        Ok(true) => return Ok("tcx"),
        Ok(false) => {}
        Err(error) => return Err(chain(&error)),
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    match program.attach_with_options(&wanted.name, kind, order) {
        Ok(id) => {
            let link = program.take_link(id).map_err(|error| error.to_string())?;
            let link: FdLink = link.try_into().map_err(|_| "no link".to_owned())?;
            link.pin(pin).map_err(|error| error.to_string())?;
            Ok("tcx")
        }
        // Kernels before 6.6 have no TCX.
        Err(_) => filter(program, wanted, kind).map(|()| "tc"),
    }
}

/// Attaches the program as a filter of the `clsact` queueing discipline, which outlives the agent.
fn filter(
    program: &mut SchedClassifier,
    wanted: &Wanted,
    kind: TcAttachType,
) -> Result<(), String> {
    // An error is ignored: the qdisc may exist already.
    let _ = tc::qdisc_add_clsact(&wanted.name);
    let ours = SchedClassifierLink::attached(
        &wanted.name,
        kind,
        FILTER.priority,
        FILTER.handle,
        FILTER.classid,
    );
    let there = ours.map_err(|error| error.to_string())?;
    let replaced = program.attach_to_link(there);
    let id = match replaced {
        Ok(id) => id,
        Err(_) => program
            .attach_with_options(&wanted.name, kind, TcAttachOptions::Netlink(FILTER))
            .map_err(|error| error.to_string())?,
    };
    let link = program.take_link(id).map_err(|error| error.to_string())?;
    // Dropping the link would detach the filter.
    std::mem::forget(link);
    Ok(())
}

/// Removes the agent's filters from interfaces that have no links (kernels before 6.6).
pub(crate) fn remove_filters_of(interfaces: &[String]) {
    interfaces
        .iter()
        .for_each(|interface| remove_filters(interface));
}

/// Removes the agent's filters from an interface. The queueing discipline goes with the last of its
/// filters.
fn remove_filters(interface: &str) {
    let ends = [
        (TcAttachType::Ingress, INGRESS),
        (TcAttachType::Egress, EGRESS),
        (TcAttachType::Egress, BARE_EGRESS),
    ];
    let removed = ends.map(|(kind, program)| {
        // An error is ignored: there may be no filter.
        tc::qdisc_detach_program(interface, kind, program).is_ok()
    });
    if removed.contains(&true) {
        remove_clsact(interface);
    }
}

/// Path of the pin of a program's link on an interface. It has the interface's index: names of pins must
/// not contain dots, which some names of interfaces do.
fn pin_of(pin_dir: &Path, program: &str, index: u32) -> PathBuf {
    link::pin_of(pin_dir, &format!("{program}_{index}"))
}

/// The pins of links of packet programs: each with its program and interface.
fn pins(pin_dir: &Path) -> Vec<(PathBuf, &'static str, u32)> {
    let Ok(entries) = fs::read_dir(pin_dir.join("links")) else {
        return Vec::new();
    };
    let parse = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        PROGRAMS.into_iter().find_map(|program| {
            let index = name.strip_prefix(program)?.strip_prefix('_')?;
            Some((path.clone(), program, index.parse().ok()?))
        })
    };
    entries
        .flatten()
        .filter_map(|entry| parse(entry.path()))
        .collect()
}

/// Detaches and removes the link at `pin`, if there is one.
fn detach(pin: &Path) {
    // An error is ignored: the interface of the link may be gone.
    let _ = link::detach(pin);
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, pin = %pin.display(), "a link cannot be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn what_a_driver_says_is_put_in_words_with_the_way_out() {
        let said = |errno, mtu| {
            let error = ProgramError::SyscallError(SyscallError {
                call: "bpf_link_create",
                io_error: io::Error::from_raw_os_error(errno),
            });
            let wanted = Wanted {
                index: 7,
                name: "eth7".to_owned(),
                mtu,
                place: Place::Driver,
                takes_xdp: true,
                sends_back: true,
                mends_replies: false,
                bare: false,
                mac: None,
            };
            refusal(&error, &wanted)
        };
        for (errno, mtu, expected) in [
            (libc::EBUSY, 1500, "another program is on its XDP hook"),
            (libc::EEXIST, 9000, "another program is on its XDP hook"),
            (libc::EINVAL, 9000, "its MTU of 9000 is too large for XDP"),
            (
                libc::ENOMEM,
                1500,
                "too few queues for XDP (ethtool -L eth7",
            ),
            (
                libc::ENOSPC,
                1500,
                "too few queues for XDP (ethtool -L eth7",
            ),
            (libc::EOPNOTSUPP, 1500, "(ethtool -K eth7 lro off)"),
            (libc::EIO, 1500, "the driver refuses: "),
        ] {
            let said = said(errno, mtu);
            assert!(said.contains(expected), "{errno}: {said}");
        }
    }
}
