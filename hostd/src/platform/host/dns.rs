//! Answers a guest's name queries until the task is aborted.

use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::Agent;
use hearth_host::dns::Resolvers;
use hearth_model::id::AccountId;
use tokio::time::sleep;

use crate::panics;

/// How long to wait before the connection is opened anew.
const RETRY: Duration = Duration::from_millis(500);

pub(super) async fn serve(agent: Agent, resolvers: Resolvers, account: AccountId) {
    let resolver = Arc::new(resolvers.of_guest(account.as_str()));
    loop {
        let resolver = Arc::clone(&resolver);
        let answer = move |query: Vec<u8>| {
            let resolver = Arc::clone(&resolver);
            // A query that cannot be answered gets no response.
            async move { panics::request(resolver.answer(&query)).await.unwrap_or_default() }
        };
        // The connection ends with the guest; then this task is aborted, too.
        let _ = agent.serve_names(answer).await;
        sleep(RETRY).await;
    }
}
