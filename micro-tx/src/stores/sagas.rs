//! The saga log on a table: a row a saga, written at its beginning, when it turns back or waits, and at
//! its end.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result, TransactionManagerExt as _, Tx,
    saga::{DueSaga, Outcome, Saga, SagaChange, SagaCounts, SagaEntry, SagaLease, SagaLog, SagaProgress, SagaWrite},
};

use super::{
    limit, millis, text,
    widths::{PART_COUNT_MAX, Widths},
};
use crate::{database::SqlDatabase, row::Row, value::Value};

/// Never: of what is parked, and with a lease of what cannot be read back.
const NEVER: i64 = i64::MAX / 2;

pub(crate) struct SqlSagaLog {
    database: SqlDatabase,
    insert: Widths,
    due: String,
    lease: Widths,
    leased: Widths,
    renew: Widths,
    succeed: Widths,
    remove: Widths,
    theirs: Widths,
    record: String,
    wait: String,
    park: String,
    roll_back: String,
    spoil: String,
    outcome: String,
    counts: String,
    purge: String,
}

impl SqlSagaLog {
    pub(crate) fn new(database: SqlDatabase) -> Self {
        let now = database.dialect().now_millis();
        let text = |text: &str| database.prefixed(&text.replace("{now}", now));
        // The ids by themselves, for the key's range, which not every database finds in pairs.
        let of_leases = |set: &str| {
            Widths::new("?", |ids| {
                let pairs = vec!["(?, ?)"; ids.matches('?').count()].join(", ");
                let pairs = database.dialect().row_list(&pairs);
                text(&format!("{set} gid IN ({ids}) AND (gid, lease_id) IN ({pairs})"))
            })
        };
        let of_gids = |set: &str| Widths::new("?", |list| text(&format!("{set} gid IN ({list})")));
        let purge = match database.dialect_name() {
            "mysql" => "DELETE FROM micro_sagas WHERE is_finished = 1 AND due_at < {now} - ? ORDER BY due_at LIMIT ?",
            _ => {
                "DELETE FROM micro_sagas WHERE gid IN (SELECT gid FROM micro_sagas \
                 WHERE is_finished = 1 AND due_at < {now} - ? ORDER BY due_at LIMIT ?)"
            }
        };
        let insert = "INSERT INTO micro_sagas (gid, is_finished, due_at, lease_id, saga, progress, created_at) VALUES ";
        Self {
            insert: Widths::new("(?, 0, {now} + ?, ?, ?, '', {now})", |rows| text(&format!("{insert}{rows}"))),
            due: text(
                "SELECT gid, lease_id, {now} AS asked_at FROM micro_sagas \
                 WHERE is_finished = 0 AND due_at <= {now} ORDER BY due_at, gid LIMIT ?",
            ),
            // Not before it is due: whoever asked at the same time and was first has moved that.
            lease: of_gids(
                "UPDATE micro_sagas SET lease_id = ?, due_at = {now} + ? \
                 WHERE is_finished = 0 AND due_at <= ? AND",
            ),
            leased: of_gids(
                "SELECT gid, saga, progress, {now} - created_at AS age FROM micro_sagas WHERE lease_id = ? AND",
            ),
            renew: of_leases("UPDATE micro_sagas SET due_at = {now} + ? WHERE is_finished = 0 AND"),
            // Its lease stays, so that the same write can be made again.
            succeed: of_leases("UPDATE micro_sagas SET is_finished = 1, due_at = {now}, progress = '' WHERE"),
            remove: of_leases("DELETE FROM micro_sagas WHERE"),
            theirs: of_leases("SELECT gid, is_finished FROM micro_sagas WHERE"),
            record: text(
                "UPDATE micro_sagas SET progress = ?, due_at = {now} + ? \
                 WHERE is_finished = 0 AND gid = ? AND lease_id = ?",
            ),
            wait: text(
                "UPDATE micro_sagas SET progress = ?, due_at = {now} + ?, lease_id = NULL \
                 WHERE is_finished = 0 AND gid = ? AND lease_id = ?",
            ),
            park: text(
                "UPDATE micro_sagas SET progress = ?, due_at = ?, lease_id = NULL \
                 WHERE is_finished = 0 AND gid = ? AND lease_id = ?",
            ),
            roll_back: text(
                "UPDATE micro_sagas SET is_finished = 1, due_at = {now}, progress = ? WHERE gid = ? AND lease_id = ?",
            ),
            spoil: text("UPDATE micro_sagas SET due_at = ?, lease_id = NULL WHERE gid = ? AND lease_id = ?"),
            outcome: text("SELECT is_finished, progress FROM micro_sagas WHERE gid = ?"),
            counts: text(&format!(
                "SELECT count(*), count(CASE WHEN due_at = {NEVER} AND lease_id IS NULL THEN 1 END), \
                 count(CASE WHEN due_at <= {{now}} THEN 1 END) FROM micro_sagas WHERE is_finished = 0"
            )),
            purge: text(purge),
            database,
        }
    }

