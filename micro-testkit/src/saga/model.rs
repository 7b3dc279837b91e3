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

/// How long a coordinator waits for a call, where one lasts: DTM counts in whole seconds.
pub const TIME_LIMIT: Duration = Duration::from_secs(1);

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
    /// Its first call is not answered while the coordinator waits; it takes effect about when it is given up
    /// and made again.
    OutlastsItsCall,
    /// No call is answered while the coordinator waits; what the last one does meets its compensation.
    MeetsItsUndoing,
}

impl Fate {
    /// Those whose calls end at once.
    pub const PROMPT: [Self; 7] = [
        Self::Succeeds,
        Self::Fails,
        Self::TimesOut,
        Self::ArrivesTwice,
        Self::OngoingOnce,
        Self::NeverArrives,
        Self::ArrivesLate,
    ];

    /// Those of whose calls some last longer than the coordinator waits ([`TIME_LIMIT`]), and what they
    /// differ from.
    pub const LASTING: [Self; 4] = [Self::Succeeds, Self::Fails, Self::OutlastsItsCall, Self::MeetsItsUndoing];

    /// Whether the saga goes on behind it.
    const fn goes_on(self) -> bool {
        matches!(self, Self::Succeeds | Self::TimesOut | Self::ArrivesTwice | Self::OngoingOnce | Self::OutlastsItsCall)
    }

    /// Whether none of its calls is ever answered.
    const fn is_undecided(self) -> bool {
        matches!(self, Self::NeverArrives | Self::ArrivesLate | Self::MeetsItsUndoing)
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
        let lasts = |fate: &Fate| matches!(fate, Fate::OutlastsItsCall | Fate::MeetsItsUndoing);
        options.request_timeout = self.fates.iter().any(lasts).then_some(TIME_LIMIT);
        // More than answers are lost, or ongoing.
        options.retry_count_max = self.timeout_to_fail.is_none().then_some(8);
        (0..STEP_COUNT).fold(Saga::with_gid(gid), |saga, number| saga.step(step(number))).options(options)
    }

    /// So that a compensation has each fate in a third of the cases.
    fn undoing(&self, step: usize) -> Undoing {
        let sum: usize = self.fates.iter().map(|fate| *fate as usize).sum();
        [Undoing::Succeeds, Undoing::TimesOut, Undoing::ArrivesTwice][(sum + step) % 3]
    }
}

/// The services that take part, and the network between them and the coordinator. Each branch takes
/// effect behind a barrier, in one transaction with its row.
pub struct SagaWorld {
    participants: Participants,
    spares_undecided: bool,
    cases: Mutex<BTreeMap<String, Played>>,
}

/// Where branches take effect.
#[derive(Clone)]
struct Participants {
    database: MemoryDatabase,
    barrier: Arc<dyn BarrierStore>,
}

impl Participants {
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
}

#[derive(Clone)]
struct Played {
    case: SagaCase,
    action_counts: [usize; STEP_COUNT],
    compensation_counts: [usize; STEP_COUNT],
    /// Actions that arrive behind their compensation.
    late: Vec<Branch>,
    /// Actions that nobody waits for any more, and that are not done yet.
    running: Vec<Branch>,
}

impl SagaWorld {
    /// A world whose barriers are kept by `barrier`, which takes the transactions of `database`.
    pub fn new(database: MemoryDatabase, barrier: Arc<dyn BarrierStore>) -> Self {
        Self { participants: Participants { database, barrier }, spares_undecided: false, cases: Mutex::default() }
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
        let (action_counts, compensation_counts) = ([0; STEP_COUNT], [0; STEP_COUNT]);
        let played = Played { case, action_counts, compensation_counts, late: Vec::new(), running: Vec::new() };
        self.cases().insert(gid.to_owned(), played);
    }

