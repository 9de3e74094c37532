//! The time of each step of the journey: `cargo bench --bench steps`, optionally with the name of one step.
//!
//! `journey` follows `journey::enter` and the signing after it, from a head as hyper reads it to a request as it is
//! sent. The rest of a request's way needs sockets, because GatePay is reached over TCP: `end_to_end` measures it.

use std::cell::Cell;
use std::convert::Infallible;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use gatepay_admission::replay::{Replay, StampFingerprint};
use gatepay_core::{
    Catalogue, ClientId, Credential, FreshStamp, Kind, SecretKey, Stamp, envelope, sign,
};
use gatepay_http1::request_head::RequestHead;
use gatepay_proxy::app::App;
use gatepay_proxy::callers::activity::{ActivityLimits, ConnectionActivity};
use gatepay_proxy::generation::Generation;
use gatepay_proxy::headers::KnownHeaders;
use gatepay_proxy::journey::admit::{self, AdmissionGate, Admitted};
use gatepay_proxy::journey::authenticate::{self, Caller};
use gatepay_proxy::journey::ingress::{self, RequestBody};
use gatepay_proxy::journey::judge::{self, BodyRules, CallerClaims};
use gatepay_proxy::journey::route::{self, Routed};
use gatepay_proxy::journey::sign::{self as outbound, OutboundRules};
use gatepay_proxy::journey::stamp::ClaimedCall;
use gatepay_proxy::journey::verify::{self, Upload, UploadBounds};
use gatepay_proxy::process::clock::{self, Clock};
use gatepay_proxy::process::state_dir::PreviousRun;
use gatepay_proxy::process::watermark::StampWatermark;
use gatepay_proxy::record::RequestRecord;
use gatepay_tenancy::party::DEFAULT_WINDOW;
use gatepay_tenancy::settings::{Institution, Settings, UpstreamUrl};
use gatepay_tenancy::{
    Configuration, DatedCredential, PartyId, Rate, Registry, ReplayRule, SubAccount, Tenant,
};
use http::{Request, request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use zeroize::Zeroizing;

const NOW: u64 = 1_767_225_600_000;
const TENANTS: u32 = 1_000;
const QUERY: &str = "/v1/pay/order/query";
const BODY: &[u8] = br#"{"merchantTradeNo":"tea-0000000001","note":"a body of the length that such queries usually have, so that it is hashed in two blocks"}"#;
const ANSWER: &[u8] = br#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":{"merchantTradeNo":"tea-0000000001","status":"PAID"}}"#;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

criterion_group!(steps, bench);
criterion_main!(steps);

fn bench(criterion: &mut Criterion) {
    let world = World::new();
    let mut bench = |name: &str, mut step: Box<dyn FnMut() + '_>| {
        criterion.bench_function(name, |bencher| bencher.iter(&mut step));
    };
    let parts = World::request(1);
    let admitted = world.enter(&parts, &mut world.record(&parts));
    let outbound = admitted.outbound();
    bench(
        "route",
        Box::new(|| {
            black_box(world.route(black_box(&parts)));
        }),
    );
    bench(
        "verify",
        Box::new(|| {
            let (caller, _) = world.route(&parts);
            black_box(verify(&caller, black_box(BODY)));
        }),
    );
    let mut head = Vec::new();
    bench(
        "sign",
        Box::new(|| {
            let stamp = FreshStamp::new(NOW, clock::random());
            head.clear();
            black_box(outbound.attempt(&world.institution, black_box(&stamp), &mut head));
        }),
    );
    single_use(criterion, &world);
    record(criterion, &world, &parts);
    journey(criterion, &world);
}

/// The replay memory's step, and the whole of `admit::enter` around it: tokens, share and seat.
fn single_use(criterion: &mut Criterion, world: &World) {
    let stamps = Stamps::new();
    criterion.bench_function("replay", |bencher| {
        let step = |(timestamp, nonce): (String, String)| {
            let (memory, print) = stamps.print(&timestamp, &nonce);
            assert!(memory.copy_arrives(print).is_ok());
            black_box(memory.record(print, stamps.now.get())).expect("a new one");
        };
        bencher.iter_batched(|| stamps.next(), step, BatchSize::SmallInput);
    });
    let stamps = Stamps::new();
    let mut tenant_limits = world.generation.all_tenant_limits().cycle();
    criterion.bench_function("admit", |bencher| {
        let step = |(timestamp, nonce): (String, String)| {
            let (memory, print) = stamps.print(&timestamp, &nonce);
            let limits = tenant_limits.next().expect("there are tenants");
            let now_ms = stamps.now.get();
            let permit = admit::enter(limits, memory, &world.app.clock, Kind::Read, print, now_ms);
            permit.expect("limits are far away").commit();
        };
        bencher.iter_batched(|| stamps.next(), step, BatchSize::SmallInput);
    });
}

