//! `expose`: makes a TCP port inside the lab reachable from where this program runs. The lab's namespaces have no
//! uplink, so bytes are carried over by this process: it listens outside and connects inside.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::exec::Place;
use crate::error::LabError;
use crate::netns;
use crate::state::{Lab, LabId};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Forwards every connection to `listener` to `target` as seen in `place`, for ever.
///
/// # Errors
/// [`LabError::NotUp`], or when the listener breaks. A target that cannot be reached only ends its connection.
pub fn expose(id: &LabId, listener: &TcpListener, place: Place, target: SocketAddr) -> Result<(), LabError> {
    Lab::load(id)?;
    let namespace = place.namespace(id);
    loop {
        let (outside, peer) = listener
            .accept()
            .map_err(LabError::file("accept on", "the exposed port"))?;
        let namespace = namespace.clone();
        std::thread::spawn(move || {
            let inside = netns::within(&namespace, || TcpStream::connect_timeout(&target, CONNECT_LIMIT));
            match inside {
                Ok(Ok(inside)) => carry(outside, inside),
                Ok(Err(error)) => tracing::warn!(%peer, %target, %error, "cannot connect inside the lab"),
                Err(error) => tracing::warn!(%peer, %error, "cannot enter the lab"),
            }
        });
    }
}

/// Carries bytes both ways until both sides have ended.
fn carry(outside: TcpStream, inside: TcpStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(&outside, &inside));
        one_way(&inside, &outside);
    });
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    // an error ends this direction as the end of the stream does; the peer sees a closed connection
    io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Write).ok();
}
