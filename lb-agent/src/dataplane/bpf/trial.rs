//! Loads every program without attaching it. This measures the verifier's work, and pins programs to run
//! without a network (BPF_PROG_TEST_RUN).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};

use super::create;
use super::decap;
use super::load::{OBJECT, size_maps};
use super::open_error::OpenError;
use super::packet::{self, FlowSettings};

/// Most clients that the maps can hold.
const CLIENTS: u32 = 65_536;

/// Cost of loading a program.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Name of the program.
    pub name: String,
    /// Instructions that the verifier processed, each as often as it did (Linux 5.16); the limit is a
    /// million.
    pub verified: u32,
    /// Size of the program after verification, in bytes; an instruction has eight.
    pub translated: u32,
    /// Duration of the whole load.
    pub time: Duration,
}

/// The loaded programs, on separate maps.
pub struct Trial {
    object: Ebpf,
    pins: Option<PathBuf>,
}

impl Trial {
    /// Loads the object of the socket programs, without loading a program yet.
    pub fn sockets() -> Result<Self, OpenError> {
        let mut loader = EbpfLoader::new();
        size_maps(&mut loader, CLIENTS);
        Self::load_object(&mut loader, OBJECT)
    }

    /// Loads the object of the packet programs, with maps for `flows` flows and as many clients.
    pub fn packets(flows: u32) -> Result<Self, OpenError> {
        let mut loader = EbpfLoader::new();
        let settings = FlowSettings {
            flows,
            ..FlowSettings::default()
        };
        size_maps(&mut loader, flows);
        packet::size_maps(&mut loader, &settings);
        Self::load_object(&mut loader, packet::OBJECT)
    }

    /// Loads the object of `lb_decap`.
    pub fn decap() -> Result<Self, OpenError> {
        Self::load_object(&mut EbpfLoader::new(), decap::OBJECT)
    }

    fn load_object(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Self, OpenError> {
        if object.is_empty() {
            return Err(OpenError::NoObject);
        }
        Ok(Self {
            object: loader.load(object)?,
            pins: None,
        })
    }

    /// Names of the programs, in alphabetical order.
    pub fn programs(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .object
            .programs()
            .map(|(name, _)| name.into())
            .collect();
        names.sort();
        names
    }

    /// Loads one program.
    ///
    /// # Panics
    /// The object has no program of that name, or the agent does not use its type.
    pub fn load(&mut self, name: &str) -> Result<Figures, OpenError> {
        let program = self.object.program_mut(name).expect("a program");
        let begun = Instant::now();
        let loaded = match program {
            Program::SkLookup(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => panic!("{name} is of an unknown type"),
        };
        let time = begun.elapsed();
        let failed = |source| OpenError::Trial {
            name: name.to_owned(),
            source: Box::new(source),
        };
        loaded.map_err(failed)?;
        let info = program.info().map_err(failed)?;
        Ok(Figures {
            name: name.to_owned(),
            verified: info.verified_instruction_count().unwrap_or(0),
            translated: info.size_translated().unwrap_or(0),
            time,
        })
    }

    /// Pins a loaded program and every map under `dir` by their names, until this value is dropped.
    ///
    /// # Panics
    /// The program is not loaded, or the kernel refuses.
    pub fn pin(&mut self, name: &str, dir: &Path) {
        fs::create_dir_all(dir).expect("a directory in a bpf file system");
        self.pins = Some(dir.to_owned());
        // A bpf file system refuses the dots in names of the compiler's maps (".rodata").
        let maps = self.object.maps().filter(|(name, _)| !name.contains('.'));
        for (name, map) in maps {
            map.pin(dir.join(name)).expect("pin a map");
        }
        let program = self.object.program_mut(name).expect("a program");
        program.pin(dir.join(name)).expect("pin a program");
        create::UDP_CLIENTS
            .fill(create::AFFINITY_UDP, CLIENTS, dir)
            .expect("a map of UDP clients");
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let Some(dir) = &self.pins else { return };
        for pin in fs::read_dir(dir).into_iter().flatten().flatten() {
            let _ = fs::remove_file(pin.path());
        }
        let _ = fs::remove_dir(dir);
    }
}
