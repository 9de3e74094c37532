use crate::support::*;
use gatepay_core::check::Strictness;
use gatepay_core::operation::{AccountHeader, Method};
use gatepay_core::{Catalogue, header};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Noise that has no place in a target.
const NOISE: [&str; 22] = [
    "/", "//", "/.", "/..", "/./", "/../", "/x/../", "%2f", "%2F", "%2e", "%2e%2e/", "%252f",
    "%00", "\0", "\\", "%5c", ";", ";x=1", "%c0%af", "\u{ff0f}", ".", "%20",
];
const METHODS: [&str; 11] = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post", "QUERY",
];

/// A text that a caller may send as a path.
#[derive(Debug, Clone)]
struct Target {
    operators: bool,
    /// Whether the target resembles an operator's call without an account.
    for_nobody: bool,
    method: String,
    bytes: Vec<u8>,
}

#[test]
fn no_target_leads_anywhere_but_the_paths_of_the_catalogue() {
    let gatepay = GatePay::start();
    let proxy = before(&gatepay);
    let known = known(&everything_on());
    let strays = mutations(&known).prop_filter("it is a path of the catalogue", {
        let known = known.clone();
        move |target| !is_known(&known, target)
    });
    holds(600, &strays, async |target| {
        let said = say(&proxy, &target).await;
        prop_assert_eq!(gatepay.count(), 0, "{:?}", String::from_utf8_lossy(&said));
        prop_assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"));
        Ok(())
    });
}

#[tokio::test]
async fn the_very_same_request_arrives_under_every_path_of_the_catalogue() {
    let gatepay = GatePay::start();
    let proxy = before(&gatepay);
    let known = known(&everything_on());
    assert_eq!(
        known.len(),
        70 + 82,
        "what tenants call, and what operators do"
    );
    for (sent, target) in known.iter().enumerate() {
        say(&proxy, target).await;
        assert_eq!(gatepay.count(), sent + 1, "{target:?}");
    }
}

/// A proxy that refuses only by path: a missing field of a body is no reason here.
fn before(gatepay: &GatePay) -> Proxy {
    Proxy::before(gatepay)
        .catalogue(everything_on())
        .operator(office())
        .with(|settings| {
            settings.checks = Strictness::Off;
            whole(&mut settings.institution).merchant_id = Some("merchant-fake".to_owned());
        })
        .start()
}

/// Sends a request that is valid except for its target, and returns all bytes before the end of the connection.
async fn say(proxy: &Proxy, target: &Target) -> Vec<u8> {
    let who = if target.operators { office() } else { acme() };
    let call = who.post("/", BY_NUMBER).without("content-type");
    let mut wire = [
        target.method.as_bytes(),
        b" ",
        &target.bytes,
        b" HTTP/1.1\r\n",
    ]
    .concat();
    let mut lines = call.lines(&proxy.clock);
    if target.operators && !target.for_nobody {
        lines.push((
            header::ON_BEHALF_OF.to_owned(),
            acme().sub_account.to_owned(),
        ));
    }
    for (name, value) in lines {
        wire.extend([&*name, ": ", &value, "\r\n"].concat().bytes());
    }
    let length = BY_NUMBER.len();
    wire.extend(format!("connection: close\r\ncontent-length: {length}\r\n\r\n").bytes());
    wire.extend(BY_NUMBER.bytes());
    let mut raw = proxy.raw().await;
    raw.write(wire).await;
    // A caller that is refused before its request is read may see the connection reset.
    raw.rest().await.unwrap_or_default()
}

/// Every target with a route, of both kinds of callers.
fn known(catalogue: &Catalogue) -> Vec<Target> {
    let rows = catalogue.rows().iter().filter(|row| row.off().is_none());
    rows.flat_map(|row| {
        let target = |operators: bool, method: Method, path: &str| Target {
            operators,
            for_nobody: row.account != AccountHeader::OnBehalfOf,
            method: method.to_string(),
            bytes: path.into(),
        };
        let merchant = row.merchant_path.as_deref();
        let institution = row.institution_path.as_deref();
        let merchant = merchant.map(|path| target(false, row.method, path));
        let institution = institution.map(|path| target(true, row.institution_method, path));
        merchant.into_iter().chain(institution)
    })
    .collect()
}

/// Whether the catalogue has a target, apart from its query and from the part that clients cut off.
fn is_known(known: &[Target], target: &Target) -> bool {
    let mut parts = target.bytes.split(|byte| b"?#".contains(byte));
    let path = parts.next().unwrap_or_default();
    let same = |other: &Target| {
        (other.operators, &other.method, &*other.bytes) == (target.operators, &target.method, path)
    };
    known.iter().any(same)
}

/// Paths of either side sent by either side, mostly with an error in them; and arbitrary bytes.
fn mutations(known: &[Target]) -> impl Strategy<Value = Target> + use<> {
    let near = (
        select(known.to_vec()),
        any::<Index>(),
        select(NOISE.to_vec()),
        any::<u8>(),
    )
        .prop_flat_map(|(target, at, noise, byte)| {
            let (path, for_nobody) = (target.bytes, target.for_nobody);
            let at = at.index(path.len() + 1);
            let (head, tail) = path.split_at(at);
            let after = tail.get(1..).unwrap_or_default();
            let slash = head.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            let escaped = format!("%{:02x}", tail.first().unwrap_or(&0));
            let noise = noise.as_bytes();
            let flipped = path.iter().enumerate().map(|(place, byte)| match place {
                place if place == slash + 1 => byte ^ 0x20,
                _ => *byte,
            });
            let bytes = vec![
                path.clone(),
                [head, noise, tail].concat(),
                [&path[..slash], noise, &path[slash + 1..]].concat(),
                [&path, noise].concat(),
                [noise, &path].concat(),
                [head, &[byte], tail].concat(),
                [head, &[byte], after].concat(),
                [head, escaped.as_bytes(), after].concat(),
                flipped.collect(),
                path.to_ascii_uppercase(),
                [PREFIX.as_bytes(), &path].concat(),
                [b"http://pay.example", &*path].concat(),
                [b"//pay.example", &*path].concat(),
                [b"pay.example:443", &*path].concat(),
            ];
            let operators = prop::bool::weighted(if target.operators { 0.7 } else { 0.3 });
            let method = prop_oneof![3 => Just(target.method), 1 => methods()];
            (operators, Just(for_nobody), method, select(bytes))
        });
    let anything = (
        any::<bool>(),
        any::<bool>(),
        methods(),
        vec(any::<u8>(), 0..64),
    );
    prop_oneof![9 => near, 1 => anything]
        // Either byte ends the line, so that the target would be another.
        .prop_filter("a line ends there", |(.., bytes)| {
            !bytes.iter().any(|byte| b"\r\n".contains(byte))
        })
        .prop_map(|(operators, for_nobody, method, bytes)| Target {
            operators,
            for_nobody,
            method,
            bytes,
        })
}

fn methods() -> impl Strategy<Value = String> {
    select(METHODS.to_vec()).prop_map(str::to_owned)
}
