//! Wire lines: writes the lines of a head.

use http::header;

/// Writes one line of a head. The caller ensures that neither name nor value contains a line end.
pub fn write(head: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    for part in [name.as_ref(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// Writes the line of a body's length, in bytes.
pub fn write_length(head: &mut Vec<u8>, bytes: u64) {
    let mut digits = itoa::Buffer::new();
    let length = digits.format(bytes);
    write(head, &header::CONTENT_LENGTH, length.as_bytes());
}
