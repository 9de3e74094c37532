//! The part of HTTP/1.1 that two sides need that know each other's messages: every message has a length.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads until a whole message is at the front, and returns its length; 0 if the peer has closed the connection.
pub(super) async fn message(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> io::Result<usize> {
    loop {
        if let Some(length) = whole(bytes) {
            return Ok(length);
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(0);
        }
    }
}

fn whole(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse::<usize>().ok())?
    });
    let length = head + length.unwrap_or(0);
    (bytes.len() >= length).then_some(length)
}
