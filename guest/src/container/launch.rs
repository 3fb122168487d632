//! From a process of the agent to a program in the container.

use std::convert::Infallible;
use std::fs;
use std::io;

use hearth_proto::guest::v1::Process;

use super::job::Run;
use super::user::User;
use super::{capabilities, execute, prepare, seccomp};
use crate::refusal::{Context as _, Refusal};
use crate::system::{c_string, check, check_long};

/// PATH where the environment has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes the program. This process is in the container's namespaces already, as root with all capabilities.
///
/// # Errors
/// Any reason why the program cannot be executed. The function returns only then.
pub fn launch(job: &Run) -> Result<Infallible, Refusal> {
    let process = job.process.as_ref().ok_or_else(|| Refusal::invalid("there is no process to start"))?;
    let program = process.arguments.first().filter(|program| !program.is_empty());
    let program =
        program.ok_or_else(|| Refusal::invalid("a process needs a program: `arguments` is empty"))?;
    // SAFETY: neither call takes a pointer.
    unsafe {
        libc::setsid(); // fails only where this process leads a session already
        libc::umask(0o022);
    }
    if job.first {
        prepare::mount_proc(job.unrestricted).or_refuse(|| "mounting the container's /proc")?;
    }
    let user = User::find(&process.user)?;
    let environment = environment(process, &user);
    enter_folder(&process.working_directory)?;
    if job.terminal {
        take_terminal(&user).or_refuse(|| "taking the terminal")?;
    }
    give_standard_streams(&user);
    limit_files(job.nofile, job.nofile_hard).or_refuse(|| "limiting open files")?;
    seccomp::refuse_vsock().or_refuse(|| "installing the seccomp filter")?;
    let allowed = if job.all_capabilities { capabilities::ALL } else { capabilities::DEFAULT };
    capabilities::limit_to(allowed).or_refuse(|| "limiting capabilities")?;
    user.become_it().or_refuse(|| format!("becoming user {}", user.uid))?;
    let environment_of =
        |environment: &[String]| environment.iter().map(c_string).collect::<io::Result<Vec<_>>>();
    let arguments = process.arguments.iter().map(c_string).collect::<io::Result<Vec<_>>>();
    let arguments = arguments.map_err(|_| Refusal::invalid("an argument contains a zero byte"))?;
    let variables = environment_of(&environment)
        .map_err(|_| Refusal::invalid("an environment variable contains a zero byte"))?;
    restore_signals();
    Err(execute::execute(program, &arguments, &variables, search_path(&environment)))
}

/// The process's environment; PATH and HOME are added where missing.
fn environment(process: &Process, user: &User) -> Vec<String> {
    let mut environment = process.environment.clone();
    for (name, value) in [("PATH", PATH), ("HOME", user.home.as_str())] {
        if !environment.iter().any(|entry| entry.split_once('=').is_some_and(|(found, _)| found == name)) {
            environment.push(format!("{name}={value}"));
        }
    }
    environment
}

/// The value of PATH; the last one counts, as in a shell that is started with it.
fn search_path(environment: &[String]) -> &str {
    environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(PATH)
}

fn enter_folder(folder: &str) -> Result<(), Refusal> {
    let folder = if folder.is_empty() { "/" } else { folder };
    let entered = fs::create_dir_all(folder).and_then(|()| std::env::set_current_dir(folder));
    entered.map_err(|error| {
        Refusal::not_found(format!("the working directory {folder} cannot be entered: {error}"))
    })
}

/// Makes the terminal on stdin the controlling one of this session, and the user its owner.
fn take_terminal(user: &User) -> io::Result<()> {
    let steal: libc::c_int = 0;
    // SAFETY: takes no pointer.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, steal) })?;
    // SAFETY: takes no pointer. The group that devpts has set stays.
    check(unsafe { libc::fchown(0, user.uid, libc::gid_t::MAX) }).map(drop)
}

/// Makes the user the owner of the pipes of stdin, stdout and stderr: programs open `/dev/stdout` anew, and the kernel then checks
/// the owner of the pipe.
fn give_standard_streams(user: &User) {
    for number in 0..3 {
        // SAFETY: all zeros are a valid value of this plain structure.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a structure that lives until the call returns.
        let told = unsafe { libc::fstat(number, &raw mut status) };
        if told == 0 && status.st_mode & libc::S_IFMT == libc::S_IFIFO {
            // SAFETY: takes no pointer. Where it fails, the stream itself works all the same.
            unsafe { libc::fchown(number, user.uid, libc::gid_t::MAX) };
        }
    }
}

fn limit_files(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard.max(soft) };
    // SAFETY: the pointer is to a limit that lives until the call returns.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// Marks all descriptors but stdin, stdout and stderr to be closed when a program is executed.
///
/// # Errors
/// The kernel refused it.
pub(super) fn close_on_exec() -> io::Result<()> {
    let (first, last, flags) = (3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes no pointer, and closes nothing yet.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Resets signals to the state that a program expects: none is ignored or blocked.
fn restore_signals() {
    // SAFETY: all zeros are a valid value, which `sigemptyset` then makes an empty set of.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are to a set that lives until the calls return; no handler is installed.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_home_are_added_only_where_they_are_missing() {
        let user = User { uid: 1, gid: 1, groups: Vec::new(), home: "/home/me".to_string() };
        let process = |environment: &[&str]| Process {
            environment: environment.iter().map(ToString::to_string).collect(),
            ..Process::default()
        };
        let made = environment(&process(&["A=1", "HOMEPAGE=x"]), &user);
        assert_eq!(made, ["A=1", "HOMEPAGE=x", &format!("PATH={PATH}"), "HOME=/home/me"]);
        let made = environment(&process(&["HOME=", "PATH=/bin", "PATH=/sbin"]), &user);
        assert_eq!(made, ["HOME=", "PATH=/bin", "PATH=/sbin"]);
        assert_eq!(search_path(&made), "/sbin");
    }
}
