use crate::support::program::{Folder, printed};
use crate::support::tls::{Caller, Files, Pair};
use crate::support::*;
use gatepay_proxy::tls::certificate::CertificateRenewal;
use rcgen::date_time_ymd;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use std::fs;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

fn query() -> Call {
    acme().post(QUERY, BY_NUMBER)
}

fn secured(gatepay: &GatePay, files: &Files) -> Proxy {
    let named = files.named();
    Proxy::before(gatepay)
        .with(|settings| settings.listen.tls = Some(named))
        .start()
}

#[tokio::test]
async fn both_versions_of_tls_and_of_http_are_spoken_and_sessions_resumed() {
    let gatepay = GatePay::start();
    let pair = Pair::new();
    let proxy = secured(&gatepay, &Files::of(&pair));
    for (version, spoken) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        for protocols in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
            let caller = Caller::speaking(&[version], protocols, &[&pair], None);
            for kind in [Full, Resumed] {
                let stream = caller.connect(proxy.address()).await.unwrap();
                let (_, session) = stream.get_ref();
                assert_eq!(session.protocol_version(), Some(spoken));
                assert_eq!(session.handshake_kind(), Some(kind), "{spoken:?}");
                let chosen = session.alpn_protocol();
                assert_eq!(chosen, protocols.first().map(|name| name.as_bytes()));
                let request = query().request(&proxy.clock);
                let answer = if chosen == Some(b"h2") {
                    Http2::over(stream).await.send(request).await
                } else {
                    Connection::over(stream).await.send(request).await
                };
                assert_eq!(answer.status, 200);
            }
        }
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_cuts_no_connection() {
    let gatepay = GatePay::start();
    let (old, new) = (
        Pair::with(|params| params.not_after = date_time_ymd(2090, 1, 1)),
        Pair::with(|params| params.not_after = date_time_ymd(2100, 1, 1)),
    );
    let files = Files::of(&old);
    let proxy = secured(&gatepay, &files);
    let expiry = "certificate_expiry_timestamp_seconds{certificate=\"listener\"}";
    proxy.counts(&format!("{expiry} 3786912000")).await;
    let (knows_old, knows_new) = (Caller::trusting(&[&old]), Caller::trusting(&[&new]));
    let stream = knows_old.connect(proxy.address()).await.unwrap();
    let mut before = Connection::over(stream).await;
    assert_eq!(before.send(query().request(&proxy.clock)).await.status, 200);
    assert_eq!(
        proxy.app().renew_certificate(),
        Ok(CertificateRenewal::Unchanged)
    );
    let resumed = knows_old.connect(proxy.address()).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(Resumed));

    // A half renewed pair is not used.
    files.certificate(&new);
    let fault = proxy.app().renew_certificate().unwrap_err();
    assert!(fault.contains("key.pem: is not the key of"), "{fault}");
    assert!(knows_old.connect(proxy.address()).await.is_ok());

    files.key(&new);
    assert_eq!(
        proxy.app().renew_certificate(),
        Ok(CertificateRenewal::Renewed)
    );
    proxy.counts(&format!("{expiry} 4102444800")).await;
    let stream = knows_new.connect(proxy.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(Full));
    let mut connection = Connection::over(stream).await;
    let answer = connection.send(query().request(&proxy.clock)).await;
    assert_eq!(answer.status, 200);
    assert!(knows_old.connect(proxy.address()).await.is_err());
    assert_eq!(before.send(query().request(&proxy.clock)).await.status, 200);

    fs::remove_file(files.path().join("cert.pem")).unwrap();
    assert!(proxy.app().renew_certificate().is_err());
    assert!(knows_new.connect(proxy.address()).await.is_ok());
}

#[tokio::test]
async fn with_client_ca_only_its_callers_get_in_also_after_it_changed() {
    let gatepay = GatePay::start();
    let pair = Pair::new();
    let (theirs, others) = (Pair::authority(), Pair::authority());
    let files = Files::of(&pair);
    files.client_ca(&theirs);
    let named = files.named_with_client_ca();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.tls = Some(named))
        .start();
    let caller = |shows| Caller::speaking(&[&TLS13], &["http/1.1"], &[&pair], shows);
    let (known, unknown) = (caller(Some(theirs.signs())), caller(Some(others.signs())));
    let gets_in = async |caller: &Caller| {
        let Ok(stream) = caller.connect(proxy.address()).await else {
            return false;
        };
        let mut connection = Connection::over(stream).await;
        // With TLS 1.3 a caller learns only here that it was refused.
        let answer = connection.try_send(query().request(&proxy.clock)).await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    assert!(gets_in(&known).await);
    assert!(!gets_in(&unknown).await && !gets_in(&caller(None)).await);

    // An earlier TLS session does not outlive the trust in its client certificate.
    files.client_ca(&others);
    assert_eq!(
        proxy.app().renew_certificate(),
        Ok(CertificateRenewal::Renewed)
    );
    assert!(gets_in(&unknown).await);
    assert!(!gets_in(&known).await);
}

#[tokio::test]
async fn a_proxy_header_comes_before_tls() {
    let gatepay = GatePay::start();
    let pair = Pair::new();
    let files = Files::of(&pair);
    let named = files.named();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.listen.tls = Some(named);
            settings.listen.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
            settings.listen.proxy_protocol = true;
        })
        .start();
    let mut tcp = TcpStream::connect(proxy.address()).await.unwrap();
    let header = b"PROXY TCP6 2001:db8::7 ::1 50000 443\r\n";
    tcp.write_all(header).await.unwrap();
    let stream = Caller::trusting(&[&pair]).over(tcp).await.unwrap();
    let mut connection = Connection::over(stream).await;
    let answer = connection.send(query().request(&proxy.clock)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(proxy.stop().await[0]["peer"], "2001:db8::7");
}

#[test]
fn a_key_that_is_not_the_certificates_is_said_before_anything_is_served() {
    let folder = Folder::before(UNUSED);
    let (pair, other) = (Pair::new(), Pair::new());
    folder.file("cert.pem", &pair.certificate.pem());
    folder.secret("listener", &other.key.serialize_pem());
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    let tls = "threads = 2, tls = { certificate = 'cert.pem', key = 'secrets/listener.key' }";
    folder.file("proxy.toml", &proxy.replace("threads = 2", tls));
    for (command, exit) in [("check", 64), ("serve", 1)] {
        let (said, code) = printed(&folder.run(command));
        assert_eq!(code, Some(exit), "{said}");
        assert!(
            said.contains("listen.tls") && said.contains("listener.key: is not the key of"),
            "{said}"
        );
    }
    folder.secret("listener", &pair.key.serialize_pem());
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{said}");
}
