//! What of a container's files the root disk keeps.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use hearth_host::network::Egress;
use hearth_image_builder::build::{LogStream, Step};
use rustix::fs::{SeekFrom, seek};

use super::support::Site;

/// Makes files of all kinds below `/odd` in a step.
const MAKE: &str = r#"
import os
os.mkdir('/odd')
os.chdir(b'/odd')
def file(name, content=b'content'):
    with open(name, 'wb') as opened:
        opened.write(content)
for name in [b'new\nline', b'\xff\xfe no UTF-8', b' spaces ', b'-dash', b'tab\t', b'"quote"', b'back\\slash', b'x' * 255]:
    file(name, name)
file(b'first')
os.link(b'first', b'second')
os.mkdir(b'deep')
os.link(b'first', b'deep/third')
with open(b'sparse', 'wb') as sparse:
    sparse.write(b'begin')
    sparse.seek(200 << 20)
    sparse.write(b'end')
file(b'xattr')
os.setxattr(b'xattr', 'user.small', b'value')
os.setxattr(b'xattr', 'user.large', b'v' * 3000)
file(b'capable')
# CAP_NET_BIND_SERVICE, effective and permitted (struct vfs_cap_data, revision 2)
os.setxattr(b'capable', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
file(b'setuid')
os.chown(b'setuid', 70000, 70001)
os.chmod(b'setuid', 0o6755)
file(b'nobody', b'')
os.chmod(b'nobody', 0)
os.mkdir(b'sticky')
os.chmod(b'sticky', 0o1777)
os.symlink(b'short', b'link')
os.symlink(b'l/' * 1000, b'long link')
os.mkfifo(b'pipe', 0o640)
os.mkdir(b'many')
for number in range(1000):
    file(b'many/%d' % number, b'')
for folder, folders, files in os.walk(b'.', topdown=False):
    for name in folders + files:
        os.utime(os.path.join(folder, name), (1234567890, 1234567890), follow_symlinks=False)
"#;

/// Tells about the files, in a microVM of the image.
const TELL: &str = r#"
import os, stat, time
os.chdir(b'/odd')
for name in sorted(os.listdir(b'.')):
    found = os.lstat(name)
    kind = stat.filemode(found.st_mode)
    print(name, kind, found.st_uid, found.st_gid, found.st_nlink, found.st_size, int(found.st_mtime), flush=True)
    if kind.startswith('-') and len(name) < 200 and found.st_size < 100:
        print(' =', open(name, 'rb').read())
    for key in sorted(os.listxattr(name, follow_symlinks=False)):
        print(' .', key, os.getxattr(name, key)[:20].hex())
print('same', os.path.samefile('first', 'deep/third'), 'many', len(os.listdir('many')))
sparse = os.stat('sparse')
with open('sparse', 'rb') as opened:
    begin, _, end = opened.read(5), opened.seek(200 << 20), opened.read()
print('sparse', begin, end, sparse.st_blocks * 512 < 64 << 10, 'link', len(os.readlink('long link')), flush=True)
print('told', flush=True)
time.sleep(1 << 30)
"#;

#[tokio::test]
async fn the_root_disk_keeps_what_files_are_and_is_the_same_for_the_same_files() {
    let Some(site) = Site::of_full_run() else { return };
    let context = site.dockerfile(
        "odd",
        "FROM hearth/python:3.13\nCOPY make.py tell.py /\nRUN python3 /make.py\nCMD [\"python3\", \"/tell.py\"]\n",
    );
    fs::write(context.join("make.py"), MAKE).unwrap();
    fs::write(context.join("tell.py"), TELL).unwrap();
    let mut request = site.request(&context, "odd");
    request.egress = Egress::None;
    request.hooks.ready = None;
    request.cache = Some("odd".into());
    let (built, events) = site.build(&request).await;
    let image = built.unwrap();
    let told = events.lines(LogStream::Snapshot);
    for line in [
        r"b' spaces ' -rw-r--r-- 0 0 1 8 1234567890",
        r" = b' spaces '",
        r"b'new\nline' -rw-r--r-- 0 0 1 8 1234567890",
        r" = b'new\nline'",
        r"b'\xff\xfe no UTF-8' -rw-r--r-- 0 0 1 11 1234567890",
        r" = b'\xff\xfe no UTF-8'",
        r"b'back\\slash' -rw-r--r-- 0 0 1 10 1234567890",
        r"b'first' -rw-r--r-- 0 0 3 7 1234567890",
        r"b'second' -rw-r--r-- 0 0 3 7 1234567890",
        r"b'sparse' -rw-r--r-- 0 0 1 209715203 1234567890",
        r" . user.small 76616c7565",
        r" . user.large 7676767676767676767676767676767676767676",
        r" . security.capability 0100000200040000000000000000000000000000",
        r"b'setuid' -rwsr-sr-x 70000 70001 1 7 1234567890",
        r"b'nobody' ---------- 0 0 1 0 1234567890",
        r"b'sticky' drwxrwxrwt 0 0 2 4096 1234567890",
        r"b'link' lrwxrwxrwx 0 0 1 5 1234567890",
        r"b'pipe' prw-r----- 0 0 1 0 1234567890",
        r"same True many 1000",
        r"sparse b'begin' b'end' True link 2000",
        r"told",
    ] {
        assert!(told.iter().any(|found| found == line), "{line} in {told:#?}");
    }
    let disk = image.folder().join("disk");
    check(&disk);
    let allocated = disk.metadata().unwrap().blocks() * 512;
    assert!(allocated < 400 << 20, "a hole took space: {allocated} bytes");

    // The next build takes the files from the cache, and gets the same disk.
    let first = digest(&disk);
    fs::remove_dir_all(image.folder()).unwrap();
    let (built, events) = site.build(&request).await;
    assert!(events.finished().contains(&Step::RootDisk));
    assert_eq!(digest(&built.unwrap().folder().join("disk")), first, "the disk is not reproducible");
}

/// Has `e2fsck` look for anything that is wrong with the file system, without mending it.
fn check(disk: &Path) {
    let done = std::process::Command::new("e2fsck").args(["-f", "-n"]).arg(disk).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

/// A digest of the blocks that are not empty, with their places: the disk is larger than what can be read in time.
fn digest(disk: &Path) -> u64 {
    let (disk, mut at, mut digest) = (File::open(disk).unwrap(), 0, DefaultHasher::new());
    let mut block = vec![0; 4096];
    while let Ok(data) = seek(&disk, SeekFrom::Data(at)) {
        let hole = seek(&disk, SeekFrom::Hole(data)).unwrap();
        for place in (data / 4096..hole.div_ceil(4096)).map(|number| number * 4096) {
            disk.read_exact_at(&mut block, place).unwrap();
            if block.iter().any(|byte| *byte != 0) {
                (place, &block).hash(&mut digest);
            }
        }
        at = hole;
    }
    digest.finish()
}
