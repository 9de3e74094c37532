//! HTTP/2 as a caller: requests whose frames were made before the clock started, and no more of the protocol than the
//! answers need.
//!
//! Header fields are written as literals that neither side remembers, so one request's bytes fit any connection. Of an
//! answer's fields only the status is read, which both servers send first and in one byte. An answer that spells its
//! status otherwise counts as wrong.

use std::io::{self, ErrorKind};

use crate::wire::Wire;

/// The preface, empty settings, and a connection window that is never used up. The streams' windows hold an answer.
const BEGIN: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\x7F\xFF\0\0";
const SETTINGS_RECEIVED: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
/// The standard's window for the bodies of a connection, in bytes.
const WINDOW: u32 = 65_535;
/// Length of a frame's head, in bytes.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// The flag of `DATA` and `HEADERS` that ends a stream.
const END_STREAM: u8 = 1;
/// The flag of `SETTINGS` and `PING` that acknowledges.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The flags `PADDED` and `PRIORITY`: no server sets them here.
const ODD: u8 = 0x28;

/// HPACK: the fields `:status: 200`, `:method: POST` and `:scheme: https`.
const OK: u8 = 0x88;
const POST_HTTPS: [u8; 2] = [0x83, 0x87];
/// HPACK: literals whose name is `:authority`, `:path`, or spelled out.
const AUTHORITY: u8 = 1;
const PATH: u8 = 4;
const LITERAL: u8 = 0;

/// A caller's end of a connection.
pub(crate) struct Http2 {
    /// The id of the next stream.
    next: u32,
    /// How many bytes of bodies the target still takes.
    window: u32,
    /// The answers that have begun.
    answers: Vec<Answer>,
}

struct Answer {
    stream: u32,
    is_good: bool,
    body: Vec<u8>,
}

impl Http2 {
    /// Begins a connection.
    pub(crate) fn begin(wire: &mut Wire) -> Self {
        wire.send(BEGIN).unwrap();
        Self {
            next: 1,
            window: WINDOW,
            answers: Vec::new(),
        }
    }

    /// Sends a request that [`request`] made; returns its stream.
    pub(crate) fn send(&mut self, request: &[u8], wire: &mut Wire) -> io::Result<u32> {
        let stream = self.next;
        let mut frames = request.to_vec();
        let data = HEAD + length(&frames);
        for frame in [0, data] {
            frames[frame + 5..frame + HEAD].copy_from_slice(&stream.to_be_bytes());
        }
        let body = u32::try_from(length(&frames[data..])).map_err(io::Error::other)?;
        // Targets widen the window long before it is used up by as few requests as are in flight.
        self.window = self.window.checked_sub(body).ok_or_else(broken)?;
        self.next += 2;
        wire.send(&frames)?;
        Ok(stream)
    }

    /// Reads the frames that have arrived. `over` is told of each answer that is complete: its stream, and its body if
    /// the status is 200.
    pub(crate) fn read(
        &mut self,
        wire: &mut Wire,
        mut over: impl FnMut(u32, Option<&[u8]>),
    ) -> io::Result<()> {
        let inbox = std::mem::take(&mut wire.inbox);
        let mut rest = &*inbox;
        while rest.len() >= HEAD && rest.len() >= HEAD + length(rest) {
            let (frame, after) = rest.split_at(HEAD + length(rest));
            rest = after;
            let (head, payload) = frame.split_at(HEAD);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match kind {
                HEADERS | DATA if flags & ODD == 0 => {
                    let at = self.answer(stream);
                    let answer = &mut self.answers[at];
                    if kind == HEADERS {
                        answer.is_good = payload.first() == Some(&OK);
                    } else {
                        answer.body.extend_from_slice(payload);
                    }
                    if flags & END_STREAM != 0 {
                        let answer = self.answers.swap_remove(at);
                        over(stream, answer.is_good.then_some(&answer.body));
                    }
                }
                SETTINGS if flags & ACK == 0 => wire.send(SETTINGS_RECEIVED)?,
                PING if flags & ACK == 0 => {
                    let answer = [&[0, 0, 8, PING, ACK, 0, 0, 0, 0], payload].concat();
                    wire.send(&answer)?;
                }
                WINDOW_UPDATE if stream == 0 => {
                    let more = payload.try_into().map_err(|_| broken())?;
                    self.window += u32::from_be_bytes(more);
                }
                SETTINGS | PING | WINDOW_UPDATE => {}
                // A reset, a goodbye, or an answer in a form that is not understood.
                _ => return Err(broken()),
            }
        }
        wire.inbox = rest.to_vec();
        Ok(())
    }

    /// The place of a stream's answer, which may just begin.
    fn answer(&mut self, stream: u32) -> usize {
        let begun = self.answers.iter().position(|of| of.stream == stream);
        begun.unwrap_or_else(|| {
            self.answers.push(Answer {
                stream,
                is_good: false,
                body: Vec::new(),
            });
            self.answers.len() - 1
        })
    }
}

/// Adds the frames of a `POST` over `https` to `frames`. Its stream is filled in when it is sent.
pub(crate) fn request(
    frames: &mut Vec<u8>,
    authority: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) {
    let mut block = POST_HTTPS.to_vec();
    for (name, value) in [(AUTHORITY, authority), (PATH, path)] {
        block.push(name);
        string(&mut block, value);
    }
    for (name, value) in fields {
        block.push(LITERAL);
        string(&mut block, &name.to_ascii_lowercase());
        string(&mut block, value);
    }
    for (kind, flag, payload) in [
        (HEADERS, END_HEADERS, &*block),
        (DATA, END_STREAM, body.as_bytes()),
    ] {
        let [high, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        assert_eq!(high, 0);
        frames.extend_from_slice(&length);
        frames.extend_from_slice(&[kind, flag, 0, 0, 0, 0]);
        frames.extend_from_slice(payload);
    }
}

/// HPACK: a string without Huffman's code, of less than 255 bytes.
fn string(block: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()).unwrap() {
        length @ ..0x7F => block.push(length),
        length @ ..0xFF => block.extend([0x7F, length - 0x7F]),
        0xFF => panic!("longer than two bytes can say"),
    }
    block.extend_from_slice(text.as_bytes());
}

/// Length of a frame's payload, in bytes.
fn length(frame: &[u8]) -> usize {
    u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize
}

fn broken() -> io::Error {
    ErrorKind::InvalidData.into()
}