    /// Reads what was taken, in the order in which it was due.
    async fn taken(&self, lease: SagaLease, due: &[Due]) -> Result<Vec<DueSaga>> {
        let mut rows = BTreeMap::new();
        for (statement, part) in self.leased.filled(due) {
            let values = [lease.id.into()].into_iter().chain(part.iter().map(|due| due.gid.as_str().into()));
            for row in self.database.fetch_all_as("saga.take", statement, &values.collect::<Vec<_>>()).await? {
                rows.insert(text(&row, "gid")?, row);
            }
        }
        let mut taken = Vec::with_capacity(rows.len());
        for due in due {
            let Some(row) = rows.remove(&due.gid) else { continue };
            match read(due, &row) {
                Ok(saga) => taken.push(saga),
                // Spoiled by somebody else: it must not come back with every look.
                Err(error) => {
                    let gid = &due.gid;
                    tracing::error!(gid, error = %error.report(), "a saga cannot be read back, it is parked until it is mended and released");
                    let values = [NEVER.into(), gid.into(), lease.id.into()];
                    self.database.repeat_as("saga.take", &self.spoil, &values).await?;
                }
            }
        }
        Ok(taken)
    }

    /// The statements for these writes; those that many can share in one.
    fn statements<'a>(&'a self, writes: &'a [SagaWrite]) -> Result<Vec<Statement<'a>>> {
        let mut statements = Vec::new();
        let mut groups: BTreeMap<Group, Vec<usize>> = BTreeMap::new();
        for (number, SagaWrite { gid, lease_id, change, .. }) in writes.iter().enumerate() {
            let (statement, mut values) = match change {
                SagaChange::Renewed(duration) => {
                    groups.entry(Group::Renewed(millis(*duration))).or_default().push(number);
                    continue;
                }
                SagaChange::Succeeded => {
                    groups.entry(Group::Succeeded).or_default().push(number);
                    continue;
                }
                SagaChange::Removed => {
                    groups.entry(Group::Removed).or_default().push(number);
                    continue;
                }
                SagaChange::Recorded(progress, duration) => {
                    (&self.record, vec![json(progress)?.into(), millis(*duration).into()])
                }
                SagaChange::Waiting(progress, pause) => {
                    (&self.wait, vec![json(progress)?.into(), millis(*pause).into()])
                }
                SagaChange::Parked(progress) => (&self.park, vec![json(progress)?.into(), NEVER.into()]),
                SagaChange::RolledBack(reason) => {
                    let mut progress = SagaProgress::default();
                    progress.rollback_reason = Some(reason.clone());
                    (&self.roll_back, vec![json(&progress)?.into()])
                }
            };
            values.extend([gid.into(), (*lease_id).into()]);
            statements.push(Statement { text: statement, values, numbers: vec![number], group: None });
        }
        for (group, mut numbers) in groups {
            // In one order for all, so that writers wait for each other instead of deadlocking.
            numbers.sort_by_key(|number| &writes[*number].gid);
            for numbers in numbers.chunks(PART_COUNT_MAX) {
                let (widths, mut values) = match group {
                    Group::Renewed(duration) => (&self.renew, vec![duration.into()]),
                    Group::Succeeded => (&self.succeed, Vec::new()),
                    Group::Removed => (&self.remove, Vec::new()),
                };
                let (text, part) = widths.part(numbers);
                values.extend(pairs(writes, &part));
                statements.push(Statement { text, values, numbers: numbers.to_vec(), group: Some(group) });
            }
        }
        Ok(statements)
    }

