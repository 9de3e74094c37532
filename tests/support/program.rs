//! The real binary: its configuration folder, its output and its exit.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gatepay_proxy::process::state_dir::InitResult;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::postgres::conninfo;
use super::{
    Answer, Connection, INSTITUTION_ID, INSTITUTION_SECRET, PATIENCE, Shop, acme, any_port, globex,
};

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command()
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// The output of a command in one text, and its exit code.
pub(crate) fn printed(output: &Output) -> (String, Option<i32>) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8(text).expect("it prints text");
    (text, output.status.code())
}

/// The program's binary: of this build, or the one that `GATEPAY_PROXY` names.
pub(crate) fn binary() -> OsString {
    std::env::var_os("GATEPAY_PROXY").unwrap_or_else(|| env!("CARGO_BIN_EXE_gatepay-proxy").into())
}

/// The program, with none of its variables set.
pub(crate) fn command() -> Command {
    let mut command = Command::new(binary());
    command
        .env_remove("GATEPAY_LOG")
        .env_remove("GATEPAY_PROXY_CONFIG")
        .stdin(Stdio::null());
    command
}

/// A valid configuration folder: acme and globex before one upstream, any ports, a state folder.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn before(url: &str) -> Self {
        Self::with(url, INSTITUTION_SECRET, &[acme(), globex()])
    }

    pub(crate) fn with(url: &str, secret: &str, shops: &[Shop]) -> Self {
        let folder = Self::never_marked(url, secret, shops);
        folder.never_served("state");
        folder
    }

    /// Marks a state folder as never served by any process: the first start does not wait.
    pub(crate) fn never_served(&self, name: &str) {
        let made = gatepay_proxy::process::state_dir::init(&self.path(name), true);
        assert_eq!(made.expect("a folder"), InitResult::NeverServed);
    }

    /// A folder whose first start waits, because its state folder is not marked.
    pub(crate) fn never_marked(url: &str, secret: &str, shops: &[Shop]) -> Self {
        let folder = Self(TempDir::new().expect("a temporary folder"));
        folder.file(
            "proxy.toml",
            &format!(
                "state_dir = 'state'
listen = {{ address = '127.0.0.1:0', threads = 2 }}
admin = {{ address = '127.0.0.2:0' }}
drain = {{ grace_ms = 1 }}
log = {{ format = 'json' }}
upstream = {{ url = '{url}' }}
[[institution.credential]]
client_id = '{INSTITUTION_ID}'
secret = {{ file = 'secrets/institution.key' }}
"
            ),
        );
        folder.secret("institution", secret);
        for shop in shops {
            folder.tenant(
                shop,
                "limits = { in_flight = 1000, requests_per_second = 1000 }",
            );
        }
        folder
    }

    /// Writes a tenant's two files, with these lines at the end of the first.
    pub(crate) fn tenant(&self, shop: &Shop, more: &str) {
        let mut text = format!("id = '{}'\nsub_account = '{}'\n", shop.id, shop.sub_account);
        writeln!(
            text,
            "credential = [{{ client_id = '{}', secret = {{ file = '../secrets/{}.key' }} }}]\n{more}",
            shop.client_id, shop.id
        )
        .expect("text takes text");
        self.file(&format!("tenants.d/{}.toml", shop.id), &text);
        self.secret(shop.id, shop.secret);
    }

    /// Writes the back office's two files, with these lines at the end of the first, and adds their folder to
    /// `proxy.toml`.
    pub(crate) fn operator(&self, office: &Shop, more: &str) {
        let (id, client_id) = (office.id, office.client_id);
        self.file(
            &format!("operators.d/{id}.toml"),
            &format!(
                "id = '{id}'
credential = [{{ client_id = '{client_id}', secret = {{ file = '../secrets/{id}.key' }} }}]
{more}
"
            ),
        );
        self.secret(id, office.secret);
        self.proxy("operators = 'operators.d'");
    }

    /// Puts these lines before the text of `proxy.toml`.
    pub(crate) fn proxy(&self, lines: &str) {
        let proxy = fs::read_to_string(self.path("proxy.toml")).expect("it was written");
        self.file("proxy.toml", &format!("{lines}\n{proxy}"));
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("it was there");
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Replaces the first occurrence of a text in a file.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).expect("it was written");
        assert!(text.contains(from), "{name}: no {from}");
        self.file(name, &text.replacen(from, to, 1));
    }

    pub(crate) fn secret(&self, name: &str, secret: &str) {
        self.secret_at(&format!("secrets/{name}.key"), secret);
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn secret_at(&self, name: &str, secret: &str) {
        self.file(name, secret);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).expect("ours");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path of a file, as an argument.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name)
            .into_os_string()
            .into_string()
            .expect("text")
    }

    /// Configures an audit journal.
    pub(crate) fn keeps_a_journal(&self) {
        let proxy = fs::read_to_string(self.path("proxy.toml")).expect("it was written");
        let audit = "audit = { dir = 'audit', key = { file = 'secrets/audit.key' } }";
        self.file("proxy.toml", &format!("{audit}\n{proxy}"));
        self.secret("audit", "fake-audit-key-0123456789abcdef");
    }

    /// Configures a store on the first of these ports that is writable, with a short guard and more keys for `[store]`.
    pub(crate) fn uses_a_store(&self, ports: &[u16], more: &str) {
        let conninfo = conninfo(ports);
        self.proxy(&format!(
            "timestamp = {{ future_ms = 300 }}\nstore = {{ postgres = '{conninfo}'{more} }}"
        ));
    }

    /// The whole text of the audit journal's files.
    pub(crate) fn journal(&self) -> String {
        let files = fs::read_dir(self.path("audit")).expect("there is a journal");
        let mut files: Vec<_> = files.map(|file| file.expect("it is read").path()).collect();
        files.sort();
        let text = |file| fs::read_to_string(file).expect("it is text");
        files.iter().map(text).collect()
    }

    /// Runs `check` or `serve` on this folder to its end.
    pub(crate) fn run(&self, command: &str) -> Output {
        run(&[command, "--config", &self.name("proxy.toml")])
    }
}

