//! Answers a guest's name queries for as long as it is asked to.

use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::Agent;
use hearth_host::dns::{DnsConfig, Resolver};
use tokio::time::sleep;

use crate::panics;

/// How long to wait before the connection is opened anew.
const RETRY: Duration = Duration::from_millis(500);

pub(super) async fn serve(agent: Agent, config: DnsConfig) {
    let resolver = Arc::new(Resolver::new(&config));
    loop {
        let resolver = Arc::clone(&resolver);
        let answer = move |query: Vec<u8>| {
            let resolver = Arc::clone(&resolver);
            // A question that cannot be answered gets none.
            async move { panics::request(resolver.answer(&query)).await.unwrap_or_default() }
        };
        // It ends with the guest, and then with this task.
        let _ = agent.serve_names(answer).await;
        sleep(RETRY).await;
    }
}
