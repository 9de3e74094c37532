use super::*;
use crate::process::files::FileSystem;
use std::fs::{self, OpenOptions};
use std::path::Path;

const NOW: u64 = 1_767_225_600_000;

/// Opens the watermark as a start does.
fn open(path: &Path) -> StampWatermark {
    let until_ms = match fs::read(path) {
        Ok(content) => StampWatermark::damaged(&content, 0),
        Err(_) => Some(0),
    };
    if let Some(until_ms) = until_ms {
        fs::write(path, StampWatermark::content(until_ms)).unwrap();
    }
    let file = FileSystem::default().open(OpenOptions::new().read(true).write(true), path);
    StampWatermark::in_file(file.unwrap(), path.to_owned()).unwrap()
}

#[test]
fn the_watermark_outlives_the_process_and_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let watermark = open(&path);
    assert_eq!(watermark.until_ms(), 0);
    for (now, until) in [
        (NOW, NOW + 10_000),
        (NOW + 1_000, NOW + 11_000),
        (NOW - 3_600_000, NOW + 11_000),
    ] {
        watermark.advance(now, 10_000).unwrap();
        assert_eq!(watermark.until_ms(), until);
        assert_eq!(open(&path).left_ms(), until);
    }
    watermark.close();
    watermark.advance(NOW + 60_000, 10_000).unwrap();
    assert_eq!(open(&path).left_ms(), NOW + 11_000, "it is the next one's");
}

#[test]
fn the_watermark_is_not_moved_in_a_folder_that_was_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let watermark = open(&path);
    watermark.advance(NOW, 10_000).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(
        watermark.advance(NOW + 1_000, 10_000).is_err(),
        "it is gone"
    );
    open(&path).advance(NOW, 10_000).unwrap();
    assert!(
        watermark.advance(NOW + 1_000, 10_000).is_err(),
        "it is another"
    );
    assert_eq!(watermark.until_ms(), NOW + 10_000);
}

#[test]
fn the_watermark_moves_before_stamps_near_the_clock_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    let watermark = open(&folder.path().join("mark"));
    assert!(watermark.is_due(NOW, 10_000));
    watermark.advance(NOW, 10_000).unwrap();
    assert!(!watermark.is_due(NOW + 2_000, 10_000));
    assert!(watermark.is_due(NOW + 3_000, 10_000));
    let short = open(&folder.path().join("short"));
    short.advance(NOW, 0).unwrap();
    assert_eq!(short.until_ms(), NOW + LEAST_LEAD_MS);
    assert!(!StampWatermark::nowhere().is_due(NOW, 10_000));
}

#[test]
fn damage_to_one_place_of_the_watermark_leaves_the_other_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let watermark = open(&path);
    watermark.advance(NOW, 10_000).unwrap();
    watermark.advance(NOW + 1_000, 10_000).unwrap();
    // Later runs advance it, whichever place holds the later moment.
    for step in [2_000, 3_000, 4_000] {
        let (whole, before) = (fs::read(&path).unwrap(), open(&path).left_ms());
        open(&path).advance(NOW + step, 10_000).unwrap();
        let after = fs::read(&path).unwrap();
        let place = usize::from(whole[..BYTES] == after[..BYTES]) * 4096;
        for cut in place..place + BYTES {
            fs::write(&path, [&after[..cut], &whole[cut..]].concat()).unwrap();
            assert!(open(&path).left_ms() >= before, "torn at {cut}");
        }
        fs::write(&path, &after).unwrap();
        assert_eq!(open(&path).left_ms(), NOW + step + 10_000);
    }
}

#[test]
fn a_file_that_is_not_whole_is_taken_to_reach_as_far_as_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let watermark = open(&path);
    for step in [0, 1_000] {
        watermark.advance(NOW + step, 10_000).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    let garbage = vec![b'x'; whole.len()];
    let zeros = vec![0; whole.len()];
    let half = [&whole[..BYTES], &zeros[BYTES..]].concat();
    let cuts = [0, 1, BYTES - 1, BYTES, 4096, 4096 + BYTES - 1].map(|cut| &whole[..cut]);
    for content in cuts.into_iter().chain([&*garbage, &*zeros, &*half]) {
        // The machine's clock was far earlier than the intact part of the file, or far later.
        for changed_ms in [NOW - 86_400_000, NOW + 86_400_000] {
            let latest = StampWatermark::damaged(content, changed_ms).unwrap();
            assert!(latest >= changed_ms + WIDEST_LEAD_MS);
            let first = content.get(..BYTES) == Some(&whole[..BYTES]);
            assert!(!first || latest >= NOW + 10_000);
        }
        fs::write(&path, content).unwrap();
        let file = FileSystem::default().open(OpenOptions::new().read(true).write(true), &path);
        assert!(StampWatermark::in_file(file.unwrap(), path.clone()).is_err());
    }
    assert_eq!(StampWatermark::damaged(&whole, NOW), None);
    assert_eq!(
        StampWatermark::damaged(&StampWatermark::content(0), NOW),
        None
    );
}

#[test]
fn a_file_that_cannot_be_read_is_no_mark_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    open(&path).advance(NOW, 10_000).unwrap();
    let before = fs::read(&path).unwrap();
    let unreadable = FileSystem::default()
        .open(OpenOptions::new().write(true), &path)
        .unwrap();
    assert!(StampWatermark::in_file(unreadable, path.clone()).is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stamp_above_the_watermark_waits_until_the_watermark_has_moved() {
    let folder = tempfile::tempdir().unwrap();
    let watermark = open(&folder.path().join("mark"));
    watermark.advance(NOW, 10_000).unwrap();
    assert!(watermark.covers(NOW + 10_000).await);
    let (covered, ()) = tokio::join!(watermark.covers(NOW + 10_001), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        watermark.advance(NOW + 1_000, 10_000).unwrap();
    });
    assert!(covered);
    assert!(!watermark.covers(NOW + 11_001).await, "nobody moves it");
}
