//! `lb-agent purge`: stored responses are removed from the response cache.

use clap::Args;
use lb_http::Purge as What;

use super::Control;
use super::failure::Failure;
use crate::control::message::Command;

/// Remove stored responses from the response cache
///
/// A response that is on its way while this is done is not stored.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent purge --prefix https://example.com/assets/")]
#[group(id = "what", required = true, multiple = false, args = ["url", "prefix", "tag", "all"])]
pub(super) struct Purge {
    /// The responses of this URL, in all their variants
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Those of all URLs that begin so
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// Those with this tag in their Cache-Tag or Surrogate-Key
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// All
    #[arg(long)]
    all: bool,
}

impl Purge {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let what = match (self.url, self.prefix, self.tag) {
            (Some(url), _, _) => What::Url(url),
            (None, Some(prefix), _) => What::Prefix(prefix),
            (None, None, Some(tag)) => What::Tag(tag),
            (None, None, None) => What::All,
        };
        control.change("purge", &Command::PurgeCache { what })
    }
}
