//! Where the host deviates from its contract, and how.

use std::collections::VecDeque;

use hearth_model::hooks::{Hook, HookOutcome};
use tokio::sync::oneshot;

/// The operations of the host at which a test can make it deviate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// [`Platform::launch`](crate::platform::Platform::launch)
    Launch,
    /// [`Platform::resume`](crate::platform::Platform::resume)
    Resume,
    /// [`Platform::find`](crate::platform::Platform::find)
    Find,
    /// [`Platform::discard`](crate::platform::Platform::discard)
    Discard,
    /// [`Platform::remove_build`](crate::platform::Platform::remove_build)
    RemoveBuild,
    /// [`Platform::sweep`](crate::platform::Platform::sweep)
    Sweep,
    /// [`Guest::call_hook`](crate::platform::Guest::call_hook)
    Hook(Hook),
    /// [`Guest::suspend`](crate::platform::Guest::suspend)
    Save,
    /// [`Guest::cancel_suspend`](crate::platform::Guest::cancel_suspend)
    Cancel,
    /// [`Guest::connect`](crate::platform::Guest::connect), to this port
    Connect(u16),
    /// [`Guest::shell`](crate::platform::Guest::shell)
    Shell,
}

impl Point {
    /// Whether the operation makes or removes something, which may happen or not, whatever is reported.
    fn changes(self) -> bool {
        use Point::{Discard, Launch, RemoveBuild, Resume, Save, Sweep};
        matches!(self, Launch | Resume | Discard | RemoveBuild | Sweep | Save)
    }
}

/// How the host deviates from its contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deviation {
    /// The operation fails with this reason and changes nothing. A hook is [`HookOutcome::Failed`].
    Fails(&'static str),
    /// The operation waits until [`Double::release`](super::Double::release), then behaves correctly.
    Hangs,
    /// A save that hangs, but can be cancelled.
    Lingers,
    /// The operation panics.
    Panics,
    /// A hook has this outcome.
    Answers(HookOutcome),
    /// A wrong report: the operation is reported as done, and nothing was. A launched or resumed guest has no
    /// process.
    Pretends,
    /// A wrong report: the operation is done, and reported as failed with this reason.
    Denies(&'static str),
    /// A wrong report: a save writes its state and is reported as done, and the process runs on.
    RunsOn,
    /// A wrong report: this is what was found, whatever exists.
    Finds(FoundState),
    /// A wrong report: the launched, resumed or found guest is that of this other microVM.
    Mistakes(&'static str),
}

/// What is reported to be found of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundState {
    /// A process that runs: the microVM's, or one that does not exist.
    Running,
    /// Its suspended state.
    Suspended,
    /// Nothing.
    Nothing,
}

impl Deviation {
    /// Whether this deviation has a meaning at `point`.
    fn fits(&self, point: Point) -> bool {
        match self {
            Self::Hangs | Self::Panics => true,
            Self::Fails(_) => point != Point::Cancel,
            Self::Lingers | Self::RunsOn => point == Point::Save,
            Self::Answers(_) => matches!(point, Point::Hook(_)),
            Self::Pretends => point.changes() || matches!(point, Point::Cancel | Point::Connect(_)),
            Self::Denies(_) => point.changes(),
            Self::Finds(_) => point == Point::Find,
            Self::Mistakes(_) => matches!(point, Point::Launch | Point::Resume | Point::Find),
        }
    }
}

/// A deviation at a point.
#[derive(Debug)]
struct Rule {
    point: Point,
    /// The microVM that the rule applies to; none for all microVMs.
    microvm: Option<String>,
    deviation: Deviation,
    once: bool,
}

/// All deviations that a test has set, and the operations that hang because of them.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: VecDeque<Rule>,
    held: Vec<(Point, oneshot::Sender<()>)>,
    /// Points at which operations have hung or lingered, in order.
    hung: Vec<Point>,
}

impl Script {
    /// Adds a rule after the existing ones.
    pub(super) fn add(&mut self, point: Point, microvm: Option<&str>, deviation: Deviation, once: bool) {
        assert!(deviation.fits(point), "{deviation:?} has no meaning at {point:?}");
        self.rules.push_back(Rule { point, microvm: microvm.map(str::to_owned), deviation, once });
    }

    /// The deviation of the next operation at `point`, for `microvm` if it concerns one. A rule that is meant for
    /// once is removed.
    pub(super) fn next(&mut self, point: Point, microvm: Option<&str>) -> Option<Deviation> {
        let concerns = |rule: &Rule| {
            rule.point == point && (rule.microvm.is_none() || rule.microvm.as_deref() == microvm)
        };
        let index = self.rules.iter().position(concerns)?;
        let deviation = self.rules.get(index).map(|rule| rule.deviation.clone());
        if self.rules.get(index).is_some_and(|rule| rule.once) {
            self.rules.remove(index);
        }
        if matches!(deviation, Some(Deviation::Hangs | Deviation::Lingers)) {
            self.hung.push(point);
        }
        deviation
    }

    /// The channel that is signalled when operations that hang at `point` are released.
    pub(super) fn hold(&mut self, point: Point) -> oneshot::Receiver<()> {
        let (release, released) = oneshot::channel();
        self.held.push((point, release));
        released
    }

    /// Whether an operation has hung at `point`.
    pub(super) fn has_hung(&self, point: Point) -> bool {
        self.hung.contains(&point)
    }

    /// Makes operations at the selected points behave correctly, and releases those that hang there.
    pub(super) fn release(&mut self, concerns: impl Fn(Point) -> bool) {
        self.rules.retain(|rule| !concerns(rule.point));
        self.held.retain(|(point, _)| !concerns(*point)); // dropping the sender releases the operation
    }
}
