//! The sockets of the TFTP server: one for requests, one more for each transfer, all on the address that was asked.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Instant as TokioInstant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    admission::{Admission, Admitted},
    packet::{self, Incoming},
    transfer::{Step, Transfer},
};

/// The client sent an error.
const GAVE_UP: &str = "the client gave up";

/// The files that can be had, by name.
#[derive(Debug, Clone, Default)]
pub struct Files(HashMap<String, Bytes>);

impl Files {
    /// Loads the named files of a folder; one that is not there is left out.
    ///
    /// # Errors
    /// When a file is there but cannot be read.
    pub fn load(folder: &Path, names: &[&str]) -> io::Result<Self> {
        let mut files = HashMap::new();
        for name in names {
            match std::fs::read(folder.join(name)) {
                Ok(bytes) => drop(files.insert((*name).to_owned(), Bytes::from(bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    warn!(file = name, folder = %folder.display(), "boot program not found; install the package `ipxe`");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self(files))
    }

    /// Files given by hand.
    #[must_use]
    pub fn of(files: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        Self(files.into_iter().collect())
    }

    /// A file, as firmware spells its name: with slashes of either kind, doubled, or before the name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        let parts = name.split(['/', '\\']).filter(|part| !matches!(*part, "" | "."));
        self.0.get(&parts.collect::<Vec<_>>().join("/")).cloned()
    }
}

/// A transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Who read.
    pub peer: SocketAddr,
    /// What.
    pub file: String,
    /// Bytes of the file.
    pub bytes: usize,
    /// Milliseconds it took.
    pub millis: u128,
    /// Why it ended, if not by reaching the end.
    pub failure: Option<&'static str>,
}

/// Whether a machine which is to boot has an address.
pub type IsKnown = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What is served, and who hears of it.
#[derive(Clone)]
pub struct Service {
    /// The files that can be had.
    pub files: Arc<Files>,
    /// For whom places are kept.
    pub is_known: IsKnown,
    /// Hears how transfers end.
    pub ended: mpsc::Sender<Ended>,
}

/// Serves requests on `socket`, transfers from ports of the same address `local`, until `stop`.
pub async fn run(socket: UdpSocket, local: IpAddr, service: Service, stop: CancellationToken) {
    let mut buffer = vec![0; 1500];
    let admission = Admission::default();
    let mut transfers = JoinSet::new();
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            Some(ended) = transfers.join_next() => {
                if let Err(failure) = ended {
                    error!(%failure, "TFTP: a transfer failed by a fault of its own");
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => received,
        };
        let Ok((len, peer)) = received else { continue };
        let answer = match Incoming::parse(&buffer[..len]) {
            Some(Incoming::Read { file, options }) => match service.files.get(&file) {
                Some(bytes) => {
                    let known = (service.is_known)(peer.ip());
                    let Some(admitted) = admission.admit(peer, &buffer[..len], known) else {
                        debug!(%peer, file, "TFTP: a repeated request, or too many at once");
                        continue;
                    };
                    let transfer = Transfer::new(bytes.clone(), &options);
                    let wanted = Wanted {
                        local,
                        peer,
                        file,
                        bytes: bytes.len(),
                    };
                    let (ended, stop) = (service.ended.clone(), stop.clone());
                    transfers.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = admitted.evicted() => debug!(%peer, "TFTP: an untouched transfer made room"),
                            () = serve(transfer, wanted, &admitted, ended) => {}
                        }
                    });
                    continue;
                }
                None => {
                    debug!(%peer, file, "TFTP: no such file");
                    packet::error(1, "no such file")
                }
            },
            Some(Incoming::Write) => packet::error(2, "nothing can be written here"),
            // An error must not be answered with an error, or two servers could talk for ever.
            Some(Incoming::Error(_)) => continue,
            Some(Incoming::Ack(_)) | None => packet::error(4, "a transfer starts with a read request"),
        };
        if let Err(error) = socket.send_to(&answer, peer).await {
            debug!(%peer, %error, "TFTP: the refusal cannot be sent");
        }
    }
}

/// One file that one client wants.
struct Wanted {
    local: IpAddr,
    peer: SocketAddr,
    file: String,
    bytes: usize,
}

/// Sends one file and tells how that ended.
async fn serve(mut transfer: Transfer, wanted: Wanted, admitted: &Admitted, ended: mpsc::Sender<Ended>) {
    let Wanted {
        local,
        peer,
        file,
        bytes,
    } = wanted;
    let begun = Instant::now();
    let failure = send(&mut transfer, (local, peer), admitted).await;
    if failure == Some(GAVE_UP) && transfer.is_untouched() {
        debug!(%peer, file, "TFTP: the client only asked for the size");
        return;
    }
    let millis = begun.elapsed().as_millis();
    // Nobody listening is no reason to fail a transfer that is over.
    let _ = ended.try_send(Ended {
        peer,
        file,
        bytes,
        millis,
        failure,
    });
}

