//! A tracing subscriber that keeps the fields of spans.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{
    Dispatch, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::{Layer, layer::Context, prelude::*, registry::LookupSpan};

pub(crate) type Fields = BTreeMap<String, String>;

/// The spans `request` that were opened while it listened, in that order.
#[derive(Clone, Default)]
pub(crate) struct Spans(Arc<Mutex<Vec<(span::Id, Fields)>>>);

impl Spans {
    /// Listens on this thread until the guard is dropped.
    pub(crate) fn listen() -> (Self, DefaultGuard) {
        // While there is but one, another thread, of which nobody listens, decides for this one too
        // whether a span is wanted: https://github.com/tokio-rs/tracing/issues/2874
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        let spans = Self::default();
        (spans.clone(), tracing_subscriber::registry().with(spans).set_default())
    }

    pub(crate) fn all(&self) -> Vec<Fields> {
        self.0.lock().unwrap().iter().map(|(_, fields)| fields.clone()).collect()
    }

    /// The one span there is.
    pub(crate) fn only(&self) -> Fields {
        let [fields] = <[Fields; 1]>::try_from(self.all()).unwrap();
        fields
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "request" {
            let mut fields = Fields::new();
            attributes.record(&mut Keep(&mut fields));
            self.0.lock().unwrap().push((id.clone(), fields));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        // Ids are used again once a span is closed: the last one of this id is meant.
        if let Some((_, fields)) = self.0.lock().unwrap().iter_mut().rev().find(|(known, _)| known == id) {
            values.record(&mut Keep(fields));
        }
    }
}

struct Keep<'a>(&'a mut Fields);

impl Visit for Keep<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let before = self.0.insert(field.name().to_owned(), format!("{value:?}"));
        assert!(before.is_none(), "{} was recorded twice", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
