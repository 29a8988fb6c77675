//! One agent takes the place of another without a gap: `lb-agent run --take-over`, and `lb-agent upgrade`.
//!
//! The running agent listens at `handover.sock` in its state directory. The next one connects there and gets copies
//! of its descriptors (SCM_RIGHTS): listening sockets, locks, claims on addresses. The running agent goes on with its
//! clients and changes nothing meanwhile. The next one starts as always, programs tried before they are put in
//! force, and reports that it is ready. Only then does the running one end. If the next one ends before, or takes
//! too long, the running one puts its own state in force again.
//!
//! | file | owns |
//! | --- | --- |
//! | `successor` | the running agent's side |
//! | `predecessor` | the next agent's side |
//! | `supervisor` | who would start an agent again that ends |

mod predecessor;
mod successor;
mod supervisor;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use predecessor::{Predecessor, TakeOverError};
pub use successor::{Successors, hand_over};

/// Version of the messages.
const VERSION: u32 = 1;
/// For one message.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// For the whole start of the next agent.
const START_TIME: Duration = Duration::from_secs(60);
/// Names of the running agent's standard output and error.
const OUTPUTS: [&str; 2] = ["stdout", "stderr"];

/// What the running agent says.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// It goes on, for this reason.
    Refused { reason: String },
    /// The descriptors of these names follow.
    Offered {
        version: u32,
        agent: String,
        pid: u32,
        names: Vec<String>,
    },
    /// It ends.
    Yours,
}

/// The next agent serves.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    version: u32,
}

fn socket_in(state_dir: &Path) -> PathBuf {
    state_dir.join("handover.sock")
}

#[cfg(test)]
mod tests;
