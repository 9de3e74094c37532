//! The real binary: its folder of configuration, what it prints, and how it ends.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;
use tempfile::TempDir;

use super::{INSTITUTION_ID, INSTITUTION_SECRET, Shop, acme, globex, until};

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command()
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// What a command printed, in one text, and its exit code.
pub(crate) fn printed(output: &Output) -> (String, Option<i32>) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8(text).expect("it prints text");
    (text, output.status.code())
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepay-proxy"));
    command.env_remove("GATEPAY_LOG").stdin(Stdio::null());
    command
}

/// A folder of configuration that is fine: acme and globex before one upstream, any ports, a state folder.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn before(url: &str) -> Self {
        Self::with(url, INSTITUTION_SECRET, &[acme(), globex()])
    }

    pub(crate) fn with(url: &str, secret: &str, shops: &[Shop]) -> Self {
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

    /// Writes the back office's two files, with these lines at the end of the first, and says where they are.
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
        let proxy = fs::read_to_string(self.path("proxy.toml")).expect("it was written");
        self.file("proxy.toml", &format!("operators = 'operators.d'\n{proxy}"));
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    pub(crate) fn secret(&self, name: &str, secret: &str) {
        let name = format!("secrets/{name}.key");
        self.file(&name, secret);
        fs::set_permissions(self.path(&name), fs::Permissions::from_mode(0o600)).expect("ours");
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

    /// `check` or `serve` with this folder, run to its end.
    pub(crate) fn run(&self, command: &str) -> Output {
        run(&[command, "--config", &self.name("proxy.toml")])
    }
}

/// `serve`, running. It is killed if the test ends before it does.
pub(crate) struct Program {
    child: Child,
    out: Printed,
    err: Printed,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Program {
    /// Starts it, and waits until it says that it serves.
    pub(crate) async fn serve(folder: &Folder) -> Self {
        Self::serve_logging(folder, "info").await
    }

    /// The same, with another `GATEPAY_LOG`.
    pub(crate) async fn serve_logging(folder: &Folder, level: &str) -> Self {
        let mut child = command()
            .args(["serve", "--config", &folder.name("proxy.toml")])
            .env("GATEPAY_LOG", level)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = Printed::by(child.stdout.take().expect("it is piped"));
        let err = Printed::by(child.stderr.take().expect("it is piped"));
        let mut serving = None;
        until("the program serves", || {
            let text = err.text();
            let mut lines = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            serving = lines.find(|line: &Value| line["message"] == "serving");
            serving.is_some()
        })
        .await;
        let serving = serving.expect("it was just seen");
        let address = |name: &str| serving[name].as_str().expect("text").parse();
        Self {
            address: address("address").expect("an address"),
            admin: address("admin").expect("an address"),
            child,
            out,
            err,
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &id]).status();
        assert!(killed.expect("there is a kill").success());
    }

    /// What it has said so far.
    pub(crate) fn stderr(&self) -> String {
        self.err.text()
    }

    /// Waits for its end: the exit code, the access lines and the log.
    pub(crate) async fn end(mut self) -> (Option<i32>, String, String) {
        // Clients go on meanwhile: a connection ends when both sides see it.
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.child.wait().expect("it was not waited for yet");
            (status.code(), self.out.all(), self.err.all())
        });
        ended.await.expect("its output is text")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has mostly ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a pipe, read as it comes, so that the program never waits for the test.
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

    /// All of it, once the pipe is closed.
    fn all(&mut self) -> String {
        let reader = self.reader.take().expect("it is read once");
        reader.join().expect("it does not panic");
        self.text()
    }
}
