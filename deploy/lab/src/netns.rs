//! The lab's two network namespaces: making them, entering them, removing them. Nothing in them has an uplink.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::LabError;
use crate::state::{CENTRE_ADDRESS, LabId, Machine, SITE_ADDRESS, SITE_WAN_ADDRESS};

/// Moves the calling thread, and threads and processes it starts later, into a namespace. For ever.
///
/// # Errors
/// [`LabError::Namespace`].
pub fn enter(namespace: &str) -> Result<(), LabError> {
    let failed = |source| LabError::Namespace {
        namespace: namespace.to_owned(),
        source,
    };
    let file = File::open(format!("/run/netns/{namespace}")).map_err(failed)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|e| failed(e.into()))
}

/// Runs `work` on a thread of its own inside a namespace. Sockets made there stay there.
///
/// # Errors
/// [`LabError::Namespace`].
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter(namespace).map(|()| work()));
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes both namespaces, the bridge with a tap for each machine, and the WAN between them.
///
/// # Errors
/// [`LabError::Command`] with what `ip` said.
pub fn create(id: &LabId, machines: &[Machine]) -> Result<(), LabError> {
    let (site, centre) = (id.site(), id.centre());
    let mut script = vec![format!("netns add {site}"), format!("netns add {centre}")];
    script.push(format!(
        "link add wanc netns {centre} type veth peer name wans netns {site}"
    ));
    run("ip", &["-batch", "-"], &script.join("\n"))?;
    let inner = [
        "link set lo up".to_owned(),
        format!("addr add {CENTRE_ADDRESS}/30 dev wanc"),
        "link set wanc up".to_owned(),
    ];
    run("ip", &["-n", &centre, "-batch", "-"], &inner.join("\n"))?;
    run(
        "ip",
        &["-n", &site, "-batch", "-"],
        &site_script(machines).join("\n"),
    )
}

fn site_script(machines: &[Machine]) -> Vec<String> {
    let mut script = vec![
        "link set lo up".to_owned(),
        "link add br0 type bridge stp_state 0 forward_delay 0".to_owned(),
        // no kernel-made link-local address: duplicate address detection never ends without a carrier
        "link set br0 addrgenmode none".to_owned(),
        format!("addr add {SITE_ADDRESS}/24 dev br0"),
        "addr add fe80::1/64 dev br0 nodad".to_owned(),
        format!("addr add {SITE_WAN_ADDRESS}/30 dev wans"),
        "link set wans up".to_owned(),
    ];
    for machine in machines {
        let tap = &machine.tap;
        script.push(format!("tuntap add dev {tap} mode tap"));
        script.push(format!("link set {tap} addrgenmode none master br0 up"));
        script.push(format!("addr add {}/24 dev br0", machine.bmc_address));
    }
    script.push("link set br0 up".to_owned());
    script
}

/// Removes both namespaces; absent ones are no error.
///
/// # Errors
/// [`LabError::Command`] with what `ip` said.
pub fn remove(id: &LabId) -> Result<(), LabError> {
    for namespace in [id.site(), id.centre(), id.wan()] {
        if exists(&namespace) {
            run("ip", &["netns", "del", &namespace], "")?;
        }
    }
    Ok(())
}

/// Whether a namespace of this name exists.
pub fn exists(namespace: &str) -> bool {
    std::path::Path::new("/run/netns").join(namespace).exists()
}

/// Runs a system command with `input`; its output becomes the error when it fails.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), LabError> {
    let command = format!("{program} {}", arguments.join(" "));
    let missing = |source| LabError::Missing {
        command: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // a command that does not read its input has its own exit code to tell
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(missing)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
        .trim()
        .to_owned();
    Err(LabError::Command {
        command,
        output: text,
    })
}
