//! What a database on a server does with values: how they come back, and which it refuses.

use micro_core::{Error, ErrorKind, TransactionManager as _, TransactionManagerExt as _};
use micro_tx::{SqlTxExt as _, Value};

use crate::{
    on_servers::{INSERT, on_each_server, site},
    server::{Server, Site},
};

on_each_server! {
    values_come_back_as_they_were_bound
    a_null_and_a_text_share_a_statement
    a_broken_rule_has_its_kind
    what_only_a_transaction_meets_has_its_kind
    ids_of_any_length_are_told_apart
    groups_that_are_too_long_are_refused_not_cut
}

async fn values_come_back_as_they_were_bound(site: Site) {
    let database = site.database().await;
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.5),
        Value::Text("ö 'quoted' 🦀".to_owned()),
        Value::Text(String::new()),
        Value::Blob(vec![0, 0xff].into()),
        Value::Blob(vec![].into()),
    ];
    let columns = "id BIGINT, number BIGINT, ratio DOUBLE PRECISION, name VARCHAR(64), empty TEXT";
    let table = match site.server {
        Server::Mariadb => format!("CREATE TABLE every ({columns}, bytes LONGBLOB, none VARBINARY(9))"),
        Server::Postgres => format!("CREATE TABLE every ({columns}, bytes BYTEA, none BYTEA)"),
    };
    database.execute_script(&table).await.unwrap();
    database.execute("INSERT INTO every VALUES (?, ?, ?, ?, ?, ?, ?)", &values).await.unwrap();
    let rows = database.fetch_all("SELECT * FROM every", &[]).await.unwrap();
    assert_eq!(rows[0].values(), values);

    let script = match site.server {
        Server::Mariadb => {
            "CREATE TABLE odd (a TINYINT(1), b SMALLINT, c INT UNSIGNED, d DECIMAL(9, 2), e CHAR(3), f JSON, g FLOAT,
                               h VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin);
             INSERT INTO odd VALUES (1, -2, 3000000000, 4.50, 'abc', '[1]', 0.25, 'bin');"
        }
        Server::Postgres => {
            "CREATE TABLE odd (a BOOLEAN, b SMALLINT, c BIGINT, d NUMERIC(9, 2), e CHAR(3), f JSONB, g REAL, h VARCHAR(9));
             INSERT INTO odd VALUES (true, -2, 3000000000, 4.50, 'abc', '[1]', 0.25, 'bin');"
        }
    };
    database.execute_script(script).await.unwrap();
    let select = "SELECT a, b, c, d, e, f, g, h, 2 * c FROM odd WHERE b = ?";
    let row = database.fetch_optional(select, &[(-2).into()]).await.unwrap().unwrap();
    let text = |text: &str| Value::Text(text.to_owned());
    assert_eq!(row.values()[..2], [Value::Integer(1), Value::Integer(-2)]);
    assert_eq!(row.values()[2..5], [Value::Integer(3_000_000_000), Value::Real(4.5), text("abc")]);
    assert_eq!(row.values()[5..], [text("[1]"), Value::Real(0.25), text("bin"), Value::Integer(6_000_000_000)]);
    for (sum, expected) in [
        ("SELECT sum(c) FROM odd", Value::Integer(3_000_000_000)),
        ("SELECT sum(c) - 9223372036854775807 FROM odd", Value::Integer(3_000_000_000 - i64::MAX)),
        ("SELECT sum(d) * -1 FROM odd", Value::Real(-4.5)),
        ("SELECT sum(c) * 0 FROM odd", Value::Integer(0)),
        ("SELECT sum(c) FROM odd WHERE b = 0", Value::Null),
    ] {
        assert_eq!(database.fetch_all(sum, &[]).await.unwrap()[0].values(), [expected], "{sum}");
    }
    let unreadable = database.fetch_all("SELECT current_date", &[]).await.unwrap_err();
    assert_eq!(unreadable.kind(), ErrorKind::DataLoss);
    assert!(unreadable.report().contains("cast the column"), "{}", unreadable.report());
}

/// PostgreSQL fixes the types of a statement when it is prepared.
async fn a_null_and_a_text_share_a_statement(site: Site) {
    let database = site.database().await;
    database.execute_script("CREATE TABLE notes (id BIGINT PRIMARY KEY, a TEXT, b BIGINT)").await.unwrap();
    let insert = "INSERT INTO notes VALUES (?, ?, ?)";
    let rows: [[Value; 3]; 4] = [
        [1.into(), Value::Null, 1.into()],
        [2.into(), "a".into(), Value::Null],
        [3.into(), Value::Null, Value::Null],
        [4.into(), "b".into(), 2.into()],
    ];
    for round in 0..3_i64 {
        for row in &rows {
            let mut row = row.clone();
            row[0] = Value::Integer(round * 10 + i64::try_from(row.len()).unwrap() + row_number(&row));
            database.execute(insert, &row).await.unwrap();
        }
    }
    let count = database.fetch_all("SELECT count(*), count(a), count(b) FROM notes", &[]).await.unwrap();
    assert_eq!(count[0].values(), [Value::Integer(12), Value::Integer(6), Value::Integer(6)]);
}

