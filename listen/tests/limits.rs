//! A server under those who mean it harm, over real sockets.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use slipway_listen::{Limits, room_for_connections, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

fn short() -> Limits {
    Limits {
        connections: 60,
        per_address: 20,
        head: Duration::from_millis(300),
        progress: Duration::from_millis(500),
        ..Limits::default()
    }
}

/// A small page, an echo of what is posted, and a stream without end that speaks now and then.
async fn start(limits: Limits) -> SocketAddr {
    let ticks = || async {
        let ticks = futures_ticks();
        Body::from_stream(ticks)
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/echo", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/big", get(|| async { vec![7_u8; 64 << 20] }))
        .route("/ticks", get(ticks));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, limits, CancellationToken::new()));
    address
}

/// A piece each 200 ms, ten of them.
fn futures_ticks() -> impl futures::Stream<Item = Result<&'static str, std::io::Error>> + Send {
    futures::stream::unfold(0, |n| async move {
        if n == 10 {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        Some((Ok("tick\n"), n + 1))
    })
}

/// Whether somebody at another address is served.
async fn is_served(address: SocketAddr) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut tcp = socket.connect(address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut heard = String::new();
    timeout(LIMIT, tcp.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    heard.ends_with("hello")
}

async fn until_closed(mut tcp: TcpStream) -> Duration {
    let begun = Instant::now();
    let mut heard = Vec::new();
    timeout(LIMIT, tcp.read_to_end(&mut heard))
        .await
        .expect("closed in time")
        .ok();
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_half_sent_and_idle_connections_are_closed_and_others_served() {
    let address = start(short()).await;
    for beginning in [
        &b""[..],
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
    ] {
        let mut crowd = Vec::new();
        for _ in 0..15 {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(beginning).await.unwrap();
            crowd.push(tcp);
        }
        assert!(is_served(address).await);
        for tcp in crowd {
            until_closed(tcp).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_takes_only_its_share_of_the_places() {
    let address = start(Limits {
        head: LIMIT,
        ..short()
    })
    .await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let mut closed = 0;
    for tcp in &mut crowd {
        let mut byte = [0];
        if let Ok(Ok(0)) = timeout(Duration::from_millis(50), tcp.read(&mut byte)).await {
            closed += 1;
        }
    }
    assert_eq!(closed, 80, "twenty of one address stay");
    assert!(is_served(address).await, "others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_broken_off() {
    let address = start(short()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut tcp = socket.connect(address).await.unwrap();
    tcp.write_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut heard = Vec::new();
    let ended = timeout(LIMIT, tcp.read_to_end(&mut heard))
        .await
        .expect("it ends");
    assert!(
        ended.is_err() || heard.len() < 64 << 20,
        "it was broken off: {}",
        heard.len()
    );
    assert!(is_served(address).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_slow_but_moves_goes_on() {
    let address = start(short()).await;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET /ticks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut heard = String::new();
    timeout(LIMIT, tcp.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        heard.matches("tick").count(),
        10,
        "a live stream is longer than any limit"
    );
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        tcp.write_all(b"x").await.unwrap();
    }
    let mut heard = String::new();
    timeout(LIMIT, tcp.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert!(heard.ends_with("10"), "a slow upload, too: {heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let address = start(Limits {
        head: LIMIT,
        ..short()
    })
    .await;
    let long = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let many: String = (0..500).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    for head in [long, many] {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let _ = tcp.write_all(head.as_bytes()).await;
        let mut heard = Vec::new();
        let _ = timeout(LIMIT, tcp.read_to_end(&mut heard))
            .await
            .expect("refused in time");
        assert!(!String::from_utf8_lossy(&heard).contains("hello"));
        assert!(is_served(address).await);
    }
    assert!(room_for_connections() > 100);
}
