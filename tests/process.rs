//! The real binary, its files, its signals and its exit codes.

use crate::support::program::{Folder, Program, command, printed};
use crate::support::scripted::Scripted;
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use serde_json::Value;
use std::process::Command;
use std::time::Instant;
use tokio::task::JoinSet;

#[tokio::test]
async fn files_become_a_proxy_that_answers_signed_requests() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("acme") && said.contains("globex"), "{said}");

    let program = Program::serve(&folder).await;
    let request = acme()
        .post(CREATE, order("A-0001"))
        .request(&Clock::system());
    let answer = Connection::open(program.address).await.send(request).await;
    assert_eq!((answer.status, answer.code()), (200, "000000".to_owned()));
    assert!(gatepay.last().executed);
    let ready = http::Request::get("/ready")
        .header("host", "admin")
        .body(http_body_util::Full::default());
    let ready = Connection::open(program.admin)
        .await
        .send(ready.unwrap())
        .await;
    assert_eq!(ready.status, 200);

    program.terminate();
    let (code, out, err) = program.end().await;
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines.len(),
        1,
        "access lines, and nothing else, go to standard output"
    );
    assert_eq!(lines[0]["id"], answer.request_id());
}

#[tokio::test]
async fn requests_in_flight_at_the_end_signal_are_answered() {
    let upstream = Scripted::held();
    let folder = Folder::before(&upstream.url());
    let program = Program::serve(&folder).await;
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let call = acme().post(CREATE, order(&format!("A-{number:04}")));
        let address = program.address;
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send(call.request(&Clock::system())).await
        });
    }
    until("all of them are at GatePay", || upstream.count() == 200).await;
    program.terminate();
    until("it has begun to drain", || {
        program.stderr().contains("no new connections")
    })
    .await;
    upstream.release();
    for answer in callers.join_all().await {
        assert_eq!(answer.refused(), (200, "not refused"));
    }
    let (code, out, err) = program.end().await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.lines().count(), 200);
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once_and_open_calls_are_answered_as_unknown() {
    let upstream = Scripted::held();
    let folder = Folder::before(&upstream.url());
    let program = Program::serve(&folder).await;
    let call = acme().post(CREATE, order("A-0001"));
    let mut connection = Connection::open(program.address).await;
    let caller =
        tokio::spawn(async move { connection.try_send(call.request(&Clock::system())).await });
    until("it is at GatePay", || upstream.count() == 1).await;
    program.terminate();
    until("it has begun to drain", || {
        program.stderr().contains("draining")
    })
    .await;
    program.terminate();
    let (code, out, err) = program.end().await;
    assert_eq!(code, Some(2), "{err}");
    let line: Value = serde_json::from_str(out.trim()).expect("one access line");
    assert_eq!(
        (&line["outcome"], &line["key"]),
        (&"unknown".into(), &"A-0001".into())
    );
    assert!(
        caller.await.expect("it did not panic").is_err(),
        "nothing that could be taken for an answer"
    );
}

#[tokio::test]
async fn signals_of_log_rotation_and_timers_do_not_kill_the_process() {
    let gatepay = GatePay::now();
    let program = Program::serve(&Folder::before(&gatepay.url())).await;
    for signal in ["ALRM", "VTALRM", "IO", "PWR", "XFSZ"] {
        for _ in 0..2 {
            program.signal(&format!("-{signal}"));
        }
        let said = format!("SIG{signal}\"");
        until(&said, || program.stderr().contains(&said)).await;
    }
    for signal in ["PIPE", "WINCH", "URG", "CHLD", "CONT"] {
        program.signal(&format!("-{signal}"));
    }
    let request = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
    let answer = Connection::open(program.address).await.send(request).await;
    assert_eq!(answer.status, 200);
    until("the log says what each signal does", || {
        program.stderr().contains("SIGHUP reloads, SIGTERM ends")
    })
    .await;
    program.terminate();
    assert_eq!(program.end().await.0, Some(0));
}

