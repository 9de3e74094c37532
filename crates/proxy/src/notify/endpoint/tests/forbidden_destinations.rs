//! No spelling, name, rebinding or redirect leads to a connection to a forbidden address.

use super::*;

/// A listener on every address of this machine, at one port. It counts the connections that reached it.
struct ForbiddenListener {
    port: u16,
    reached: Arc<AtomicUsize>,
}

impl ForbiddenListener {
    async fn start() -> Self {
        let all = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let listener = TcpListener::bind(all).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, reached }
    }

    /// The number of connections. The kernel completes a connection before it is accepted, so one more is made and
    /// awaited: it comes last.
    async fn reached(&self) -> usize {
        let before = self.reached.load(Ordering::SeqCst);
        let _own = tokio::net::TcpStream::connect(("127.0.0.1", self.port))
            .await
            .unwrap();
        while self.reached.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        self.reached.load(Ordering::SeqCst) - 1
    }
}

/// Hosts that name this machine, an inner network or a metadata service, in all spellings that some client accepts.
const HOSTS: [&str; 100] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "127.255.255.255",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "127.0.0.1.",
    "127.0.0.01",
    "127.0.0.0x1",
    "127.00.00.01",
    "0",
    "0.0.0.0",
    "00.00.00.00",
    "0x0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "localhost.localdomain.",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::0001]",
    "[0000::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:7f00:1]",
    "[::7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:7f00:1::1]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fe80::1%1]",
    "[fe80::1%lo]",
    "[fe80::1%25lo]",
    "[::1%lo]",
    "[fc00::1]",
    "[fd00::1]",
    "[fdff:ffff::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[4000::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[fd00:ec2::254]",
    "[::1",
    "::1",
    "[127.0.0.1]",
    "[::1].",
    "[]",
    "10.0.0.1",
    "10.255.255.255",
    "012.0.0.1",
    "0xa000001",
    "167772161",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.1",
    "3232235521",
    "0xc0a80001",
    "0300.0250.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "user@127.0.0.1",
    "shop.example@127.0.0.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127.0.0.1%00",
    "127.0.0.1#",
];

/// Addresses that a name may have and that no connection may go to.
const ADDRESSES: [&str; 64] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "0.0.0.1",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::8.8.8.8",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:808:808::",
    "2620:4f:8000::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

#[tokio::test]
async fn no_spelling_of_a_forbidden_host_is_connected_to() {
    let forbidden = ForbiddenListener::start().await;
    let rules = bounds(&[forbidden.port, 443], &[]);
    let lookups = ScriptedResolver::of(&[]);
    for host in HOSTS {
        for url in [
            format!("https://{host}:{}/", forbidden.port),
            format!("https://{host}/"),
            format!("http://{host}:{}/", forbidden.port),
        ] {
            if let Ok(url) = parse(&url, &rules) {
                let resolver = Arc::clone(&lookups);
                let client = client(&format!("{url}/"), &rules, resolver, None);
                let refused = post(&client).await;
                let Err(EndpointError::Address(_)) = refused else {
                    panic!("{url}: {refused:?}");
                };
            }
        }
    }
    assert_eq!(forbidden.reached().await, 0);
}

#[tokio::test]
async fn a_name_with_a_forbidden_address_is_not_connected_to_at_any_of_its_addresses() {
    let forbidden = ForbiddenListener::start().await;
    let port = forbidden.port;
    // 127.0.0.9 is allowed, and the listener would be reached there.
    let rules = bounds(&[port], &["127.0.0.9/32"]);
    let allowed: IpAddr = "127.0.0.9".parse().unwrap();
    for address in ADDRESSES {
        let address: IpAddr = address.parse().unwrap();
        for addresses in [
            vec![address],
            vec![allowed, address],
            vec![address, allowed],
            [vec![allowed; 20], vec![address]].concat(),
        ] {
            let resolver = ScriptedResolver::of(&[("shop.example", &[&addresses])]);
            let url = format!("https://shop.example:{port}/");
            let refused = post(&client(&url, &rules, resolver, None)).await;
            let Err(EndpointError::Address(AddressError::Forbidden { address: named, .. })) =
                refused
            else {
                panic!("{addresses:?}: {refused:?}");
            };
            assert_eq!(named, address);
        }
    }
    assert_eq!(forbidden.reached().await, 0);
    // The listener is reachable, so that the count above says something.
    let resolver = ScriptedResolver::of(&[("shop.example", &[&[allowed]])]);
    let client = client(
        &format!("https://shop.example:{port}/"),
        &rules,
        resolver,
        None,
    );
    let _no_tls = post_within(&client, SHORT).await;
    assert_eq!(
        forbidden.reached().await,
        2,
        "this one, and the first count's own"
    );
}

