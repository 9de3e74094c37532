//! Target: a program between the two ends of the load, in a process and a folder of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary::{self, Running};
use crate::requests::{account, client, secret};

/// Start-up limit of a target: under valgrind, with a hundred thousand tenants.
const START: Duration = Duration::from_mins(10);

/// The program between the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No program: the load connects to itself.
    Direct,
    /// A bare hyper program that only forwards.
    Pass,
    /// nginx, which only forwards.
    Nginx,
    /// The proxy.
    Proxy,
}

/// The setup of a target.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) gatepay: SocketAddr,
    /// The certificate of the target's listener, if callers use TLS. They choose HTTP/1.1 or HTTP/2 then.
    pub(crate) tls: Option<&'a Certificate>,
    /// GatePay's certificate, if it is reached over TLS.
    pub(crate) gatepay_tls: Option<&'a Certificate>,
    pub(crate) tenants: usize,
    /// Whether the proxy has all that is off by default.
    pub(crate) everything: bool,
    pub(crate) workers: usize,
    /// The core reserved for the target.
    pub(crate) core: Option<usize>,
    /// Whether the target runs under callgrind.
    pub(crate) counted: bool,
    /// The proxy's binary, if it is another than [`binary::path`].
    pub(crate) program: Option<&'a Path>,
}

/// One certificate for all listeners, trusted by all clients.
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    _folder: TempDir,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [chain, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        write(&chain, &made.cert.pem());
        write(&key, &made.signing_key.serialize_pem());
        Self {
            chain,
            key,
            _folder: folder,
        }
    }
}

/// A running target, ended when dropped.
pub(crate) struct Target {
    child: Option<Running>,
    folder: TempDir,
    pub(crate) address: SocketAddr,
    /// The address of the proxy's metrics.
    admin: Option<SocketAddr>,
}

