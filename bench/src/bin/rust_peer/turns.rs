//! Turns as they are asked for and told: a line of JSON each.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bench::{
    Result,
    worker::{Done, Turn},
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

/// Does a turn a line until the input ends.
pub(crate) async fn run(mut once: impl AsyncFnMut(Turn) -> Result<u64>) -> Result<()> {
    tell(&serde_json::json!({ "ready": true }));
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let turn: Turn = serde_json::from_str(&line).map_err(|error| format!("the turn {line:?} is none: {error}"))?;
        let began = Instant::now();
        let count = once(turn).await?;
        tell(&serde_json::to_value(Done { count, seconds: began.elapsed().as_secs_f64() })?);
    }
    Ok(())
}

/// Says one line to who started this.
pub(crate) fn tell(what: &Value) {
    let mut output = std::io::stdout().lock();
    // Who does not listen any more will not miss it.
    let _ = writeln!(output, "{what}").and_then(|()| output.flush());
}

/// Does something again and again in as many tasks as the turn is wide, and counts how often.
pub(crate) async fn in_loops<F>(turn: Turn, mut looped: impl FnMut(usize, Loop) -> F) -> Result<u64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let count = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + Duration::from_millis(turn.millis);
    let running: Vec<_> =
        (0..turn.width).map(|index| tokio::spawn(looped(index, Loop { end, count: count.clone() }))).collect();
    for task in running {
        task.await??;
    }
    Ok(count.load(Ordering::Relaxed))
}

/// One of the tasks of a turn.
pub(crate) struct Loop {
    end: Instant,
    count: Arc<AtomicU64>,
}

impl Loop {
    /// Whether there is time for one more.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    /// Counts one that is done.
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}
