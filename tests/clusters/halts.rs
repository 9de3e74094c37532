//! Halts and suspensions: from the answer on, no instance sends a byte of a halted call.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};

use super::*;
use crate::support::program::{printed, run};
use crate::support::scripted::{self, Scripted};

#[tokio::test]
async fn a_party_that_is_suspended_on_one_instance_is_refused_on_all() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let [one, other] = instances([0, 1].map(|_| folder(&gatepay, &server, ""))).await;
    let executed = refund();
    assert_eq!(send(&one, &executed).await.refusal(), None);
    let said = one.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let before = gatepay.count();
    let refused = send(&other, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(refused.refused(), (403, "tenant_suspended"));
    assert_eq!(gatepay.count(), before);
    // Whoever asks again for what was executed is not told that it was not.
    for program in [&one, &other] {
        let copy = send(program, &executed).await;
        assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
    }
    let globex = send(&other, &signed(&globex().post(QUERY, BY_NUMBER))).await;
    assert_eq!(globex.refusal(), None);
    let said = one.admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    for program in [&one, &other] {
        assert_eq!(send(program, &refund()).await.refusal(), None);
    }
}

#[tokio::test]
async fn a_suspension_is_lifted_at_any_instance_and_outlives_the_restart_of_all() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder(&gatepay, &server, ""));
    let programs = Program::serve_all(&folders).await;
    let query = || signed(&acme().post(QUERY, BY_NUMBER));
    let said = programs[0].admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let said = said.json();
    assert_eq!(
        (&said["kept"], &said["standing"]),
        (&json!(true), &json!("suspended"))
    );
    assert_eq!(said["suspended"]["by"], "loopback");
    // Every instance shows it.
    for program in &programs {
        let acme = program.admin("GET", "/tenants/acme").await.json();
        assert_eq!(acme["standing"], "suspended", "{acme}");
        assert_eq!(program.metric("suspensions").await, "1");
    }
    // The folder has the store's halts before the process gives up its own copy.
    assert!(store_halts(&folders[0]).contains("suspended:acme"));
    for program in programs {
        program.stop().await;
    }
    let programs = Program::serve_all(&folders).await;
    for program in &programs {
        let refused = send(program, &query()).await;
        assert_eq!(refused.refusal(), Some("tenant_suspended"));
    }
    let said = programs[1].admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let said = said.json();
    assert_eq!(
        (&said["changed"], &said["standing"]),
        (&json!(true), &json!("active"))
    );
    for program in &programs {
        assert_eq!(send(program, &query()).await.refusal(), None);
    }
    let again = programs[0].admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(again.json()["changed"], json!(false));
}