    /// Which of a group's writes found their lease. Most of the time the count says so.
    async fn answers(
        &self,
        writes: &[SagaWrite],
        statement: &Statement<'_>,
        changed_count: u64,
    ) -> Result<Vec<(usize, bool)>> {
        let Some(group) = statement.group.filter(|_| changed_count != statement.numbers.len() as u64) else {
            return Ok(statement.numbers.iter().map(|number| (*number, changed_count > 0)).collect());
        };
        if group == Group::Removed {
            // Those that are gone are gone, by this write or the same one before.
            return self.gone(writes, statement).await;
        }
        let (text, part) = self.theirs.part(&statement.numbers);
        let rows = self.database.fetch_all_as("saga.write", text, &pairs(writes, &part)).await?;
        let mut held = BTreeMap::new();
        for row in &rows {
            held.insert(super::text(row, "gid")?, row.get::<bool>("is_finished")?);
        }
        let is_finished = group == Group::Succeeded;
        let answer = |number: &usize| (*number, held.get(&writes[*number].gid) == Some(&is_finished));
        Ok(statement.numbers.iter().map(answer).collect())
    }

    async fn gone(&self, writes: &[SagaWrite], statement: &Statement<'_>) -> Result<Vec<(usize, bool)>> {
        let mut answers = Vec::with_capacity(statement.numbers.len());
        for number in &statement.numbers {
            answers.push((*number, self.outcome(&writes[*number].gid).await?.is_none()));
        }
        Ok(answers)
    }
}

/// Writes that one statement can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Renewed(i64),
    Succeeded,
    Removed,
}

struct Statement<'a> {
    text: &'a str,
    values: Vec<Value>,
    /// Which writes it makes.
    numbers: Vec<usize>,
    group: Option<Group>,
}

/// A row that is due.
struct Due {
    gid: String,
    was_abandoned: bool,
}

/// Global ids, then each with its lease.
fn pairs(writes: &[SagaWrite], numbers: &[&usize]) -> Vec<Value> {
    let written = || numbers.iter().map(|number| &writes[**number]);
    let pairs = written().flat_map(|write| [write.gid.as_str().into(), write.lease_id.into()]);
    written().map(|write| write.gid.as_str().into()).chain(pairs).collect()
}

#[async_trait]
impl SagaLog for SqlSagaLog {
    async fn add(&self, tx: &mut Tx, entries: &[SagaEntry]) -> Result<()> {
        let sql = self.database.opened(tx, "saga.add")?;
        for (statement, part) in self.insert.cut(entries) {
            let mut values: Vec<Value> = Vec::with_capacity(part.len() * 4);
            for SagaEntry { saga, lease, .. } in part {
                let lasts = lease.map_or(0, |lease| millis(lease.duration));
                let record = saga.to_record();
                values.extend([
                    saga.gid.as_str().into(),
                    lasts.into(),
                    lease.map(|lease| lease.id).into(),
                    record.into(),
                ]);
            }
            sql.execute_as("saga.add", statement, &values).await?;
        }
        Ok(())
    }

