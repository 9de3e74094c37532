//! A GatePay that answers every request with success, as fast as it can, and counts the refunds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

const BODY: &str = r#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":{"refundRequestId":"R-0001","prepayId":"42698101","orderAmount":"1.21","refundAmount":"1","status":"PENDING"}}"#;

pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    calls: Arc<AtomicUsize>,
}

impl Upstream {
    /// Serves until the process ends.
    pub(super) fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        // Calls that shared a sync connect at the same moment. A connection that finds the backlog full waits one
        // second.
        socket.listen(4096).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let calls = Arc::default();
        let counted = Arc::clone(&calls);
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, Arc::clone(&counted)));
                }
            });
        });
        Self { address, calls }
    }

    /// The number of refunds received.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, calls: Arc<AtomicUsize>) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    // Small answers leave at once.
    let _ = stream.set_nodelay(true);
    let mut bytes = Vec::with_capacity(4096);
    while let Ok(length @ 1..) = super::http::message(&mut stream, &mut bytes).await {
        // The proxy's own requests are not counted.
        let refund = memchr::memmem::find(&bytes[..length], b"/refund ").is_some();
        calls.fetch_add(usize::from(refund), Ordering::Relaxed);
        bytes.drain(..length);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
