//! The model of a saga: what becomes of one of four steps, whatever happens to each, and a world in
//! which it happens. Any coordinator must come to the end that the model says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    barrier::{Barrier, BarrierExt as _, BarrierStore},
    branch::{Branch, BranchAnswer, Op},
    saga::{BranchCaller, BranchRequest, Outcome, Saga, SagaCoordinator, SagaOptions, Step},
    transaction::{MemoryDatabase, MemoryTxExt as _},
};

use crate::eventually;

/// How many steps a saga of the model has.
pub const STEP_COUNT: usize = 4;

/// What happens to the action of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It takes effect and says so.
    Succeeds,
    /// It is refused.
    Fails,
    /// It takes effect, and its first answer is lost.
    TimesOut,
    /// Its call arrives twice.
    ArrivesTwice,
    /// It says at first that it is still ongoing, and takes effect when it is called again.
    OngoingOnce,
    /// No call of it ever arrives: its compensation is empty.
    NeverArrives,
    /// Each call arrives when its compensation is done: it hangs.
    ArrivesLate,
}

impl Fate {
    /// Every fate.
    pub const ALL: [Self; 7] = [
        Self::Succeeds,
        Self::Fails,
        Self::TimesOut,
        Self::ArrivesTwice,
        Self::OngoingOnce,
        Self::NeverArrives,
        Self::ArrivesLate,
    ];

    /// Whether the saga goes on behind it.
    const fn goes_on(self) -> bool {
        matches!(self, Self::Succeeds | Self::TimesOut | Self::ArrivesTwice | Self::OngoingOnce)
    }
}

/// What happens to a compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undoing {
    Succeeds,
    TimesOut,
    ArrivesTwice,
}

/// A saga of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SagaCase {
    /// What happens to the actions.
    pub fates: [Fate; STEP_COUNT],
    /// Whether its steps begin together.
    pub is_concurrent: bool,
    /// After how long it turns back: its actions are called again after pauses. `None`: they are called
    /// again at once, and it turns back when that was done too often.
    pub timeout_to_fail: Option<Duration>,
}

/// The end that the model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SagaEnd {
    /// Whether it succeeds.
    pub is_success: bool,
    /// How often each step is in effect.
    pub effects: [i64; STEP_COUNT],
    /// Whose actions are called.
    pub called: [bool; STEP_COUNT],
}

impl SagaCase {
    /// Every order of fates.
    pub fn all(is_concurrent: bool, timeout_to_fail: Option<Duration>) -> Vec<Self> {
        Self::of(&Fate::ALL, is_concurrent, timeout_to_fail)
    }

    /// Every order of these fates.
    pub fn of(known: &[Fate], is_concurrent: bool, timeout_to_fail: Option<Duration>) -> Vec<Self> {
        let mut cases = vec![[Fate::Succeeds; STEP_COUNT]];
        for step in 0..STEP_COUNT {
            let with = |fates: [Fate; STEP_COUNT]| {
                known.iter().map(move |fate| {
                    let mut fates = fates;
                    fates[step] = *fate;
                    fates
                })
            };
            cases = cases.into_iter().flat_map(with).collect();
        }
        cases.into_iter().map(|fates| Self { fates, is_concurrent, timeout_to_fail }).collect()
    }

    /// The model itself.
    pub fn end(&self) -> SagaEnd {
        let last = self.fates.iter().position(|fate| !fate.goes_on());
        let is_called = |step| self.is_concurrent || last.is_none_or(|last| step <= last);
        SagaEnd {
            is_success: last.is_none(),
            effects: [i64::from(last.is_none()); STEP_COUNT],
            called: std::array::from_fn(is_called),
        }
    }

    /// The saga, with the URL of each step's action and compensation.
    pub fn saga(&self, gid: &str, url: impl Fn(usize, &Op) -> String) -> Saga {
        let step = |step| Step::new(url(step, &Op::Action)).compensation(url(step, &Op::Compensate));
        let mut options = SagaOptions::default();
        options.is_concurrent = self.is_concurrent;
        options.retry_interval = Some(Duration::from_secs(1));
        options.timeout_to_fail = self.timeout_to_fail;
        // More than answers are lost, or ongoing.
        options.retry_count_max = self.timeout_to_fail.is_none().then_some(8);
        (0..STEP_COUNT).fold(Saga::with_gid(gid), |saga, number| saga.step(step(number))).options(options)
    }

