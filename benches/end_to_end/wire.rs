//! Wire: a non-blocking connection, plain or over TLS.

use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::net::TcpStream;
use rustls::Connection;

/// A non-blocking connection.
pub(crate) struct Wire {
    pub(crate) tcp: TcpStream,
    pub(crate) tls: Option<Connection>,
    pub(crate) inbox: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream, tls: Option<Connection>) -> Self {
        let inbox = Vec::new();
        Self { tcp, tls, inbox }
    }

    /// Reads all bytes that have arrived. Returns whether more can arrive.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut room = [0; 16 * 1024];
        loop {
            let read = match &mut self.tls {
                None => self.tcp.read(&mut room),
                Some(tls) => tls.read_tls(&mut self.tcp),
            };
            let read = match read {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let Some(tls) = &mut self.tls else {
                self.inbox.extend_from_slice(&room[..read]);
                if read < room.len() {
                    return Ok(true);
                }
                continue;
            };
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let from = self.inbox.len();
            self.inbox.resize(from + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut self.inbox[from..])?;
            self.flush()?;
        }
    }

    pub(crate) fn send(&mut self, text: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            // A message is shorter than any socket's buffer, and only one is sent at a time.
            None => self.tcp.write_all(text),
            Some(tls) => {
                tls.writer().write_all(text)?;
                self.flush()
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            tls.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }
}