#[tokio::test]
async fn a_suspension_that_was_set_while_the_store_was_away_reaches_it_later() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, mut server) = (GatePay::now(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder(&gatepay, &server, ""));
    let programs = Program::serve_all(&folders).await;
    let [one, other] = &programs[..] else {
        panic!("there are two");
    };
    admits(one).await;
    admits(other).await;
    server.kill();
    let said = one.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 503, "{}", said.text());
    let notes = said.json()["notes"].to_string();
    assert!(notes.contains("suspended on this instance"), "{notes}");
    server.start_again();
    other.until_ready().await;
    until("its own copy is given up", || {
        let own = std::fs::read_to_string(folders[0].path("state/suspended")).unwrap();
        !own.contains("acme")
    })
    .await;
    assert!(store_halts(&folders[0]).contains("suspended:acme"));
    let begun = Instant::now();
    loop {
        let refused = send(other, &signed(&acme().post(QUERY, BY_NUMBER))).await;
        if refused.refusal() == Some("tenant_suspended") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", refused.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let said = other.admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.json()["changed"], json!(true), "{}", said.text());
    for program in [one, other] {
        let begun = Instant::now();
        loop {
            program.until_ready().await;
            let answer = send(program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
            match answer.refusal() {
                None => break,
                // A busy machine may be late with a sign of life.
                Some("tenant_suspended" | "store_unavailable") => {}
                Some(slug) => panic!("{slug}"),
            }
            assert!(begun.elapsed() < PATIENCE, "{}", answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The store's halts as the folder has them.
fn store_halts(folder: &Folder) -> String {
    std::fs::read_to_string(folder.path("state/store-halts")).unwrap_or_default()
}

#[tokio::test]
async fn a_process_that_drains_does_not_hand_over_suspensions_that_the_next_one_has() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut server) = (Scripted::held(), PgServer::migrated().await);
    let [program] = instances([folder_at(&upstream.url(), &[server.port], "")]).await;
    let address = program.address;
    let call = tokio::spawn(async move { Connection::open(address).await.send(refund()).await });
    until("the call is in flight", || upstream.count() > 0).await;
    server.kill();
    let said = program.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 503, "{}", said.text());
    program.terminate();
    until("the folder is left", || {
        program.stderr().contains("replay memory handed over")
    })
    .await;
    server.start_again();
    until("the store answers again", || {
        program.stderr().contains("the store answers again")
    })
    .await;
    // Longer than two turns of what hands them over.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let halts = server.sql("SELECT count(*) FROM gatepay.halt");
    assert_eq!(halts.trim(), "0");
    upstream.release();
    let _answer = call.await;
}

/// An upstream that answers slowly, and records the calls in the order in which their first bytes came.
struct Watching {
    address: SocketAddr,
    watched: Arc<Mutex<Watched>>,
}

struct Watched {
    listener: TcpListener,
    connections: Vec<WatchedConnection>,
    calls: Vec<WatchedCall>,
}

struct WatchedConnection {
    stream: TcpStream,
    /// Whether a part of a call was read.
    is_amid_call: bool,
}

#[derive(Clone, Copy)]
struct WatchedCall {
    /// The number of its connection.
    connection: usize,
    is_acme: bool,
    is_money: bool,
}

/// What had arrived at one moment. Bytes that were sent before it are in the sockets, since they do not leave this machine, even
/// if no thread has read them.
struct Mark {
    /// The number of calls that were read.
    calls: usize,
    /// The connections with bytes of a call that was not read yet.
    unread: BTreeSet<usize>,
}

/// The time until the upstream answers: calls wait for a connection meanwhile.
const SLOW: Duration = Duration::from_millis(20);

impl Watching {
    fn start() -> Self {
        let listener = TcpListener::bind(any_port()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let watched = Arc::new(Mutex::new(Watched {
            listener,
            connections: Vec::new(),
            calls: Vec::new(),
        }));
        let accepting = Arc::downgrade(&watched);
        thread::spawn(move || {
            while let Some(watched) = accepting.upgrade() {
                drop(Self { address, watched }.accepted());
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { address, watched }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The calls and connections, after every connection that waits was accepted.
    fn accepted(&self) -> MutexGuard<'_, Watched> {
        let mut watched = self.watched.lock().unwrap();
        while let Ok((stream, _)) = watched.listener.accept() {
            stream.set_nonblocking(false).unwrap();
            let number = watched.connections.len();
            watched.connections.push(WatchedConnection {
                stream: stream.try_clone().unwrap(),
                is_amid_call: false,
            });
            let watched = Arc::clone(&self.watched);
            thread::spawn(move || serve(number, stream, &watched));
        }
        watched
    }

    /// Notes what has arrived by now.
    fn mark(&self) -> Mark {
        let watched = self.accepted();
        let has_unread = |(_, connection): &(usize, &WatchedConnection)| {
            let bytes = rustix::io::ioctl_fionread(&connection.stream);
            !connection.is_amid_call && bytes.is_ok_and(|bytes| bytes > 0)
        };
        let connections = watched.connections.iter().enumerate();
        Mark {
            calls: watched.calls.len(),
            unread: connections.filter(has_unread).map(|it| it.0).collect(),
        }
    }

    /// The calls of which no byte had arrived at the mark.
    fn since(&self, mark: &Mark) -> Vec<WatchedCall> {
        let (watched, mut unread) = (self.watched.lock().unwrap(), mark.unread.clone());
        let mut calls = watched.calls[mark.calls..].to_vec();
        calls.retain(|call| !unread.remove(&call.connection));
        calls
    }

    /// How many calls of acme's arrived.
    fn of_acme(&self) -> usize {
        let watched = self.watched.lock().unwrap();
        watched.calls.iter().filter(|call| call.is_acme).count()
    }

    /// How many calls of acme's arrived after the mark.
    fn of_acme_since(&self, mark: &Mark) -> usize {
        let calls = self.since(mark);
        calls.iter().filter(|call| call.is_acme).count()
    }

    /// How many money calls and how many others arrived after the mark.
    fn money_and_others_since(&self, mark: &Mark) -> (usize, usize) {
        let calls = self.since(mark);
        let money = calls.iter().filter(|call| call.is_money).count();
        (money, calls.len() - money)
    }
}

/// Answers the calls of a connection, which come one after the other.
fn serve(connection: usize, mut stream: TcpStream, watched: &Mutex<Watched>) {
    let mut buffer = Vec::new();
    // Bytes leave the socket only while no mark is made.
    while let Ok(1..) = stream.peek(&mut [0]) {
        let mut watched = watched.lock().unwrap();
        let mut piece = [0; 16 * 1024];
        let Ok(read @ 1..) = stream.read(&mut piece) else {
            return;
        };
        if buffer.is_empty() {
            watched.calls.push(WatchedCall {
                connection,
                is_acme: false,
                is_money: false,
            });
        }
        buffer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&buffer);
        let (is_acme, is_money) = (text.contains(acme().sub_account), text.contains("/refund"));
        let mut calls = watched.calls.iter_mut().rev();
        let call = calls.find(|call| call.connection == connection).unwrap();
        (call.is_acme, call.is_money) = (is_acme, is_money);
        let is_whole = scripted::whole(&buffer).is_some();
        watched.connections[connection].is_amid_call = !is_whole;
        drop(watched);
        if is_whole {
            buffer.clear();
            thread::sleep(SLOW);
            let body = br#"{"status":"SUCCESS","code":"000000","data":{}}"#;
            let answer = scripted::answer("200 OK", "", body);
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

/// Two instances with one connection for each of two workers, and callers of acme that wait in line for them.
async fn crowd(upstream: &Watching, server: &PgServer) -> [Instance; 2] {
    crowd_of([0, 1], upstream, server).await
}

async fn crowd_of<const N: usize>(
    numbers: [usize; N],
    upstream: &Watching,
    server: &PgServer,
) -> [Instance; N] {
    let programs = instances(numbers.map(|_| {
        let folder = folder_at(&upstream.url(), &[server.port], "");
        folder.edit(
            "proxy.toml",
            "upstream = { ",
            "upstream = { max_connections = 2, quota = { requests_per_second = 10000 }, ",
        );
        folder
    }))
    .await;
    for address in programs.iter().map(|program| program.address) {
        for number in 0..12 {
            tokio::spawn(async move {
                let mut caller = Connection::open(address).await;
                // Reads and money alike.
                let call = match number % 2 {
                    0 => acme().post(REFUND, A_REFUND),
                    _ => acme().post(QUERY, BY_NUMBER),
                };
                while caller.try_send(signed(&call)).await.is_ok() {}
            });
        }
    }
    until("acme's calls arrive", || upstream.of_acme() > 40).await;
    programs
}

#[tokio::test]
async fn no_byte_of_a_suspended_partys_call_is_sent_after_the_answer() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, server) = (Watching::start(), PgServer::migrated().await);
    let [one, _other] = crowd(&upstream, &server).await;
    for _ in 0..3 {
        let said = one.admin("POST", "/-/suspend?tenant=acme").await;
        let returned = upstream.mark();
        assert_eq!(said.status, 200, "{}", said.text());
        assert!(said.json()["in_flight"].is_number(), "{}", said.text());
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(upstream.of_acme_since(&returned), 0);
        let said = one.admin("POST", "/-/resume?tenant=acme").await;
        assert_eq!(said.status, 200, "{}", said.text());
        until("acme's calls arrive again", || {
            upstream.of_acme_since(&returned) > 40
        })
        .await;
    }
}

#[tokio::test]
async fn no_byte_of_a_halted_call_is_sent_by_four_instances_after_the_command_returned() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, server) = (Arc::new(Watching::start()), PgServer::migrated().await);
    let programs = crowd_of([0, 1, 2, 3], &upstream, &server).await;
    let command = |word: &'static str, at: usize| {
        let (admin, upstream) = (programs[at].admin.to_string(), Arc::clone(&upstream));
        tokio::task::spawn_blocking(move || {
            let done = printed(&run(&[word, "money", "--admin", &admin]));
            (done, upstream.mark())
        })
    };
    for round in 0..3 {
        let ((said, code), returned) = command("halt", round).await.unwrap();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("halted: money"), "{said}");
        // The reads go on meanwhile, at every instance.
        until("reads arrive", || {
            upstream.money_and_others_since(&returned).1 > 40
        })
        .await;
        assert_eq!(upstream.money_and_others_since(&returned).0, 0);
        for program in &programs {
            let refused = send(program, &refund()).await;
            assert_eq!(refused.refused(), (503, "halted"), "{}", refused.text());
            assert_eq!(refused.outcome(), Some("not-executed"));
            assert_eq!(program.metric("halted{scope=\"money\"}").await, "1");
        }
        assert_eq!(upstream.money_and_others_since(&returned).0, 0);
        let ((said, code), returned) = command("resume", 3 - round).await.unwrap();
        assert_eq!(code, Some(0), "{said}");
        until("money arrives again", || {
            upstream.money_and_others_since(&returned).0 > 10
        })
        .await;
    }
}

#[tokio::test]
async fn a_halt_ends_once_two_operators_have_ordered_it_at_any_instances() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let [one, other] = instances_of_two_operators(&gatepay, &server).await;
    let (halt, end) = ("/-/halt?scope=tenant:acme", "/-/halt/end?scope=tenant:acme");
    let (status, said) = order(&one, halt, "alice").await;
    assert_eq!((status, &said["halted"]), (200, &json!(true)), "{said}");
    // One operator is not two, however often and wherever.
    for program in [&one, &other, &one] {
        let (status, said) = order(program, end, "alice").await;
        assert_eq!((status, &said["needs"]), (200, &json!(1)), "{said}");
        assert_eq!(said["halted"], true, "{said}");
    }
    // A halt that is set once more needs two orders again.
    order(&one, halt, "bob").await;
    let (_, said) = order(&other, end, "bob").await;
    assert_eq!(said["needs"], 1, "{said}");
    let (status, said) = order(&one, end, "alice").await;
    assert_eq!((status, &said["halted"]), (200, &json!(false)), "{said}");
    assert_eq!(said["approved_by"], json!(["bob", "alice"]));
    for program in [&one, &other] {
        assert_eq!(send(program, &refund()).await.refusal(), None);
    }
}

#[tokio::test]
async fn a_suspension_ends_once_two_operators_have_ordered_it_at_any_instances() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let [one, other] = instances_of_two_operators(&gatepay, &server).await;
    let (suspend, resume) = ("/-/suspend?tenant=acme", "/-/resume?tenant=acme");
    let (status, said) = order(&one, suspend, "alice").await;
    assert_eq!((status, &said["kept"]), (200, &json!(true)), "{said}");
    for program in [&one, &other, &one] {
        let (status, said) = order(program, resume, "alice").await;
        assert_eq!((status, &said["needs"]), (200, &json!(1)), "{said}");
        assert_eq!(
            send(program, &refund()).await.refusal(),
            Some("tenant_suspended")
        );
    }
    // One that is set once more needs two orders again.
    order(&one, suspend, "bob").await;
    let (_, said) = order(&other, resume, "bob").await;
    assert_eq!(said["needs"], 1, "{said}");
    let (status, said) = order(&one, resume, "alice").await;
    assert_eq!((status, &said["changed"]), (200, &json!(true)), "{said}");
    assert_eq!(said["approved_by"], json!(["bob", "alice"]));
    for program in [&one, &other] {
        assert_eq!(send(program, &refund()).await.refusal(), None);
    }
}

