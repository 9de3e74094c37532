//! The shipped files for several instances: a load balancer before two machines, and Kubernetes.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gatepay_proxy::process::clock::Clock;
use gatepay_store::postgres::NEWEST_SCHEMA;
use saphyr::{LoadableYamlNode as _, Yaml};
use tempfile::TempDir;

use crate::metrics::read;
use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program, printed, run};
use crate::support::tls::Pair;
use crate::support::traffic::Traffic;
use crate::support::*;

/// A running load balancer with the shipped file. It is killed with the test.
struct Balancer {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

/// The command, unless it is not installed: then the test prints that nothing was proved.
fn haproxy() -> Option<Command> {
    let path = std::env::var("PATH").unwrap_or_default();
    // Debian has it where only root looks.
    let command = || {
        let mut command = Command::new("haproxy");
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    };
    let found = command().arg("-v").stdout(Stdio::null()).status().is_ok();
    if !found {
        say("SKIPPED: there is no haproxy here");
    }
    found.then(command)
}

/// The shipped file with other values in some places. Each has to be there.
fn shipped(changes: &[(&str, String)]) -> String {
    let mut text = read("haproxy/haproxy.cfg");
    for (from, to) in changes {
        assert!(text.contains(from), "haproxy.cfg: no {from}");
        text = text.replace(from, to);
    }
    text
}

impl Balancer {
    fn before(instances: &[Program]) -> Option<Self> {
        let mut command = haproxy()?;
        let address = free_port();
        let servers = instances.iter().zip(1..).map(|(program, number)| {
            let (at, admin) = (program.address, program.admin);
            format!(
                "    server proxy{number} {at} addr {} port {}\n",
                admin.ip(),
                admin.port()
            )
        });
        let text = shipped(&[
            (
                ":443 ssl crt /etc/haproxy/certs/pay.example.com.pem alpn h2,http/1.1",
                address.to_string(),
            ),
            ("maxconn 20000", "maxconn 200".to_owned()),
            ("    server proxy1 10.0.0.11:8080\n", servers.collect()),
            ("    server proxy2 10.0.0.12:8080\n", String::new()),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text).unwrap();
        let lines = fs::File::create(folder.path().join("lines")).unwrap();
        let command = command.arg("-db").arg("-f").arg(&file).stdout(lines);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "{ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self {
            child,
            address,
            folder,
        })
    }

    /// The number of requests that an instance has answered, by its place in the file.
    fn answered(&self, place: usize) -> usize {
        let lines = fs::read_to_string(self.folder.path().join("lines")).unwrap();
        let server = format!("instances/proxy{} ", place + 1);
        lines.lines().filter(|line| line.contains(&server)).count()
    }

    /// Waits until an instance answers requests.
    async fn uses(&self, place: usize) {
        let before = self.answered(place);
        let what = format!("proxy{} answers", place + 1);
        until(&what, || self.answered(place) > before).await;
    }
}

