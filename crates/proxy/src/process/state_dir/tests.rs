use super::*;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

const SOON: Duration = Duration::from_mins(1);

fn inherit(folder: &Path) -> PreviousRun {
    StateDir::open(folder).unwrap().inherit(SOON).unwrap()
}

/// A run with an orderly shutdown.
fn run(folder: &Path, memory: &[u8]) {
    let mut state = StateDir::open(folder).unwrap();
    state.inherit(SOON).unwrap();
    state.hand_over(memory).unwrap().touch().unwrap();
}

/// Copies the content of a folder into another, as a backup does.
fn restore(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_first_use_is_told_apart_from_a_lost_hand_over() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(inherit(folder.path()), PreviousRun::FirstUse);
    assert_eq!(inherit(folder.path()), PreviousRun::Lost);
    StateDir::open(folder.path()).unwrap().watermark().unwrap();
    fs::remove_file(folder.path().join(USED)).unwrap();
    assert_eq!(inherit(folder.path()), PreviousRun::Lost, "it has a mark");
}

#[test]
fn a_file_of_a_run_that_cannot_be_looked_at_is_not_taken_for_none() {
    for name in [MARK, MEMORY] {
        let folder = tempfile::tempdir().unwrap();
        let mut state = StateDir::open(folder.path()).unwrap();
        // A link to itself leads nowhere, and the system says so.
        std::os::unix::fs::symlink(name, folder.path().join(name)).unwrap();
        assert!(state.inherit(SOON).is_err(), "{name}");
        assert!(is_first_use(folder.path()).is_err(), "{name}");
        assert!(!folder.path().join(USED).exists(), "nothing was changed");
    }
}

#[test]
fn a_mark_that_is_cut_is_guarded_for_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MARK);
    let watermark = || StateDir::open(folder.path()).unwrap().watermark().unwrap();
    assert_eq!(watermark().left_ms(), 0, "nothing was admitted");
    assert_eq!(watermark().left_ms(), 0, "nor since");
    File::create(&path).unwrap();
    let changed_ms = modified_ms(&fs::metadata(&path).unwrap());
    assert!(watermark().left_ms() > changed_ms + 60_000);
    assert_eq!(
        watermark().left_ms(),
        watermark().left_ms(),
        "it is whole again"
    );
}

#[test]
fn the_operators_word_is_good_for_one_first_run() {
    let folder = tempfile::tempdir().unwrap();
    let made = init(folder.path(), false).unwrap();
    assert_eq!(made, InitResult::Unused);
    for _ in 0..2 {
        let made = init(folder.path(), true).unwrap();
        assert_eq!(made, InitResult::NeverServed);
    }
    let made = init(folder.path(), false).unwrap();
    assert_eq!(made, InitResult::NeverServed, "its word stays");
    let mut state = StateDir::open(folder.path()).unwrap();
    assert!(init(folder.path(), true).is_err(), "it is in use");
    assert_eq!(state.inherit(SOON).unwrap(), PreviousRun::NeverServed);
    drop(state);
    assert_eq!(init(folder.path(), true).unwrap(), InitResult::Used);
    assert_eq!(inherit(folder.path()), PreviousRun::Lost);
}

#[test]
fn a_folder_in_which_anything_of_a_run_is_left_is_not_marked() {
    for name in [USED, MARK, MEMORY, "audit-head", "used.unfinished"] {
        let folder = tempfile::tempdir().unwrap();
        file_access::create(&FileSystem::default(), &folder.path().join(name)).unwrap();
        let made = init(folder.path(), true).unwrap();
        assert_eq!(made, InitResult::Used, "{name}");
        assert!(!folder.path().join(NEVER_SERVED).exists());
    }
}

#[test]
fn a_copy_of_a_marked_folder_is_a_first_use() {
    let [marked, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    init(marked.path(), true).unwrap();
    restore(marked.path(), copy.path());
    assert_eq!(inherit(copy.path()), PreviousRun::FirstUse);
    assert_eq!(inherit(marked.path()), PreviousRun::NeverServed);
}

#[test]
fn a_handed_over_replay_memory_is_used_once() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), b"memory");
    drop(StateDir::open(folder.path()).unwrap());
    assert_eq!(
        inherit(folder.path()),
        PreviousRun::HandedOver(b"memory".to_vec()),
        "a start that failed took nothing"
    );
    assert_eq!(
        inherit(folder.path()),
        PreviousRun::Lost,
        "it may have admitted more since"
    );
}

#[test]
fn a_folder_that_is_moved_as_a_whole_is_the_same() {
    let parent = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| parent.path().join(name));
    run(&before, b"memory");
    fs::rename(&before, &after).unwrap();
    let memory = PreviousRun::HandedOver(b"memory".to_vec());
    assert_eq!(inherit(&after), memory);
}

