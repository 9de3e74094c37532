//! How a line of a head is written.

/// Writes one line of a head; neither name nor value has a line end in it.
pub fn write(head: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    for part in [name.as_ref(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}
