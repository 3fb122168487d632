//! Which devices the processes of a control group may open (Linux, Documentation/admin-guide/cgroup-v2.rst, "Device
//! controller").
//!
//! The kernel asks a BPF program at each open of a device node and at each mknod. It sees the numbers of the device, not
//! the path: so it does not matter where a node lies, who has made it or on which file system. The kernel runs the programs
//! of all groups above a process, also in user namespaces, and below this one no other can take its place.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use crate::system::{check_long, descriptor};

// Commands of bpf(2) and their values (linux/bpf.h).
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// `BPF_DEVCG_DEV_CHAR`: the kind of a character device.
const CHARACTER: i32 = 2;
/// `BPF_DEVCG_ACC_READ` and `BPF_DEVCG_ACC_WRITE`. The third access is mknod.
const READ_OR_WRITE: i32 = 2 | 4;

/// A character device, or all with a major number (Linux, Documentation/admin-guide/devices.txt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The driver.
    pub major: u16,
    /// The device; `None` stands for all of the driver.
    pub minor: Option<u16>,
}

/// An instruction (`struct bpf_insn`; Linux, Documentation/bpf/standardization/instruction-set.rst).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Codes of instructions.
const LOAD_WORD: u8 = 0x61;
const SET: u8 = 0xb7;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

// Registers: the result, the argument, and what is loaded from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The first part of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The first part of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Lets the processes in the control group `group`, an open folder, and in all groups below open these devices and no
/// others, now and for ever. Nodes may be made of any device, as in Docker's containers. What is open stays open.
///
/// # Errors
/// The kernel was built without `CONFIG_CGROUP_BPF`, or refused a call.
pub fn limit(group: impl AsFd, allowed: &[Device]) -> io::Result<()> {
    let program = load(&program(allowed))?;
    let number = |descriptor: libc::c_int| u32::try_from(descriptor).map_err(io::Error::other);
    let attach = Attach {
        target: number(group.as_fd().as_raw_fd())?,
        program: number(program.as_raw_fd())?,
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    descriptor(libc::c_int::try_from(bpf(BPF_PROG_LOAD, &load)?).map_err(io::Error::other)?)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: every caller passes the attributes of the command; they, and what they point to, live until the call returns.
    check_long(unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) })
}

/// The program. Its argument is `struct bpf_cgroup_dev_ctx`; its result is 1 if the access is allowed.
fn program(allowed: &[Device]) -> Vec<Instruction> {
    let instruction = |code, to: u8, from: u8, offset, immediate| Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    };
    let word = |to, offset| instruction(LOAD_WORD, to, CONTEXT, offset, 0);
    let answer = |result| [instruction(SET, RESULT, 0, 0, result), instruction(EXIT, 0, 0, 0, 0)];
    let mut program = vec![
        // The first word has the kind of the device in its lower half, the access in its upper one.
        word(KIND, 0),
        word(ACCESS, 0),
        instruction(AND_32, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
        word(MAJOR, 4),
        word(MINOR, 8),
        // To make a node is allowed: what only does that skips no answer.
        instruction(JUMP_IF_ANY_BIT, ACCESS, 0, 2, READ_OR_WRITE),
    ];
    program.extend(answer(1));
    for Device { major, minor } in allowed {
        // A device that is not this one skips the rest of its instructions.
        program.push(instruction(JUMP_IF_NOT_EQUAL, KIND, 0, 3 + i16::from(minor.is_some()), CHARACTER));
        program.push(instruction(
            JUMP_IF_NOT_EQUAL,
            MAJOR,
            0,
            2 + i16::from(minor.is_some()),
            i32::from(*major),
        ));
        program.extend(minor.map(|minor| instruction(JUMP_IF_NOT_EQUAL, MINOR, 0, 2, i32::from(minor))));
        program.extend(answer(1));
    }
    program.extend(answer(0));
    program
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    /// A control group that is removed on drop.
    struct Group(PathBuf);

    impl Group {
        fn make() -> Option<Self> {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let root = mounts.lines().map(fields).find(|fields| fields[2] == "cgroup2")?[1].clone();
            let path = Path::new(&root).join(format!("hearth-devices-{}", std::process::id()));
            fs::create_dir(&path).ok()?;
            Some(Self(path))
        }

        /// Runs a script in the group; returns what it says, and its errors.
        fn run(&self, script: &str) -> String {
            let script = format!("echo $$ > {}/cgroup.procs && exec 2>&1; {script}", self.0.display());
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            fs::remove_dir(&self.0).unwrap();
        }
    }

    #[test]
    fn a_group_opens_the_devices_on_its_list_and_no_others() {
        let Some(group) = Group::make() else {
            hearth_testing::skip("there is no cgroup version 2 hierarchy that this user may change");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str| folder.path().join(name).display().to_string();
        let (null, full) = (node("null"), node("full"));
        let attempts = format!(
            "mknod {null} c 1 3 && echo x > {null} && echo written; mknod {full} c 1 7 && head -c 1 {full} | wc -c"
        );
        assert_eq!(group.run(&attempts), "written\n1\n");
        fs::remove_file(&null).unwrap();
        fs::remove_file(&full).unwrap();
        let allowed = [Device { major: 1, minor: Some(3) }, Device { major: 136, minor: None }];
        if let Err(error) = limit(File::open(&group.0).unwrap(), &allowed) {
            hearth_testing::skip(&format!("this kernel takes no program for devices: {error}"));
            return;
        }
        let said = group.run(&attempts);
        assert!(said.starts_with("written\n"), "{said}");
        assert!(said.contains("Operation not permitted") && said.ends_with("\n0\n"), "{said}");
        // A block device with the numbers of an allowed character device is another device.
        let block = node("block");
        let said = group.run(&format!("mknod {block} b 1 3 && test -b {block} && cat {block}"));
        assert!(said.contains("Operation not permitted"), "{said}");
    }
}