/// The answer to an order of this operator.
async fn order(program: &Program, path: &str, by: &str) -> (u16, Value) {
    let token = format!("Bearer fake-token-of-{by}-0123456789");
    let headers = [("authorization", token.as_str())];
    let answer = program.admin_with("POST", path, &headers).await;
    (answer.status, answer.json())
}

/// Two instances where halts and suspensions end once both operators have ordered it.
async fn instances_of_two_operators(gatepay: &GatePay, server: &PgServer) -> [Instance; 2] {
    let folders = [0, 1].map(|_| {
        let folder = folder(gatepay, server, "");
        needs_two(&folder);
        folder
    });
    instances(folders).await
}

/// Two operators are known, and halts and suspensions end once both have ordered it.
fn needs_two(folder: &Folder) {
    let operator = |name: &str| {
        folder.secret(name, &format!("fake-token-of-{name}-0123456789"));
        format!("{{ name = '{name}', token = {{ file = 'secrets/{name}.key' }} }}")
    };
    let operators = ["alice", "bob"].map(operator).join(", ");
    folder.edit(
        "proxy.toml",
        "admin = { address = '127.0.0.2:0' }",
        &format!("admin = {{ address = '127.0.0.2:0', operator = [{operators}] }}"),
    );
    folder.proxy("caps = { approvals = 2 }");
}

