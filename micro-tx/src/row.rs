//! A row that was read, and typed access to its columns.

use std::sync::Arc;

use micro_core::{Error, ErrorKind, Result};

use crate::value::{FromValue, Value};

/// A row that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(columns: Arc<[String]>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// The column at `index`, by position from 0 or by name, as a `T`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when there is no such column, `DataLoss` when it holds something that is
    /// no `T`; both name the column, and what was expected and found.
    pub fn get<T: FromValue>(&self, index: impl ColumnIndex) -> Result<T> {
        let position = index.position(&self.columns).ok_or_else(|| self.missing(&index))?;
        let value = &self.values[position];
        T::from_value(value).ok_or_else(|| {
            Error::new(ErrorKind::DataLoss, "row.get", "the column holds another type, or a number out of range")
                .with_context("column", &self.columns[position])
                .with_context("expected", T::EXPECTED)
                .with_context("found", value.type_name())
        })
    }

    /// The columns' names, in order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The values, in the columns' order.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    fn missing(&self, index: &impl ColumnIndex) -> Error {
        Error::new(ErrorKind::InvalidArgument, "row.get", "the row has no such column")
            .with_context("column", index.name())
            .with_context("columns", self.columns.join(" "))
    }
}

/// How a column is named: by its position from 0, or by its name.
pub trait ColumnIndex {
    /// Its position among `columns`; `None` when it is not there.
    fn position(&self, columns: &[String]) -> Option<usize>;

    /// How it was named, for messages.
    fn name(&self) -> String;
}

impl ColumnIndex for usize {
    fn position(&self, columns: &[String]) -> Option<usize> {
        (*self < columns.len()).then_some(*self)
    }

    fn name(&self) -> String {
        self.to_string()
    }
}

impl ColumnIndex for &str {
    fn position(&self, columns: &[String]) -> Option<usize> {
        columns.iter().position(|column| column == self)
    }

    fn name(&self) -> String {
        (*self).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row::new(Arc::from(["code".to_owned(), "status".to_owned()]), vec![Value::from("A-17"), Value::Integer(300)])
    }

    #[test]
    fn columns_are_read_by_position_and_by_name() {
        assert_eq!(row().get::<String>(0).unwrap(), "A-17");
        assert_eq!(row().get::<Option<i64>>("status").unwrap(), Some(300));
    }

    #[test]
    fn a_wrong_type_names_column_and_types() {
        let error = row().get::<i64>("code").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        let text = error.to_string();
        assert!(text.contains("column=code") && text.contains("expected=i64") && text.contains("found=text"), "{text}");
    }

    #[test]
    fn a_number_out_of_range_and_a_missing_column_are_errors() {
        assert_eq!(row().get::<u8>(1).unwrap_err().kind(), ErrorKind::DataLoss);
        assert_eq!(row().get::<bool>(1).unwrap_err().kind(), ErrorKind::DataLoss);
        let error = row().get::<i64>("price").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("column=price"), "{error}");
        assert_eq!(row().get::<i64>(2).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
