//! Statements made ready for a database, each once: the hot path looks its text up.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use micro_core::Result;
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use super::Driver;
use crate::{dialect::Dialect, error::from_sqlx, value::Value};

/// How many texts are remembered; another one is made ready each time.
const STATEMENT_COUNT_MAX: usize = 1_024;

/// How many combinations of types are remembered of one text.
const VARIANT_COUNT_MAX: usize = 8;

/// Whether a text is one of a read; one that begins otherwise can be that too.
pub(super) fn is_select(statement: &str) -> bool {
    statement.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
}

/// A statement that can be sent.
pub(crate) struct Call<D: Driver> {
    pub(crate) statement: SqlStr,
    pub(crate) arguments: D::Arguments,
    /// Whether the server keeps it prepared.
    pub(crate) is_kept: bool,
}

pub(crate) struct Statements {
    dialect: Dialect,
    /// What a text that begins with SELECT is sent with.
    read_limit: String,
    known: RwLock<HashMap<Box<str>, Vec<Variant>>>,
}

/// A text as it is sent, for values of these types: PostgreSQL fixes the types of a statement when
/// it is prepared, and sqlx remembers what is prepared by its text alone.
#[derive(Clone)]
struct Variant {
    types: Box<[u8]>,
    statement: Arc<str>,
}

impl Statements {
    pub(crate) fn new(dialect: Dialect, read_limit: String) -> Self {
        Self { dialect, read_limit, known: RwLock::default() }
    }

    /// The statement with its values.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when there are not as many values as placeholders, or one cannot be bound.
    pub(crate) fn call<D: Driver>(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Call<D>> {
        let arguments = D::arguments(values).map_err(|error| from_sqlx(operation, error))?;
        let (text, is_kept) = match self.find(statement, values) {
            Some(text) => (text, true),
            None => self.make(operation, statement, values)?,
        };
        Ok(Call { statement: AssertSqlSafe(text).into_sql_str(), arguments, is_kept })
    }

    fn find(&self, statement: &str, values: &[Value]) -> Option<Arc<str>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let variants = known.get(statement)?;
        let is_same = |variant: &&Variant| {
            variant.types.len() == values.len()
                && variant.types.iter().zip(values).all(|(kind, value)| *kind == self.kind(value))
        };
        variants.iter().find(is_same).map(|variant| variant.statement.clone())
    }

    fn make(&self, operation: &'static str, statement: &str, values: &[Value]) -> Result<(Arc<str>, bool)> {
        let types: Box<[u8]> = values.iter().map(|value| self.kind(value)).collect();
        let mut text = self.dialect.rewritten(operation, statement, values)?;
        if is_select(statement) {
            text.insert_str(0, &self.read_limit);
        }
        let text: Arc<str> = text.into();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= STATEMENT_COUNT_MAX && !known.contains_key(statement) {
            return Ok((text, false));
        }
        let variants = known.entry(statement.into()).or_default();
        if variants.len() >= VARIANT_COUNT_MAX {
            return Ok((text, false));
        }
        variants.push(Variant { types, statement: text.clone() });
        Ok((text, true))
    }

    /// The value's type, as far as the statement's text depends on it.
    fn kind(&self, value: &Value) -> u8 {
        if self.dialect.has_typed_statements() { value.type_name().as_bytes()[0] } else { 0 }
    }
}