#[tokio::test]
async fn without_a_store_a_halt_holds_from_the_answer_on_and_over_a_restart() {
    let upstream = Watching::start();
    let folder = Folder::before(&upstream.url());
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let address = program.address;
    for _ in 0..8 {
        tokio::spawn(async move {
            let mut caller = Connection::open(address).await;
            while caller.try_send(refund()).await.is_ok() {}
        });
    }
    until("money arrives", || upstream.of_acme() > 20).await;
    let said = program.admin("POST", "/-/halt?scope=payouts").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let said = program.admin("POST", "/-/halt?scope=money").await;
    let returned = upstream.mark();
    assert_eq!(said.status, 200, "{}", said.text());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = send(&program, &refund()).await;
    assert_eq!(refused.refused(), (503, "halted"), "{}", refused.text());
    assert_eq!(refused.outcome(), Some("not-executed"));
    let read = send(&program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(read.refusal(), None, "{}", read.text());
    let status = program.admin("GET", "/status").await.json();
    assert!(
        status["problems"].to_string().contains("halted: money"),
        "{status}"
    );
    program.signal("-KILL");
    let _ended = program.end().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let refused = send(&program, &refund()).await;
    assert_eq!(refused.refusal(), Some("halted"), "{}", refused.text());
    assert_eq!(upstream.money_and_others_since(&returned).0, 0);
    for scope in ["money", "payouts", "money"] {
        let said = program
            .admin("POST", &format!("/-/halt/end?scope={scope}"))
            .await;
        assert_eq!(said.status, 200, "{}", said.text());
    }
    assert_eq!(
        program.admin("GET", "/-/halt").await.json()["halts"],
        json!([])
    );
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    for (query, status) in [
        ("", 400),
        ("?scope=some", 400),
        ("?scope=tenant:nobody", 404),
    ] {
        let said = program.admin("POST", &format!("/-/halt{query}")).await;
        assert_eq!(said.status, status, "{query}: {}", said.text());
    }
}

#[tokio::test]
async fn an_instance_that_stood_still_over_a_suspension_sends_nothing_when_it_goes_on() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, server) = (Watching::start(), PgServer::migrated().await);
    let [one, other] = crowd(&upstream, &server).await;
    other.signal("-STOP");
    let began = Instant::now();
    let said = one.admin("POST", "/-/suspend?tenant=acme").await;
    let returned = upstream.mark();
    assert_eq!(said.status, 200, "{}", said.text());
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_secs(3),
        "its lease has to lapse: {waited:?}"
    );
    other.signal("-CONT");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(upstream.of_acme_since(&returned), 0);
    // It goes on for others, once it has their tokens again.
    other.until_ready().await;
    until_so("a call of globex's is admitted", async || {
        let call = signed(&globex().post(QUERY, BY_NUMBER));
        send_once(&other, &call).await.refusal().is_none()
    })
    .await;
}

