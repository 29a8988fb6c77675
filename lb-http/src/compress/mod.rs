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

use lb_config::http::Algorithm;
use lb_http1::{Fields, Name};

pub(crate) use body::{Coded, whole};
pub(crate) use plan::{Compressor, RequestMeta, give_back_tags};

/// The coding that a client likes best by the fields of its request, the first of `offered` among equals.
pub(crate) fn best_of(fields: &Fields, offered: &[Algorithm]) -> Option<Algorithm> {
    accept::Accepted::of(fields.all(Name::AcceptEncoding)).best(offered)
}

/// The name of a coding in `Content-Encoding`.
pub(crate) const fn name_of(algorithm: Algorithm) -> &'static [u8] {
    match algorithm {
        Algorithm::Gzip => b"gzip",
        Algorithm::Brotli => b"br",
        Algorithm::Zstd => b"zstd",
    }
}