#[tokio::test]
async fn signals_and_the_admin_listener_change_the_level_of_the_log() {
    let gatepay = GatePay::now();
    let program = Program::serve(&Folder::before(&gatepay.url())).await;
    let changed =
        |from, to| format!("\"the log's level changes\",\"from\":\"{from}\",\"to\":\"{to}\"");
    let logged = async |line: String| {
        until("the log notes the change", || {
            program.stderr().contains(&line)
        })
        .await;
    };
    program.signal("-USR1");
    logged(changed("info", "debug")).await;
    program.signal("-USR2");
    logged(changed("debug", "info")).await;
    let ask = async |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("host", "localhost");
        let request = request.body(http_body_util::Full::default()).unwrap();
        let answer = Connection::open(program.admin).await.send(request).await;
        let body = String::from_utf8_lossy(&answer.body).trim().to_owned();
        (answer.status, body)
    };
    let trace = || (200, r#"{"level":"trace"}"#.to_owned());
    assert_eq!(ask("POST", "/-/log?level=trace").await, trace());
    logged(changed("info", "trace")).await;
    for wrong in [
        "/-/log?level=loud",
        "/-/log",
        "/-/log?level=info&level=warn",
    ] {
        assert_eq!(ask("POST", wrong).await.0, 400, "{wrong}");
    }
    assert_eq!(ask("GET", "/-/log").await, trace());
    program.terminate();
    assert_eq!(program.end().await.0, Some(0));
}

#[test]
fn a_misspelt_level_of_the_log_is_refused() {
    let folder = Folder::before(UNUSED);
    let mut serve = command();
    serve.args(["serve", "--config", &folder.name("proxy.toml")]);
    let output = serve.env("GATEPAY_LOG", "verbose").output();
    let (said, code) = printed(&output.expect("it runs"));
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains(
            "GATEPAY_LOG: `verbose` is no level of the log: use error, warn, info, debug or trace"
        ),
        "{said}"
    );
}

#[tokio::test]
async fn every_ending_signal_drains_the_process() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    for signal in ["TERM", "INT", "QUIT"] {
        let program = Program::serve(&folder).await;
        program.signal(&format!("-{signal}"));
        let (code, _, err) = program.end().await;
        assert_eq!(code, Some(0), "{signal}: {err}");
        assert!(err.contains("replay memory handed over"), "{signal}: {err}");
    }
}

#[tokio::test]
async fn at_the_drains_deadline_the_process_ends_and_the_next_knows_the_admitted_requests() {
    let upstream = Scripted::held();
    let folder = Folder::before(&upstream.url());
    folder.edit(
        "proxy.toml",
        "grace_ms = 1",
        "grace_ms = 1, deadline_ms = 700",
    );
    let program = Program::serve(&folder).await;
    let request = acme()
        .post(CREATE, order("A-0001"))
        .request(&Clock::system());
    let mut connection = Connection::open(program.address).await;
    let copy = request.clone();
    let caller = tokio::spawn(async move { connection.try_send(request).await });
    until("it is at GatePay", || upstream.count() == 1).await;
    program.terminate();
    let (code, out, err) = program.end().await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("the deadline passed"), "{err}");
    let line: Value = serde_json::from_str(out.trim()).expect("one access line");
    assert_eq!(line["outcome"], "unknown");
    match caller.await.expect("it did not panic") {
        // A reset is no answer; if there was time for an answer, the answer states that the outcome is unknown.
        Err(_) => {}
        Ok(answer) => assert_eq!(answer.refused(), (504, "outcome_unknown")),
    }
    let next = Program::serve(&folder).await;
    let answer = Connection::open(next.address).await.send(copy).await;
    assert_eq!(answer.refused(), (401, "replayed"));
}

#[tokio::test]
async fn a_second_process_with_the_same_state_folder_does_not_start() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let first = Program::serve(&folder).await;
    let (said, code) = printed(&folder.run("serve"));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("state_dir") && said.contains("in use"),
        "{said}"
    );
    let request = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
    let answer = Connection::open(first.address).await.send(request).await;
    assert_eq!(answer.status, 200, "the first goes on");
}

