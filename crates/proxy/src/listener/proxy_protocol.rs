//! The PROXY protocol, versions 1 and 2: the header by which a trusted proxy names the caller's address.
//!
//! The header is read exactly to its end, so that TLS or HTTP finds its own first byte next. Source:
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, sections 2.1 and 2.2.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The first bytes of a version 1 header.
const TEXT: &[u8; 6] = b"PROXY ";
/// The length in bytes of the longest version 1 header, with its line end.
const LONGEST_TEXT: usize = 107;
/// The first bytes of a version 2 header.
const BINARY: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length in bytes of version 2's fixed part: signature, version and command, family, length.
const FIXED: usize = BINARY.len() + 4;
/// The length in bytes of the longest header that is read: addresses and a handful of extensions, including a client's
/// certificate.
const LONGEST: usize = 4096;

/// Reads the header. `None` means that the proxy speaks for itself, as in a health check, or names no IP address.
///
/// An error of kind [`io::ErrorKind::InvalidData`] means that the bytes are no header.
pub async fn read(tcp: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut seen = vec![0; LONGEST];
    let mut taken = 0;
    loop {
        // Bytes are peeked at before they are read, because only the header itself may be read.
        let more = tcp.peek(&mut seen[taken..]).await?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = parse(&seen[..taken + more])
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let end = header.map_or(taken + more, |header| header.length);
        tcp.read_exact(&mut seen[taken..end]).await?;
        taken = end;
        if let Some(header) = header {
            return Ok(header.source);
        }
    }
}

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The length of the header in bytes.
    pub length: usize,
    /// The caller's address, if the proxy names one.
    pub source: Option<IpAddr>,
}

/// The first bytes of a connection are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header")]
pub struct MalformedProxyHeader;

/// Parses the header at the start of `seen`; `None` if the header is incomplete.
///
/// # Errors
/// If the bytes cannot be the start of a header.
pub fn parse(seen: &[u8]) -> Result<Option<ProxyHeader>, MalformedProxyHeader> {
    if begins(seen, BINARY) {
        binary(seen)
    } else if begins(seen, TEXT) {
        text(seen)
    } else {
        Err(MalformedProxyHeader)
    }
}

/// Whether `seen` and `with` agree as far as both reach.
fn begins(seen: &[u8], with: &[u8]) -> bool {
    let both = seen.len().min(with.len());
    seen[..both] == with[..both]
}

fn text(seen: &[u8]) -> Result<Option<ProxyHeader>, MalformedProxyHeader> {
    let within = &seen[..seen.len().min(LONGEST_TEXT)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        let more_may_come = seen.len() < LONGEST_TEXT;
        return if more_may_come {
            Ok(None)
        } else {
            Err(MalformedProxyHeader)
        };
    };
    let line = within[..end]
        .strip_suffix(b"\r")
        .ok_or(MalformedProxyHeader)?;
    let line = str::from_utf8(line).map_err(|_| MalformedProxyHeader)?;
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(addresses::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(addresses::<Ipv6Addr>(words)?),
        _ => return Err(MalformedProxyHeader),
    };
    Ok(Some(ProxyHeader {
        length: end + 1,
        source,
    }))
}

/// Parses source, destination and both ports. Only the source is returned, but all four must be valid.
fn addresses<'a, A>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<IpAddr, MalformedProxyHeader>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut address = || words.next()?.parse::<A>().ok();
    let source = address().ok_or(MalformedProxyHeader)?;
    let _destination = address().ok_or(MalformedProxyHeader)?;
    for _port in 0..2 {
        let port = words.next().ok_or(MalformedProxyHeader)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || port.parse::<u16>().is_err() {
            return Err(MalformedProxyHeader);
        }
    }
    match words.next() {
        Some(_) => Err(MalformedProxyHeader),
        None => Ok(source.into()),
    }
}

