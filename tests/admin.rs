use std::net::SocketAddr;

use gatepay_proxy::process::clock::Clock;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpSocket;

use crate::support::program::{Folder, Program};
use crate::support::*;

/// More connections than the listener has places.
const FLOOD: usize = 150;

/// A connection with small buffers: after a few bytes the other side has to wait.
async fn narrow(address: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    Raw::over(socket.connect(address).await.unwrap())
}

/// Asks for these paths, each on a connection of its own.
async fn answers(address: SocketAddr, paths: &[&str]) {
    for path in paths {
        let mut raw = Raw::open(address).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: 10.0.0.7:9090\r\n\r\n");
        raw.write(request).await;
        assert_eq!(raw.answer().await.status, 200, "{path}");
    }
}

const OPEN: [&str; 4] = ["/live", "/ready", "/version", "/metrics"];

#[tokio::test]
async fn connections_that_never_read_their_answers_keep_no_probe_and_no_scrape_out() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let address = proxy.admin_address();
    let mut flood = Vec::new();
    for number in 0..FLOOD {
        let mut raw = narrow(address).await;
        let ask = b"GET /metrics HTTP/1.1\r\nhost: 10.0.0.7:9090\r\n\r\n".repeat(100);
        // The proxy may have closed this connection already.
        let _ = raw.try_write(&ask).await;
        flood.push(raw);
        if number % 50 == 0 {
            answers(address, &OPEN).await;
        }
    }
    answers(address, &OPEN).await;
}

#[tokio::test]
async fn silent_connections_and_half_or_long_heads_do_not_keep_probes_out() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let address = proxy.admin_address();
    let long = format!("GET /live HTTP/1.1\r\nx: {}", "y".repeat(200_000));
    for said in [
        "",
        "G",
        "GET /live HTTP/1.1\r\nhost: x\r\n",
        "GET /live HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        "HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /-/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n",
        &long,
    ] {
        let mut flood = Vec::new();
        for _ in 0..FLOOD {
            let mut raw = Raw::open(address).await;
            // The proxy may have closed the connection because of these bytes.
            let _ = raw.try_write(said.as_bytes()).await;
            flood.push(raw);
        }
        answers(address, &OPEN).await;
    }
}

/// Sends a head, and returns the status.
async fn status(address: SocketAddr, head: &str) -> u16 {
    let mut raw = Raw::open(address).await;
    raw.write(format!("{head}\r\n\r\n")).await;
    raw.answer().await.status
}

/// Paths that need a token.
const CLOSED: [&str; 26] = [
    "GET /",
    "GET /status",
    "GET /operations",
    "GET /tenants",
    "GET /tenants/acme",
    "GET /config",
    "GET /institution",
    "GET /-/registry",
    "GET /-/reload",
    "GET /notifications",
    "GET /notifications/endpoints",
    "GET /ledger?key=1",
    "GET /find?id=1",
    "GET /statements?tenant=acme&day=2026-01-01",
    "GET /caps",
    "GET /nothing",
    "POST /-/notifications/assign?id=1&tenant=acme",
    "POST /-/notifications/replay?id=1",
    "POST /-/notifications/test?tenant=acme",
    "POST /-/notifications/enable?tenant=acme",
    "GET /-/log",
    "POST /-/log?level=debug",
    "POST /-/reload",
    "POST /-/institution/switch",
    "POST /-/suspend?tenant=acme",
    "POST /-/resume?tenant=acme",
];

#[tokio::test]
async fn under_another_name_than_this_machines_only_probes_and_metrics_answer() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let address = proxy.admin_address();
    for name in [
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "evil.localhost",
        "127.0.0.1.evil.example",
        "10.0.0.7:9090",
        "0.0.0.0:9090",
        "[::]:9090",
        "localhost@evil.example",
        "localhost, evil.example",
        "",
    ] {
        for request in CLOSED {
            let status = status(address, &format!("{request} HTTP/1.1\r\nHost: {name}")).await;
            assert_eq!(status, 403, "{request} for {name}");
        }
        for path in OPEN {
            let status = status(address, &format!("GET {path} HTTP/1.1\r\nHost: {name}")).await;
            assert_eq!(status, 200, "{path} for {name}");
        }
    }
    for name in [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "127.0.0.1",
        "127.9.9.9:9090",
        "[::1]",
        "[::1]:9090",
    ] {
        let head = format!("GET /tenants HTTP/1.1\r\nHost: {name}");
        assert_eq!(status(address, &head).await, 200, "{name}");
    }
}