#[test]
fn a_memory_that_is_put_back_is_not_used_again() {
    let [folder, backup] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    run(folder.path(), b"memory");
    restore(folder.path(), backup.path());
    assert_eq!(
        inherit(backup.path()),
        PreviousRun::Lost,
        "a copy elsewhere"
    );
    restore(folder.path(), backup.path());
    run(folder.path(), b"newer");
    restore(backup.path(), folder.path());
    assert_eq!(
        inherit(folder.path()),
        PreviousRun::Lost,
        "instead of the newer one"
    );
    restore(backup.path(), folder.path());
    assert_eq!(
        inherit(folder.path()),
        PreviousRun::Lost,
        "after a run that left none, with its number"
    );
    assert!(!folder.path().join(MEMORY).exists());
}

#[test]
fn a_memory_that_was_left_long_ago_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = StateDir::open(folder.path()).unwrap();
    state.inherit(SOON).unwrap();
    state.hand_over(b"memory").unwrap();
    drop(state);
    let memory = File::options().write(true).open(folder.path().join(MEMORY));
    let (memory, second) = (memory.unwrap(), Duration::from_secs(1));
    let left = memory.metadata().unwrap().modified().unwrap();
    // The process that ended later states its end by touching the file.
    memory.set_modified(left + 30 * second).unwrap();
    let state = || StateDir::open(folder.path()).unwrap();
    let now_ms = state().now_ms().unwrap() + 31_000;
    let (content, metadata) = access::read(&FileSystem::default(), &folder.path().join(MEMORY))
        .unwrap()
        .unwrap();
    let trailer = HandoverTrailer::parse(&content[content.len() - TRAILER..]).unwrap();
    let misfit = |now_ms, within| {
        trailer.misfit(
            &trailer.run,
            &metadata,
            boot(&FileSystem::default()).unwrap(),
            now_ms,
            within,
        )
    };
    assert_eq!(misfit(now_ms, 2 * second), None);
    assert!(misfit(now_ms + 2_000, second).is_some_and(|why| why.contains("longer ago")));
    assert!(misfit(now_ms - 5_000, second).is_some_and(|why| why.contains("clock went back")));
    let other = HandoverTrailer {
        boot: [1; 16],
        ..trailer
    };
    let misfit = other.misfit(
        &trailer.run,
        &metadata,
        boot(&FileSystem::default()).unwrap(),
        now_ms,
        2 * second,
    );
    assert!(misfit.is_some_and(|why| why.contains("machine was started")));
    assert_eq!(
        state().inherit(Duration::ZERO).unwrap(),
        PreviousRun::Lost,
        "nor by a process"
    );
}

#[test]
fn half_a_memory_and_an_empty_one_hand_nothing_over() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), b"memory");
    let memory = folder.path().join(MEMORY);
    let (used, whole) = (folder.path().join(USED), fs::read(&memory).unwrap());
    let run = fs::read(&used).unwrap();
    let put = |path: &Path, content: &[u8]| {
        file_access::remove(&FileSystem::default(), path).unwrap();
        file_access::create(&FileSystem::default(), path)
            .unwrap()
            .write_all(content)
            .unwrap();
    };
    for cut in 0..whole.len() {
        put(&memory, &whole[..cut]);
        put(&used, &run);
        assert_eq!(inherit(folder.path()), PreviousRun::Lost, "cut at {cut}");
    }
    put(&used, b"");
    put(&memory, &whole);
    assert_eq!(inherit(folder.path()), PreviousRun::Lost, "no run is named");
}

#[test]
fn a_folder_that_was_exchanged_meanwhile_gets_no_memory() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state");
    let mut state = StateDir::open(&folder).unwrap();
    state.inherit(SOON).unwrap();
    fs::rename(&folder, parent.path().join("old")).unwrap();
    assert!(state.hand_over(b"memory").is_err(), "it is gone");
    let mut other = StateDir::open(&folder).unwrap();
    other.inherit(SOON).unwrap();
    assert!(state.hand_over(b"memory").is_err(), "it is another's");
    assert!(!folder.join(MEMORY).exists());
}

#[test]
fn the_state_file_is_readable_by_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), true).unwrap();
    let mode = |name| fs::metadata(folder.path().join(name)).unwrap().mode();
    assert_eq!(mode(NEVER_SERVED) & 0o777, 0o600);
    StateDir::open(folder.path()).unwrap().watermark().unwrap();
    run(folder.path(), b"memory");
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.file_name());
    }
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _first = StateDir::open(folder.path()).unwrap();
    assert_eq!(
        StateDir::open(folder.path()).err().unwrap().kind(),
        io::ErrorKind::WouldBlock
    );
}