    /// So that a compensation has each fate in a third of the cases.
    fn undoing(&self, step: usize) -> Undoing {
        let sum: usize =
            self.fates.iter().map(|fate| Fate::ALL.iter().position(|known| known == fate).unwrap_or(0)).sum();
        [Undoing::Succeeds, Undoing::TimesOut, Undoing::ArrivesTwice][(sum + step) % 3]
    }
}

/// The services that take part, and the network between them and the coordinator. Each branch takes
/// effect behind a barrier, in one transaction with its row.
pub struct SagaWorld {
    database: MemoryDatabase,
    barrier: Arc<dyn BarrierStore>,
    spares_undecided: bool,
    cases: Mutex<BTreeMap<String, Played>>,
}

#[derive(Clone)]
struct Played {
    case: SagaCase,
    action_counts: [usize; STEP_COUNT],
    compensation_counts: [usize; STEP_COUNT],
    late: Vec<Branch>,
}

impl SagaWorld {
    /// A world whose barriers are kept by `barrier`, which takes the transactions of `database`.
    pub fn new(database: MemoryDatabase, barrier: Arc<dyn BarrierStore>) -> Self {
        Self { database, barrier, spares_undecided: false, cases: Mutex::default() }
    }

    /// The same world, in which an action that never answered is undone at the first call. DTM 1.19 does
    /// not come to an end otherwise: where a saga is rolled back at its retry limit and that step's
    /// compensation fails once, its next runs call no compensation at all.
    #[must_use]
    pub fn sparing_undecided(mut self) -> Self {
        self.spares_undecided = true;
        self
    }

    /// Plays a case, under this global id.
    pub fn play(&self, gid: &str, case: SagaCase) {
        let played =
            Played { case, action_counts: [0; STEP_COUNT], compensation_counts: [0; STEP_COUNT], late: Vec::new() };
        self.cases().insert(gid.to_owned(), played);
    }

    /// What a branch answers when it is called; an error where nothing comes back.
    ///
    /// # Errors
    ///
    /// `Unavailable` where the call or its answer is lost.
    pub async fn handle(&self, branch: &Branch) -> Result<BranchAnswer> {
        let step = step_of(branch)?;
        let is_action = branch.op == Op::Action;
        let (case, count) = {
            let mut cases = self.cases();
            let played = cases.get_mut(&branch.gid).ok_or_else(|| lost("nobody plays this saga"))?;
            let counts = if is_action { &mut played.action_counts } else { &mut played.compensation_counts };
            counts[step] += 1;
            (played.case, counts[step])
        };
        if !is_action {
            let is_spared = self.spares_undecided && matches!(case.fates[step], Fate::NeverArrives | Fate::ArrivesLate);
            let undoing = if is_spared { Undoing::Succeeds } else { case.undoing(step) };
            return self.undo(branch, undoing, count).await;
        }
        match case.fates[step] {
            Fate::Succeeds => self.pass(branch, 1).await,
            Fate::TimesOut if count == 1 => {
                self.pass(branch, 1).await?;
                Err(lost("the answer is lost"))
            }
            Fate::TimesOut => self.pass(branch, 1).await,
            Fate::ArrivesTwice => {
                let (first, second) = tokio::join!(self.pass(branch, 1), self.pass(branch, 1));
                first.and(second)
            }
            Fate::OngoingOnce if count == 1 => Ok(BranchAnswer::Ongoing),
            Fate::OngoingOnce => self.pass(branch, 1).await,
            Fate::Fails => self.refuse(branch).await,
            Fate::NeverArrives => Err(lost("the call is lost")),
            Fate::ArrivesLate => {
                self.cases().entry(branch.gid.clone()).and_modify(|played| played.late.push(branch.clone()));
                Err(lost("the call is late"))
            }
        }
    }

    /// How often each step is in effect.
    pub fn effects(&self, gid: &str) -> [i64; STEP_COUNT] {
        std::array::from_fn(|step| {
            let effect = self.database.read("effects", &effect_of(gid, step));
            effect.map_or(0, |count| i64::from_be_bytes(count.as_ref().try_into().expect("eight bytes were written")))
        })
    }