#[tokio::test]
async fn a_read_that_was_sent_and_lost_is_not_said_to_be_unsent_because_a_suspension_stopped_its_retry()
 {
    if postgres::is_missing() {
        return;
    }
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let upstream = Scripted::each(move |_| {
        let _ended = released.lock().unwrap().recv();
        None
    });
    let server = PgServer::migrated().await;
    let [program] = instances([folder_at(&upstream.url(), &[server.port], "")]).await;
    let details = format!("{DETAILS}?refundRequestId=R-0001");
    let begun = Instant::now();
    let address = program.address;
    // A busy machine may refuse the first ones.
    let asked = loop {
        let read = signed(&acme().get(&details));
        let asked = tokio::spawn(async move { Connection::open(address).await.send(read).await });
        until("the read arrives or is refused", || {
            upstream.count() > 0 || asked.is_finished()
        })
        .await;
        if upstream.count() > 0 {
            break asked;
        }
        let refused = asked.await.unwrap();
        assert!(begun.elapsed() < PATIENCE, "{}", refused.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let said = program.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    drop(release);
    let answer = asked.await.unwrap();
    assert_eq!(upstream.count(), 1, "the retry was stopped");
    assert_eq!(
        answer.refusal(),
        Some("outcome_unknown"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.outcome(), Some("unknown"));
}

#[tokio::test]
async fn a_resume_that_the_store_does_not_answer_is_not_said_to_have_failed() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), Arc::new(PgServer::migrated().await));
    let folder = folder_within(LIMIT * 2, &gatepay.url(), &[server.port], "");
    folder.keeps_a_journal();
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let said = program.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let locked = Arc::clone(&server);
    let locking = tokio::task::spawn_blocking(move || {
        locked.try_sql("SELECT scope FROM gatepay.halt FOR UPDATE; SELECT pg_sleep(600)")
    });
    until("the row is locked", || {
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        server.sql(sleeping).trim() == "1"
    })
    .await;
    let said = program.admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.status, 503, "{}", said.text());
    let notes = said.json()["notes"].to_string();
    assert!(notes.contains("it may have been resumed"), "{notes}");
    server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    let _ended = locking.await.unwrap();
    program.until_ready().await;
    let said = program.admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    admits(&program).await;
    // The answer does not wait for this entry.
    until("the journal says that it is unknown", || {
        folder.journal().contains("resume_unknown")
    })
    .await;
    let journal = folder.journal();
    assert!(!journal.contains("resume_failed"), "{journal}");
}
