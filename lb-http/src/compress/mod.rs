//! Compression of answers on their way to clients: gzip, brotli and zstd.
//!
//! | file | owns |
//! | --- | --- |
//! | `accept` | the codings that a client accepts: `Accept-Encoding` with its weights |
//! | `plan` | whether an answer is compressed, and how its header changes |
//! | `encoder` | the three codings behind one face, contexts used again |
//! | `body` | a body on its way, of which nothing is held back for long |

mod accept;
mod body;
mod encoder;
mod plan;

pub(crate) use body::{Coded, whole};
pub(crate) use plan::{Compressor, RequestMeta, give_back_tags};
