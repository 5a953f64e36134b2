//! Which server and namespace a command speaks to, and how it answers.

use clap::Args;

use super::{Error, output::Form};
use crate::client::{Client, DEFAULT_ADDRESS};

#[derive(Args, Clone, Debug)]
pub(super) struct ConnectArgs {
    /// The server, http://HOST:PORT or HOST:PORT
    #[arg(
        long,
        global = true,
        env = "DUITE_ADDR",
        value_name = "ADDR",
        default_value = DEFAULT_ADDRESS,
        help_heading = "Connection"
    )]
    addr: String,
    /// The namespace of short names
    #[arg(
        long,
        global = true,
        env = "DUITE_NAMESPACE",
        value_name = "NAME",
        default_value = "default",
        help_heading = "Connection"
    )]
    namespace: String,
}

#[derive(Args, Clone, Debug)]
pub(super) struct OutputArgs {
    /// The form of results
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORM",
        default_value = "text"
    )]
    output: Form,
}

impl ConnectArgs {
    pub(super) fn address(&self) -> &str {
        non_empty(&self.addr, DEFAULT_ADDRESS)
    }

    /// A client; nothing is connected yet.
    pub(super) fn client(&self) -> Result<Client, Error> {
        Client::builder()
            .address(self.address())
            .namespace(non_empty(&self.namespace, "default"))
            .build()
            .map_err(|error| Error::usage(error.message()))
    }
}

impl OutputArgs {
    pub(super) fn is_json(&self) -> bool {
        self.output == Form::Json
    }
}

/// A variable without content is as good as none.
fn non_empty<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}
