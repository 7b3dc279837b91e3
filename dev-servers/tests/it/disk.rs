//! A small disk.

use std::{fs, io, panic};

use dev_servers::SmallDisk;

/// A disk, or `None` where nothing can be mounted; under `MICRO_TEST_REQUIRE=1` the test fails then.
fn disk() -> Option<SmallDisk> {
    let is_required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    SmallDisk::mount(1)
        .inspect_err(|reason| {
            assert!(!is_required, "a small disk is missing and required: {reason}");
            eprintln!("skipped, a small disk is missing: {reason}");
        })
        .ok()
}

fn is_mounted(disk: &std::path::Path) -> bool {
    fs::read_to_string("/proc/mounts").unwrap().contains(disk.to_str().unwrap())
}

#[test]
fn a_small_disk_is_full_until_it_is_freed() {
    let Some(disk) = disk() else { return };
    let file = disk.folder().join("file");
    fs::write(&file, "before").unwrap();
    for name in ["one", "two"] {
        let more = disk.folder().join(name);
        disk.fill().unwrap();
        let refused = fs::write(&more, "more").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&file).unwrap(), "before");
        disk.free().unwrap();
        fs::write(&more, "more").unwrap();
    }
}

#[test]
fn a_small_disk_leaves_nothing_behind_when_its_test_fails() {
    let Some(disk) = disk() else { return };
    let folder = disk.folder().to_owned();
    assert!(is_mounted(&folder));
    let failed = panic::catch_unwind(move || {
        let open = fs::File::create(disk.folder().join("open")).unwrap();
        disk.fill().unwrap();
        // Also while a file is open on it.
        panic::resume_unwind(Box::new(open));
    });
    assert!(failed.is_err() && !is_mounted(&folder) && !folder.exists());
}
