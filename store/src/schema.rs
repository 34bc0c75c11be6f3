//! Compares a journal's schema with the one that this build makes.
//!
//! Two triggers keep events from being changed or deleted by a slip. Whoever changes the record on purpose
//! drops them first, and often leaves them dropped.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::file::JOURNAL;

/// The statements of a database, by kind and name.
fn statements(conn: &Connection) -> rusqlite::Result<BTreeMap<(String, String), String>> {
    let mut statement = conn.prepare(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'",
    )?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
    rows.collect()
}

/// Every difference, as a clause.
pub(crate) fn differences(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let made = Connection::open_in_memory()?;
    for migration in JOURNAL.migrations {
        made.execute_batch(migration)?;
    }
    let (expected, mut found) = (statements(&made)?, statements(conn)?);
    let mut differences = Vec::new();
    for ((kind, name), sql) in expected {
        match found.remove(&(kind.clone(), name.clone())) {
            None => differences.push(format!("the {kind} {name} is missing from the schema")),
            Some(other) if other != sql => {
                differences.push(format!("the {kind} {name} is not as this build makes it"));
            }
            Some(_) => {}
        }
    }
    for (kind, name) in found.into_keys() {
        let name: String = name.chars().take(80).collect();
        differences.push(format!("the {kind} {name:?} in the schema is not Perennial's"));
    }
    Ok(differences)
}
