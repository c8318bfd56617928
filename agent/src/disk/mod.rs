//! What is on a disk: its partition table, and the volume of first-boot data. Byte layouts only; which disk it is, and
//! whether it may be written, is decided elsewhere.

pub mod gpt;
pub mod seed;
mod user_data;
