//! PID 1 of a microVM, and the container processes that it starts from its own binary.

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;

use hearth_guest::agent::Agent;
use hearth_guest::system::reaper::Scope;
use hearth_guest::system::vsock::Listener;
use hearth_guest::{container, init};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    // The name comes first: the container's first process has process id 1 as well, in another namespace.
    if arguments.next().is_some_and(|name| name == container::NAME) {
        return container::main(arguments).into();
    }
    if std::process::id() != 1 {
        eprintln!("hearth-guest is the first process of a microVM; it is of no use anywhere else");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(never) => match never {},
        Err(error) => init::console(&format!("hearth-guest: {error}")),
    }
    // The kernel panics when its first process exits.
    ExitCode::FAILURE
}

fn run() -> io::Result<Infallible> {
    init::set_up()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let agent = Agent::new("/proc/self/exe".into(), Scope::All)?;
        if let Err(error) = agent.open_services() {
            init::console(&format!("hearth-guest: no metadata service and no DNS: {error}"));
        }
        agent.watch_kills();
        agent.keep_clock();
        let listener = Listener::bind(hearth_agent_protocol::PORT)?;
        init::console(init::READY_LINE);
        agent.serve(listener).await;
        Err(io::Error::other("the agent has stopped"))
    })
}
