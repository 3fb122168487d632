//! Tests of the empty folder that the launcher prepares as the monitor's root.

use hearth_vmm_jail::{JailConfig, PrepareError, clean_up, prepare};

use crate::cell::can_jail;

#[test]
fn a_prepared_folder_is_empty_and_gone_after_cleaning_up_twice() {
    if !can_jail() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let config = prepare(run_dir.path(), &JailConfig::default()).unwrap();
    let folder = config.chroot.clone().unwrap();
    assert_eq!(folder.read_dir().unwrap().count(), 0);
    let again = prepare(run_dir.path(), &JailConfig::default()).unwrap_err();
    assert!(matches!(again, PrepareError::Folder { .. }), "{again}");
    clean_up(&config).unwrap();
    assert!(!folder.exists());
    clean_up(&config).unwrap();
}