#[tokio::test]
async fn a_requests_name_is_that_of_its_target_or_else_of_its_one_host() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let address = proxy.admin_address();
    for (wanted, head) in [
        (400, "GET /tenants HTTP/1.1"),
        (403, "GET /tenants HTTP/1.0"),
        (200, "GET /tenants HTTP/1.0\r\nHost: localhost"),
        (
            400,
            "GET /tenants HTTP/1.1\r\nHost: localhost\r\nHost: localhost",
        ),
        (
            400,
            "GET /tenants HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        ),
        (
            400,
            "GET /live HTTP/1.1\r\nHost: localhost\r\nHost: localhost",
        ),
        (200, "GET /live HTTP/1.0"),
        (400, "GET /tenants HTTP/1.1\r\nHost: local\u{e9}"),
        (
            403,
            "GET http://evil.example/tenants HTTP/1.1\r\nHost: localhost",
        ),
        (
            403,
            "GET http://localhost@evil.example/tenants HTTP/1.1\r\nHost: localhost",
        ),
        (
            200,
            "GET http://localhost:9090/tenants HTTP/1.1\r\nHost: localhost:9090",
        ),
        (400, "GET http://localhost/tenants HTTP/1.1"),
        (
            200,
            "GET http://evil.example/live HTTP/1.1\r\nHost: evil.example",
        ),
        (200, "HEAD /live HTTP/1.1\r\nHost: 10.0.0.7"),
    ] {
        let mut raw = Raw::open(address).await;
        raw.write(format!("{head}\r\nconnection: close\r\n\r\n"))
            .await;
        let answer = String::from_utf8(raw.rest().await.unwrap()).unwrap();
        let status = answer.split(' ').nth(1);
        assert_eq!(status, Some(&*wanted.to_string()), "{head}");
    }
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing_not_even_with_the_token() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let address = proxy.admin_address();
    let with_token = token_folder("127.0.0.2:0");
    let program = Program::serve(&with_token).await;
    let bearer = "Authorization: Bearer fake-admin-token";
    for line in [
        "Origin: http://127.0.0.1:8000",
        "Origin: http://localhost:3000",
        "Origin: null",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: cross-site",
    ] {
        for request in [
            "POST /-/reload",
            "POST /-/institution/switch",
            "GET /tenants",
        ] {
            let head = format!("{request} HTTP/1.1\r\nHost: {address}\r\n{line}");
            assert_eq!(status(address, &head).await, 403, "{request} {line}");
            let to = program.admin;
            let head = format!("{request} HTTP/1.1\r\nHost: {to}\r\n{bearer}\r\n{line}");
            assert_eq!(
                status(to, &head).await,
                403,
                "{request} {line}, with the token"
            );
        }
    }
    let own = format!(
        "POST /-/reload HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\n{bearer}",
        program.admin
    );
    assert_eq!(status(program.admin, &own).await, 200);
}

/// An answer's status and its header lines about the body, and whether bytes of a body come before the next answer.
async fn described(address: SocketAddr, request: &str, more: &str) -> (String, Vec<String>, bool) {
    let mut raw = Raw::open(address).await;
    let next = "GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    raw.write(format!("{head}{next}")).await;
    let all = String::from_utf8(raw.rest().await.unwrap()).unwrap();
    let (head, rest) = all.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines().map(str::to_ascii_lowercase);
    let status = lines.next().unwrap();
    let mut lines: Vec<_> = lines.filter(|line| !line.starts_with("date:")).collect();
    lines.sort();
    (status, lines, !rest.starts_with("HTTP/1.1 200"))
}

