//! Packs a folder into a zip, for builds by hand.

pub use hearth_artifact::pack;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::{Limits, check};
    use super::*;

    #[test]
    fn a_folder_becomes_an_artifact_that_is_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("context");
        fs::create_dir_all(context.join("bin")).unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch\n").unwrap();
        fs::write(context.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(context.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("bin/run", context.join("start")).unwrap();
        symlink("/usr/bin/python3", context.join("bin/python")).unwrap();
        fs::write(context.join("dev\\x2d.mount"), "").unwrap();
        let zips = ["one.zip", "two.zip"].map(|name| folder.path().join(name));
        for zip in &zips {
            pack(&context, File::create_new(zip).unwrap()).unwrap();
        }
        let [one, two] = zips.map(|zip| (check(&zip, &Limits::default()).unwrap(), fs::read(&zip).unwrap()));
        assert_eq!(one, two);
        assert_eq!((one.0.files, one.0.directories, one.0.links), (3, 1, 2));
    }
}
