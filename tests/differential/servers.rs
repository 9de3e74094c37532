//! Real servers, each as a reverse proxy before a port. Each writes down what it read.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::PATIENCE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    Nginx,
    HaProxy,
    Node,
}

pub(crate) const SERVERS: [ServerKind; 3] =
    [ServerKind::Nginx, ServerKind::HaProxy, ServerKind::Node];

/// A running server. It is killed when the test ends.
pub(crate) struct RealServer {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
}

/// A request as a server read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenRequest {
    /// The port of the client's connection.
    pub(crate) port: u16,
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    /// Client id, nonce, signature, and the account that the call is for.
    pub(crate) identity: [Vec<u8>; 4],
    pub(crate) agent: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
}

impl RealServer {
    /// Starts a server that passes requests on to `next`; nothing if it is not installed.
    pub(crate) fn start(kind: ServerKind, next: SocketAddr) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a port is free");
        let fill = |text: &str| {
            text.replace("DIR", folder.path().to_str().expect("a usual name"))
                .replace("NEXT", &next.to_string())
                .replace("OWN", &address.to_string())
        };
        let (name, config, program) = match kind {
            ServerKind::Nginx => ("nginx.conf", NGINX, "nginx"),
            ServerKind::HaProxy => ("haproxy.cfg", HAPROXY, "haproxy"),
            ServerKind::Node => ("front.js", NODE, "node"),
        };
        let file = folder.path().join(name);
        fs::write(&file, fill(config)).expect("a file");
        let seen = fs::File::create(folder.path().join("seen")).expect("a file");
        let mut command = Command::new(program);
        match kind {
            ServerKind::Nginx => command.arg("-p").arg(folder.path()).arg("-c").arg(&file),
            ServerKind::HaProxy => command.arg("-db").arg("-f").arg(&file),
            ServerKind::Node => command.arg(&file),
        };
        // nginx writes its own file.
        if kind != ServerKind::Nginx {
            command.stdout(seen);
        }
        // Debian has two of them where only root looks.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let mut child = command.stderr(Stdio::null()).spawn().ok()?;
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = child.try_wait().expect("a child");
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "{kind:?} starts: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self {
            child,
            address,
            folder,
        })
    }

    /// What it read, once it has written nothing more for longer than a request may wait for the rest of its bytes: a
    /// server writes its line when the request is over.
    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        let file = self.folder.path().join("seen");
        let mut text = fs::read(&file).expect("it is written");
        loop {
            std::thread::sleep(Duration::from_millis(2_500));
            let again = fs::read(&file).expect("it is written");
            if again.len() == text.len() {
                break;
            }
            text = again;
        }
        let lines = text.split(|byte| *byte == b'\n');
        lines.filter_map(SeenRequest::parse).collect()
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SeenRequest {
    /// A line of the log. Heads that were refused before they were read have none, or one without a method.
    fn parse(line: &[u8]) -> Option<Self> {
        // nginx leaves bytes as they are that are not UTF-8.
        let text: String = line.iter().map(|byte| char::from(*byte)).collect();
        let line: Value = serde_json::from_str(&text).ok()?;
        let is_hex = line["hex"] == "1";
        let bytes = |name: &str| -> Vec<u8> {
            let text = line[name].as_str().unwrap_or_default();
            if is_hex {
                hex::decode(text).unwrap_or_default()
            } else {
                // Each character was a byte.
                text.chars()
                    .filter_map(|char| u8::try_from(char).ok())
                    .collect()
            }
        };
        let number = |name: &str| line[name].as_str().and_then(|text| text.parse().ok());
        let method = String::from_utf8(bytes("method")).ok()?;
        if method.is_empty() {
            return None;
        }
        Some(Self {
            port: number("port")?,
            method,
            target: bytes("target"),
            identity: ["client", "nonce", "signature", "account"].map(bytes),
            agent: bytes("agent"),
            body: bytes("body"),
            status: number("status").unwrap_or(0),
        })
    }
}