/// A launcher like systemd's socket unit: it binds once, and starts one program after the other on the same sockets.
pub(crate) struct Launcher {
    listen: Socket,
    admin: Socket,
    told: UnixDatagram,
    folder: TempDir,
}

impl Launcher {
    pub(crate) fn bind() -> Self {
        let bound = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&any_port().into()).expect("a port is free");
            socket.listen(4096).expect("it listens");
            socket
        };
        let folder = TempDir::new().expect("a temporary folder");
        let told = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        told.set_nonblocking(true).expect("a socket's option");
        Self {
            listen: bound(),
            admin: bound(),
            told,
            folder,
        }
    }

    /// The program's next notification (`sd_notify`), if one has arrived.
    pub(crate) fn told(&self) -> Option<String> {
        let mut text = [0; 256];
        let length = self.told.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// The address for callers, whichever program serves it.
    pub(crate) fn address(&self) -> SocketAddr {
        let address = self.listen.local_addr().expect("it is bound");
        address.as_socket().expect("it is an internet address")
    }

    /// Starts `serve` on these sockets, without waiting until it serves. Safe Rust passes sockets as standard streams
    /// only, so a shell moves them to the descriptors that the protocol requires. Access lines go to a file.
    pub(crate) fn start(&self, folder: &Folder) -> Started {
        const PUT: &str = r#"exec 3<&0 4<&1 0</dev/null 1>>"$0"
            export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=listen:admin
            exec "$@""#;
        let pass = |socket: &Socket| OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let lines = folder.path("access.log");
        let mut child = Command::new("sh")
            .args(["-c", PUT])
            .arg(&lines)
            .arg(binary())
            .args(["serve", "--config", &folder.name("proxy.toml")])
            .env("GATEPAY_LOG", "info")
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", "300000")
            .stdin(pass(&self.listen))
            .stdout(pass(&self.admin))
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let err = Printed::by(child.stderr.take().expect("it is piped"));
        Started {
            child,
            out: Out::File(lines),
            err,
        }
    }
}

/// A started `serve`, which may not serve yet.
pub(crate) struct Started {
    child: Child,
    out: Out,
    err: Printed,
}

/// The destination of access lines.
enum Out {
    Pipe(Printed),
    File(PathBuf),
}

impl Started {
    /// The log so far.
    pub(crate) fn stderr(&self) -> String {
        self.err.text()
    }

    /// Waits until the program reports that it serves.
    pub(crate) async fn serving(self) -> Program {
        let began = Instant::now();
        let serving = loop {
            let text = self.err.text();
            // The log is written by a thread of its own: the line about the store comes after the addresses.
            let is_whole = text.contains("this store together") || text.contains("no [store]: ");
            if let Some(found) = text.lines().find_map(addresses).filter(|_| is_whole) {
                break found;
            }
            assert!(began.elapsed() < PATIENCE, "it does not serve: {text}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let (address, admin) = serving;
        Program {
            address,
            admin,
            child: self.child,
            out: self.out,
            err: self.err,
        }
    }
}

/// The addresses in the log line that reports serving, in either log format.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        let address = |name: &str| line[name].as_str()?.parse().ok();
        let serving = line["message"] == "serving";
        return address("address").zip(address("admin")).filter(|_| serving);
    }
    let (_, fields) = line.split_once(" serving ")?;
    let field = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name));
    let address = |name| field(name)?.parse().ok();
    address("address=").zip(address("admin="))
}

