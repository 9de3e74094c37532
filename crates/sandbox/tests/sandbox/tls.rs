//! The sandbox over TLS, with a certificate made for `localhost` only.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use gatepay_sandbox::{InjectedFault, Sandbox};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use crate::support::{ACME, CREATE, config, create_body, post, start};

pub(crate) fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(include_bytes!("tls/certificate.pem")).unwrap()
}

fn start_tls() -> Sandbox {
    let mut config = config();
    config.tls = Some(acceptor());
    start(config)
}

/// The TLS configuration of a server for `localhost`.
pub(crate) fn acceptor() -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/key.pem")).unwrap();
    let tls =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate()], key)
            .unwrap();
    Arc::new(tls)
}

/// The answer to one request, how the connection ended, and the negotiated protocol.
fn exchange(sandbox: &Sandbox) -> (String, io::Result<usize>, Option<Vec<u8>>) {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connection =
        ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(sandbox.address()).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    let request = String::from_utf8(post(CREATE, ACME, &create_body("order-1"))).unwrap();
    let closing = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    stream.write_all(closing.as_bytes()).unwrap();
    let mut answer = String::new();
    let end = stream.read_to_string(&mut answer);
    let agreed = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
    (answer, end, agreed)
}

#[test]
fn an_answer_comes_over_tls_and_http_1_1() {
    let (answer, end, agreed) = exchange(&start_tls());
    assert!(end.is_ok(), "it ends with a close_notify: {end:?}");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(agreed.as_deref(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_reset_under_tls_is_a_reset_of_the_socket() {
    let sandbox = start_tls();
    sandbox.inject(InjectedFault::ResetAfterExecuting.once());
    let (_, end, _) = exchange(&sandbox);
    assert_eq!(
        end.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionReset)
    );
    assert!(sandbox.received()[0].executed);
}
