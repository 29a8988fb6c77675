//! Compression of answers on their way to clients: gzip, brotli and zstd.
//!
//! | file | owns |
//! | --- | --- |
//! | `accept` | what a client takes: `Accept-Encoding` with its weights |
//! | `plan` | whether an answer is compressed, and what becomes of its header |
//! | `encoder` | the three codings behind one face, contexts used again |
//! | `body` | a body that compresses another one as it passes, and never holds back |

mod accept;
mod body;
mod encoder;
mod plan;

pub use body::{CompressError, Compressed};
pub use plan::{Asked, Compressor};