/// An address that nothing listens on.
fn free_port() -> SocketAddr {
    let bound = TcpListener::bind("127.0.0.1:0").unwrap();
    bound.local_addr().unwrap()
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Folders of instances with fixed addresses before one store, whose tables are made.
fn folders(gatepay: &GatePay, server: &PgServer, count: usize) -> Vec<Folder> {
    let limits = "limits = { in_flight = 10_000, requests_per_second = 100_000 }";
    let folders = (0..count).map(|_| {
        let folder = Folder::before(&gatepay.url());
        folder.tenant(&acme(), limits);
        let (listen, port) = (free_port(), free_port().port());
        for (from, to) in [
            ("grace_ms = 1", "grace_ms = 3_000"),
            (
                "address = '127.0.0.1:0'",
                &format!("trusted_proxies = ['127.0.0.1/32'], address = '{listen}'"),
            ),
            ("127.0.0.2:0", &format!("127.0.0.2:{port}")),
            (
                "upstream = {",
                "upstream = { quota = { requests_per_second = 100_000 },",
            ),
        ] {
            folder.edit("proxy.toml", from, to);
        }
        folder.uses_a_store(&[server.port], ", timeout_ms = 10_000");
        folder
    });
    let folders: Vec<_> = folders.collect();
    let config = folders[0].name("proxy.toml");
    let (said, code) = printed(&run(&["store", "migrate", "--config", &config]));
    assert_eq!(code, Some(0), "{said}");
    folders
}

/// Restarts instances behind a balancer one after the other, under the load of these callers, and goes on until this number
/// of calls was made. No call fails, and each is executed once.
async fn restart_in_turn(count: usize, callers: usize, calls: usize) {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::start());
    let folders = folders(&gatepay, &server, count);
    let mut programs = Program::serve_all(&folders).await;
    let Some(balancer) = Balancer::before(&programs) else {
        return;
    };
    let made = acme().post(CREATE, order("A-0001"));
    let mut caller = Connection::open(balancer.address).await;
    let made = caller.send(made.request(&Clock::system())).await;
    assert_eq!(made.status, 200, "{}", made.text());

    let pause = Duration::from_millis(20);
    let traffic = Traffic::of(&acme(), balancer.address, callers, pause);
    // Meanwhile the next version has made its schema.
    server.sql(&format!(
        "INSERT INTO gatepay.schema_version VALUES ({})",
        NEWEST_SCHEMA + 1
    ));
    for (place, folder) in folders.iter().enumerate() {
        balancer.uses(place).await;
        let program = programs.remove(0);
        program.stop().await;
        // HAProxy writes its lines a moment later.
        traffic.more(50).await;
        let answered = balancer.answered(place);
        traffic.more(100).await;
        assert_eq!(balancer.answered(place), answered, "it has ended");
        let left = server.sql("SELECT count(*) FROM gatepay.instance");
        assert_eq!(left, (count - 1).to_string(), "it has left the store");
        let program = Program::serve(folder).await;
        program.until_ready().await;
        programs.push(program);
        balancer.uses(place).await;
    }
    let answered = |place| balancer.answered(place);
    let so_far: usize = (0..count).map(answered).sum();
    let mut left = calls.saturating_sub(so_far);
    while left > 0 {
        let part = left.min(5_000);
        traffic.more(part).await;
        left -= part;
    }
    let (tally, took) = traffic.end().await;
    say(format_args!(
        "{count} instances restarted: {tally:?} in {took:?}"
    ));
    assert_eq!(tally.keys().collect::<Vec<_>>(), [&200], "{tally:?}");
    let all: usize = tally.values().sum();
    // The emulator remembers the last 10,000 requests.
    if all < 10_000 {
        assert_eq!(gatepay.count(), all + 1, "each was executed once");
    }
}

#[tokio::test]
async fn no_call_fails_while_both_instances_behind_haproxy_restart_in_turn() {
    restart_in_turn(2, 8, 0).await;
}

#[tokio::test]
#[ignore = "takes two minutes"]
async fn no_call_of_200_000_fails_while_four_instances_restart_in_turn() {
    restart_in_turn(4, 60, 200_000).await;
}

#[test]
fn the_file_for_haproxy_is_accepted_as_it_is_shipped() {
    let Some(mut command) = haproxy() else {
        return;
    };
    let pair = Pair::new();
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("pay.example.com.pem");
    let pem = pair.certificate.pem() + &pair.key.serialize_pem();
    fs::write(&certificate, pem).unwrap();
    let certificate = certificate.to_str().unwrap().to_owned();
    let text = shipped(&[("/etc/haproxy/certs/pay.example.com.pem", certificate)]);
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let checked = command.arg("-c").arg("-f").arg(&file).output().unwrap();
    let (said, code) = printed(&checked);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
}

/// The manifest's objects.
fn manifest(text: &str) -> Vec<Yaml<'_>> {
    Yaml::load_from_str(text).unwrap()
}

