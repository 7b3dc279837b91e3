//! The framework's own tables: plain scripts, each applied once, remembered in a table of ours.

use std::time::SystemTime;

use micro_core::{Error, ErrorKind, Result, TransactionManagerExt as _, event::unix_millis};

use crate::{
    database::SqlDatabase,
    error::to_deployer,
    transaction::{SqlTx, SqlTxExt as _},
};

/// Applies what is missing, in one transaction where the database can (MySQL commits each CREATE;
/// its scripts can be run again). Of two processes that start together, one waits.
pub(crate) async fn run(database: &SqlDatabase) -> Result<()> {
    let migrated = async {
        let _turn = database.migration_turn().await?;
        database.run(async |tx| apply(database, tx.sql()?).await).await
    };
    let message = "the database's user may not create or change these tables: migrate as one who may";
    migrated.await.map_err(|error| to_deployer("sql.migrate", message, error))
}

async fn apply(database: &SqlDatabase, sql: &mut SqlTx) -> Result<()> {
    let migrations = database.dialect().migrations();
    sql.execute_script(&database.prefixed(database.dialect().version_table())).await?;
    let newest = database.prefixed("SELECT coalesce(max(version), 0) FROM micro_schema_version");
    let newest = sql.fetch_one(&newest, &[]).await?.get::<i64>(0)?;
    let known = migrations.last().map_or(0, |(version, ..)| *version);
    if newest > known {
        let message = "the tables are of a newer version of micro-tx";
        return Err(Error::new(ErrorKind::FailedPrecondition, "sql.migrate", message)
            .with_context("found", newest)
            .with_context("known", known));
    }
    for (version, name, script) in migrations.iter().filter(|(version, ..)| *version > newest) {
        sql.execute_script(&database.prefixed(script)).await?;
        let remember = database.prefixed("INSERT INTO micro_schema_version VALUES (?, ?, ?)");
        let now = unix_millis(SystemTime::now());
        sql.execute(&remember, &[(*version).into(), (*name).into(), now.into()]).await?;
    }
    Ok(())
}
