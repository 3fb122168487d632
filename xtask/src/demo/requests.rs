//! Commands that the demo's script on the metal has run on this machine, from where users call a daemon.
//!
//! The script writes a line with a command to its standard input, which is a stream to here. The answer is the command's output, each
//! line behind `| `, and a line `= STATUS`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::access::Access;

/// Serves the script until it ends. `aws` is the AWS CLI, the only program there is.
pub(super) fn serve(stream: UnixStream, access: &Access, aws: &Path) -> Result<()> {
    let mut answers = stream.try_clone().context("cannot copy a stream")?;
    for line in BufReader::new(stream).lines() {
        let (output, status) = run(&line?, access, aws)?;
        for line in output.lines() {
            writeln!(answers, "| {line}")?;
        }
        writeln!(answers, "= {status}")?;
    }
    Ok(())
}

/// Output and status of a command. A failed one's output has its error messages, too.
fn run(line: &str, access: &Access, aws: &Path) -> Result<(String, i32)> {
    let Some(("aws", arguments)) = line.split_once(' ') else {
        bail!("the script wants to run `{line}`, which is no command of AWS's");
    };
    let mut command = access.aws_command(aws);
    let output = command.args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {}", aws.display()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    Ok((text, output.status.code().unwrap_or(255)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::thread;

    use super::*;
    use crate::access::Ports;
    use crate::cache::Cache;

    #[test]
    fn a_command_is_answered_with_its_output_and_status() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_path_buf()).unwrap();
        let access = Access::prepare(&cache, "demo", Ports { api: 1, endpoints: 2, aws: 3 }).unwrap();
        let aws = folder.path().join("aws");
        fs::write(&aws, "#!/bin/sh\necho \"$# $2\"\necho $AWS_ENDPOINT_URL >&2\nexit 7\n").unwrap();
        fs::set_permissions(&aws, Permissions::from_mode(0o700)).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let serving = scope.spawn(|| serve(theirs, &access, &aws));
            let mut lines = BufReader::new(ours.try_clone().unwrap()).lines().map(Result::unwrap);
            writeln!(&ours, "aws lambda-microvms list-microvms").unwrap();
            let answer: Vec<_> = lines.by_ref().take(3).collect();
            assert_eq!(answer, ["| 2 list-microvms", "| https://127.0.0.1:3", "= 7"]);
            writeln!(&ours, "rm -rf /nothing").unwrap();
            assert!(serving.join().unwrap().unwrap_err().to_string().contains("no command of AWS's"));
        });
    }
}
