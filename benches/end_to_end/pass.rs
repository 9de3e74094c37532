//! Pass-through: a bare hyper program that only forwards requests and answers, as the baseline for the proxy.
//! `end_to_end pass <address of GatePay> [<certificate> <key>]`.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use gatepay_proxy::tls::config;
use gatepay_tenancy::settings::ListenTls;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::Mutex;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[derive(Clone)]
struct Way {
    gatepay: SocketAddr,
    tls: Option<(TlsAcceptor, Arc<ClientConfig>)>,
}

pub(crate) fn run(arguments: &[String]) {
    let tls = arguments.get(1..3).map(|files| {
        let [certificate, key] = [&files[0], &files[1]].map(PathBuf::from);
        let client = config::client(Some(&certificate)).unwrap();
        let files = ListenTls {
            certificate,
            key,
            client_ca: None,
        };
        (
            config::listener(&files, &["h2", "http/1.1"]).unwrap(),
            client,
        )
    });
    let way = Way {
        gatepay: arguments[0].parse().unwrap(),
        tls,
    };
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
        None => serve(tcp, way).await,
        Some((acceptor, _)) => {
            if let Ok(stream) = acceptor.accept(tcp).await {
                serve(stream, way).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, way: Way) {
    // Each caller's connection has its own connection to GatePay, which is the cheapest way.
    let onward = Arc::new(Mutex::new(None));
    let service = service_fn(move |request| {
        let (onward, way) = (Arc::clone(&onward), way.clone());
        async move { Ok::<_, Infallible>(pass(&mut *onward.lock().await, &way, request).await) }
    });
    // A caller that hangs up is not an error.
    let _ended = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn pass(
    onward: &mut Option<SendRequest<Incoming>>,
    way: &Way,
    request: Request<Incoming>,
) -> Response<Incoming> {
    if onward.as_ref().is_none_or(SendRequest::is_closed) {
        let tcp = TcpStream::connect(way.gatepay).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        *onward = Some(match &way.tls {
            None => connect(tcp).await,
            Some((_, config)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = ServerName::try_from("localhost").unwrap();
                connect(connector.connect(name, tcp).await.unwrap()).await
            }
        });
    }
    let sender = onward.as_mut().unwrap();
    sender.ready().await.unwrap();
    sender.send_request(request).await.unwrap()
}

async fn connect<S>(stream: S) -> SendRequest<Incoming>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    sender
}