fn binary(seen: &[u8]) -> Result<Option<ProxyHeader>, MalformedProxyHeader> {
    let Some((fixed, rest)) = seen.split_at_checked(FIXED) else {
        return Ok(None);
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(MalformedProxyHeader),
    };
    if FIXED + length > LONGEST {
        return Err(MalformedProxyHeader);
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    // Extensions may follow the addresses.
    let source = match family {
        _ if local => None,
        0x00 => None,
        // TCP over IPv4: two addresses, two ports.
        0x11 if length >= 12 => Some(Ipv4Addr::from(start(rest)).into()),
        // TCP over IPv6.
        0x21 if length >= 36 => Some(Ipv6Addr::from(start(rest)).into()),
        // A Unix socket has no address to compare with.
        0x31 if length >= 216 => None,
        _ => return Err(MalformedProxyHeader),
    };
    Ok(Some(ProxyHeader {
        length: FIXED + length,
        source,
    }))
}

fn start<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the length was just compared")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn binary_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&BINARY[..], &[command, family], &length, rest].concat()
    }

    /// Source, destination, ports, and an extension.
    fn ipv4() -> Vec<u8> {
        let mut rest = vec![192, 0, 2, 1, 10, 0, 0, 1, 0xC3, 0x50, 0x01, 0xBB];
        rest.extend([0x04, 0, 3, 0, 0, 0]);
        rest
    }

    fn ipv6() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        [&source.octets()[..], &[0; 16], &[1, 2, 3, 4]].concat()
    }

    fn source(bytes: &[u8]) -> Option<String> {
        let header = parse(bytes).unwrap().expect("it is whole");
        assert_eq!(header.length, bytes.len());
        header.source.map(|source| source.to_string())
    }

    #[test]
    fn both_versions_of_the_proxy_header_name_the_source() {
        let four = Some("192.0.2.1".to_owned());
        let six = Some("2001:db8::7".to_owned());
        assert_eq!(source(b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\n"), four);
        assert_eq!(source(b"PROXY TCP6 2001:db8::7 ::1 50000 443\r\n"), six);
        assert_eq!(source(&binary_header(0x21, 0x11, &ipv4())), four);
        assert_eq!(source(&binary_header(0x21, 0x21, &ipv6())), six);
    }

    #[test]
    fn a_proxy_header_may_be_local_or_without_an_internet_address() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:f... whatever 1 2 3 4\r\n".to_vec(),
            binary_header(0x20, 0x00, &[]),
            binary_header(0x20, 0x11, &ipv4()),
            binary_header(0x20, 0xFF, &[1, 2, 3]),
            binary_header(0x21, 0x00, &[]),
            binary_header(0x21, 0x00, &[0x03, 0, 0]),
            binary_header(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(source(&header), None, "{header:?}");
        }
    }

    #[test]
    fn a_proxy_header_may_arrive_in_pieces_and_the_bytes_behind_it_stay() {
        for header in [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\n".to_vec(),
            binary_header(0x21, 0x11, &ipv4()),
        ] {
            for end in 1..header.len() {
                assert_eq!(parse(&header[..end]), Ok(None), "{end} bytes");
            }
            let with_more = [&header[..], b"GET / HTTP/1.1\r\n\n"].concat();
            let parsed = parse(&with_more).unwrap().unwrap();
            assert_eq!(parsed.length, header.len());
        }
    }

    #[test]
    fn a_malformed_proxy_header_is_refused_at_its_first_wrong_byte() {
        for bytes in [
            b"G".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 50000\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 443 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 65536\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 443\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 10.0.0.1 50000 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 50000 443\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 10.0.0.1 50000 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 50000 443\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'a'; 93]].concat(),
            binary_header(0x11, 0x11, &ipv4()),
            binary_header(0x22, 0x11, &ipv4()),
            binary_header(0x21, 0x12, &ipv4()),
            binary_header(0x21, 0x11, &ipv4()[..11]),
            binary_header(0x21, 0x21, &ipv4()),
            binary_header(0x21, 0x41, &ipv6()),
            binary_header(0x20, 0x00, &[0; LONGEST]),
            b"\x16\x03\x01".to_vec(),
        ] {
            assert_eq!(
                parse(&bytes),
                Err(MalformedProxyHeader),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            begin in prop_oneof![Just(&TEXT[..]), Just(&BINARY[..]), Just(&b""[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [begin, &rest].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
                // The result does not depend on the bytes after the header.
                prop_assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
            }
        }
    }
}
