//! What lists of machines, instances and jobs have in common: the text they are looked through for, and their order.

use clap::Args;

/// How a list is looked through and ordered.
#[derive(Debug, Args)]
pub(crate) struct Ordering {
    /// Only what holds this text: in a name, an address, and for machines in a MAC address, the BMC's address or the serial
    /// number too; for jobs in the name of the machine or instance, or at the beginning of the id
    #[arg(long, value_name = "TEXT")]
    q: Option<String>,
    /// Order: name, state, site, machine_type (machines) or created_at; `--sort=-name` is the other way round
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
}

impl Ordering {
    /// As the API is asked.
    pub(crate) fn asked(self) -> [(&'static str, Option<String>); 2] {
        [("q", self.q), ("sort", self.sort)]
    }
}
