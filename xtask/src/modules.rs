//! Kernel modules for the metal's initramfs: the wanted ones, what they depend on, and the two index files that
//! busybox's modprobe reads (`modules.dep`, `modules.alias`), taken from the modules' own `.modinfo` sections, so
//! that no depmod is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A module with the content of its `.modinfo`.
#[derive(Debug)]
pub(crate) struct Module {
    /// Path below `/lib/modules/<version>/`, decompressed.
    pub(crate) path: String,
    /// The ELF file.
    pub(crate) content: Vec<u8>,
    depends: Vec<String>,
    aliases: Vec<String>,
}

/// The chosen modules, by name.
pub(crate) type Chosen = BTreeMap<String, Module>;

/// Reads the modules that the words of `wanted` name (`nft_*` for all with this prefix) and those they depend on.
pub(crate) fn choose(tree: &Path, wanted: &str) -> Result<Chosen> {
    let mut files = BTreeMap::new();
    find_modules(&tree.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(tree.join("modules.builtin")).context("cannot read modules.builtin")?;
    let builtin: BTreeSet<String> = builtin.lines().map(|path| module_name(Path::new(path))).collect();

    let mut queue = Vec::new();
    let lines = wanted.lines().map(|line| line.split('#').next().unwrap_or_default());
    for word in lines.flat_map(str::split_whitespace) {
        if let Some(prefix) = word.strip_suffix('*') {
            queue.extend(files.keys().filter(|name| name.starts_with(prefix)).cloned());
        } else {
            queue.push(word.replace('-', "_"));
        }
    }
    let mut chosen = Chosen::new();
    while let Some(name) = queue.pop() {
        if chosen.contains_key(&name) || builtin.contains(&name) {
            continue;
        }
        let Some(file) = files.get(&name) else {
            bail!("the kernel package has no module {name}, neither as a file nor built in");
        };
        let module = load(tree, file)?;
        queue.extend(module.depends.iter().cloned());
        chosen.insert(name, module);
    }
    Ok(chosen)
}

/// `modules.dep`: each module's path and the paths of all modules that must be loaded before, nearest first.
pub(crate) fn dependency_index(chosen: &Chosen) -> String {
    let mut text = String::new();
    for module in chosen.values() {
        let mut order = Vec::new();
        collect(chosen, module, &mut order);
        text.push_str(&format!("{}:", module.path));
        for path in order {
            text.push_str(&format!(" {path}"));
        }
        text.push('\n');
    }
    text
}

/// `modules.alias`: the names that the kernel requests (`fs-btrfs`, `rtnl-link-veth`) and the modules that provide them.
pub(crate) fn alias_index(chosen: &Chosen) -> String {
    let mut text = String::new();
    for (name, module) in chosen {
        for alias in &module.aliases {
            text.push_str(&format!("alias {alias} {name}\n"));
        }
    }
    text
}

fn collect<'a>(chosen: &'a Chosen, module: &'a Module, order: &mut Vec<&'a str>) {
    for dependency in module.depends.iter().filter_map(|name| chosen.get(name)) {
        // A module that several need must come after all of them in the list, because modprobe loads from the back.
        order.retain(|path| *path != dependency.path);
        order.push(&dependency.path);
        collect(chosen, dependency, order);
    }
}

fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find_modules(&path, files)?;
        } else if path.to_string_lossy().ends_with(".ko.xz") || path.to_string_lossy().ends_with(".ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn load(tree: &Path, file: &Path) -> Result<Module> {
    let packed = file.extension().is_some_and(|end| end == "xz");
    let content = if packed {
        let output = Command::new("xz").arg("-dc").arg(file).output().context("cannot run xz")?;
        if !output.status.success() {
            bail!("xz cannot decompress {}", file.display());
        }
        output.stdout
    } else {
        fs::read(file)?
    };
    let info = modinfo(&content).with_context(|| format!("{} is not a kernel module", file.display()))?;
    let path = file.strip_prefix(tree)?.to_string_lossy().trim_end_matches(".xz").to_string();
    let depends = info.get("depends").into_iter().flatten();
    let depends = depends.flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
    Ok(Module {
        path,
        depends: depends.map(|name| name.replace('-', "_")).collect(),
        aliases: info.get("alias").cloned().unwrap_or_default(),
        content,
    })
}

/// The `key=value` strings of the section `.modinfo` of a 64-bit little-endian ELF file.
fn modinfo(elf: &[u8]) -> Option<BTreeMap<String, Vec<String>>> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = read_u64(elf, 0x28)?;
    let (entry_size, count) = (read_u16(elf, 0x3a)?, read_u16(elf, 0x3c)?);
    let names = section(elf, table, entry_size, read_u16(elf, 0x3e)?)?.1;
    for index in 0..count {
        let (name, content) = section(elf, table, entry_size, index)?;
        if names.get(name..)?.starts_with(b".modinfo\0") {
            let mut info: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for text in content.split(|byte| *byte == 0) {
                if let Some((key, value)) = String::from_utf8_lossy(text).split_once('=') {
                    info.entry(key.to_string()).or_default().push(value.to_string());
                }
            }
            return Some(info);
        }
    }
    None
}

/// A section's offset into the name table and its content.
fn section(elf: &[u8], table: usize, entry_size: usize, index: usize) -> Option<(usize, &[u8])> {
    const NOBITS: u32 = 8;
    let header = elf.get(table.checked_add(index.checked_mul(entry_size)?)?..)?;
    let name = usize::try_from(read_u32(header, 0)?).ok()?;
    if read_u32(header, 4)? == NOBITS {
        return Some((name, &[]));
    }
    let (offset, size) = (read_u64(header, 0x18)?, read_u64(header, 0x20)?);
    Some((name, elf.get(offset..offset.checked_add(size)?)?))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?).into())
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file with a name table and a `.modinfo`.
    fn elf(info: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = vec![0; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = file.len() as u64;
        file.extend_from_slice(names);
        let info_at = file.len() as u64;
        file.extend_from_slice(info);
        let table = file.len() as u64;
        for (name, offset, size) in [(1_u32, names_at, names.len()), (11, info_at, info.len())] {
            let mut header = [0; 0x40];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4] = 1;
            header[0x18..0x20].copy_from_slice(&offset.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&0x40_u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&2_u16.to_le_bytes());
        file
    }

    #[test]
    fn modules_bring_what_they_depend_on() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4.ko\n").unwrap();
        fs::write(kernel.join("top.ko"), elf(b"alias=fs-top\0depends=mid-dle,base\0")).unwrap();
        fs::write(kernel.join("mid-dle.ko"), elf(b"depends=base\0")).unwrap();
        fs::write(kernel.join("base.ko"), elf(b"depends=\0")).unwrap();
        fs::write(kernel.join("other.ko"), elf(b"depends=\0")).unwrap();

        let chosen = choose(folder.path(), "to* # all of these\next4\n").unwrap();
        assert_eq!(chosen.keys().collect::<Vec<_>>(), ["base", "mid_dle", "top"]);
        assert!(dependency_index(&chosen).contains("kernel/top.ko: kernel/mid-dle.ko kernel/base.ko\n"));
        assert_eq!(alias_index(&chosen), "alias fs-top top\n");

        let error = choose(folder.path(), "nosuch").unwrap_err();
        assert!(error.to_string().contains("no module nosuch"));
    }

    #[test]
    fn damaged_files_are_refused() {
        assert!(modinfo(b"").is_none());
        let file = elf(b"depends=a\0");
        for end in 0..file.len() {
            assert!(modinfo(&file[..end]).is_none_or(|info| info.len() <= 1));
        }
    }
}
