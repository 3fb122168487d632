//! Where the host does otherwise than it should, and how.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::platform::{Hook, HookOutcome};

/// What the host is asked for, where a test can have it do otherwise.
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
    /// [`Platform::remove_artifact`](crate::platform::Platform::remove_artifact)
    RemoveArtifact,
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
    /// Whether something is made or removed here, which can be done or not, whatever is said of it.
    fn changes(self) -> bool {
        use Point::{Discard, Launch, RemoveArtifact, Resume, Save, Sweep};
        matches!(self, Launch | Resume | Discard | RemoveArtifact | Sweep | Save)
    }
}

/// What the host does instead of what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It fails: nothing is done, and this is why. A hook is [`HookOutcome::Failed`].
    Fails(&'static str),
    /// It does not come to its end until [`Double::release`](super::Double::release); then it does what it should.
    Hangs,
    /// A save that hangs, but can be cancelled.
    Lingers,
    /// It panics.
    Panics,
    /// A hook has this outcome.
    Answers(HookOutcome),
    /// It lies: it says that this is done, and nothing is. What is launched or resumed has no process.
    Pretends,
    /// It lies: it is done, and it says that it has failed, and why.
    Denies(&'static str),
    /// It lies: a save writes its state and says that it is done, and the process runs on.
    RunsOn,
    /// It lies: this is what is found, whatever there is.
    Finds(Sight),
    /// It lies: the guest that is launched, resumed or found is the one of this other microVM.
    Mistakes(&'static str),
}

/// What is said to be found of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// A process that runs: the microVM's, or one that does not exist.
    Running,
    /// Its suspended state.
    Suspended,
    /// Nothing.
    Nothing,
}

impl Way {
    /// Whether it has a meaning at `point`.
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

/// What a test has the host do at a point.
#[derive(Debug)]
struct Rule {
    point: Point,
    /// Which microVM's; any one's without.
    microvm: Option<String>,
    way: Way,
    once: bool,
}

/// Everything that a test has the host do, and who hangs for it.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: VecDeque<Rule>,
    held: Vec<(Point, oneshot::Sender<()>)>,
    /// Where somebody has hung or lingered, in order.
    hung: Vec<Point>,
}

impl Script {
    /// Adds a rule, which comes after those that are there.
    pub(super) fn add(&mut self, point: Point, microvm: Option<&str>, way: Way, once: bool) {
        assert!(way.fits(point), "{way:?} has no meaning at {point:?}");
        self.rules.push_back(Rule { point, microvm: microvm.map(str::to_owned), way, once });
    }

    /// What is done at `point`, for a microVM if it is about one. Something else is done the next time, if this was for once.
    pub(super) fn next(&mut self, point: Point, microvm: Option<&str>) -> Option<Way> {
        let concerns = |rule: &Rule| {
            rule.point == point && (rule.microvm.is_none() || rule.microvm.as_deref() == microvm)
        };
        let index = self.rules.iter().position(concerns)?;
        let way = self.rules.get(index).map(|rule| rule.way.clone());
        if self.rules.get(index).is_some_and(|rule| rule.once) {
            self.rules.remove(index);
        }
        if matches!(way, Some(Way::Hangs | Way::Lingers)) {
            self.hung.push(point);
        }
        way
    }

    /// What is done when whoever hangs at `point` is released.
    pub(super) fn hold(&mut self, point: Point) -> oneshot::Receiver<()> {
        let (release, released) = oneshot::channel();
        self.held.push((point, release));
        released
    }

    /// Whether somebody has hung at `point`.
    pub(super) fn has_hung(&self, point: Point) -> bool {
        self.hung.contains(&point)
    }

    /// Has everything at the points that `concerns` selects be done as it should, and lets go who hangs there.
    pub(super) fn release(&mut self, concerns: impl Fn(Point) -> bool) {
        self.rules.retain(|rule| !concerns(rule.point));
        self.held.retain(|(point, _)| !concerns(*point)); // what is dropped is released
    }
}
