//! What was logged: every line of this process, to be looked through by a name that only one test
//! has.

use std::{
    fmt::{self, Write as _},
    sync::{Mutex, OnceLock},
};

use micro_testkit::eventually;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::world::PATIENCE;

static LINES: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

fn lines() -> &'static Mutex<Vec<String>> {
    LINES.get_or_init(|| {
        tracing::subscriber::set_global_default(Listener).expect("nobody else listens");
        Mutex::default()
    })
}

/// Begins to listen.
pub(crate) fn listen() {
    lines();
}

/// Lines that hold both texts.
pub(crate) fn lines_of(name: &str, text: &str) -> Vec<String> {
    let lines = lines().lock().expect("no holder panics");
    lines.iter().filter(|line| line.contains(name) && line.contains(text)).cloned().collect()
}

/// Waits for a line that holds both texts.
pub(crate) async fn line_of(name: &str, text: &str) -> String {
    eventually(PATIENCE, "a line is logged", || async { lines_of(name, text).pop() }).await
}

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        if std::env::var_os("MICRO_TEST_LOG").is_some() {
            eprintln!("{}", line.0);
        }
        lines().lock().expect("no holder panics").push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").expect("a string takes any text");
    }
}