fn row_number(row: &[Value; 3]) -> i64 {
    match row[0] {
        Value::Integer(number) => number,
        _ => 0,
    }
}

async fn a_broken_rule_has_its_kind(site: Site) {
    let database = site.database().await;
    let script =
        "CREATE TABLE items (id BIGINT PRIMARY KEY, code VARCHAR(64), FOREIGN KEY (code) REFERENCES orders (code));
                  INSERT INTO orders VALUES ('A-17', '2'); INSERT INTO items VALUES (1, 'A-17');";
    database.execute_script(script).await.unwrap();
    let long = "x".repeat(65);
    for (statement, values, kind) in [
        (INSERT, vec!["A-17".into(), "2".into()], ErrorKind::AlreadyExists),
        (INSERT, vec!["A-18".into(), "".into()], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into(), Value::Null], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into(), long.as_str().into()], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into()], ErrorKind::InvalidArgument),
        ("INSERT INTO items VALUES (2, ?)", vec!["none".into()], ErrorKind::FailedPrecondition),
        ("DELETE FROM orders", vec![], ErrorKind::FailedPrecondition),
        ("INSERT INTO no_such_table VALUES (1)", vec![], ErrorKind::Internal),
        ("SELEC", vec![], ErrorKind::Internal),
    ] {
        let outcome = database.run(async |tx| tx.sql()?.execute(statement, &values).await).await;
        let error: Error = outcome.unwrap_err();
        assert_eq!(error.kind(), kind, "{statement}: {}", error.report());
        let error = database.execute(statement, &values).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{statement}: {}", error.report());
    }
}

/// On PostgreSQL what follows a failure is refused, and a commit that would undo is no success.
async fn what_only_a_transaction_meets_has_its_kind(site: Site) {
    let database = site.database().await;
    database.execute(INSERT, &["A-17".into(), "2".into()]).await.unwrap();
    let mut tx = database.begin().await.unwrap();
    let taken = tx.sql().unwrap().execute(INSERT, &["A-17".into(), "2".into()]).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let next = tx.sql().unwrap().execute(INSERT, &["A-18".into(), "2".into()]).await;
    let committed = tx.commit().await;
    let is_kept = database.fetch_optional("SELECT 1 FROM orders WHERE code = 'A-18'", &[]).await.unwrap().is_some();
    match site.server {
        Server::Mariadb => {
            next.unwrap();
            committed.unwrap();
            assert!(is_kept);
        }
        Server::Postgres => {
            assert_eq!(next.unwrap_err().kind(), ErrorKind::Aborted);
            assert_eq!(committed.unwrap_err().kind(), ErrorKind::Aborted);
            assert!(!is_kept);
        }
    }
    let mut tx = database.begin().await.unwrap();
    let read_only = match site.server {
        Server::Mariadb => "SET SESSION TRANSACTION READ ONLY",
        Server::Postgres => "SET TRANSACTION READ ONLY",
    };
    tx.sql().unwrap().execute_script(read_only).await.unwrap();
    tx.rollback().await.unwrap();
    let mut tx = database.begin().await.unwrap();
    if site.server == Server::Postgres {
        tx.sql().unwrap().execute_script(read_only).await.unwrap();
    }
    let error = tx.sql().unwrap().execute(INSERT, &["A-19".into(), "2".into()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
}

/// A column is not as long as the longest id: none may be cut to be another one.
async fn ids_of_any_length_are_told_apart(site: Site) {
    let database = site.database().await;
    let long = "ö".repeat(2_000);
    let ids: Vec<String> = ["a", "A", "a ", &format!("{long}1"), &format!("{long}2")].map(str::to_owned).to_vec();
    for expected in [true, false] {
        let claimed = database.run(async |tx| database.inbox().claim(tx, "group", &ids).await).await;
        assert_eq!(claimed.unwrap(), [expected; 5]);
    }
}

/// A name that is cut is found nowhere: each claim would be a new one.
async fn groups_that_are_too_long_are_refused_not_cut(site: Site) {
    let database = site.database().await;
    let ids = ["a".to_owned()];
    for bytes in [255, 256] {
        let group = "g".repeat(bytes);
        let claim = || database.run(async |tx| database.inbox().claim(tx, &group, &ids).await);
        if site.server == Server::Mariadb && bytes > 255 {
            let error: Error = claim().await.unwrap_err();
            assert!(error.to_string().contains("bytes_max=255"), "{error}");
            continue;
        }
        assert_eq!(claim().await.unwrap(), [true]);
        assert_eq!(claim().await.unwrap(), [false]);
    }
}