    /// What a branch answers when it is called; an error where nothing comes back. Does not end where the
    /// call outlasts its caller.
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
            let is_spared = self.spares_undecided && case.fates[step].is_undecided();
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
            Fate::OutlastsItsCall if count == 1 => {
                let (participants, branch) = (self.participants.clone(), branch.clone());
                // Up to 20 ms before it is given up, or behind that.
                let spread = branch.gid.bytes().map(u64::from).sum::<u64>() + 13 * step as u64;
                let until = TIME_LIMIT + Duration::from_millis(spread % 41) - Duration::from_millis(20);
                tokio::spawn(async move {
                    tokio::time::sleep(until).await;
                    participants.pass(&branch, 1).await
                });
                std::future::pending().await
            }
            Fate::OutlastsItsCall => self.pass(branch, 1).await,
            Fate::MeetsItsUndoing => {
                self.cases().entry(branch.gid.clone()).and_modify(|played| {
                    played.running.retain(|running| running.id != branch.id);
                    played.running.push(branch.clone());
                });
                std::future::pending().await
            }
        }
    }

    /// How often each step is in effect.
    pub fn effects(&self, gid: &str) -> [i64; STEP_COUNT] {
        std::array::from_fn(|step| {
            let effect = self.participants.database.read("effects", &effect_of(gid, step));
            effect.map_or(0, |count| i64::from_be_bytes(count.as_ref().try_into().expect("eight bytes were written")))
        })
    }

    /// Whose actions were called.
    pub fn called(&self, gid: &str) -> [bool; STEP_COUNT] {
        self.cases().get(gid).map_or([false; STEP_COUNT], |played| played.action_counts.map(|count| count > 0))
    }

    async fn undo(&self, branch: &Branch, undoing: Undoing, count: usize) -> Result<BranchAnswer> {
        let answer = match (undoing, self.taken(branch, |played| &mut played.running)) {
            (_, running) if !running.is_empty() => {
                let step = step_of(branch)?;
                // Whoever is first.
                match (step + count) % 2 {
                    0 => tokio::join!(self.pass_all(&running), self.pass(branch, -1)).1,
                    _ => tokio::join!(self.pass(branch, -1), self.pass_all(&running)).0,
                }
            }
            (Undoing::ArrivesTwice, _) => {
                let (first, second) = tokio::join!(self.pass(branch, -1), self.pass(branch, -1));
                first.and(second)
            }
            (Undoing::Succeeds | Undoing::TimesOut, _) => self.pass(branch, -1).await,
        };
        self.pass_all(&self.taken(branch, |played| &mut played.late)).await?;
        if undoing == Undoing::TimesOut && count == 1 {
            return Err(lost("the answer is lost"));
        }
        answer
    }

    /// The actions of this step among those.
    fn taken(&self, branch: &Branch, among: impl Fn(&mut Played) -> &mut Vec<Branch>) -> Vec<Branch> {
        let mut cases = self.cases();
        let Some(played) = cases.get_mut(&branch.gid) else { return Vec::new() };
        let (taken, left) = std::mem::take(among(played)).into_iter().partition(|action| action.id == branch.id);
        *among(played) = left;
        taken
    }

    /// Nobody waits for their answers any more.
    async fn pass_all(&self, actions: &[Branch]) -> Result<()> {
        for action in actions {
            self.pass(action, 1).await?;
        }
        Ok(())
    }

    async fn pass(&self, branch: &Branch, change: i64) -> Result<BranchAnswer> {
        self.participants.pass(branch, change).await
    }

    /// Is refused behind the barrier, so that nothing is left of it.
    async fn refuse(&self, branch: &Branch) -> Result<BranchAnswer> {
        let transactions = self.participants.database.transactions();
        let body = async |_: &mut Tx| Err(Error::new(ErrorKind::FailedPrecondition, "world.act", "no stock"));
        let mut barrier = Barrier::new(branch.clone());
        match transactions.run_with_barrier::<(), Error, _>(&*self.participants.barrier, &mut barrier, body).await {
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