const NGINX: &str = r#"
daemon off;
master_process off;
pid DIR/pid;
error_log DIR/error;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path DIR/body;
    proxy_temp_path DIR/proxy;
    fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    client_body_buffer_size 64k;
    client_body_in_single_buffer on;
    log_format seen escape=json '{"port":"$remote_port","method":"$request_method","target":"$request_uri",'
        '"client":"$http_x_gatepay_certificate_clientid","nonce":"$http_x_gatepay_nonce",'
        '"signature":"$http_x_gatepay_signature","account":"$http_x_gatepay_on_behalf_of",'
        '"agent":"$http_user_agent","body":"$request_body","status":"$status"}';
    upstream next { server NEXT; keepalive 16; }
    server {
        listen OWN;
        access_log DIR/seen seen;
        client_body_timeout 2s;
        client_header_timeout 2s;
        proxy_ignore_client_abort on;
        proxy_next_upstream off;
        location / {
            proxy_pass http://next;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Front-Port $remote_port;
        }
    }
}
"#;

const HAPROXY: &str = r#"
global
    log stdout len 65535 format raw local0
    maxconn 1000
defaults
    mode http
    log global
    option http-buffer-request
    timeout client 2s
    timeout http-request 2s
    timeout connect 5s
    timeout server 5s
frontend front
    bind OWN
    http-request set-var(txn.target) pathq
    http-request set-var(txn.client) req.hdr(x-gatepay-certificate-clientid)
    http-request set-var(txn.nonce) req.hdr(x-gatepay-nonce)
    http-request set-var(txn.signature) req.hdr(x-gatepay-signature)
    http-request set-var(txn.account) req.hdr(x-gatepay-on-behalf-of)
    http-request set-var(txn.agent) req.hdr(user-agent)
    http-request set-var(txn.body) req.body
    http-request set-header X-Front-Port %[src_port]
    log-format '{"hex":"1","port":"%cp","method":"%[capture.req.method,hex]","target":"%[var(txn.target),hex]","client":"%[var(txn.client),hex]","nonce":"%[var(txn.nonce),hex]","signature":"%[var(txn.signature),hex]","account":"%[var(txn.account),hex]","agent":"%[var(txn.agent),hex]","body":"%[var(txn.body),hex]","status":"%ST"}'
    default_backend next
backend next
    server next NEXT
"#;

const NODE: &str = r"
const http = require('http');
const [address, port] = 'NEXT'.split(':');
const [ownAddress, ownPort] = 'OWN'.split(':');
const agent = new http.Agent({ keepAlive: true });
const hex = (text) => Buffer.from(text || '', 'latin1').toString('hex');
http.createServer((request, answer) => {
    const pieces = [];
    const clientPort = String(request.socket.remotePort);
    request.on('data', (piece) => pieces.push(piece));
    request.on('end', () => {
        const body = Buffer.concat(pieces);
        const lines = request.headers;
        const log = (status) => process.stdout.write(JSON.stringify({
            hex: '1', port: clientPort, method: hex(request.method), target: hex(request.url),
            client: hex(lines['x-gatepay-certificate-clientid']), nonce: hex(lines['x-gatepay-nonce']),
            signature: hex(lines['x-gatepay-signature']), account: hex(lines['x-gatepay-on-behalf-of']),
            agent: hex(lines['user-agent']), body: body.toString('hex'), status: String(status),
        }) + '\n');
        const headers = { ...lines, 'x-front-port': clientPort };
        delete headers.connection;
        delete headers.expect;
        try {
            const passed = http.request({ host: address, port, agent, method: request.method, path: request.url, headers },
                (got) => {
                    log(got.statusCode);
                    const relayed = { ...got.headers };
                    delete relayed.connection;
                    answer.writeHead(got.statusCode, relayed);
                    got.pipe(answer);
                });
            passed.on('error', () => { log(502); if (!answer.headersSent) answer.writeHead(502); answer.end(); });
            passed.end(body);
        } catch (error) {
            log(400);
            answer.writeHead(400);
            answer.end();
        }
    });
}).listen(Number(ownPort), ownAddress);
";
