//! `hearthd`, the host daemon.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use hearth_hostd::aside::Aside;
use hearth_hostd::config::cli::{ConfigCommand, Init};
use hearth_hostd::config::{Config, DEFAULT_FILE};
use hearth_hostd::store::Reserved;
use hearth_hostd::store::rocks::backup::restore;
use hearth_hostd::store::rocks::{RocksOptions, RocksStore};
use hearth_hostd::turns::BLOCKING_THREADS;
use hearth_hostd::{daemon, panics};
use hearth_image_builder::artifact::WorkerArguments;
use tracing_subscriber::EnvFilter;

#[cfg(panic = "abort")]
compile_error!(
    "hearthd is built with a profile of its own, which unwinds: `--profile daemon`. Here a panic in the handler of one request would end \
     the daemon."
);

/// Runs microVMs on this host
#[derive(Debug, Parser)]
#[command(name = "hearthd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration; without one, the defaults are used if that file is not there
    #[arg(long, value_name = "FILE", env = "HEARTHD_CONFIG")]
    config: Option<PathBuf>,
    /// What the log on standard error looks like
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text", env = "HEARTHD_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// JSON lines
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: what it does without a command, too
    Run,
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(hide = true)]
    FetchWorker(WorkerArguments),
    Init(Init),
    /// Look after the store while the daemon is not running
    #[command(subcommand)]
    Store(StoreCommand),
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Put a back-up (`hearth host backup`) where the store is to be; there must be none
    Restore {
        /// The folder of the back-up
        #[arg(value_name = "FOLDER")]
        from: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // It enters its jail before there is a second thread.
    if let Some(Command::FetchWorker(worker)) = arguments.command {
        return worker.run();
    }
    match execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearthd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: Arguments) -> Result<()> {
    match &arguments.command {
        None | Some(Command::Run) => {
            log(arguments.log_format);
            panics::install();
            run(read_config(arguments.config.as_deref())?)
        }
        Some(Command::FetchWorker(_)) => Ok(()),
        Some(Command::Config(command)) => {
            print!("{}", command.execute()?);
            Ok(())
        }
        Some(Command::Init(init)) => {
            print!("{}", init.execute()?);
            Ok(())
        }
        Some(Command::Store(StoreCommand::Restore { from })) => {
            let config = read_config(arguments.config.as_deref())?;
            let to = config.data.join("store");
            // From now on no daemon removes what the restored store does not know.
            let aside = announce(&config.data)?;
            let restored = restore(from, &to, &options(&config));
            if restored.is_err() {
                aside.withdraw().with_context(|| format!("removing {}", aside.folder().display()))?;
            }
            println!("restored {} bytes into {}", restored?, to.display());
            println!(
                "what it does not know goes to {} when hearthd starts, and is not removed",
                aside.folder().display()
            );
            Ok(())
        }
    }
}

/// Has the next daemon set aside what the store does not know.
fn announce(data: &Path) -> Result<Aside> {
    Aside::announce(data, SystemTime::now()).with_context(|| format!("writing below {}", data.display()))
}

fn read_config(file: Option<&Path>) -> Result<Config> {
    let config = match file {
        Some(file) => Config::read(file)?,
        None if Path::new(DEFAULT_FILE).exists() => Config::read(Path::new(DEFAULT_FILE))?,
        None => Config::default(),
    };
    config.check()?;
    Ok(config)
}

fn options(config: &Config) -> RocksOptions {
    let store = &config.store;
    RocksOptions {
        cache_bytes: store.cache_bytes,
        write_buffer_bytes: store.write_buffer_bytes,
        log_bytes: store.log_bytes,
        verify: store.verify,
    }
}

fn log(format: LogFormat) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // It writes an error for each request that any client does wrong, and headers with session tokens for debugging.
    if let Ok(silent) = "s3s=off".parse() {
        filter = filter.add_directive(silent);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn run(config: Config) -> Result<()> {
    let folder = config.data.join("store");
    std::fs::create_dir_all(&config.data).with_context(|| format!("making {}", config.data.display()))?;
    if !folder.join("CURRENT").exists() && Aside::is_needed(&config.data) {
        tracing::warn!(
            store = %folder.display(),
            "there is no store, but what an older one knows: it is set aside. `hearthd store restore` brings a back-up of the \
             store back"
        );
        if Aside::pending(&config.data)?.is_none() {
            announce(&config.data)?;
        }
    }
    let options = options(&config);
    // RocksDB goes on after a full disk when a write buffer has room.
    let reserved = u64::try_from(options.write_buffer_bytes).unwrap_or(u64::MAX);
    let store = Reserved::open(&folder, reserved, || RocksStore::open(&folder, &options))?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    let runtime = runtime.context("starting threads")?;
    let ended = runtime.block_on(daemon::run(config, Arc::new(store)));
    // All that had to be awaited has finished. Threads that are blocked by a monitor do not delay the exit.
    runtime.shutdown_background();
    ended
}
