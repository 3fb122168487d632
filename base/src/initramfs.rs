//! The guest's initramfs: the agent as PID 1, and the modules of a modular kernel.

use super::cpio::Archive;
use super::modules::Module;
use super::{BaseError, elf};

/// Makes the archive. `/modules.list` has one absolute path per line, in load order; without modules, the file is missing.
pub(crate) fn make(guest: &std::path::Path, init: &[u8], modules: &[Module]) -> Result<Vec<u8>, BaseError> {
    elf::check_program(init).map_err(|reason| BaseError::unusable(guest, reason))?;
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp"] {
        archive.folder(folder);
    }
    archive.console();
    archive.file("init", 0o755, init);
    let mut list = String::new();
    for module in modules {
        let path = format!("modules/{}.ko", module.name);
        archive.file(&path, 0o644, &module.content);
        list.push_str(&format!("/{path}\n"));
    }
    if !modules.is_empty() {
        archive.file("modules.list", 0o644, list.as_bytes());
    }
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::elf::tests::program;

    #[test]
    fn modules_are_listed_in_load_order() {
        let module = |name: &str| Module { name: name.into(), content: name.into() };
        let archive = make(Path::new("guest"), &program(1), &[module("z"), module("a")]).unwrap();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("/modules/z.ko\n/modules/a.ko\n"));
        let without = make(Path::new("guest"), &program(1), &[]).unwrap();
        assert!(!String::from_utf8_lossy(&without).contains("modules.list"));
    }
}
