//! The processes of the run, and their processors.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::param::clock_ticks_per_second;

use crate::binary::{self, Running};
use crate::memory_limit::MemoryLimit;

/// The proxy's processor, and the processors of all other processes.
pub(crate) struct Processors {
    proxy: String,
    others: String,
}

impl Processors {
    /// Reserves the first processor for the proxy, so that the run measures how the proxy shares its time, not how the
    /// kernel does. A single processor cannot be divided.
    pub(crate) fn shared_out() -> Self {
        let allowed: Vec<String> = allowed().into_iter().map(|one| one.to_string()).collect();
        let (proxy, others) = match allowed.split_first() {
            Some((first, others)) if !others.is_empty() => (first.clone(), others.join(",")),
            _ => (allowed.join(","), allowed.join(",")),
        };
        let id = std::process::id().to_string();
        // Set before other threads exist: new threads and processes inherit the setting.
        let own = Command::new("taskset")
            .args(["-pc", &others, &id])
            .stdout(Stdio::null())
            .status();
        assert!(
            own.expect("there is a taskset (util-linux)").success(),
            "processors {others}"
        );
        Self { proxy, others }
    }

    pub(crate) fn say(&self) -> String {
        format!(
            "the proxy on processor {}, everything else on {}",
            self.proxy, self.others
        )
    }
}

/// The processors this process may use.
fn allowed() -> Vec<u32> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = list.unwrap().trim().split(',');
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    };
    ranges.flat_map(range).collect()
}

impl Running {
    /// Resident memory, in MiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or_default() / 1024
    }

    /// Processor time used, in seconds.
    pub(crate) fn spent(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
        let stat = stat.unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1_000 / clock_ticks_per_second()).as_secs_f64()
    }

    /// The number of open sockets and files.
    pub(crate) fn open(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.id())).map_or(0, Iterator::count)
    }
}

/// Writes a configuration file that only its owner may read, as secrets require.
pub(crate) fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Writes a configuration with one tenant, the connections of the manifests in config/kubernetes, and otherwise low limits, so that
/// the memory bound is tight.
pub(crate) fn configure(folder: &Path, gatepay: SocketAddr) {
    let file = |name: &str, text: &str| write(folder, name, text);
    file(
        "proxy.toml",
        &format!(
            "state_dir = 'state'
[listen]
address = '127.0.0.1:0'
# The attack is to get in, not to be turned away for its number: all of its connections, and a request on each.
max_connections = 2_000
max_connections_per_address = 1_200
max_requests = 4_800
[admin]
address = '127.0.0.2:0'
[upstream]
url = 'http://{gatepay}'
[[institution.credential]]
client_id = 'fake-institution'
secret = {{ file = 'secrets/institution.key' }}
"
        ),
    );
    gatepay_proxy::process::state_dir::init(&folder.join("state"), true).unwrap();
    file("secrets/institution.key", "fake-institution-secret");
    file("secrets/acme.key", "fake-acme-secret");
    file(
        "tenants.d/acme.toml",
        "id = 'acme'
sub_account = '2124538349'
credential = [{ client_id = 'client-acme', secret = { file = '../secrets/acme.key' } }]
limits = { requests_per_second = 1000, in_flight = 100 }
",
    );
}

/// The memory bound of the process and the limit of its pod or unit, as `check` prints them, in MiB.
pub(crate) fn bound_and_limit(folder: &Path) -> (u64, u64) {
    let output = binary::command(folder, &["check"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let figure = |begin: &str| {
        let line = text.lines().find(|line| line.starts_with(begin)).unwrap();
        println!("{line}");
        let figure = line[begin.len()..].split(' ').next().unwrap();
        figure.parse().unwrap()
    };
    (figure("memory: at most "), figure("memory limit: "))
}

/// An address without a listener so far.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.3:0").unwrap();
    listener.local_addr().unwrap()
}

/// The emulator of GatePay, behind the proxy.
pub(crate) fn sandbox(folder: &Path, address: SocketAddr) -> Running {
    let listen = address.to_string();
    let arguments = [
        "sandbox",
        "--listen",
        &listen,
        "--client-id",
        "fake-institution",
        "--secret-file",
        "secrets/institution.key",
        "--sub-account",
        "2124538349",
    ];
    let mut command = binary::command(folder, &arguments);
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(quiet.spawn().unwrap());
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no emulator");
        thread::sleep(Duration::from_millis(20));
    }
    running
}

/// The proxy, and its address. It joins the group of the memory limit before it is the proxy, so that all of its memory counts.
pub(crate) fn serve(
    folder: &Path,
    processors: &Processors,
    limit: Option<&MemoryLimit>,
) -> (Running, SocketAddr) {
    let log = fs::File::create(folder.join("log")).unwrap();
    let plain = binary::command(folder, &["serve"]);
    let members = limit.map_or("/dev/null".into(), MemoryLimit::members);
    let mut command = Command::new("sh");
    let command = command
        .args(["-c", "echo $$ >\"$0\" && exec taskset -c \"$@\""])
        .arg(members)
        .arg(&processors.proxy)
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(folder)
        .stdin(Stdio::null());
    let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let running = Running(child);
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(folder.join("log")).unwrap();
        if let Some(line) = binary::serving(&text) {
            return (running, line["address"].as_str().unwrap().parse().unwrap());
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it does not serve: {text}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
