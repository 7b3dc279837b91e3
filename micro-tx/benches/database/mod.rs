//! The database that a bench runs on: what `--database` names, or `micro_bench` on a server that it
//! names without one.

use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection};

const NAME: &str = "micro_bench";

/// The URL of the database, made where it is missing; `None` where no URL is given.
pub(crate) async fn chosen() -> Result<Option<String>, sqlx::Error> {
    let Some(url) = std::env::args().skip_while(|argument| argument != "--database").nth(1) else { return Ok(None) };
    let (_, address) = url.split_once("://").unwrap_or_default();
    if url.starts_with("sqlite:") || address.trim_end_matches('/').contains('/') {
        return Ok(Some(url));
    }
    let url = url.trim_end_matches('/');
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {NAME}"));
    let created = if url.starts_with("postgres") {
        PgConnection::connect(&format!("{url}/postgres")).await?.execute(sqlx::raw_sql(create)).await.map(drop)
    } else {
        MySqlConnection::connect(url).await?.execute(sqlx::raw_sql(create)).await.map(drop)
    };
    match created {
        // It is there from an earlier run.
        Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("42P04" | "HY000")) => {}
        created => created?,
    }
    Ok(Some(format!("{url}/{NAME}")))
}
