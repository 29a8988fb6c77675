//! The packet paths, opened when the first backend needs them. Until then none of their maps takes memory,
//! and the verifier sees none of their programs.

use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::{Ebpf, EbpfLoader};

use super::super::create;
use super::super::maps::{self, CHOICES};
use super::super::open_error::OpenError;
use super::{FlowSettings, NAMES, Packets};
use crate::errors::chain;

/// The eBPF programs for packets; empty when the agent was built without them.
pub(in crate::dataplane::bpf) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-packets.o"));

/// [`Packets`], or the settings to open them with.
pub(in crate::dataplane::bpf) struct LazyPackets {
    pin_dir: PathBuf,
    flows: FlowSettings,
    open: Option<Packets>,
    /// The error of the last attempt to open them.
    refusal: Option<String>,
}

impl LazyPackets {
    /// Opens the packet paths at once if an earlier agent has left their maps.
    pub(in crate::dataplane::bpf) fn new(
        pin_dir: &Path,
        flows: &FlowSettings,
    ) -> Result<Self, OpenError> {
        let mut lazy = Self {
            pin_dir: pin_dir.to_owned(),
            flows: *flows,
            open: None,
            refusal: None,
        };
        if is_pinned(pin_dir) {
            lazy.opened()?;
        }
        Ok(lazy)
    }

    /// The packet paths, if they are open.
    pub(in crate::dataplane::bpf) fn get(&mut self) -> Option<&mut Packets> {
        self.open.as_mut()
    }

    /// The packet paths, which are opened now unless they are open.
    ///
    /// # Errors
    /// When the kernel refuses a map.
    pub(in crate::dataplane::bpf) fn opened(&mut self) -> Result<&mut Packets, OpenError> {
        let packets = match self.open.take() {
            Some(packets) => packets,
            None => {
                let opened = open(&self.pin_dir, &self.flows);
                self.refusal = opened.as_ref().err().map(|error| chain(error));
                opened?
            }
        };
        Ok(self.open.insert(packets))
    }

    /// Whether the packet paths serve. Paths that are not open yet count as serving unless an attempt to
    /// open them has failed.
    pub(in crate::dataplane::bpf) fn may_serve(&mut self) -> bool {
        match &mut self.open {
            Some(packets) => packets.check(),
            None => self.refusal.is_none(),
        }
    }

    /// The reasons for which the kernel refused programs or maps that were needed.
    pub(in crate::dataplane::bpf) fn refusals(&self) -> Vec<String> {
        let programs = self.open.iter().flat_map(Packets::refusals);
        self.refusal.iter().cloned().chain(programs).collect()
    }
}

/// Whether the maps of the packet paths are pinned.
pub(in crate::dataplane::bpf) fn is_pinned(pin_dir: &Path) -> bool {
    maps::is_pinned(pin_dir, "PACKET_SETTINGS")
}

fn open(pin_dir: &Path, flows: &FlowSettings) -> Result<Packets, OpenError> {
    create::DSR_TABLES
        .make(&maps::dir(pin_dir))
        .map_err(MapError::IoError)?;
    let mut loader = EbpfLoader::new();
    // The programs do not depend on the kernel's own types, which take some ten megabytes.
    loader.btf(None);
    size_maps(&mut loader, flows);
    for name in CHOICES.into_iter().chain(NAMES) {
        loader.map_pin_path(name, maps::pin_of(pin_dir, name));
    }
    let object: Ebpf = loader.load(OBJECT)?;
    Ok(Packets::take(object, pin_dir, flows)?)
}

/// Sets the sizes of the maps that depend on the configured number of flows.
pub(in crate::dataplane::bpf) fn size_maps(loader: &mut EbpfLoader<'_>, flows: &FlowSettings) {
    loader.map_max_entries("FLOWS4", flows.sets());
    loader.map_max_entries("FLOWS6", flows.sets());
    loader.map_max_entries("NAT_PORTS", flows.ports());
    loader.map_max_entries("TRACKED", flows.tracked_entries());
}
