//! The site's switch as its machines see it: the other end of each cable says by LLDP who it is. Says nothing to anybody else.

use std::time::Duration;

use pnet_datalink::{Channel, Config, DataLinkSender};

use crate::state::Machine;

/// Name of the switch.
pub const NAME: &str = "lab-switch";
/// How often it speaks; real ones do each 30 s (IEEE 802.1AB-2016, section 9.2.5.7).
const EVERY: Duration = Duration::from_secs(2);
/// Nearest bridge: what is sent there goes no further than the cable (section 7.1).
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];
/// Address of the switch.
const ADDRESS: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];

/// Name of the port that a machine's cable ends at.
#[must_use]
pub fn port_of(machine: &Machine) -> String {
    format!("Ethernet{}", machine.tap.trim_start_matches("tap"))
}

/// Speaks at every machine's cable from now on, on a thread of its own, in the namespace of the calling thread.
pub fn announce(machines: &[Machine]) -> std::io::Result<()> {
    let interfaces = pnet_datalink::interfaces();
    let mut cables: Vec<(Box<dyn DataLinkSender>, Vec<u8>)> = Vec::new();
    for machine in machines {
        let Some(tap) = interfaces.iter().find(|interface| interface.name == machine.tap) else {
            continue;
        };
        if let Channel::Ethernet(sender, _) = pnet_datalink::channel(tap, Config::default())? {
            cables.push((sender, frame(&port_of(machine), &machine.name)));
        }
    }
    let speak = move || {
        loop {
            for (cable, frame) in &mut cables {
                // A machine that is off hears nothing.
                drop(cable.send_to(frame, None));
            }
            std::thread::sleep(EVERY);
        }
    };
    std::thread::Builder::new()
        .name("switch".into())
        .spawn(speak)
        .map(drop)
}

/// A whole Ethernet frame (section 8).
fn frame(port: &str, description: &str) -> Vec<u8> {
    let mut frame = [&NEAREST_BRIDGE[..], &ADDRESS, &[0x88, 0xcc]].concat();
    let mut field = |kind: u8, value: &[u8]| {
        // seven bits of type, nine of length
        let head = u16::from(kind) << 9 | u16::try_from(value.len()).unwrap_or(0x1ff);
        frame.extend(head.to_be_bytes());
        frame.extend(value);
    };
    field(1, &[&[4], &ADDRESS[..]].concat());
    field(2, &[&[5], port.as_bytes()].concat());
    field(3, &120_u16.to_be_bytes());
    field(4, description.as_bytes());
    field(5, NAME.as_bytes());
    field(127, &[0x00, 0x80, 0xc2, 1, 0, 100]);
    field(0, &[]);
    frame
}
