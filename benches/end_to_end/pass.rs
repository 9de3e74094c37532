//! Pass-through: a bare hyper program that only forwards requests and answers, as the baseline for the proxy.
//! `end_to_end pass http[s]://<address of GatePay> [<certificate> <key>]`; the certificate is GatePay's as well.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use gatepay_proxy::tls::config;
use gatepay_tenancy::settings::ListenTls;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[derive(Clone)]
struct Way {
    gatepay: SocketAddr,
    /// For callers.
    tls: Option<TlsAcceptor>,
    /// For GatePay.
    client: Option<Arc<ClientConfig>>,
}

/// The connections to GatePay that are free, or soon will be.
type Onward = Arc<Mutex<Vec<SendRequest<Incoming>>>>;

pub(crate) fn run(arguments: &[String]) {
    let (scheme, gatepay) = arguments[0].split_once("://").unwrap();
    let mut way = Way {
        gatepay: gatepay.parse().unwrap(),
        tls: None,
        client: None,
    };
    if let Some([certificate, key]) = arguments.get(1..3) {
        let [certificate, key] = [certificate, key].map(PathBuf::from);
        way.client = (scheme == "https").then(|| config::client(Some(&certificate)).unwrap());
        let files = ListenTls {
            certificate,
            key,
            client_ca: None,
        };
        way.tls = Some(config::listener(&files, &["h2", "http/1.1"]).unwrap());
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        println!("{address}");
        std::io::stdout().flush().unwrap();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(caller(tcp, way.clone()));
        }
    });
}

async fn caller(tcp: TcpStream, way: Way) {
    match &way.tls {
        None => serve(tcp, false, way).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                serve(stream, http2, way).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, http2: bool, way: Way) {
    // Each caller's connection has its own connections to GatePay, one for each request in flight, which is the cheapest
    // way.
    let onward = Onward::default();
    let service = service_fn(move |request| {
        let (onward, way) = (Arc::clone(&onward), way.clone());
        async move { Ok::<_, Infallible>(pass(&onward, &way, request).await) }
    });
    // A caller that hangs up is not an error.
    let stream = TokioIo::new(stream);
    let _ended = if http2 {
        let server = http2::Builder::new(TokioExecutor::new());
        server.serve_connection(stream, service).await
    } else {
        let server = http1::Builder::new();
        server.serve_connection(stream, service).await
    };
}

async fn pass(onward: &Onward, way: &Way, request: Request<Incoming>) -> Response<Incoming> {
    let free = onward.lock().unwrap().pop();
    let mut sender = match free.filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => connect_on(way).await,
    };
    sender.ready().await.unwrap();
    let answer = sender.send_request(request).await.unwrap();
    onward.lock().unwrap().push(sender);
    answer
}

async fn connect_on(way: &Way) -> SendRequest<Incoming> {
    let tcp = TcpStream::connect(way.gatepay).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    match &way.client {
        None => connect(tcp).await,
        Some(config) => {
            let connector = TlsConnector::from(Arc::clone(config));
            let name = ServerName::try_from("localhost").unwrap();
            connect(connector.connect(name, tcp).await.unwrap()).await
        }
    }
}

async fn connect<S>(stream: S) -> SendRequest<Incoming>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    sender
}
