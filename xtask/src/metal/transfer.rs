//! Files to and from the metal: tar archives that the emulated machine reads and writes as raw drives.
//!
//! The input archive is unpacked at the root: `in/NAME` are the inputs, `hearth/command` is a shell script that
//! becomes the command with exactly its arguments and environment, and the files `hearth/shell`, `hearth/stdin` and
//! `hearth/outputs` request a shell, a standard input and outputs from init; the last names the outputs, one on a line.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Action, Job, terminal};
use crate::command;
use crate::progress;

/// Size of the drive for outputs; sparse, so only what is written takes space.
const OUTPUT_DRIVE: u64 = 16 << 30;

/// Writes the input drive of a job.
pub(crate) fn pack(drive: &Path, job: &Job) -> Result<()> {
    let file = File::create(drive).with_context(|| format!("cannot write {}", drive.display()))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    archive.follow_symlinks(false);
    // The program that unpacks it does not support the extension for sparse files.
    archive.sparse(false);
    for (source, name) in &job.inputs {
        add_input(&mut archive, source, &format!("in/{name}"))
            .with_context(|| format!("cannot pack the input {}", source.display()))?;
    }
    add_file(&mut archive, "hearth/command", &script(job))?;
    if matches!(job.action, Action::Shell) {
        add_file(&mut archive, "hearth/shell", b"")?;
    }
    if job.stdin.is_some() {
        add_file(&mut archive, "hearth/stdin", b"")?;
    }
    if !job.outputs.is_empty() {
        let names: String = job.outputs.iter().map(|(name, _)| format!("{name}\n")).collect();
        add_file(&mut archive, "hearth/outputs", names.as_bytes())?;
    }
    archive.into_inner()?.into_inner().map_err(|error| error.into_error())?;
    Ok(())
}

fn add_input(archive: &mut tar::Builder<BufWriter<File>>, source: &Path, name: &str) -> Result<()> {
    // A link that is named itself stands for its target; links inside a folder stay links.
    let source = fs::canonicalize(source)?;
    if source.is_dir() {
        archive.append_dir_all(name, &source)?;
    } else {
        archive.append_path_with_name(&source, name)?;
    }
    Ok(())
}

fn add_file(archive: &mut tar::Builder<BufWriter<File>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len())?);
    header.set_mode(0o644);
    Ok(archive.append_data(&mut header, name, content)?)
}

/// The script that becomes the job's command.
fn script(job: &Job) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in &job.environment {
        text.extend_from_slice(format!("export {name}=").as_bytes());
        quote(value, &mut text);
        text.push(b'\n');
    }
    match &job.action {
        Action::Run(words) => {
            text.extend_from_slice(b"exec");
            for word in words {
                text.push(b' ');
                quote(word, &mut text);
            }
            text.push(b'\n');
        }
        Action::Shell => {
            if let Some((rows, columns)) = terminal::size() {
                text.extend_from_slice(format!("stty rows {rows} cols {columns}\n").as_bytes());
            }
            text.extend_from_slice(b"export PS1='metal:\\w# '\nexec sh\n");
        }
    }
    text
}

/// Quotes a word for a POSIX shell; all bytes stay unchanged.
pub(crate) fn quote(word: &OsStr, text: &mut Vec<u8>) {
    text.push(b'\'');
    for byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            other => text.push(*other),
        }
    }
    text.push(b'\'');
}

/// Makes an empty output drive.
pub(crate) fn empty_drive(path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.set_len(OUTPUT_DRIVE).with_context(|| format!("cannot make {} sparse", path.display()))
}

/// Unpacks the outputs from their drive, and copies them to their targets.
pub(crate) fn unpack(folder: &Path, job: &Job, status: u8) -> Result<()> {
    if job.outputs.is_empty() {
        return Ok(());
    }
    let unpacked = folder.join("out");
    fs::create_dir_all(&unpacked)?;
    tar::Archive::new(File::open(folder.join("out.tar"))?)
        .unpack(&unpacked)
        .context("cannot unpack what came back from the metal")?;
    deliver(&unpacked, job, status)
}

/// Copies the outputs from the folder `from` to their targets.
pub(crate) fn deliver(from: &Path, job: &Job, status: u8) -> Result<()> {
    for (name, target) in &job.outputs {
        let source = from.join(name);
        if !source.exists() {
            if status == 0 {
                bail!("the command succeeded but left no {name} in the folder of outputs");
            }
            progress::note(&format!("metal: no output {name}"));
            continue;
        }
        let target = if target.is_dir() { target.join(name) } else { target.clone() };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        copy(&source, &target)?;
    }
    Ok(())
}

/// Copies a file or folder, sharing blocks where the file system can.
pub(crate) fn copy(source: &Path, target: &Path) -> Result<()> {
    command::run(Command::new("cp").args(["-a", "--reflink=auto", "-T", "--"]).arg(source).arg(target))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Read;

    use super::*;

    #[test]
    fn the_script_keeps_arguments_and_environment_exactly() {
        let arguments = ["printf", "%s|", "it's", "$HOME", "a  b\nc", "", "\\"].map(OsString::from);
        let mut job = Job::new(Action::Run(arguments.to_vec()));
        job.environment = vec![("GREETING".into(), "he said 'hi' $x".into())];
        assert_eq!(said_by(&job), "it's|$HOME|a  b\nc||\\|");
        job.action = Action::Run(["printenv", "GREETING"].map(OsString::from).to_vec());
        assert_eq!(said_by(&job), "he said 'hi' $x\n");
    }

    fn said_by(job: &Job) -> String {
        let script = String::from_utf8(script(job)).unwrap();
        command::capture(Command::new("sh").args(["-c", &script])).unwrap()
    }

    #[test]
    fn inputs_are_packed_under_their_names() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tree")).unwrap();
        fs::write(folder.path().join("tree/file"), "content").unwrap();
        std::os::unix::fs::symlink("file", folder.path().join("tree/link")).unwrap();
        let mut job = Job::new(Action::Run(vec!["true".into()]));
        job.inputs = vec![(folder.path().join("tree"), "name".into())];
        job.outputs = vec![("x".into(), "x".into())];
        let drive = folder.path().join("drive");
        pack(&drive, &job).unwrap();
        assert!(fs::metadata(&drive).unwrap().len().is_multiple_of(512));
        let mut names = Vec::new();
        let mut archive = tar::Archive::new(File::open(&drive).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            if path == "in/name/file" {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert_eq!(text, "content");
            }
            if path == "in/name/link" {
                assert!(entry.header().entry_type().is_symlink());
            }
            names.push(path);
        }
        names.sort();
        assert_eq!(names, ["hearth/command", "hearth/outputs", "in/name/", "in/name/file", "in/name/link"]);
    }

    #[test]
    fn a_missing_output_is_an_error_only_after_success() {
        let folder = tempfile::tempdir().unwrap();
        let mut job = Job::new(Action::Run(vec!["true".into()]));
        job.outputs = vec![("made".into(), folder.path().join("new/copy")), ("not".into(), "nowhere".into())];
        fs::write(folder.path().join("made"), "x").unwrap();
        assert!(deliver(folder.path(), &job, 0).is_err());
        deliver(folder.path(), &job, 1).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("new/copy")).unwrap(), "x");
    }
}