/// The object of this kind.
fn named<'m>(objects: &'m [Yaml<'_>], kind: &str, name: &str) -> &'m Yaml<'m> {
    let found = objects.iter().find(|object| {
        object["kind"].as_str() == Some(kind) && object["metadata"]["name"].as_str() == Some(name)
    });
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The report of `check` on the configuration in a manifest, with all its paths in a folder.
fn checked(objects: &[Yaml<'_>]) -> String {
    let folder = Folder::before(UNUSED);
    let config = &named(objects, "ConfigMap", "gatepay-proxy")["data"]["proxy.toml"];
    let state = folder.name("state");
    let root = folder.name(".");
    let proxy = config
        .as_str()
        .unwrap()
        .replace("/state/gatepay-proxy", &state)
        .replace("/state/audit", &folder.name("audit"))
        .replace("/etc/gatepay-proxy", &root);
    assert!(proxy.contains("grace_ms = 10_000") && proxy.contains("deadline_ms = 40_000"));
    folder.file("proxy.toml", &proxy);
    for shop in [acme(), globex()] {
        folder.remove(&format!("tenants.d/{}.toml", shop.id));
    }
    let tenants = &named(objects, "ConfigMap", "gatepay-proxy-tenants")["data"];
    let tenant = tenants["acme.toml"].as_str().unwrap();
    folder.file(
        "tenants.d/acme.toml",
        &tenant.replace("/etc/gatepay-proxy", &root),
    );
    let config = folder.name("proxy.toml");
    let (said, code) = printed(&run(&["check", "--without-secrets", "--config", &config]));
    assert_eq!(code, Some(0), "{said}");
    said
}

/// Fails unless the container may take the memory that `check` counted.
fn holds_what_check_counts(container: &Yaml<'_>, said: &str) {
    let limit = container["resources"]["limits"]["memory"].as_str().unwrap();
    let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
    let wanted = said
        .lines()
        .find_map(|line| line.strip_prefix("memory limit: "));
    let (wanted, _) = wanted.unwrap().split_once(' ').unwrap();
    assert!(
        limit >= wanted.parse().unwrap(),
        "the pod needs {wanted} MiB"
    );
}

#[test]
fn the_manifest_for_one_instance_never_runs_two_and_keeps_its_state() {
    let text = read("kubernetes/one/gatepay-proxy.yaml");
    let objects = manifest(&text);
    let said = checked(&objects);
    assert!(said.contains("store: none"), "{said}");
    let set = &named(&objects, "StatefulSet", "gatepay-proxy")["spec"];
    assert_eq!(set["replicas"].as_integer(), Some(1));
    let pod = &set["template"]["spec"];
    let patience = pod["terminationGracePeriodSeconds"].as_integer().unwrap();
    assert!(patience > 40, "longer than the drain's deadline");
    holds_what_check_counts(&pod["containers"][0], &said);
    let claim = &set["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["name"].as_str(), Some("state"));
    let mounts = pod["containers"][0]["volumeMounts"].as_sequence().unwrap();
    let state = mounts
        .iter()
        .find(|at| at["name"].as_str() == Some("state"));
    assert_eq!(state.unwrap()["mountPath"].as_str(), Some("/state"));
}

#[test]
fn the_manifest_for_many_instances_holds_a_configuration_that_check_accepts() {
    let text = read("kubernetes/many/gatepay-proxy.yaml");
    let objects = manifest(&text);
    let said = checked(&objects);
    let grace_ms = 10_000;
    for line in [
        "acme",
        "store: PostgreSQL at gatepay-db-rw:5432, database gatepay",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }

    let deployment = named(&objects, "Deployment", "gatepay-proxy");
    assert_eq!(deployment["spec"]["replicas"].as_integer(), Some(2));
    let pod = &deployment["spec"]["template"]["spec"];
    let patience = pod["terminationGracePeriodSeconds"].as_integer().unwrap();
    assert!(patience > 40, "longer than the drain's deadline");
    let container = &pod["containers"][0];
    holds_what_check_counts(container, &said);
    for (probe, path) in [("readinessProbe", "/ready"), ("livenessProbe", "/live")] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"].as_str(), Some(path));
    }
    let period = container["readinessProbe"]["periodSeconds"]
        .as_integer()
        .unwrap();
    assert!(
        2 * period * 1_000 < grace_ms,
        "the Service forgets it in the grace"
    );
    // The paths that the configuration names are mounted, and so is the command's own.
    let mounts = container["volumeMounts"].as_sequence().unwrap();
    let mounts: Vec<_> = mounts
        .iter()
        .map(|at| at["mountPath"].as_str().unwrap())
        .collect();
    for path in ["config", "tenants.d", "secrets"] {
        assert!(
            mounts.contains(&format!("/etc/gatepay-proxy/{path}").as_str()),
            "{path}"
        );
    }
    assert!(mounts.contains(&"/state"));
    for container in [
        container,
        &named(&objects, "Job", "gatepay-proxy-migrate-1")["spec"]["template"]["spec"]["containers"]
            [0],
    ] {
        let words = container["args"].as_sequence().unwrap();
        let words: Vec<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
        assert!(
            words.contains(&"--config=/etc/gatepay-proxy/config/proxy.toml"),
            "{words:?}"
        );
        // The program knows each option.
        let (said, code) = printed(&run(&[&words[..], &["--help"]].concat()));
        assert_eq!(code, Some(0), "{said}");
    }
    let budget = named(&objects, "PodDisruptionBudget", "gatepay-proxy");
    assert_eq!(budget["spec"]["minAvailable"].as_integer(), Some(1));
    let labels = &deployment["spec"]["template"]["metadata"]["labels"]["app"];
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &budget["spec"]["selector"]["matchLabels"],
        &named(&objects, "Service", "gatepay-proxy")["spec"]["selector"],
    ] {
        assert_eq!(selector["app"], *labels);
    }
}

/// The code blocks of docs/how-to/two-replicas.md in this language.
fn blocks(language: &str) -> Vec<String> {
    let page = read("../docs/how-to/two-replicas.md");
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    let code = |rest: &str| rest.split("```").next().unwrap().to_owned();
    blocks.map(code).collect()
}

/// The block with this text.
fn block(language: &str, with: &str) -> String {
    let found = blocks(language)
        .into_iter()
        .find(|code| code.contains(with));
    found.unwrap_or_else(|| panic!("docs/how-to/two-replicas.md: no {language} with {with}"))
}

#[test]
fn the_page_on_instances_makes_users_and_tables_that_serve() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::start();
    let code = block("sh", "CREATE ROLE gatepay_serve");
    let (_, statements) = code.split_once("<<'END'\n").unwrap();
    let (statements, _) = statements.split_once("END\n").unwrap();
    for statement in statements.split_inclusive(";\n") {
        server.sql(statement);
    }
    for role in ["gatepay_owner", "gatepay_serve"] {
        server.sql(&format!("ALTER ROLE {role} PASSWORD 'password-of-{role}'"));
    }
    server.require_passwords();
    let folder = Folder::before(UNUSED);
    folder.secret("store", "password-of-gatepay_serve");
    folder.secret_at("owner.key", "password-of-gatepay_owner");
    let table = block("toml", "[store]\npostgres = \"host=db1,db2 dbname=gatepay")
        .replace(
            "host=db1,db2",
            &format!("host=127.0.0.1 port={}", server.port),
        )
        .replace("ca = \"tls/store-ca.pem\"\n", "");
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    folder.file("proxy.toml", &format!("{proxy}\n{table}"));
    // Each line of the block is a command of the program.
    let commands = block("sh", "gatepay-proxy store migrate");
    let commands: Vec<_> = commands.lines().collect();
    assert_eq!(commands.len(), 2);
    let (config, owner) = (folder.name("proxy.toml"), folder.name("owner.key"));
    for line in commands {
        let words = line.strip_prefix("gatepay-proxy ").unwrap();
        let words = words.replace("owner.key", &owner);
        let words: Vec<_> = words.split(' ').chain(["--config", &config]).collect();
        let (said, code) = printed(&run(&words));
        assert_eq!(code, Some(0), "{line}: {said}");
        assert!(!said.contains("problem: "), "{said}");
    }
    let lines = block("", "synchronous_standby_names");
    for line in lines.lines() {
        server.sql(&format!("ALTER SYSTEM SET {line}"));
    }
}