    /// Looks without a lock first, so that a look that finds nothing costs no writer.
    async fn take(&self, lease: SagaLease, count_max: usize) -> Result<Vec<DueSaga>> {
        let rows = self.database.fetch_all_as("saga.take", &self.due, &[limit(count_max)]).await?;
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let asked_at = first.get::<i64>("asked_at")?;
        let due = |row: &Row| {
            Ok(Due { gid: text(row, "gid")?, was_abandoned: row.get::<Option<i64>>("lease_id")?.is_some() })
        };
        let due = rows.iter().map(due).collect::<Result<Vec<_>>>()?;
        let mut gids: Vec<_> = due.iter().map(|due| due.gid.as_str()).collect();
        gids.sort_unstable();
        for (statement, part) in self.lease.filled(&gids) {
            let values = [lease.id.into(), millis(lease.duration).into(), asked_at.into()];
            let values: Vec<_> = values.into_iter().chain(part.into_iter().map(|gid| (*gid).into())).collect();
            self.database.repeat_as("saga.take", statement, &values).await?;
        }
        self.taken(lease, &due).await
    }

    async fn write(&self, writes: &[SagaWrite]) -> Result<Vec<bool>> {
        let statements = self.statements(writes)?;
        let mut counts = Vec::with_capacity(statements.len());
        match &statements[..] {
            [] => {}
            [one] => counts.push(self.database.repeat_as("saga.write", one.text, &one.values).await?),
            several => {
                self.database
                    .run(async |tx| {
                        let sql = self.database.opened(tx, "saga.write")?;
                        for statement in several {
                            counts.push(sql.execute_as("saga.write", statement.text, &statement.values).await?);
                        }
                        Ok::<_, Error>(())
                    })
                    .await?;
            }
        }
        let mut answers = vec![false; writes.len()];
        for (statement, count) in statements.iter().zip(counts) {
            for (number, is_held) in self.answers(writes, statement, count).await? {
                answers[number] = is_held;
            }
        }
        Ok(answers)
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        let rows = self.database.fetch_all_as("saga.outcome", &self.outcome, &[gid.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        if !row.get::<bool>("is_finished")? {
            return Ok(Some(Outcome::StillRunning));
        }
        let reason = progress(gid, row)?.rollback_reason;
        Ok(Some(reason.map_or(Outcome::Succeeded, |reason| Outcome::RolledBack { reason })))
    }

    async fn counts(&self) -> Result<SagaCounts> {
        let rows = self.database.fetch_all_as("saga.counts", &self.counts, &[]).await?;
        let mut counts = SagaCounts::default();
        (counts.unfinished, counts.parked, counts.due) = (rows[0].get(0)?, rows[0].get(1)?, rows[0].get(2)?);
        Ok(counts)
    }

    async fn purge(&self, older_than: Duration, count_max: usize) -> Result<u64> {
        let values = [millis(older_than).into(), limit(count_max)];
        self.database.repeat_as("saga.purge", &self.purge, &values).await
    }
}

/// Makes parked sagas due, and answers how many.
pub(crate) async fn release(database: &SqlDatabase) -> Result<u64> {
    let now = database.dialect().now_millis();
    let statement = "UPDATE micro_sagas SET due_at = {now} WHERE is_finished = 0 AND due_at = ? AND lease_id IS NULL";
    database.repeat_as("saga.release", &database.prefixed(&statement.replace("{now}", now)), &[NEVER.into()]).await
}

fn read(due: &Due, row: &Row) -> Result<DueSaga> {
    let saga = Saga::from_record(&due.gid, row.get::<Bytes>("saga")?)?;
    let mut taken = DueSaga::new(saga);
    taken.progress = progress(&due.gid, row)?;
    taken.age = Duration::from_millis(u64::try_from(row.get::<i64>("age")?).unwrap_or_default());
    taken.was_abandoned = due.was_abandoned;
    Ok(taken)
}

fn json(progress: &SagaProgress) -> Result<String> {
    serde_json::to_string(progress).map_err(|error| {
        Error::new(ErrorKind::Internal, "saga.write", "a saga's progress cannot be written").with_source(error)
    })
}

fn progress(gid: &str, row: &Row) -> Result<SagaProgress> {
    let text: String = row.get("progress")?;
    if text.is_empty() {
        return Ok(SagaProgress::default());
    }
    serde_json::from_str(&text).map_err(|error| {
        let message = "the log's progress of the saga cannot be read back";
        Error::new(ErrorKind::DataLoss, "saga.read", message).with_context("gid", gid).with_source(error)
    })
}