/// A serving program. It is killed if the test ends first.
pub(crate) struct Program {
    child: Child,
    out: Out,
    err: Printed,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Program {
    /// Starts the program, and waits until it reports that it serves.
    pub(crate) async fn serve(folder: &Folder) -> Self {
        Self::serve_logging(folder, "info").await
    }

    /// Starts a program for each folder, and waits until all are ready: before that money is refused, since the store's caps and
    /// lists are not known.
    pub(crate) async fn serve_all(folders: &[Folder]) -> Vec<Self> {
        let mut programs = Vec::new();
        for folder in folders {
            programs.push(Self::serve(folder).await);
        }
        for program in &programs {
            program.until_ready().await;
        }
        programs
    }

    /// Like `serve`, with another `GATEPAY_LOG`.
    pub(crate) async fn serve_logging(folder: &Folder, level: &str) -> Self {
        Self::start(command(), folder, level).await
    }

    /// Like `serve`, started through these words: `prlimit`, for example.
    pub(crate) async fn serve_under(folder: &Folder, words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(binary()).stdin(Stdio::null());
        Self::start(command, folder, "info").await
    }

    async fn start(mut command: Command, folder: &Folder, level: &str) -> Self {
        let mut child = command
            .args(["serve", "--config", &folder.name("proxy.toml")])
            .env("GATEPAY_LOG", level)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = Printed::by(child.stdout.take().expect("it is piped"));
        let err = Printed::by(child.stderr.take().expect("it is piped"));
        let out = Out::Pipe(out);
        Started { child, out, err }.serving().await
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the program has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("it can be waited for").is_some()
    }

    /// Asks the program to end (`SIGTERM`).
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Asks the program to reload (`SIGHUP`).
    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// Sends the program this signal (`-USR1`).
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args([signal, &id]).status();
        assert!(killed.expect("there is a kill").success());
    }

    /// Sends a request to the admin listener.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> Answer {
        self.admin_with(method, path, &[]).await
    }

    /// Like `admin`, with these headers.
    pub(crate) async fn admin_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.admin.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("well formed");
        Connection::open(self.admin).await.send(request).await
    }

    /// Reloads, and returns the status and the answer.
    pub(crate) async fn reload(&self, query: &str) -> (u16, Value) {
        let answer = self.admin("POST", &format!("/-/reload{query}")).await;
        let body = serde_json::from_slice(&answer.body);
        (answer.status, body.expect("it answers in JSON"))
    }

    /// The value of a metric.
    pub(crate) async fn metric(&self, series: &str) -> String {
        let answer = self.admin("GET", "/metrics").await;
        let text = str::from_utf8(&answer.body).expect("metrics are text");
        let value = text
            .lines()
            .filter_map(|line| line.strip_prefix("gatepay_proxy_"))
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.expect("there is such a series").to_owned()
    }

    /// Waits until `/ready` answers 200.
    pub(crate) async fn until_ready(&self) {
        self.ready_with(200).await;
    }

    /// Waits until `/ready` answers with this status, and returns its text.
    pub(crate) async fn ready_with(&self, status: u16) -> String {
        let began = Instant::now();
        loop {
            let answer = self.admin("GET", "/ready").await;
            if answer.status == status {
                return String::from_utf8(answer.body.into()).expect("it is text");
            }
            assert!(
                began.elapsed() < PATIENCE,
                "/ready is not {status}: {}",
                self.stderr()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The log so far.
    pub(crate) fn stderr(&self) -> String {
        self.err.text()
    }

    /// Ends the program in order, and returns its log.
    pub(crate) async fn stop(self) -> String {
        self.terminate();
        let (code, _, log) = self.end().await;
        assert_eq!(code, Some(0), "{log}");
        log
    }

    /// Waits for the program's end: the exit code, the access lines and the log.
    pub(crate) async fn end(mut self) -> (Option<i32>, String, String) {
        // Clients continue meanwhile: a connection ends when both sides see the end.
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.child.wait().expect("it was not waited for yet");
            let lines = match &mut self.out {
                Out::Pipe(out) => out.all(),
                Out::File(path) => fs::read_to_string(path).expect("it was made"),
            };
            (status.code(), lines, self.err.all())
        });
        ended.await.expect("its output is text")
    }
}

impl Drop for Program {
    #[expect(clippy::print_stderr, reason = "a failed test shows the program's log")]
    fn drop(&mut self) {
        // The program has mostly ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", self.stderr());
        }
    }
}

/// The output of a pipe, read continuously, so that the program never waits for the test.
struct Printed {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Printed {
    fn by(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut piece) {
                let piece = String::from_utf8_lossy(&piece[..read]);
                kept.lock().expect("nobody panicked").push_str(&piece);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        self.text.lock().expect("nobody panicked").clone()
    }

    /// The whole output, once the pipe is closed.
    fn all(&mut self) -> String {
        let reader = self.reader.take().expect("it is read once");
        reader.join().expect("it does not panic");
        self.text()
    }
}
