//! What makers of BMCs do in other ways than IPMI 2.0 says, or not at all; each was seen in the field. A BMC has none of it by default.

use slipway_edge::bmc::ipmi::crypto::Suite;

/// The ways of one BMC.
#[derive(Debug, Clone, Default)]
pub struct Oddities {
    /// Every answer of the session set-up has this tag, whatever the request's was.
    pub tag: Option<u8>,
    /// It says nothing to a request for this cipher suite.
    pub silent_about: Option<Suite>,
    /// It says nothing to a login by a name it does not know.
    pub silent_about_names: bool,
    /// So many requests for a session are answered "no resources".
    pub full: u32,
    /// So many bytes of 0 stand behind the answers of the session set-up, and behind the packets of a session.
    pub trailing: usize,
    /// A refusal of the session set-up ends after its status.
    pub short_refusals: bool,
    /// The checksums inside a session are wrong, the authentication codes right.
    pub wrong_checksums: bool,
    /// Answers have the request's network function, even as it is.
    pub netfn_echoed: bool,
    /// So many answers of a session have neither data nor an error.
    pub empty: u32,
    /// Boot options are set, and this completion code is the answer to reading them.
    pub boot_read: Option<u8>,
    /// It says nothing to boot options of these parameters.
    pub mute_about: Vec<u8>,
    /// So many requests to change the power are accepted and forgotten.
    pub power_forgotten: u32,
    /// What it says instead of 0xC0 when it is busy.
    pub busy_code: Option<u8>,
}

/// Counts one down; whether there was one.
pub(super) fn take(count: &mut u32) -> bool {
    let left = count.checked_sub(1);
    *count = left.unwrap_or(0);
    left.is_some()
}
