//! What the honest account does, and how long it takes.

use std::time::{Duration, Instant};

use hearth_proto::microvms::v1::MicrovmState;

use crate::support::api::request;
use crate::support::tenant::Tenant;

/// What is timed in each round.
const TIMED: [&str; 3] =
    ["launch, until the app has answered", "request", "terminate, until nothing is left"];

/// The times of rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds(Vec<[Duration; 3]>);

impl Rounds {
    /// Launches a microVM, sends it requests and ends it.
    pub(super) async fn go(&mut self, tenant: &Tenant) {
        let begin = Instant::now();
        let launched = tenant.api().run_microvm(request("app")).await.unwrap().into_inner();
        let endpoint = tenant.endpoint(&launched).await;
        assert_eq!(endpoint.count().await, 1);
        let launch = begin.elapsed();

        let begin = Instant::now();
        assert_eq!(endpoint.count().await, 2);
        let request = begin.elapsed();

        let begin = Instant::now();
        tenant.terminate(&launched.microvm_id).await.unwrap();
        let ended = tenant.wait(&launched.microvm_id, MicrovmState::Terminated).await;
        assert_eq!(ended.state_reason.as_deref(), Some("Success."));
        self.0.push([launch, request, begin.elapsed()]);
    }

    /// The number of rounds.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A table of medians beside those of other rounds, with their ratio.
    pub(super) fn beside(&self, calm: &Self) -> String {
        let mut text = format!(
            "{} rounds before the attack, {} beside it; medians in milliseconds:\n",
            calm.len(),
            self.len()
        );
        for (index, name) in TIMED.iter().enumerate() {
            let [before, beside] = [calm, self].map(|rounds| rounds.median(index).as_secs_f64() * 1000.0);
            text += &format!("  {name:<36} {before:8.0} {beside:8.0}  ratio {:.2}\n", beside / before);
        }
        text
    }

    fn median(&self, index: usize) -> Duration {
        let mut times: Vec<Duration> = self.0.iter().map(|round| round[index]).collect();
        times.sort_unstable();
        times[times.len() / 2]
    }
}
