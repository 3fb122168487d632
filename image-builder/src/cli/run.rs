//! `hearth-image-builder run`: a throw-away microVM of an image.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use hearth_host::agent::Agent;
use hearth_image_builder::image::Image;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::host::HostOptions;
use super::{block_on, interrupted, progress};

/// How long the app has to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Runs a throw-away microVM of an image until Ctrl-C, with the app's ports on this host's loopback
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Folder of the image
    #[arg(value_name = "FOLDER")]
    image: PathBuf,
    /// Makes a port of the app reachable on 127.0.0.1, under its own number or another; may be repeated
    #[arg(long = "forward", value_name = "[LOCAL:]PORT", value_parser = ports)]
    forwards: Vec<(u16, u16)>,
    /// What the app's /run gets as runHookPayload
    #[arg(long, value_name = "TEXT", default_value = "")]
    payload: String,
    /// Runs this program here once the app is up, and ends with it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    host: HostOptions,
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let port =
        |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or(format!("{text:?} is not a port"));
    match text.split_once(':') {
        Some((local, app)) => Ok((port(local)?, port(app)?)),
        None => port(text).map(|port| (port, port)),
    }
}

impl Run {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let image = Image::open(&self.image)?;
        block_on(async {
            let builder = self.host.open(false)?;
            let mut listeners = Vec::new();
            for (local, app) in &self.forwards {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *local)).await;
                listeners.push((listener.with_context(|| format!("listening on 127.0.0.1:{local}"))?, *app));
            }
            let started = Instant::now();
            let trial = builder.try_out(&image, &self.payload, progress::sink(false)).await?;
            eprintln!("{} runs after {:.1} ms", trial.id(), started.elapsed().as_secs_f64() * 1000.0);
            for (listener, app) in listeners {
                eprintln!("  its port {app} is http://{}", listener.local_addr()?);
                tokio::spawn(forward(listener, trial.agent().clone(), app));
            }
            let done = match self.command.split_first() {
                Some((program, arguments)) => {
                    let status =
                        tokio::process::Command::new(program).args(arguments).kill_on_drop(true).status();
                    tokio::select! {
                        status = status => match status.with_context(|| format!("running {program}"))? {
                            status if status.success() => Ok(()),
                            status => bail!("{program}: {status}"),
                        },
                        why = trial.exited() => bail!("the microVM has ended: {why}"),
                    }
                }
                None => tokio::select! {
                    () = interrupted() => Ok(()),
                    why = trial.exited() => bail!("the microVM has ended: {why}"),
                },
            };
            drop(trial);
            done
        })
    }
}

/// Forwards connections to a port of the app.
async fn forward(listener: TcpListener, agent: Agent, port: u16) {
    while let Ok((client, _)) = listener.accept().await {
        let agent = agent.clone();
        tokio::spawn(async move {
            if let Err(error) = pass(client, &agent, port).await {
                eprintln!("port {port}: {error:#}");
            }
        });
    }
}

async fn pass(mut client: TcpStream, agent: &Agent, port: u16) -> anyhow::Result<()> {
    let mut app = agent.stream(port, CONNECT).await?;
    copy_bidirectional(&mut client, &mut app).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_alone_or_in_pairs() {
        assert_eq!(ports("8080"), Ok((8080, 8080)));
        assert_eq!(ports("18080:80"), Ok((18080, 80)));
        for wrong in ["", "0", "70000", "a:80", "80:"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
