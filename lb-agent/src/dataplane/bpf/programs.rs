//! Finds, loads and pins the programs of a loaded object by their names.

use std::fs;
use std::io;
use std::path::Path;

use aya::Ebpf;
use aya::programs::{Program, ProgramError};

use super::open_error::{OpenError, io_error};

/// Finds the program `name`, which must have the type `T`.
pub(super) fn program<'a, T>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut T, OpenError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or(OpenError::NoObject)?;
    program.try_into().map_err(refused(name))
}

/// Makes an error from the kernel's refusal of the program `name`.
pub(super) fn refused(name: &'static str) -> impl FnOnce(ProgramError) -> OpenError {
    move |source| {
        // The error has only the last lines of this log.
        if let ProgramError::LoadError { verifier_log, .. } = &source {
            tracing::debug!("the verifier's log of {name}:\n{verifier_log}");
        }
        OpenError::Program {
            name,
            source: Box::new(source),
        }
    }
}

/// Pins a program under a temporary name, then renames that pin. At every moment one of the two pins
/// exists.
pub(super) fn pin_program(
    object: &mut Ebpf,
    name: &'static str,
    pin_dir: &Path,
) -> Result<(), OpenError> {
    let pin = pin_dir.join("programs").join(name);
    let fresh = pin_dir.join("programs").join(format!("{name}_new"));
    remove_if_there(&fresh).map_err(io_error("remove", &fresh))?;
    let program = object.program_mut(name).ok_or(OpenError::NoObject)?;
    program
        .pin(&fresh)
        .map_err(|error| io_error("pin a program at", &fresh)(io::Error::other(error)))?;
    fs::rename(&fresh, &pin).map_err(io_error("rename to", &pin))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
