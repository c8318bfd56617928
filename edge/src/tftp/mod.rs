//! The TFTP server: RFC 1350 with options (2347), block size (2348), transfer size and timeout (2349) and window size
//! (7440). Read only, and only the files of a fixed map: there are no paths to escape from. [`packet`] reads and writes
//! bytes, [`transfer`] decides, both purely; [`server`] owns the sockets.

mod admission;
pub mod packet;
pub mod server;
pub mod transfer;
