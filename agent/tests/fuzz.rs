//! Frames of LLDP that somebody changed: none ends the agent.

use slipway_agent::lldp;

/// A data unit of these fields: type and value.
fn unit(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in fields {
        let head = u16::from(*kind) << 9 | value.len() as u16;
        bytes.extend(head.to_be_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

#[test]
fn fuzzed_lldp_ends_nothing() {
    let seeds = [
        unit(&[
            (1, b"\x04\x52\x54\x00\x00\x00\x01"),
            (2, b"\x05swp1"),
            (3, &[0, 120]),
            (4, b"uplink of m1"),
            (5, b"leaf-1"),
            (127, b"\x00\x80\xc2\x01\x00\x64"),
            (0, b""),
        ]),
        unit(&[
            (1, b"\x07chassis"),
            (2, b"\x03\x52\x54\x00\x00\x00\x02"),
            (3, &[0, 0]),
            (0, b""),
        ]),
        unit(&[
            (1, b"\x05\x01\xc0\x00\x02\x01"),
            (2, b"\x07Ethernet1/1"),
            (3, &[0xff, 0xff]),
        ]),
    ];
    let mut heard = 0_u64;
    let done = slipway_fuzz::fuzz(
        "lldp",
        &seeds,
        &[b"\xfe\x06\x00\x80\xc2\x01", &[2, 7, 4]],
        |bytes| {
            heard += u64::from(lldp::parse(bytes).is_some());
        },
    );
    assert!(heard > 3 && heard < done, "{heard} of {done} are data units");
}