#[tokio::test]
async fn head_is_answered_as_get_is_on_every_path_without_the_body() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let address = proxy.admin_address();
    for path in [
        "/",
        "/live",
        "/ready",
        "/version",
        "/operations",
        "/tenants/acme",
        "/tenants/nobody",
        "/tenants?before=x",
        "/tenants?after=nobody",
        "/config",
        "/institution",
        "/-/registry",
        "/-/reload",
        "/-/institution/switch",
        "/notifications",
        "/notifications/1",
        "/notifications/endpoints",
        "/ledger?key=1",
        "/find?id=1",
        "/statements?tenant=acme&day=2026-01-01",
        "/caps",
        "/-/notifications/assign",
        "/-/notifications/replay",
        "/-/notifications/test",
        "/-/notifications/enable",
        "/nothing",
        // The content of these pages changes from one request to the next, and so may its length.
        "/metrics",
        "/status",
        "/tenants",
    ] {
        let get = described(address, &format!("GET {path}"), "").await;
        let head = described(address, &format!("HEAD {path}"), "").await;
        let (status, lines, has_body) = head;
        assert!(!has_body, "{path}");
        assert!(get.2, "{path}: a body is seen where there is one");
        assert_eq!(status, get.0, "{path}");
        let changes = ["/metrics", "/status", "/tenants"].contains(&path);
        let steady = |lines: Vec<String>| -> Vec<String> {
            let cut = |line: String| match line.split_once(": ") {
                Some((name @ "content-length", digits)) if changes && digits != "0" => name.into(),
                _ => line,
            };
            lines.into_iter().map(cut).collect()
        };
        assert_eq!(steady(lines), steady(get.1), "{path}");
    }
    let foreign = "Origin: http://elsewhere\r\n";
    let (status, _, has_body) = described(address, "HEAD /tenants", foreign).await;
    assert_eq!(
        (status.as_str(), has_body),
        ("http/1.1 403 forbidden", false)
    );
}

/// A folder whose admin listener exists, and has a token.
fn token_folder(address: &str) -> Folder {
    let folder = Folder::before(UNUSED);
    folder.secret("admin", "fake-admin-token");
    folder.edit(
        "proxy.toml",
        "admin = { address = '127.0.0.2:0' }",
        &format!("admin = {{ address = '{address}', token = {{ file = 'secrets/admin.key' }} }}"),
    );
    folder
}

#[tokio::test]
async fn on_a_network_address_all_other_admin_paths_need_the_token_under_any_host_name() {
    let folder = token_folder("0.0.0.0:0");
    let program = Program::serve(&folder).await;
    let address = SocketAddr::from(([127, 0, 0, 1], program.admin.port()));
    // `admin:fake-admin-token` and `:fake-other`, as a browser sends them.
    let (basic, wrong) = (
        "Basic YWRtaW46ZmFrZS1hZG1pbi10b2tlbg==",
        "Basic OmZha2Utb3RoZXI=",
    );
    for name in ["localhost", "10.0.0.7:9090", "admin.example"] {
        for request in CLOSED {
            let head = |token: &str| {
                format!("{request} HTTP/1.1\r\nHost: {name}\r\nAuthorization: {token}")
            };
            for token in ["", "Bearer", "Bearer fake-other", wrong] {
                let status = status(address, &head(token)).await;
                assert_eq!(status, 401, "{request} for {name} with {token:?}");
            }
            let with_token = status(address, &head("Bearer fake-admin-token")).await;
            assert!(
                ![401, 403].contains(&with_token),
                "{request} for {name}: {with_token}"
            );
            // A browser sends this header by itself, so the header authorizes reading only.
            let by_itself = status(address, &head(basic)).await;
            assert_eq!(by_itself == 401, request.starts_with("POST"), "{request}");
        }
        for path in OPEN {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {name}");
            assert_eq!(status(address, &head).await, 200, "{path} for {name}");
        }
    }
}

#[tokio::test]
async fn a_socket_that_was_passed_on_is_local_only_if_it_is_bound_so() {
    let wide = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    wide.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into())
        .unwrap();
    wide.listen(16).unwrap();
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0))
        .admin_socket(wide.into())
        .start();
    // `admin.address` says 127.0.0.1, as by default; the socket's real address counts.
    let address = SocketAddr::from(([127, 0, 0, 1], proxy.admin_address().port()));
    let head = "GET /tenants HTTP/1.1\r\nHost: localhost";
    assert_eq!(status(address, head).await, 403);
}