#[tokio::test]
async fn a_request_admitted_by_one_process_is_refused_by_the_next() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let clock = Clock::system();
    let request = acme().post(CREATE, order("A-0001")).request(&clock);
    let first = Program::serve(&folder).await;
    let answer = Connection::open(first.address)
        .await
        .send(request.clone())
        .await;
    assert_eq!(answer.status, 200);
    first.terminate();
    assert_eq!(first.end().await.0, Some(0));
    let second = Program::serve(&folder).await;
    let answer = Connection::open(second.address).await.send(request).await;
    assert_eq!(
        answer.refused(),
        (401, "replayed"),
        "the memory was handed over"
    );
    assert_eq!(gatepay.count(), 1);
}

/// Signs as the README tells an integrator to, and sends with the given arguments of curl.
const BY_HAND: &str = r#"
body='{"merchantTradeNo":"A-0001"}' timestamp="$(date +%s)000" nonce="byhand$$"
signature=$(printf '%s\n%s\n%s\n' "$timestamp" "$nonce" "$body" | openssl dgst -sha512 -hmac "$SECRET" | sed 's/.* //')
curl -sS -w '\n%{http_code} %{http_version}' "$@" \
  -H "X-GatePay-Certificate-ClientId: $CLIENT" -H "X-GatePay-Timestamp: $timestamp" \
  -H "X-GatePay-Nonce: $nonce" -H "X-GatePay-Signature: $signature" \
  -H 'Content-Type: application/json' -d "$body"
"#;

#[tokio::test]
async fn a_request_signed_by_hand_is_answered_over_either_version_of_http() {
    let curl = |argument: &str| {
        let output = Command::new("curl").arg(argument).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (Ok(version), Ok(_)) = (
        curl("--version"),
        Command::new("openssl").arg("version").output(),
    ) else {
        println!("skipped: curl or openssl is not here");
        return;
    };
    let gatepay = GatePay::now();
    let program = Program::serve(&Folder::before(&gatepay.url())).await;
    let url = format!("http://{}{QUERY}", program.address);
    for (option, answered) in [
        ("--http1.1", "200 1.1"),
        ("--http2-prior-knowledge", "200 2"),
    ] {
        if option.contains('2') && !version.contains("HTTP2") {
            println!("skipped: this curl does not speak HTTP/2");
            continue;
        }
        let output = Command::new("sh")
            .args(["-c", BY_HAND, "sh", option, &url])
            .env("SECRET", acme().secret)
            .env("CLIENT", acme().client_id)
            .output()
            .unwrap();
        let (said, _) = printed(&output);
        assert!(said.ends_with(answered), "{option}: {said}");
        assert!(gatepay.last().verified);
    }
}

#[tokio::test]
async fn without_file_descriptors_the_listener_waits_and_does_not_spin() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let program = Program::serve(&folder).await;
    let id = program.id();
    let process = Pid::from_raw(i32::try_from(id).expect("a process id"));
    // The admin client keeps its connection, so that it can still ask.
    let mut admin = Connection::open(program.admin).await;
    assert_eq!(figure(&mut admin, ACCEPT_ERRORS).await, 0);
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    let exhausted = Rlimit {
        current: Some(open as u64),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(process, Resource::Nofile, exhausted).unwrap();
    let begun = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..20 {
        callers.push(Raw::open(program.address).await);
    }
    let mut errors = 0;
    while errors < 5 {
        errors = figure(&mut admin, ACCEPT_ERRORS).await;
        assert!(begun.elapsed() < PATIENCE);
    }
    let most = 2 * (begun.elapsed().as_millis() / 50 + 1);
    assert!(
        u128::from(errors) <= most,
        "{errors} errors, at most {most}"
    );

    prlimit(process, Resource::Nofile, before).unwrap();
    drop(callers);
    let request = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
    let answer = Connection::open(program.address).await.send(request).await;
    assert_eq!(answer.refused(), (200, "not refused"));
    program.terminate();
    let (code, _, err) = program.end().await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("a connection cannot be accepted"), "{err}");
}

const ACCEPT_ERRORS: &str = "gatepay_proxy_accept_errors_total";

/// A figure of the metrics, over a connection that is open already.
async fn figure(admin: &mut Connection, name: &str) -> u64 {
    let request = http::Request::get("/metrics").header("host", "admin");
    let answer = admin.send(request.body(http_body_util::Full::default()).unwrap());
    let text = answer.await.text();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}
