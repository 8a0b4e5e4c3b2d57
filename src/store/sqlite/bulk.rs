//! Many rows of a table in one statement.
//!
//! Each call into SQLite crosses a thread, so few large statements matter more than anything
//! else. Statements have 64, 16, 4 or 1 rows, so that all of them stay prepared.

use sqlx::{
    AssertSqlSafe, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteQueryResult},
};

use super::commit::Stop;

/// A statement with its arguments.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// A table written many rows at a time.
pub(super) trait Row {
    /// Its statements.
    fn bulk() -> &'static Bulk;
    /// Binds one row.
    fn bind(&self, statement: Statement) -> Statement;
}

/// One statement for each number of rows.
pub(super) struct Bulk([String; SIZES.len()]);

impl Bulk {
    pub(super) fn new(head: &str, row: &str, tail: &str) -> Self {
        Self(SIZES.map(|size| {
            let rows = vec![row; size].join(",");
            format!("{head}{rows}{tail}")
        }))
    }

    /// One of the statements, for the test of its plan.
    #[cfg(test)]
    pub(super) fn sixteen(&self) -> &str {
        &self.0[1]
    }
}

/// How many rows a statement may have. All divide the larger ones, so no more than three of each
/// smaller size are needed.
const SIZES: [usize; 4] = [64, 16, 4, 1];

/// Writes rows in order and forgets them; tells how many were changed.
pub(super) async fn write<R: Row>(
    conn: &mut SqliteConnection,
    rows: &mut Vec<R>,
) -> Result<u64, Stop> {
    let mut changed = 0;
    let mut rest = rows.as_slice();
    for (size, sql) in SIZES.into_iter().zip(&R::bulk().0) {
        while rest.len() >= size {
            let (chunk, after) = rest.split_at(size);
            rest = after;
            let statement = sqlx::query(as_static(sql));
            let statement = chunk.iter().fold(statement, |bound, row| row.bind(bound));
            let done: SqliteQueryResult = statement.execute(&mut *conn).await?;
            changed += done.rows_affected();
        }
    }
    rows.clear();
    Ok(changed)
}

/// The text is built from literals of this file alone.
fn as_static(sql: &'static str) -> AssertSqlSafe<&'static str> {
    AssertSqlSafe(sql)
}
