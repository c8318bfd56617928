//! The virtual lab: a site in a network namespace, QEMU machines, and BMCs that really switch them.

pub mod bmc;
