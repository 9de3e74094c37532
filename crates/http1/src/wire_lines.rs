//! Wire lines: writes the lines of a head.

/// Writes one line of a head. The caller ensures that neither name nor value contains a line end.
pub fn write(head: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    for part in [name.as_ref(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}