/// From the head to the request as it is sent, with a new request each time.
fn journey(criterion: &mut Criterion, world: &World) {
    let mut head = Vec::new();
    criterion.bench_function("journey", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for number in 0..rounds {
                let parts = World::request(number);
                let mut record = world.record(&parts);
                let begun = Instant::now();
                let mut admitted = world.enter(&parts, &mut record);
                let stamp = FreshStamp::new(NOW, clock::random());
                admitted.commit();
                head.clear();
                let outbound = admitted.outbound();
                black_box(outbound.attempt(&world.institution, &stamp, &mut head));
                drop(admitted);
                took += begun.elapsed();
            }
            took
        });
    });
}

/// The part of recording that a request waits for: gathering and queuing the access line, and counting its metrics.
fn record(criterion: &mut Criterion, world: &World, parts: &request::Parts) {
    /// The capacity of the access-line queue, so that no line is dropped.
    const QUEUE: u64 = 8_192;
    let activity = connection();
    let answer = Bytes::from_static(ANSWER);
    let lines = KnownHeaders::read(RequestHead::of_parts(parts).lines());
    let (caller, routed) = world.route(parts);
    let position = routed.position();
    criterion.bench_function("record", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            let mut left = rounds;
            while left > 0 {
                let batch = left.min(QUEUE);
                let begun = Instant::now();
                for _ in 0..batch {
                    let mut record = RequestRecord::begin(
                        &world.app.telemetry,
                        HERE,
                        &lines,
                        activity.request(),
                    );
                    record.operation(position, &world.generation, false);
                    record.body(BODY.len());
                    record.verified(caller.position, caller.credential_index);
                    let judgement = envelope::judge(Kind::Read, 200, &answer);
                    record.answered(200, &judgement, &answer);
                    record.sent(ANSWER.len() as u64);
                    record.relayed();
                    black_box(record);
                }
                took += begun.elapsed();
                left -= batch;
                // The access-line writer wakes every 25 ms.
                std::thread::sleep(Duration::from_millis(40));
            }
            took
        });
    });
}

fn connection() -> Arc<ConnectionActivity> {
    ConnectionActivity::new(ActivityLimits {
        head: Duration::from_secs(10),
        answer: Duration::from_secs(10),
        idle: Duration::from_secs(10),
    })
}

/// A body that has arrived with its head.
struct ArrivedBody(Full<Bytes>);

impl Body for ArrivedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl RequestBody for ArrivedBody {
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// The output of a step that is ready without waiting.
fn at_once<F: Future>(step: F) -> F::Output {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(step).poll(&mut cx) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the step waits"),
    }
}

fn verify(caller: &Caller<'_>, body: &[u8]) -> bool {
    let mut payload = caller.payload();
    payload.body(body);
    caller
        .verify(payload, &Bytes::from_static(BODY))
        .expect("it is signed");
    true
}

/// A thousand tenants, as a running proxy has them.
struct World {
    app: Arc<App>,
    generation: Arc<Generation>,
    institution: Credential,
}

impl World {
    fn new() -> Self {
        let catalogue = Catalogue::standard();
        let rate = |number: u32| {
            let number = number.try_into().expect("not zero");
            Rate {
                per_second: number,
                burst: number,
            }
        };
        let tenants = (0..TENANTS).map(|number| {
            let credential = DatedCredential::undated(credential(&format!("client-{number}")));
            let id = PartyId::parse(&format!("t{number}")).expect("an id");
            let account = SubAccount::parse(&format!("account-{number}")).expect("an account");
            let mut tenant = Tenant::new(id, account, &catalogue, vec![credential]);
            tenant.party.limits.all = rate(100_000_000);
            tenant
        });
        let registry = Registry::new(tenants.collect(), Vec::new(), &[]).expect("they differ");
        let institution = Institution {
            account_id: None,
            merchant_id: None,
            credentials: vec![DatedCredential::undated(credential("institution"))],
        };
        let url = UpstreamUrl::parse("http://127.0.0.1:1").expect("a URL");
        let mut settings = Settings::new(url, institution);
        settings.upstream.quota.rate = rate(100_000_000);
        let configuration = Configuration {
            settings,
            registry,
            catalogue,
        };
        let nothing_before = || Ok((PreviousRun::NeverServed, StampWatermark::nowhere()));
        let app = App::new(
            configuration,
            Clock::manual(NOW),
            nothing_before,
            Box::new(io::sink()),
        );
        let app = app.expect("it starts");
        Self {
            generation: app.generation.load_full(),
            app,
            institution: credential("institution"),
        }
    }