impl Target {
    pub(crate) fn start(kind: Kind, setup: Setup<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut target = Self {
            child: None,
            folder,
            address: setup.gatepay,
            admin: None,
        };
        match kind {
            Kind::Direct => {}
            Kind::Pass => {
                let scheme = setup.gatepay_tls.map_or("http", |_| "https");
                let mut arguments =
                    vec!["pass".to_owned(), format!("{scheme}://{}", setup.gatepay)];
                if let Some(Certificate { chain, key, .. }) = setup.tls {
                    arguments.extend([chain, key].map(|path| path.display().to_string()));
                }
                let program = std::env::current_exe().unwrap();
                target.spawn(setup, &program, &arguments);
                target.address = target.says("out", |text| text.lines().next()?.parse().ok());
            }
            Kind::Nginx => {
                // nginx cannot report the port that the system chose.
                let free = TcpListener::bind("127.0.0.1:0").unwrap();
                target.address = free.local_addr().unwrap();
                drop(free);
                write(&target.path("nginx.conf"), &nginx(setup, target.address));
                let folder = target.folder.path().display();
                let arguments = ["-p", &format!("{folder}"), "-c", "nginx.conf"];
                let arguments = arguments.map(str::to_owned);
                target.spawn(setup, Path::new("nginx"), &arguments);
                let begun = Instant::now();
                while TcpStream::connect(target.address).is_err() {
                    assert!(begun.elapsed() < START, "nginx does not listen");
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Kind::Proxy => {
                proxy(target.folder.path(), setup);
                let program = setup.program.map_or_else(binary::path, Path::to_owned);
                if setup.everything {
                    let mut migrate = Command::new(&program);
                    migrate.args(["store", "migrate"]);
                    let made = migrate.current_dir(target.folder.path()).output().unwrap();
                    assert!(made.status.success(), "{made:?}");
                }
                target.spawn(setup, &program, &["serve".to_owned()]);
                let serving = |text: &str| {
                    let line = binary::serving(text)?;
                    Some(["address", "admin"].map(|key| line[key].as_str()?.parse().ok()))
                };
                let [address, admin] = target.says("err", serving);
                target.address = address.unwrap();
                target.admin = admin;
                // With a new store it refuses all stamps that may be from before it.
                while !target.admin("GET", "/ready").starts_with("HTTP/1.1 200 ") {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
        target
    }

    fn spawn(&mut self, setup: Setup<'_>, program: &Path, arguments: &[String]) {
        let mut words: Vec<String> = Vec::new();
        if let Some(core) = setup.core {
            words.extend(["taskset", "-c", &core.to_string()].map(str::to_owned));
        }
        if setup.counted {
            let out = self.path("callgrind").display().to_string();
            let options = ["valgrind", "--tool=callgrind", "--instr-atstart=no"];
            words.extend(options.map(str::to_owned));
            words.push(format!("--callgrind-out-file={out}"));
        }
        words.push(program.display().to_string());
        words.extend_from_slice(arguments);
        let file = |name| fs::File::create(self.path(name)).unwrap();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        self.child = Some(Running(child));
    }

    /// Waits until the output file yields a value, and returns it.
    fn says<T>(&mut self, file: &str, read: impl Fn(&str) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(self.path(file)).unwrap();
            if let Some(read) = read(&text) {
                return read;
            }
            let ended = self.child.as_mut().unwrap().0.try_wait().unwrap().is_some();
            assert!(
                !ended && begun.elapsed() < START,
                "it does not serve: {text}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(|running| running.0.id())
    }

    /// The processor time used by all threads of the target.
    pub(crate) fn used(&self) -> Duration {
        let Some(id) = self.id() else {
            return Duration::ZERO;
        };
        let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
        let nanos = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Waits until the target is idle: its start-up work would be counted as the requests' cost.
    pub(crate) fn settle(&self) {
        let begun = Instant::now();
        loop {
            let before = self.used();
            thread::sleep(Duration::from_secs(1));
            if self.used().saturating_sub(before) < Duration::from_millis(100) {
                return;
            }
            assert!(begun.elapsed() < START, "it does not come to rest");
        }
    }

    /// The target's resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let Some(id) = self.id() else { return 0 };
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or_default() * 1_024
    }

    /// The proxy's metrics, as Prometheus scrapes them.
    pub(crate) fn metrics(&self) -> String {
        self.admin("GET", "/metrics")
    }

    /// The answer to a request to the proxy's admin address.
    fn admin(&self, method: &str, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let address = self.admin.unwrap();
        let mut tcp = TcpStream::connect(address).unwrap();
        write!(
            tcp,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).unwrap();
        text
    }

    /// Has the proxy read its files again, after the secret of a tenant has changed.
    pub(crate) fn reload(&self) {
        write(&self.path("secrets/0"), "made-up-other-secret");
        let reloaded = self.admin("POST", "/-/reload");
        assert!(reloaded.starts_with("HTTP/1.1 200 "), "{reloaded}");
    }

    /// Ends the target in order.
    pub(crate) fn end(mut self) {
        self.child.take().unwrap().end();
    }

    /// The output of `check` for the target's configuration.
    pub(crate) fn check(&self) -> String {
        let mut check = Command::new(binary::path());
        let output = check.arg("check").current_dir(self.folder.path()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Starts or stops counting.
    pub(crate) fn count(&self, on: bool) {
        let id = self.id().unwrap().to_string();
        let control = |arguments: &[&str]| {
            let mut control = Command::new("callgrind_control");
            let done = control.args(arguments).arg(&id).output().unwrap();
            assert!(done.status.success(), "callgrind_control: {done:?}");
        };
        control(&["-i", if on { "on" } else { "off" }]);
        if !on {
            control(&["-d"]);
        }
    }

    /// The counts that callgrind dumped.
    pub(crate) fn counted(&self) -> String {
        // The dump appears some time after the command.
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(self.path("callgrind.1")).unwrap_or_default();
            if text.contains("\ntotals: ") {
                return text;
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "no count");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Configures a proxy whose limits are out of reach. All other settings are the defaults.
fn proxy(folder: &Path, setup: Setup<'_>) {
    let Setup {
        gatepay, workers, ..
    } = setup;
    let (everything, cap) = if setup.everything {
        (EVERYTHING, CAP)
    } else {
        ("", "")
    };
    let (mut listen, mut upstream) = (String::new(), format!("url = 'http://{gatepay}'"));
    if let Some(Certificate { chain, key, .. }) = setup.tls {
        let (chain, key) = (chain.display(), key.display());
        listen = format!("tls = {{ certificate = '{chain}', key = '{key}' }}");
    }
    if let Some(Certificate { chain, .. }) = setup.gatepay_tls {
        let chain = chain.display();
        upstream = format!(
            "url = 'https://localhost:{}'\nca = '{chain}'",
            gatepay.port()
        );
    }
    fs::create_dir(folder.join("secrets")).unwrap();
    gatepay_proxy::process::state_dir::init(&folder.join("state"), true).unwrap();
    write(
        &folder.join("secrets/institution"),
        "made-up-institution-secret",
    );
    write(&folder.join("secrets/audit"), &"a1".repeat(32));
    write(
        &folder.join("proxy.toml"),
        &format!(
            "tenants = 'tenants.toml'
state_dir = 'state'
poll_ms = 3_600_000
[listen]
address = '127.0.0.1:0'
threads = {workers}
max_connections_per_address = 10_000
{listen}
[admin]
address = '127.0.0.1:0'
[upstream]
{upstream}
[upstream.quota]
requests_per_second = 1_000_000
[[institution.credential]]
client_id = 'made-up-institution'
secret = {{ file = 'secrets/institution' }}
{everything}"
        ),
    );
    let mut tenants = String::new();
    for number in 0..setup.tenants {
        write(&folder.join(format!("secrets/{number}")), &secret(number));
        let (client, account) = (client(number), account(number));
        let _ = write!(
            tenants,
            "[[tenant]]
id = 't{number}'
sub_account = '{account}'
credential = [{{ client_id = '{client}', secret = {{ file = 'secrets/{number}' }} }}]
limits = {{ requests_per_second = 1_000_000, in_flight = 10_000 }}
{cap}"
        );
    }
    write(&folder.join("tenants.toml"), &tenants);
}

/// All that is off by default.
const EVERYTHING: &str = "[timestamp]
future_ms = 300
[audit]
dir = 'audit'
key = { file = 'secrets/audit' }
[store]
path = 'store.db'
[notifications]
listen = '127.0.0.1:0'
public_url = 'https://notify.example.com/gatepay'
path = '/gatepay'
";
const CAP: &str = "cap = [{ calls = ['payouts'], currency = 'USDT', per_day = '1000000' }]
";

/// nginx's answer to a path that is not passed on, about as long as the proxy's.
const NOTHING: &str =
    "{\"status\":\"FAIL\",\"code\":\"404404\",\"errorMessage\":\"there is nothing at this path\"}";

fn nginx(setup: Setup<'_>, address: SocketAddr) -> String {
    let gatepay = setup.gatepay;
    let (mut scheme, mut listen, mut tls) = ("http", "", String::new());
    if let Some(Certificate { chain, key, .. }) = setup.tls {
        let (chain, key) = (chain.display(), key.display());
        listen = " ssl http2";
        tls = format!("ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;");
    }
    if let Some(Certificate { chain, .. }) = setup.gatepay_tls {
        let chain = chain.display();
        scheme = "https";
        let _ = write!(
            tls,
            "proxy_ssl_trusted_certificate {chain}; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_protocols TLSv1.3;"
        );
    }
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;
         events {{ worker_connections 20000; }}
         http {{
             access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
             client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
             upstream gatepay {{ server {gatepay}; keepalive 512; keepalive_requests 1000000000; }}
             server {{
                 listen {address}{listen}; {tls}
                 location = /v1/nothing {{ default_type application/json; return 404 '{NOTHING}'; }}
                 location / {{ proxy_pass {scheme}://gatepay; proxy_http_version 1.1; proxy_set_header Connection ''; }}
             }}
         }}"
    )
}
