//! iPXE scripts. Pure. No script falls to a prompt: what fails is tried again, then the machine reboots. No secret stands
//! in a script beyond the one-time name of the overlay, and none on a kernel command line.

use std::net::SocketAddrV4;

use slipway_protocol::ids::MacAddr;

/// Boots the LiveOS with the machine's own overlay.
///
/// UEFI wants every initrd named on the kernel's line (`initrd=`); on BIOS that is harmless.
#[must_use]
pub fn liveos(server: SocketAddrV4, mac: MacAddr, boot_key: &str) -> String {
    let mac = mac.hyphenated();
    format!(
        "#!ipxe
set base http://{server}
set attempt:int32 0
:again
imgfree
kernel ${{base}}/liveos/vmlinuz initrd=initramfs.img initrd=overlay.img console=tty0 console=ttyS0,115200 quiet panic=30 BOOTIF=01-{mac} || goto failed
initrd --name initramfs.img ${{base}}/liveos/initramfs.img || goto failed
initrd --name overlay.img ${{base}}/boot/{mac}/{boot_key}/overlay.img || goto failed
boot || goto failed
:failed
inc attempt
iseq ${{attempt}} 5 && goto giveup ||
echo Slipway: the LiveOS could not be fetched from ${{base}}, trying again
sleep 2
goto again
:giveup
echo Slipway: rebooting
sleep 5
reboot
"
    )
}

/// Boots the disk: the machine's order, if it has one, wants nothing of the network.
#[must_use]
pub fn local() -> String {
    "#!ipxe
echo Slipway: this machine boots its disk
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x80 ||
exit 1
"
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_liveos_script_names_everything_and_ends_in_a_reboot() {
        let server = "192.0.2.1:8081".parse().unwrap();
        let script = liveos(server, MacAddr([0x52, 0x54, 0, 0, 0, 1]), "k3y");
        assert!(script.starts_with("#!ipxe\n") && script.ends_with("reboot\n"));
        for part in [
            "/boot/52-54-00-00-00-01/k3y/overlay.img",
            "initrd=initramfs.img initrd=overlay.img",
            "BOOTIF=01-52-54-00-00-00-01",
            "|| goto failed",
        ] {
            assert!(script.contains(part), "{part} in {script}");
        }
        let kernel = script.lines().find(|line| line.starts_with("kernel")).unwrap();
        assert!(!kernel.contains("k3y"), "no secret on the kernel's command line");
    }

    /// Word for word: both scripts were run by real iPXE. On BIOS the disk starts; on UEFI `exit 1`, unlike a plain
    /// `exit`, makes the firmware go on to its next boot entry.
    #[test]
    fn the_scripts_are_those_that_were_tried_on_firmware() {
        let expected = "#!ipxe
set base http://192.0.2.1:8081
set attempt:int32 0
:again
imgfree
kernel ${base}/liveos/vmlinuz initrd=initramfs.img initrd=overlay.img console=tty0 console=ttyS0,115200 quiet panic=30 BOOTIF=01-52-54-00-00-00-01 || goto failed
initrd --name initramfs.img ${base}/liveos/initramfs.img || goto failed
initrd --name overlay.img ${base}/boot/52-54-00-00-00-01/k3y/overlay.img || goto failed
boot || goto failed
:failed
inc attempt
iseq ${attempt} 5 && goto giveup ||
echo Slipway: the LiveOS could not be fetched from ${base}, trying again
sleep 2
goto again
:giveup
echo Slipway: rebooting
sleep 5
reboot
";
        let server = "192.0.2.1:8081".parse().unwrap();
        assert_eq!(liveos(server, MacAddr([0x52, 0x54, 0, 0, 0, 1]), "k3y"), expected);
        let expected = "#!ipxe
echo Slipway: this machine boots its disk
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x80 ||
exit 1
";
        assert_eq!(local(), expected);
    }
}