    /// The head of a signed request, as hyper reads it.
    fn request(number: u64) -> request::Parts {
        let client = format!("client-{}", number % u64::from(TENANTS));
        let stamp = FreshStamp::new(NOW, clock::random());
        let mut request = Request::post(QUERY)
            .header("host", "pay.example")
            .header("content-type", "application/json")
            .header("user-agent", "made-up-client/1.0")
            .header("content-length", BODY.len());
        for (name, value) in sign::headers(&credential(&client), &stamp.as_stamp(), BODY) {
            request = request.header(name, value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    /// The caller of a request, and its route.
    fn route<'a>(&'a self, parts: &'a request::Parts) -> (Caller<'a>, Routed<'a>) {
        let head = RequestHead::of_parts(parts);
        let lines = KnownHeaders::read(head.lines());
        let target = ingress::target(&head, &lines).expect("a good head");
        let found = authenticate::claimed(&self.generation.registry, &lines);
        let owner = found.map(|found| found.owner);
        let routed = route::operation(&self.generation, &target, owner);
        let caller = authenticate::identify(found, &lines, NOW)
            .and_then(authenticate::IdentifiedCaller::in_force);
        (caller.expect("a tenant"), routed.expect("an operation"))
    }

    /// The record of a request.
    fn record(&self, parts: &request::Parts) -> Box<RequestRecord> {
        let lines = KnownHeaders::read(RequestHead::of_parts(parts).lines());
        RequestRecord::begin(&self.app.telemetry, HERE, &lines, connection().request())
    }

    /// The steps up to the permit, as `journey::enter` has them.
    fn enter(&self, parts: &request::Parts, record: &mut RequestRecord) -> Box<Admitted> {
        let (app, admission) = (&self.app, &self.app.admission);
        let head = RequestHead::of_parts(parts);
        let lines = KnownHeaders::read(head.lines());
        let (caller, routed) = self.route(parts);
        record.operation(routed.position(), &self.generation, false);
        let mut body = ArrivedBody(Full::new(Bytes::from_static(BODY)));
        let mut upload = Upload {
            body: &mut body,
            reserved: admission.body_memory.hold(None),
            head_bytes: lines.bytes,
            content_type: lines.content_type,
        };
        let origin = app.listener.trusted_proxies.origin(HERE);
        let bounds = UploadBounds::new(&app.settings.listen, &admission.auth_throttle, origin);
        let claim = ClaimedCall::arrive(routed, caller, &admission.replay, record);
        let verified = verify::receive(&claim, &mut upload, &bounds, record);
        let Ok(verified) = at_once(verified) else {
            unreachable!("it is signed");
        };
        let claims = CallerClaims::new(HERE, &lines);
        let rules = BodyRules::of(&app.settings, false, None);
        let judged = judge::judge(verified, claims, rules, &admission.offload, record);
        let judged = at_once(judged).expect("a good body");
        let rules = OutboundRules::of(&app.settings, &app.upstream.host, &admission.offload);
        let translation = at_once(outbound::translate(&judged, &rules));
        let translation = translation.expect("a body that is sent as it is");
        let composed = outbound::compose(judged, translation, (&head, &lines), &rules, record);
        let stamp = at_once(claim.covered(&admission.watermark, record));
        let in_force = app.generation.load();
        let gate = AdmissionGate {
            in_force: &in_force,
            journal: None,
            replay: &admission.replay,
            cluster: None,
            caps: None,
            clock: &app.clock,
            address: HERE,
        };
        let (composed, stamp) = (composed.expect("it can be sent"), stamp.expect("covered"));
        let admitted = admit::admit(composed, &stamp, upload.reserved, &gate, record);
        admitted.expect("limits are far away").alone()
    }
}

/// New stamps, and a replay memory with a steady number of entries: a thousand each second, forgotten once stale.
struct Stamps {
    memory: Replay,
    now: Cell<u64>,
}

impl Stamps {
    fn new() -> Self {
        let memory = Replay::new(DEFAULT_WINDOW, 1_000_000, [7; 16], 0);
        Self {
            memory,
            now: Cell::new(NOW),
        }
    }

    fn next(&self) -> (String, String) {
        let now = self.now.get() + 1;
        self.now.set(now);
        if now.is_multiple_of(1_000) {
            self.memory.forget(now);
        }
        (now.to_string(), format!("{now:032}"))
    }

    fn print(&self, timestamp: &str, nonce: &str) -> (&Replay, StampFingerprint) {
        let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).expect("a stamp");
        let print = self.memory.fingerprint("client", &stamp, ReplayRule::Pair);
        (&self.memory, print)
    }
}

fn credential(client_id: &str) -> Credential {
    let secret = SecretKey::new(Zeroizing::new(format!("made-up-secret-{client_id}")));
    let id = ClientId::parse(client_id).expect("a client id");
    Credential::new(id, &secret.expect("a secret"))
}
