//! Evidence that a file is the original that a run left recently, and no copy.
//!
//! A copy has the content and may have the times that programs can set, but neither the inode nor the birth time. A
//! snapshot of the whole disk, or a run elsewhere meanwhile, leaves no trace in a file; the elapsed time covers those
//! cases. A run without a handed-over memory is guarded for `timestamp.future_ms`, so before that time has passed no
//! other run can have admitted anything.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::process::files::FileSystem;

/// The properties of a file or folder that a copy does not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    inode: u64,
    /// The birth time, in nanoseconds since 1970; 0 where the file system does not report it.
    born: u64,
}

/// The trailer of a handed-over replay memory: the run that left it, the place and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HandoverTrailer {
    pub run: RunNumber,
    pub file: FileIdentity,
    pub boot: BootNumber,
    /// The time of writing, in milliseconds since 1970 by the file system's clock.
    pub written_ms: u64,
}

/// The number of a run, in hexadecimal: random, so that no two runs have the same.
pub(super) type RunNumber = [u8; 32];
/// The kernel's boot id; zeros where the kernel does not report it.
pub(super) type BootNumber = [u8; 16];

/// The length of a trailer, in bytes.
pub(super) const TRAILER: usize = 32 + 16 + 16 + 8;
/// Without a birth time, the longest time between the writing of a file and its placement under its name. A restore
/// from a backup places the file much later.
const PLACED_WITHIN_MS: u64 = 60_000;
/// How far file times may go back although no clock did: file times are rounded.
const ROUNDING_MS: u64 = 100;

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok();
        let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|born| born.as_nanos().try_into().ok());
        Self {
            inode: metadata.ino(),
            born: born.unwrap_or(0),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..].copy_from_slice(&self.born.to_le_bytes());
        bytes
    }
}

/// When a file was last written, in milliseconds since 1970.
pub(super) fn modified_ms(metadata: &Metadata) -> u64 {
    millis(metadata.mtime(), metadata.mtime_nsec())
}

fn millis(seconds: i64, nanoseconds: i64) -> u64 {
    u64::try_from(seconds * 1_000 + nanoseconds / 1_000_000).unwrap_or(0)
}

/// The boot id of the machine. A system without a boot id never has one, so a missing id counts as zeros. Any other
/// read error may pass, so it is returned.
pub(super) fn boot(files: &FileSystem) -> io::Result<BootNumber> {
    let text = match files.read(Path::new("/proc/sys/kernel/random/boot_id")) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Vec::new()
        }
        text => text?,
    };
    let mut boot = [0; 16];
    // An id in another form counts as none.
    let _ = hex::decode_to_slice(
        String::from_utf8_lossy(&text).trim().replace('-', ""),
        &mut boot,
    );
    Ok(boot)
}

impl HandoverTrailer {
    pub(super) fn to_bytes(self) -> [u8; TRAILER] {
        let mut bytes = [0; TRAILER];
        bytes[..32].copy_from_slice(&self.run);
        bytes[32..48].copy_from_slice(&self.file.to_bytes());
        bytes[48..64].copy_from_slice(&self.boot);
        bytes[64..].copy_from_slice(&self.written_ms.to_le_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (run, rest) = bytes.split_first_chunk()?;
        let (inode, rest) = rest.split_first_chunk()?;
        let (born, rest) = rest.split_first_chunk()?;
        let (boot, rest) = rest.split_first_chunk()?;
        let (written, rest) = rest.split_first_chunk()?;
        rest.is_empty().then_some(Self {
            run: *run,
            file: FileIdentity {
                inode: u64::from_le_bytes(*inode),
                born: u64::from_le_bytes(*born),
            },
            boot: *boot,
            written_ms: u64::from_le_bytes(*written),
        })
    }

    /// Why a file with this trailer and this metadata is not the file that `run` left less than `within` ago; `None` if
    /// it is. `now_ms` is the present time by the file system's clock, `boot` the present boot id.
    pub(super) fn misfit(
        &self,
        run: &[u8],
        file: &Metadata,
        boot: BootNumber,
        now_ms: u64,
        within: Duration,
    ) -> Option<&'static str> {
        let placed_ms = millis(file.ctime(), file.ctime_nsec());
        // The process that left the file touched it when it ended.
        let left_ms = modified_ms(file).max(self.written_ms);
        let away = Duration::from_millis(now_ms.saturating_sub(left_ms));
        if self.run != run {
            Some("another run than the latest left it")
        } else if self.file != FileIdentity::of(file) {
            Some("it is a copy")
        } else if self.file.born == 0 && placed_ms.abs_diff(self.written_ms) > PLACED_WITHIN_MS {
            Some("it got its place long after it was written")
        } else if self.boot != boot {
            Some("the machine was started since")
        } else if now_ms + ROUNDING_MS < left_ms {
            Some("the clock went back since")
        } else if away > within {
            Some(
                "it was left longer ago than timestamp.future_ms, and another process may have served since",
            )
        } else {
            None
        }
    }
}
