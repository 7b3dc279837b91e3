//! Finds an application for restocking.

use micro_core::{Error, ErrorKind, Result};

use crate::domain::{Restock, RestockAudit, RestockQueries};

/// Finds applications for restocking.
pub struct FindRestock<Q> {
    restocks: Q,
}

impl<Q: RestockQueries> FindRestock<Q> {
    /// The use case over this port.
    pub fn new(restocks: Q) -> Self {
        Self { restocks }
    }

    /// A user's application by its number, with its latest audit.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty number, `NotFound` when the user made none of this number.
    pub async fn find(&self, application_no: &str, user_id: i32) -> Result<(Restock, Option<RestockAudit>)> {
        let error = |kind, message| Error::new(kind, "product.find_restock", message);
        if application_no.is_empty() {
            return Err(error(ErrorKind::InvalidArgument, "application_no cannot be empty"));
        }
        let found = self.restocks.find(application_no, user_id).await?;
        found.ok_or_else(|| {
            error(ErrorKind::NotFound, "restock apply not found")
                .with_context("application_no", application_no)
                .with_context("user_id", user_id)
        })
    }
}