/// A link-local address with a zone, which only a resolver can state.
#[tokio::test]
async fn a_zone_makes_no_link_local_address_allowed() {
    struct Zoned(u16);
    impl NameResolver for Zoned {
        fn resolve<'a>(&'a self, _: &'a str, _: u16) -> NameLookup<'a> {
            let address = "fe80::1".parse().unwrap();
            let zoned = std::net::SocketAddrV6::new(address, self.0, 0, 1);
            Box::pin(std::future::ready(Ok(vec![zoned.into()])))
        }
    }
    let forbidden = ForbiddenListener::start().await;
    let rules = bounds(&[443], &[]);
    let resolver = Arc::new(Zoned(forbidden.port));
    let refused = post(&client("https://shop.example/", &rules, resolver, None)).await;
    assert!(
        matches!(
            refused,
            Err(EndpointError::Address(AddressError::Forbidden { .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(forbidden.reached().await, 0);
}

#[tokio::test]
async fn a_name_that_rebinds_between_look_ups_is_refused_at_the_next_connection() {
    let manner = ServerManner::AnswersAndCloses(SUCCESS.to_vec());
    let good = TlsServer::local(manner.clone()).await;
    let port = good.address.port();
    let inner: IpAddr = "127.0.0.2".parse().unwrap();
    let forbidden = TlsServer::start(SocketAddr::new(inner, port), manner).await;
    let results: &[&[IpAddr]] = &[&[LOCAL], &[inner], &[LOCAL, inner], &[LOCAL], &[inner]];
    let resolver = ScriptedResolver::of(&[("shop.example", results)]);
    let client = client(
        &format!("https://shop.example:{port}/"),
        &bounds(&[port], &["127.0.0.1/32"]),
        Arc::clone(&resolver) as Arc<dyn NameResolver>,
        Some(&good.ca),
    );
    let mut delivered = Vec::new();
    for _ in 0..6 {
        delivered.push(post(&client).await.is_ok());
    }
    assert_eq!(delivered, [true, false, false, true, false, false]);
    assert_eq!((good.connections(), forbidden.connections()), (2, 0));
    assert_eq!(resolver.lookups(), 6, "one for each connection");
}

#[tokio::test]
async fn a_kept_connection_stays_at_the_address_that_was_checked() {
    let good = TlsServer::local(ServerManner::Answers(SUCCESS.to_vec())).await;
    let port = good.address.port();
    let inner: IpAddr = "127.0.0.2".parse().unwrap();
    let results: &[&[IpAddr]] = &[&[LOCAL], &[inner]];
    let resolver = ScriptedResolver::of(&[("shop.example", results)]);
    let client = client(
        &format!("https://shop.example:{port}/"),
        &bounds(&[port], &["127.0.0.1/32"]),
        Arc::clone(&resolver) as Arc<dyn NameResolver>,
        Some(&good.ca),
    );
    for _ in 0..3 {
        post(&client).await.unwrap();
    }
    assert_eq!((good.connections(), resolver.lookups()), (1, 1));
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let forbidden = ForbiddenListener::start().await;
    for status in [300, 301, 302, 303, 304, 305, 307, 308] {
        for location in [
            format!("https://127.0.0.1:{}/", forbidden.port),
            format!("http://127.0.0.1:{}/", forbidden.port),
            format!("//127.0.0.1:{}/", forbidden.port),
            "/elsewhere".to_owned(),
        ] {
            let head =
                format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            let server = TlsServer::local(ServerManner::Answers(head.into_bytes())).await;
            assert_eq!(post(&client_of(&server)).await.unwrap().status, status);
            assert_eq!((server.connections(), server.requests().len()), (1, 1));
        }
    }
    assert_eq!(forbidden.reached().await, 0);
}
