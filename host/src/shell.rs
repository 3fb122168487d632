//! Programs beside the app: commands and login shells (docs/behaviour.md, "Shells").

use hearth_proto::guest::v1::{OpenExec, Process, WindowSize, open_exec};

/// What stdin, stdout and stderr of a program beside the app are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// A terminal of the program's own.
    Terminal,
    /// Three pipes.
    Pipes,
}

/// The environment of terminals.
const ENVIRONMENT: [&str; 2] = ["TERM=xterm", "PS1=λ $ "];

/// Becomes bash, or sh where there is no bash, on a terminal. What its argument says is done in the shell before the first prompt: a
/// here-document is the file that an interactive shell reads.
const ON_TERMINAL: &str = "\
if [ -x /bin/bash ]; then
exec /bin/bash --rcfile /dev/fd/9 -i 9<<END
$1
exec 9<&-
END
fi
hearth_env=$ENV ENV=/dev/fd/9
export hearth_env ENV
exec /bin/sh -i 9<<END
ENV=\\$hearth_env; unset hearth_env
$1
exec 9<&-
if [ -z \"\\$ENV\" ]; then unset ENV; elif [ -r \"\\$ENV\" ]; then . \"\\$ENV\"; fi
END
";

/// Does what its argument says, and becomes bash, or sh where there is no bash, which reads commands from stdin.
const ON_PIPES: &str = "\
hearth_shell=/bin/sh
[ -x /bin/bash ] && hearth_shell=/bin/bash
exec $hearth_shell -c \"$1
exec $hearth_shell\"
";

/// Reads the files of a login shell (bash(1), "INVOCATION"), and keeps the image's programs within reach: a profile may set `PATH` anew,
/// as Debian's and Alpine's do. Unless the profile has extended the image's `PATH`, that comes first, and then what the profile has.
const PROFILE: &str = "\
hearth_path=$PATH
[ -r /etc/profile ] && . /etc/profile
if [ -n \"$BASH_VERSION\" ] && [ -r ~/.bash_profile ]; then . ~/.bash_profile
elif [ -n \"$BASH_VERSION\" ] && [ -r ~/.bash_login ]; then . ~/.bash_login
elif [ -r ~/.profile ]; then . ~/.profile
fi
case :$PATH: in *:\"$hearth_path\":*) ;; *)
hearth_rest=$PATH: PATH=$hearth_path
while [ -n \"$hearth_rest\" ]; do
hearth_entry=${hearth_rest%%:*} hearth_rest=${hearth_rest#*:}
case :$PATH:: in *:\"$hearth_entry\":*) ;; *) PATH=$PATH:$hearth_entry ;; esac
done ;;
esac
export PATH; unset hearth_path hearth_rest hearth_entry";

/// The request for a program with these streams; a login shell where `command` is empty.
#[must_use]
pub fn program(command: &[String], streams: Streams) -> OpenExec {
    let (script, environment, terminal) = match streams {
        // The size of AWS's terminals, until the client sends its own.
        Streams::Terminal => (ON_TERMINAL, ENVIRONMENT.as_slice(), Some(WindowSize::default())),
        Streams::Pipes => (ON_PIPES, [].as_slice(), None),
    };
    let login = || ["/bin/sh", "-c", script, "sh", PROFILE].map(str::to_owned).to_vec();
    let process = Process {
        arguments: if command.is_empty() { login() } else { command.to_vec() },
        environment: environment.iter().copied().map(str::to_owned).collect(),
        ..Process::default()
    };
    OpenExec { what: Some(open_exec::What::Process(process)), terminal, as_app: true, ..OpenExec::default() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// What a login shell with pipes prints for these commands, with this `PATH` and this profile in its home.
    fn printed(path: &str, profile: &str, commands: &str) -> String {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".profile"), profile).unwrap();
        let Some(open_exec::What::Process(process)) = program(&[], Streams::Pipes).what else { panic!() };
        let mut command = Command::new(&process.arguments[0]);
        command.args(&process.arguments[1..]).env_clear().env("PATH", path).env("HOME", home.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn the_images_path_survives_a_profile_that_sets_it_anew() {
        let path = "/opt/app/bin:/usr/bin:/bin";
        for (profile, expected) in [
            ("PATH=/bin:/sbin::/usr/bin", "/opt/app/bin:/usr/bin:/bin:/sbin"),
            ("PATH=/opt/app/bin:/usr/bin:/bin:/more", "/opt/app/bin:/usr/bin:/bin:/more"),
            ("PATH=/first:/opt/app/bin:/usr/bin:/bin", "/first:/opt/app/bin:/usr/bin:/bin"),
            ("PATH=", path),
        ] {
            // The machine's own /etc/profile may add to it, before the one of the home.
            assert_eq!(printed(path, profile, "echo $PATH\n"), format!("{expected}\n"), "{profile}");
        }
    }

    #[test]
    fn what_a_profile_exports_is_there_and_the_commands_come_from_stdin() {
        let shown =
            printed("/usr/bin:/bin", "export GREETING=hello", "echo $GREETING; env | grep -c hearth_\n");
        assert_eq!(shown, "hello\n0\n");
    }
}
