//! Tests the kernel's features by trying them, for `lb-agent doctor`. The tests leave nothing behind.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::{Program, ProgramType};
use aya::sys::{is_map_supported, is_program_supported};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::abi::META_MAGIC;

use super::packet::{self, FlowSettings};
use super::{canary, load, maps, sys};
use crate::errors::chain;

const BPF_SK_LOOKUP: u32 = 36;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// A feature with the result of its test.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Name of the feature.
    pub what: String,
    /// Whether lb-agent requires the feature.
    pub needed: bool,
    /// The result; an error is a text for the operator.
    pub outcome: Result<(), String>,
}

/// Tries every type of program and map that lb-agent can use.
pub fn features() -> Vec<Tried> {
    let programs = [
        ("program type sk_lookup", ProgramType::SkLookup, true),
        ("program type sock_ops", ProgramType::SockOps, true),
        ("program type xdp", ProgramType::Xdp, false),
        (
            "program type sched_cls",
            ProgramType::SchedClassifier,
            false,
        ),
        (
            "program type cgroup_sock_addr",
            ProgramType::CgroupSockAddr,
            false,
        ),
    ];
    let maps = [
        ("map type hash", MapType::Hash, true),
        ("map type lru_hash", MapType::LruHash, true),
        ("map type percpu_array", MapType::PerCpuArray, true),
        ("map type array_of_maps", MapType::ArrayOfMaps, true),
        ("map type sockhash", MapType::SockHash, true),
        ("map type sk_storage", MapType::SkStorage, true),
        ("map type lpm_trie", MapType::LpmTrie, false),
        ("map type lru_percpu_hash", MapType::LruPerCpuHash, false),
    ];
    let outcome = |supported: Result<bool, String>| match supported {
        Ok(true) => Ok(()),
        Ok(false) => Err("this kernel does not have it".to_owned()),
        Err(error) => Err(error),
    };
    let tried = |what: &str, needed, supported| Tried {
        what: what.to_owned(),
        needed,
        outcome: outcome(supported),
    };
    let programs = programs.map(|(what, kind, needed)| {
        tried(
            what,
            needed,
            is_program_supported(kind).map_err(|error| error.to_string()),
        )
    });
    let maps = maps.map(|(what, kind, needed)| {
        tried(
            what,
            needed,
            is_map_supported(kind).map_err(|error| error.to_string()),
        )
    });
    let tcx = Tried {
        what: "TCX (Linux 6.6)".to_owned(),
        needed: false,
        outcome: on_interface(1).map(drop).map_err(|error| error.to_string()),
    };
    programs.into_iter().chain(maps).chain([tcx]).collect()
}

/// Loads the programs of this binary on separate maps, and tests them.
pub fn programs() -> Vec<Tried> {
    if load::OBJECT.is_empty() || packet::OBJECT.is_empty() {
        return vec![Tried {
            what: "the eBPF programs of this binary".to_owned(),
            needed: true,
            outcome: Err("it was built without (build it with `cargo xtask build`)".to_owned()),
        }];
    }
    let mut loader = EbpfLoader::new();
    // The smallest size is enough, because the maps stay empty.
    load::size_maps(loader.btf(None), 1);
    let sockets = of_object(loader.load(load::OBJECT), true);
    let mut loader = EbpfLoader::new();
    load::size_maps(loader.btf(None), 1);
    packet::size_maps(&mut loader, &FlowSettings::default());
    let packets = of_object(loader.load(packet::OBJECT), false);
    [sockets, packets].concat()
}

/// Loads the programs of an object. Programs that are not `needed` serve backends on other hosts.
fn of_object(object: Result<Ebpf, EbpfError>, needed: bool) -> Vec<Tried> {
    let mut object = match object {
        Ok(object) => object,
        Err(error) => {
            return vec![Tried {
                what: "the maps of this binary".to_owned(),
                needed,
                outcome: Err(chain(&error)),
            }];
        }
    };
    let mut tried = Vec::new();
    for (name, program) in object.programs_mut() {
        let outcome =
            match program {
                Program::SkLookup(program) => program
                    .load()
                    .map_err(|error| chain(&error))
                    .and_then(|()| {
                        let fd = program.fd().map_err(|error| chain(&error))?;
                        canary::check(fd.as_fd(), Path::new("/nonexistent"), &[])
                            .map_err(|error| chain(&error))
                    }),
                Program::SockOps(program) => program.load().map_err(|error| chain(&error)),
                Program::Xdp(program) => program.load().map_err(|error| chain(&error)),
                Program::SchedClassifier(program) => program.load().map_err(|error| chain(&error)),
                Program::CgroupSockAddr(program) => program.load().map_err(|error| chain(&error)),
                // The agent has no program of this type. A new type must be added here.
                _ => Err("doctor does not know how to load it".to_owned()),
            };
        tried.push(Tried {
            what: format!("the program {name}"),
            needed: needed && load::PROGRAMS.contains(&name),
            outcome,
        });
    }
    tried
}

/// Names of the programs on the sk_lookup hook of this network namespace.
pub fn on_sk_lookup() -> io::Result<Vec<String>> {
    let namespace = File::open("/proc/self/ns/net")?;
    let ids = sys::programs_on(namespace.as_raw_fd() as u32, BPF_SK_LOOKUP)?;
    Ok(names(&ids))
}

/// Names of the programs on the TCX hooks of an interface.
///
/// # Errors
/// The kernel has no such hooks, or cannot list their programs.
pub fn on_interface(index: u32) -> io::Result<Vec<String>> {
    let mut ids = sys::programs_on(index, BPF_TCX_INGRESS)?;
    ids.extend(sys::programs_on(index, BPF_TCX_EGRESS)?);
    Ok(names(&ids))
}

fn names(ids: &[u32]) -> Vec<String> {
    let loaded: Vec<(u32, String)> = aya::programs::loaded_programs()
        .flatten()
        .map(|program| {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            (program.id(), name)
        })
        .collect();
    let name = |id: &u32| {
        let found = loaded.iter().find(|(other, _)| other == id);
        found.map_or_else(|| format!("program {id}"), |(_, name)| name.clone())
    };
    ids.iter().map(name).collect()
}

/// The pins of an agent.
pub struct Pins {
    /// Directory of the pins.
    pub dir: PathBuf,
    /// Version of the pinned maps' layouts.
    pub abi_version: u32,
}

/// The pins of agents, of any version, directly below `dir`, by their names.
pub fn pins_below(dir: &Path) -> Vec<Pins> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let pins = |dir: PathBuf| {
        let meta = maps::pinned_meta(&dir).ok().flatten()?;
        (meta.magic == META_MAGIC).then_some(Pins {
            dir,
            abi_version: meta.abi_version,
        })
    };
    let mut all: Vec<Pins> = entries.filter_map(|entry| pins(entry.path())).collect();
    all.sort_by(|a, b| a.dir.cmp(&b.dir));
    all
}