#[test]
fn the_page_on_instances_shows_a_configuration_that_check_accepts() {
    let folder = Folder::before(UNUSED);
    folder.file("proxy.toml", &block("toml", "trusted_proxies"));
    let config = folder.name("proxy.toml");
    folder.edit(
        "proxy.toml",
        "/var/lib/gatepay-proxy",
        &folder.name("state"),
    );
    let (said, code) = printed(&run(&["check", "--without-secrets", "--config", &config]));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("store: PostgreSQL at db1:5432, db2:5432"),
        "{said}"
    );
    // The keys that the balancer's file asks for are those of the page.
    let page = block("toml", "trusted_proxies");
    let asked = read("haproxy/haproxy.cfg");
    for key in ["listen = {", "admin = {"] {
        let line = page.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(asked.contains(line), "haproxy.cfg: {line}");
    }
    let [patroni] = &blocks("yaml")[..] else {
        panic!("one block for Patroni");
    };
    let settings = &manifest(patroni)[0];
    assert_eq!(settings["synchronous_mode"].as_bool(), Some(true));
}

#[test]
fn the_folders_that_pages_and_packages_name_are_writable_under_the_unit() {
    let unit = read("systemd/gatepay-proxy.service");
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    let folders: Vec<_> = lines
        .filter_map(|line| match line.split_once('=')? {
            ("StateDirectory", name) => Some(format!("/var/lib/{name}")),
            ("LogsDirectory", name) => Some(format!("/var/log/{name}")),
            _ => None,
        })
        .collect();
    assert_eq!(folders.len(), 2, "{folders:?}");
    let page = include_str!("../docs/explanation/audit.md");
    let package = read("debian/proxy.toml");
    let mut named = 0;
    for text in [page, &package] {
        for line in text.lines() {
            let line = line.trim_start_matches("# ");
            let is_folder = line.starts_with("dir = ") || line.starts_with("state_dir = ");
            if let Some(folder) = line.split('"').nth(1).filter(|_| is_folder) {
                assert!(folders.iter().any(|may| may == folder), "{folder}");
                named += 1;
            }
        }
    }
    assert_eq!(named, 3, "the state folder, and the journal's twice");
    // An upgrade restarts the program; the start limit must not end it for good.
    assert!(unit.contains("\nStartLimitIntervalSec=0\n"));
    assert!(unit.contains("\nLogRateLimitIntervalSec=0\n"));
}
