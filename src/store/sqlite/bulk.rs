//! Many rows of a table in one statement.
//!
//! Each call into SQLite crosses a thread, so few large statements matter more than anything
//! else. Statements have a power of two of rows, so that all of them stay prepared.

use std::sync::Arc;

use sqlx::{
    Arguments as _, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type,
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
    fn bind(&self, values: &mut Values);
}

/// The arguments of a statement of many rows. They are gathered in place: `Query::bind` would move
/// the whole statement once for each of some thousands.
pub(super) struct Values(SqliteArguments);

impl Values {
    fn of_rows(rows: usize) -> Self {
        let mut values = SqliteArguments::default();
        values.reserve(rows * COLUMNS_MAX, 0);
        Self(values)
    }

    /// Adds the next one, a text: as a shared slice it is one allocation, as `&str` it would be two.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bind(Arc::<str>::from(text))
    }

    /// Adds the next one.
    pub(super) fn bind<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        self.0
            .add(value)
            .expect("numbers, text and bytes can always be bound");
        self
    }
}

/// How many columns the widest table has.
const COLUMNS_MAX: usize = 15;

/// One statement for each number of rows.
pub(super) struct Bulk([String; SIZES.len()]);

impl Bulk {
    pub(super) fn new(head: &str, row: &str, tail: &str) -> Self {
        Self(SIZES.map(|size| {
            let rows = vec![row; size].join(",");
            format!("{head}{rows}{tail}")
        }))
    }

    /// The statements of three tables, one after the other in one text: sent together, they cross
    /// the thread once.
    pub(super) fn joined(tables: [&Self; 3]) -> Self {
        let [one, two, three] = tables.map(|bulk| bulk.0.iter());
        let mut texts = one.zip(two).zip(three);
        Self(SIZES.map(|_| {
            let ((one, two), three) = texts.next().expect("each has a text for each size");
            format!("{one};{two};{three}")
        }))
    }

    /// One of the statements, for the test of its plan.
    #[cfg(test)]
    pub(super) fn sixteen(&self) -> &str {
        &self.0[4]
    }
}

/// How many rows a statement may have. Each is half of the one before, so no more than one of each
/// smaller size is needed. 256 rows of the widest table are some four thousand of the 32,766
/// parameters that SQLite allows.
const SIZES: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

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
            let mut values = Values::of_rows(size);
            for row in chunk {
                row.bind(&mut values);
            }
            let statement: Statement = sqlx::query_with(as_static(sql), values.0);
            let done: SqliteQueryResult = statement.execute(&mut *conn).await?;
            changed += done.rows_affected();
        }
    }
    rows.clear();
    Ok(changed)
}

/// Writes as many rows of each of three tables as the shortest list has, `sql` being their joined
/// statements, and leaves the rest.
pub(super) async fn write_alike<A: Row, B: Row, C: Row>(
    conn: &mut SqliteConnection,
    sql: &'static Bulk,
    (one, two, three): (&mut Vec<A>, &mut Vec<B>, &mut Vec<C>),
) -> Result<(), Stop> {
    let mut left = one.len().min(two.len()).min(three.len());
    for (size, sql) in SIZES.into_iter().zip(&sql.0) {
        while left >= size {
            left -= size;
            let mut values = Values::of_rows(2 * size);
            one.drain(..size).for_each(|row| row.bind(&mut values));
            two.drain(..size).for_each(|row| row.bind(&mut values));
            three.drain(..size).for_each(|row| row.bind(&mut values));
            let statement: Statement = sqlx::query_with(as_static(sql), values.0);
            statement.execute(&mut *conn).await?;
        }
    }
    Ok(())
}

/// The text is built from literals of this file alone.
fn as_static(sql: &'static str) -> AssertSqlSafe<&'static str> {
    AssertSqlSafe(sql)
}
