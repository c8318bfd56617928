//! The socket in the data folder: one request a connection, a line of JSON each way. Whoever may connect is this edge's own
//! user or root; the kernel says who it is.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Answer, Local, Request};

/// A request is a few hundred bytes.
const MAX_REQUEST: u64 = 16 * 1024;
/// Whoever connects says what they want within so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the socket is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("local.sock")
}

/// The bound socket, and who owns it.
pub struct Door {
    listener: UnixListener,
    owner: u32,
}

/// Binds the socket, readable and writable by its owner alone. One that an earlier process left is removed.
///
/// # Errors
/// When it cannot be made.
pub fn bind(path: &Path) -> anyhow::Result<Door> {
    let what = || format!("cannot make the socket {}", path.display());
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(what),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(what)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(what)?;
    let owner = std::fs::metadata(path).with_context(what)?.uid();
    Ok(Door { listener, owner })
}

/// Serves until `stop`.
///
/// # Errors
/// When the database fails: the process must end then.
pub async fn run(local: Arc<Local>, door: Door, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = door.listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection at the local socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        // One after the other: operations are for people, and codes are not to be guessed side by side.
        let answered = tokio::time::timeout(PATIENCE, hear(stream, door.owner)).await;
        match answered {
            Ok(Ok((stream, request, uid))) => {
                let answer = local.answer(request, uid).await?;
                tell(stream, &answer).await;
            }
            Ok(Err(error)) => warn!(
                error = format!("{error:#}"),
                "a request at the local socket is refused"
            ),
            Err(_) => warn!("nothing was asked at the local socket in time"),
        }
    }
}

async fn hear(stream: UnixStream, owner: u32) -> anyhow::Result<(UnixStream, Request, u32)> {
    let uid = stream.peer_cred().context("cannot tell who connected")?.uid();
    // Between its making and the setting of its mode anybody might have connected.
    anyhow::ensure!(uid == 0 || uid == owner, "user {uid} may not ask here");
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST));
    reader.read_line(&mut line).await?;
    let request = serde_json::from_str(&line).context("it is no request")?;
    Ok((reader.into_inner().into_inner(), request, uid))
}

async fn tell(mut stream: UnixStream, answer: &Answer) {
    let Ok(mut line) = serde_json::to_vec(answer) else {
        return;
    };
    line.push(b'\n');
    // Whoever hung up finds it in the journal.
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(&line)).await;
}