    /// Whose actions were called.
    pub fn called(&self, gid: &str) -> [bool; STEP_COUNT] {
        self.cases().get(gid).map_or([false; STEP_COUNT], |played| played.action_counts.map(|count| count > 0))
    }

    async fn undo(&self, branch: &Branch, undoing: Undoing, count: usize) -> Result<BranchAnswer> {
        let answer = match undoing {
            Undoing::ArrivesTwice => {
                let (first, second) = tokio::join!(self.pass(branch, -1), self.pass(branch, -1));
                first.and(second)
            }
            Undoing::Succeeds | Undoing::TimesOut => self.pass(branch, -1).await,
        };
        let late: Vec<Branch> = {
            let mut cases = self.cases();
            let late = cases.get_mut(&branch.gid).map(|played| std::mem::take(&mut played.late)).unwrap_or_default();
            let (arriving, later) = late.into_iter().partition(|late| late.id == branch.id);
            cases.entry(branch.gid.clone()).and_modify(|played| played.late = later);
            arriving
        };
        for action in late {
            // Nobody waits for its answer any more.
            self.pass(&action, 1).await?;
        }
        if undoing == Undoing::TimesOut && count == 1 {
            return Err(lost("the answer is lost"));
        }
        answer
    }

    /// Takes effect, if the barrier lets it.
    async fn pass(&self, branch: &Branch, change: i64) -> Result<BranchAnswer> {
        let effect = effect_of(&branch.gid, step_of(branch)?);
        let transactions = self.database.transactions();
        let body = async |tx: &mut Tx| {
            let count = tx.get("effects", &effect)?;
            let count = count.map_or(0, |count| i64::from_be_bytes(count.as_ref().try_into().expect("eight bytes")));
            tx.put("effects", &effect, (count + change).to_be_bytes().to_vec())
        };
        let mut barrier = Barrier::new(branch.clone());
        transactions.run_with_barrier::<_, Error, _>(&*self.barrier, &mut barrier, body).await?;
        Ok(BranchAnswer::Succeeded)
    }

    /// Is refused behind the barrier, so that nothing is left of it.
    async fn refuse(&self, branch: &Branch) -> Result<BranchAnswer> {
        let transactions = self.database.transactions();
        let body = async |_: &mut Tx| Err(Error::new(ErrorKind::FailedPrecondition, "world.act", "no stock"));
        let mut barrier = Barrier::new(branch.clone());
        match transactions.run_with_barrier::<(), Error, _>(&*self.barrier, &mut barrier, body).await {
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                Ok(BranchAnswer::Failed("no stock".to_owned()))
            }
            // Its undoing came first: it answers as one that is done.
            Ok(_) => Ok(BranchAnswer::Succeeded),
            Err(error) => Err(error),
        }
    }

    fn cases(&self) -> MutexGuard<'_, BTreeMap<String, Played>> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl BranchCaller for SagaWorld {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        self.handle(request.branch).await
    }

    fn check(&self, _request: &BranchRequest<'_>) -> Result<()> {
        Ok(())
    }
}

/// Checks that a saga that is played has come, or comes within `patience`, to the end that the model
/// says.
///
/// # Panics
///
/// Where it does not.
pub async fn ends_as_the_model_says(
    coordinator: &dyn SagaCoordinator,
    world: &SagaWorld,
    (gid, case): (&str, SagaCase),
    patience: Duration,
) {
    let outcome = Mutex::new(None);
    eventually(patience, &format!("{case:?} ends"), || async {
        let found = coordinator.outcome(gid).await.ok().flatten();
        let is_end = found.as_ref().is_some_and(|found| *found != Outcome::StillRunning);
        *outcome.lock().unwrap_or_else(PoisonError::into_inner) = found;
        is_end
    })
    .await;
    let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    let end = case.end();
    assert_eq!(outcome == Some(Outcome::Succeeded), end.is_success, "{case:?} ended so: {outcome:?}");
    assert_eq!(world.effects(gid), end.effects, "{case:?} has these effects, {outcome:?}");
}

fn step_of(branch: &Branch) -> Result<usize> {
    let number = branch.id.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    number.filter(|step| *step < STEP_COUNT).ok_or_else(|| lost("the saga has no such step"))
}

fn effect_of(gid: &str, step: usize) -> String {
    format!("{gid}/{step}")
}

fn lost(what: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, "world.call", what)
}