/// Sends one file; gives back why it failed.
async fn send(
    transfer: &mut Transfer,
    (local, peer): (IpAddr, SocketAddr),
    admitted: &Admitted,
) -> Option<&'static str> {
    let Ok(socket) = UdpSocket::bind((local, 0)).await else {
        return Some("no port");
    };
    // A connected socket hears this peer's port alone: others cannot acknowledge for it (RFC 1350, 4).
    if socket.connect(peer).await.is_err() {
        return Some("no route");
    }
    let mut buffer = [0; 600];
    let mut step = Step::Send(transfer.begin());
    let mut until = TokioInstant::now();
    loop {
        match &step {
            Step::Send(packets) => {
                for packet in packets {
                    // A packet the kernel has no room for is a lost packet; the window is sent again.
                    let _ = socket.send(packet).await;
                }
                until = TokioInstant::now() + transfer.timeout();
            }
            // The time already waited counts: packets that bring nothing on must not keep a transfer open.
            Step::Wait => {}
            Step::Done => return None,
            Step::Ended(why) => return Some(why),
        }
        let received = match timeout_at(until, socket.recv(&mut buffer)).await {
            Err(_) => {
                step = transfer.timed_out();
                continue;
            }
            Ok(Ok(len)) => len,
            // A repeated block reached a client that had closed its port; its last ACK may wait behind that error.
            Ok(Err(_)) => match socket.try_recv(&mut buffer) {
                Ok(len) => len,
                Err(_) => return Some("the client closed its port"),
            },
        };
        step = match Incoming::parse(&buffer[..received]) {
            Some(Incoming::Ack(block)) => transfer.acknowledged(block),
            Some(Incoming::Error(_)) => Step::Ended(GAVE_UP),
            _ => Step::Wait,
        };
        if !transfer.is_untouched() {
            admitted.touch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn names_are_found_as_firmware_spells_them() {
        let files = Files::of([("undionly.kpxe".to_owned(), Bytes::from_static(b"x"))]);
        for name in [
            "undionly.kpxe",
            "/undionly.kpxe",
            "//undionly.kpxe",
            "./undionly.kpxe",
            "\\undionly.kpxe",
            ".\\\\undionly.kpxe",
        ] {
            assert!(files.get(name).is_some(), "{name}");
        }
        for name in [
            "",
            "/",
            "../undionly.kpxe",
            "undionly",
            "undionly.kpxe.bak",
            "x/undionly.kpxe",
        ] {
            assert!(files.get(name).is_none(), "{name}");
        }
    }

    /// Real clients: tftp-hpa's and curl's.
    #[tokio::test]
    async fn foreign_clients_read_whole_files_and_are_refused_others() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port().to_string();
        let content: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let files = Files::of([("undionly.kpxe".to_owned(), Bytes::from(content.clone()))]);
        let (sender, mut ended) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let local = IpAddr::from([127, 0, 0, 1]);
        let service = Service {
            files: Arc::new(files),
            is_known: Arc::new(|_| false),
            ended: sender,
        };
        tokio::spawn(run(socket, local, service, stop.clone()));
        let dir = tempfile::tempdir().unwrap();
        let got = dir.path().join("got");
        let path = got.display().to_string();
        run_client(
            "tftp",
            &[
                "127.0.0.1",
                &port,
                "-m",
                "binary",
                "-c",
                "get",
                "undionly.kpxe",
                &path,
            ],
        )
        .await;
        assert!(std::fs::read(&got).unwrap() == content, "tftp-hpa");
        let url = format!("tftp://127.0.0.1:{port}/undionly.kpxe");
        run_client("curl", &["-sS", "--tftp-blksize", "1400", "-o", &path, &url]).await;
        assert!(std::fs::read(&got).unwrap() == content, "curl");
        assert_eq!(
            ended.recv().await.map(|e| (e.bytes, e.failure)),
            Some((300_000, None))
        );
        let url = format!("tftp://127.0.0.1:{port}/../../etc/passwd");
        let outside = tokio::task::spawn_blocking(move || {
            Command::new("curl")
                .args(["-sS", "-m", "5", &url])
                .output()
                .unwrap()
                .status
        });
        assert!(!outside.await.unwrap().success(), "nothing outside the map");
        stop.cancel();
    }

    async fn run_client(program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments);
        let output =
            tokio::task::spawn_blocking(move || command.output().expect("tftp-hpa and curl are installed"));
        let output = output.await.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
