//! Answers a guest's name queries for as long as it is asked to.

use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::Agent;
use hearth_host::dns::{DnsConfig, Resolver};
use tokio::time::sleep;

/// How long to wait before the connection is opened anew.
const RETRY: Duration = Duration::from_millis(500);

pub(super) async fn serve(agent: Agent, config: DnsConfig) {
    let resolver = Arc::new(Resolver::new(&config));
    loop {
        let resolver = Arc::clone(&resolver);
        let answer = move |query: Vec<u8>| {
            let resolver = Arc::clone(&resolver);
            async move { resolver.answer(&query).await }
        };
        // It ends with the guest, and then with this task.
        let _ = agent.serve_names(answer).await;
        sleep(RETRY).await;
    }
}
